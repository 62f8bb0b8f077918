//! What economy needs of a store, on a real one: two kinds of locks, longer locks, listings of versions.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Fixture, append, create_bucket, durable, s3_client, small_segments, wal};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Created, Lock, S3Store, Store, StoreErrorKind, VersionsRequest};
use holdfast_vault::{ArchiveOptions, ArchiveStep, CredentialsSource, Vault, VaultConfig};
use holdfast_wal::Lsn;
use jiff::Timestamp;

const BUCKET: &str = "economy";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn server() -> (SeaweedFS, VaultConfig) {
    let server = SeaweedFS::start();
    create_bucket(&server, BUCKET).await;
    let credentials = CredentialsSource::Static {
        access_key_id: server.access_key().into(),
        secret_access_key: server.secret_key().into(),
    };
    let config = VaultConfig {
        endpoint: Some(server.endpoint().parse().unwrap()),
        retention_days: 3,
        chunk_retention_days: 1,
        ..VaultConfig::new(BUCKET, credentials)
    };
    (server, config)
}

async fn lock_of(store: &dyn Store, key: &str) -> Timestamp {
    let version = store.versions(key).await.unwrap().remove(0);
    let lock = store.retention(key, &version.id).await.unwrap().unwrap();
    assert!(lock.compliance);
    lock.until
}

fn is_about(at: Timestamp, expected: Timestamp) -> bool {
    at.duration_since(expected).unsigned_abs() < Duration::from_secs(60)
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_short_or_long_and_only_grow() {
    let (_server, config) = server().await;
    let store = S3Store::new(config).unwrap();
    let now = Timestamp::now();
    for (key, lock, days) in [("chunk", Lock::Short, 1), ("seal", Lock::Long, 3)] {
        let created = store.create(key, "x".into(), lock).await.unwrap();
        assert!(matches!(created, Created::Stored { at: Some(at) } if is_about(at, now)), "{created:?}");
        assert!(is_about(lock_of(&store, key).await, now + DAY * days), "{key}");
    }
    let id = store.versions("chunk").await.unwrap().remove(0).id;
    store.extend_retention("chunk", &id, now + 5 * DAY).await.unwrap();
    let longer = lock_of(&store, "chunk").await;
    assert!(is_about(longer, now + 5 * DAY));
    let refused = store.extend_retention("chunk", &id, now + 2 * DAY).await.unwrap_err();
    assert!(matches!(refused.kind, StoreErrorKind::Denied | StoreErrorKind::Other), "{refused}");
    assert_eq!(lock_of(&store, "chunk").await, longer, "what is refused changes nothing");
    assert!(!store.try_delete_version("chunk", &id).await.unwrap(), "locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_listed_once() {
    let (server, config) = server().await;
    let store = S3Store::new(config).unwrap();
    for n in 0..23 {
        store.create(&format!("p/{n:02}"), "x".into(), Lock::Short).await.unwrap();
    }
    store.create("q", "x".into(), Lock::Short).await.unwrap();
    let raw = s3_client(&server);
    for key in ["p/07", "p/13"] {
        raw.put_object().bucket(BUCKET).key(key).body("newer".as_bytes().to_vec().into()).send().await.unwrap();
    }
    raw.delete_object().bucket(BUCKET).key("p/13").send().await.unwrap();
    raw.delete_object().bucket(BUCKET).key("p/22").send().await.unwrap();
    for limit in [1000, 7, 1] {
        let (mut found, mut after, mut pages) = (BTreeMap::<String, Vec<bool>>::new(), None, 0);
        loop {
            let page =
                store.list_versions(VersionsRequest { prefix: "p/", after: after.as_ref(), limit }).await.unwrap();
            for version in page.versions {
                found.entry(version.key).or_default().push(version.is_delete_marker);
            }
            pages += 1;
            assert!(pages < 100, "it never ends");
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(found.len(), 23, "limit {limit}");
        let counts = |key: &str| (found[key].len(), found[key].iter().filter(|marker| **marker).count());
        assert_eq!(
            (counts("p/07"), counts("p/13"), counts("p/22"), counts("p/00")),
            ((2, 0), (3, 1), (2, 1), (1, 0)),
            "limit {limit}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_archived_and_held() {
    let (_server, config) = server().await;
    let vault = Vault::open(config.clone()).unwrap();
    let fixture = Fixture::new(vault, small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 2 * small_segments() as usize + 10_000, 60_000, 0).await;
    durable(&writer, end).await;
    let options = ArchiveOptions { look_every: Duration::from_millis(100), ..ArchiveOptions::default() };
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    let mut archiver = fixture.database.archiver(identities, recipients, options).await.unwrap();
    while !matches!(archiver.step().await.unwrap(), ArchiveStep::AtEnd(_)) {}
    archiver.finish().await.unwrap();
    assert_eq!(archiver.archived().map(|(end, _)| end), Some(end));
    let index = fixture.database.newest_index().await.unwrap().unwrap();
    assert_eq!(index.segments_end(), Some(end));
    let from = Lsn(start.0 + 99);
    assert!(fixture.read(from, end).await == wal(from, (end.0 - from.0) as usize, 0));
    // The janitor finds nothing to do: nothing has been covered for a day.
    let janitor = S3Store::new(config.clone()).unwrap();
    let swept = fixture.database.sweep(&janitor, false, &|_, _| {}).await.unwrap();
    assert_eq!((swept.deleted().0, swept.tampered.len()), (0, 0), "{swept:?}");
    let until = fixture.vault.store_time().await.unwrap() + 10 * DAY;
    let held = fixture.vault.hold("", until, &|_, _| {}).await.unwrap();
    assert_eq!((held.already, held.failed), (0, 0), "{held:?}");
    let again = fixture.vault.hold("", until, &|_, _| {}).await.unwrap();
    assert_eq!((again.extended, again.already), (0, held.extended));
    let mut walk = fixture.vault.walk_keys("db/", None);
    while let Some(listed) = walk.next().await.unwrap() {
        assert!(lock_of(&janitor, &listed.key).await.as_second() >= until.as_second(), "{}", listed.key);
    }
}
