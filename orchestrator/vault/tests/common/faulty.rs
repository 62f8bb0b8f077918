//! A store in memory with the faults that only a test makes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_vault::store::{
    BucketFacts, Created, ListRequest, Listing, Lock, MemoryStore, Object, Retention, Store, StoreError, Version,
    VersionsPage, VersionsRequest,
};
use jiff::Timestamp;

/// See its methods.
#[derive(Debug, Default)]
pub struct Faulty {
    pub inner: MemoryStore,
    late: AtomicU32,
    unlisted: AtomicU32,
    panic: AtomicBool,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl Faulty {
    /// So many listings of versions after a PUT into the log show nothing.
    pub fn list_late(&self, times: u32) {
        self.late.store(times, Ordering::SeqCst);
        self.unlisted.store(0, Ordering::SeqCst);
    }

    /// Every PUT panics.
    pub fn panic_on_create(&self) {
        self.panic.store(true, Ordering::SeqCst);
    }
}

impl Store for Faulty {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, lock: Lock) -> Answer<'a, Created> {
        assert!(!self.panic.load(Ordering::SeqCst), "as asked for");
        if key.contains("/log/") {
            self.unlisted.store(self.late.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.inner.create(key, body, lock)
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Object>> {
        self.inner.get(key)
    }

    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> Answer<'a, Option<Object>> {
        self.inner.get_front(key, len)
    }

    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, Option<Object>> {
        self.inner.get_version(key, id)
    }

    fn versions<'a>(&'a self, key: &'a str) -> Answer<'a, Vec<Version>> {
        let late = |left: u32| key.contains("/log/").then(|| left.checked_sub(1)).flatten();
        match self.unlisted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, late) {
            Ok(_) => async { Ok(Vec::new()) }.boxed(),
            Err(_) => self.inner.versions(key),
        }
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> Answer<'a, Listing> {
        self.inner.list(request)
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> Answer<'a, VersionsPage> {
        self.inner.list_versions(request)
    }

    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, Option<Retention>> {
        self.inner.retention(key, id)
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, bool> {
        self.inner.try_delete_version(key, id)
    }

    fn now(&self) -> Option<Timestamp> {
        self.inner.now()
    }

    fn bucket(&self) -> Answer<'_, BucketFacts> {
        self.inner.bucket()
    }
}
