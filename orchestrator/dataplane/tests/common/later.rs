//! The vault some days later: short locks have ended, and the janitor was there.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ObjectLockMode;
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_vault::Vault;
use holdfast_vault::object::{Subject, decode_header};
use holdfast_vault::store::{
    BucketFacts, Created, ListRequest, Listing, Lock, Object, Retention, S3Store, Store, StoreError, Version,
    VersionsPage, VersionsRequest,
};
use jiff::Timestamp;

use super::Cloud;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A real bucket whose clock is ahead: no store lets a test shorten a lock, and the janitor goes by the store's clock.
#[derive(Debug)]
struct Later(S3Store);

/// Copies the vault to the bucket `to`, where the lock of a chunk has ended and no other, and lets the janitor sweep
/// `database` two days later. Returns how many objects it deleted.
pub(crate) async fn after_the_janitor(cloud: &Cloud, database: &str, to: &str) -> u64 {
    cloud.bucket(to, true).await;
    let s3 = cloud.s3();
    let until = DateTime::from_secs((Timestamp::now() + 90 * DAY).as_second());
    for key in cloud.keys("").await {
        let object = s3.get_object().bucket("vault").key(&key).send().await.expect("an object");
        let bytes = object.body.collect().await.expect("its bytes").into_bytes();
        let mut put = s3.put_object().bucket(to).key(&key);
        if !matches!(decode_header(&bytes).expect("an object").header.subject, Subject::Chunk(_)) {
            put = put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
        }
        put.body(bytes.into()).send().await.expect("stored");
    }
    let store = || S3Store::new(cloud.vault_config(to)).expect("opens");
    let vault = Vault::with_store(Arc::new(Later(store())), to, "hospital").with_chunk_life(DAY);
    let swept = vault.database(database).expect("a name").sweep(&store(), false, &|_, _| {}).await.expect("sweeps");
    println!("{:#?}", swept.rows);
    swept.deleted().0
}

impl Store for Later {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, lock: Lock) -> BoxFuture<'a, Result<Created, StoreError>> {
        self.0.create(key, body, lock)
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.0.get(key)
    }

    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.0.get_front(key, len)
    }

    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.0.get_version(key, id)
    }

    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>> {
        self.0.versions(key)
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.0.list(request)
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        self.0.list_versions(request)
    }

    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>> {
        self.0.retention(key, id)
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.0.try_delete_version(key, id)
    }

    fn now(&self) -> Option<Timestamp> {
        self.0.now().map(|now| now + 2 * DAY)
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        Box::pin(async {
            let facts = self.0.bucket().await?;
            Ok(BucketFacts { now: facts.now.map(|now| now + 2 * DAY), ..facts })
        })
    }
}
