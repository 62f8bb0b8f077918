//! The store of the simulation: answers at once, tells its own time, and lists what was there some objects ago.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use jiff::Timestamp;

use crate::log::mutant::{Mutant, on};
use crate::object::{Subject, decode_header};
use crate::store::{
    BucketFacts, Created, Entry, ListRequest, ListedVersion, Listing, Lock, Object, Retention, Store, StoreError,
    Version, VersionsPage, VersionsRequest,
};

/// What stands at a key.
#[derive(Default)]
struct Key {
    /// Oldest first.
    versions: Vec<Stored>,
    /// A delete marker is the newest.
    hidden: bool,
}

struct Stored {
    bytes: Bytes,
    at: Timestamp,
    /// Which creation it was, counted over all keys.
    turn: u64,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, Key>,
    seconds: i64,
    turn: u64,
    /// A listing does not show the last so many creations.
    unlisted: u64,
}

#[derive(Default)]
pub(super) struct SimStore(Mutex<Inner>);

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimStore")
    }
}

impl SimStore {
    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_second(self.0.lock().unwrap().seconds).unwrap()
    }

    pub(super) fn advance(&self, seconds: i64) {
        self.0.lock().unwrap().seconds += seconds;
    }

    pub(super) fn set_unlisted(&self, turns: u64) {
        self.0.lock().unwrap().unlisted = turns;
    }

    /// Create-if-absent. A delete marker frees the key; a chunk that is put there is outside of the rules (they protect
    /// seals and walks from markers, and a bucket that denies deletes protects the rest): it never arrives.
    pub(super) fn put(&self, key: &str, bytes: &Bytes) -> Option<Created> {
        let inner = &mut *self.0.lock().unwrap();
        let is_chunk = matches!(decode_header(bytes).unwrap().header.subject, Subject::Chunk(_));
        let key = if is_chunk && on(Mutant::EndInKey) { format!("{key}~") } else { key.to_owned() };
        inner.turn += 1;
        let at = Timestamp::from_second(inner.seconds).unwrap();
        let stands = inner.keys.entry(key).or_default();
        if stands.hidden && is_chunk {
            return None;
        }
        if !stands.versions.is_empty() && !stands.hidden {
            return Some(Created::Exists);
        }
        stands.hidden = false;
        stands.versions.push(Stored { bytes: bytes.clone(), at, turn: inner.turn });
        Some(Created::Stored { at: Some(at) })
    }

    /// What an attacker does, or a lifecycle rule.
    pub(super) fn hide(&self, key: &str) {
        if let Some(stands) = self.0.lock().unwrap().keys.get_mut(key) {
            stands.hidden = true;
        }
    }

    /// What the janitor does.
    pub(super) fn delete(&self, key: &str) {
        let inner = &mut *self.0.lock().unwrap();
        inner.keys.remove(key);
        inner.keys.remove(&format!("{key}~"));
    }

    /// The oldest version at a key, and when it was made.
    pub(super) fn oldest(&self, key: &str) -> Option<(Bytes, Timestamp)> {
        let inner = self.0.lock().unwrap();
        let oldest = inner.key(key)?.versions.first()?;
        Some((oldest.bytes.clone(), oldest.at))
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        inner.keys.keys().map(|key| key.trim_end_matches('~').to_owned()).collect()
    }
}

impl Inner {
    fn key(&self, key: &str) -> Option<&Key> {
        let there = self.keys.get(key).filter(|stands| !stands.versions.is_empty());
        there.or_else(|| self.keys.get(&format!("{key}~")))
    }

    fn newest(&self, key: &str) -> Option<Object> {
        let stands = self.key(key).filter(|stands| !stands.hidden)?;
        stands.versions.last().map(|stored| object(stored, stands.versions.len() - 1))
    }

    fn list(&self, request: &ListRequest<'_>) -> Listing {
        let below = self.keys.range(request.prefix.to_owned()..);
        let below = below.take_while(|(key, _)| key.starts_with(request.prefix));
        let entries = below.filter_map(|(key, stands)| {
            let newest = stands.versions.last().filter(|_| !stands.hidden)?;
            let listed = newest.turn + self.unlisted <= self.turn;
            let (key, size) = (key.trim_end_matches('~').to_owned(), newest.bytes.len() as u64);
            listed.then_some(Entry { key, size, last_modified: Some(newest.at) })
        });
        Listing::page(request, entries)
    }
}

fn object(stored: &Stored, version: usize) -> Object {
    Object {
        bytes: stored.bytes.clone(),
        total_len: stored.bytes.len() as u64,
        version_id: Some(version.to_string()),
        last_modified: Some(stored.at),
        lock: None,
    }
}

fn now<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StoreError>> {
    ready(Ok(value)).boxed()
}

impl Store for SimStore {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, _: Lock) -> BoxFuture<'a, Result<Created, StoreError>> {
        now(self.put(key, &body).unwrap_or(Created::Exists))
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        now(self.0.lock().unwrap().newest(key))
    }

    fn get_front<'a>(&'a self, key: &'a str, _: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.get(key)
    }

    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        let inner = self.0.lock().unwrap();
        let version: usize = id.parse().unwrap();
        now(inner.key(key).and_then(|stands| Some(object(stands.versions.get(version)?, version))))
    }

    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>> {
        let inner = self.0.lock().unwrap();
        let Some(stands) = inner.key(key) else { return now(Vec::new()) };
        let version = |(n, stored): (usize, &Stored)| Version {
            id: n.to_string(),
            is_delete_marker: false,
            last_modified: Some(stored.at),
        };
        let mut versions: Vec<Version> = stands.versions.iter().enumerate().map(version).collect();
        if stands.hidden {
            versions.push(Version { id: "marker".into(), is_delete_marker: true, last_modified: None });
        }
        now(versions)
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>> {
        now(self.0.lock().unwrap().list(&request))
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        let inner = self.0.lock().unwrap();
        let after = request.after.map_or("", |after| after.key.as_str());
        let below = inner.keys.range(request.prefix.to_owned()..);
        let below =
            below.take_while(|(key, _)| key.starts_with(request.prefix)).filter(|(key, _)| key.as_str() > after);
        let mut page = VersionsPage::default();
        for (key, stands) in below {
            let marker = stands.hidden.then_some(("marker".to_owned(), None));
            let real = stands.versions.iter().enumerate().map(|(n, stored)| (n.to_string(), Some(stored)));
            let versions = real.chain(marker).map(|(id, stored)| ListedVersion {
                key: key.clone(),
                id,
                is_delete_marker: stored.is_none(),
                is_latest: stored.is_none_or(|stored| {
                    !stands.hidden && stands.versions.last().is_some_and(|last| last.turn == stored.turn)
                }),
                size: stored.map_or(0, |stored| stored.bytes.len() as u64),
                last_modified: stored.map(|stored| stored.at),
            });
            page.versions.extend(versions);
        }
        now(page)
    }

    fn retention<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>> {
        now(None)
    }

    fn try_delete_version<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        now(false)
    }

    fn now(&self) -> Option<Timestamp> {
        Some(self.time())
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        now(BucketFacts { versioning: true, object_lock: true, now: Some(self.time()) })
    }
}
