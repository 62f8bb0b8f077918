//! The vault on a real S3 server with Object Lock.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use bytes::Bytes;
use common::{Fixture, append, create_bucket, durable, origin, read_until, s3_client, small_segments, wal};
use futures::StreamExt;
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Created, Lock, S3Store, Store};
use holdfast_vault::{
    CredentialsSource, ReadError, ReadEvent, TakeoverOptions, TakerState, TamperingKind, Vault, VaultConfig, VaultError,
};
use holdfast_wal::Lsn;

const BUCKET: &str = "holdfast";

struct Server {
    weed: SeaweedFS,
    client: Client,
}

/// A server with a bucket that has Object Lock, and one that has nothing.
async fn server() -> Server {
    let weed = SeaweedFS::start();
    create_bucket(&weed, BUCKET).await;
    let client = s3_client(&weed);
    client.create_bucket().bucket("plain").send().await.unwrap();
    Server { weed, client }
}

impl Server {
    fn config(&self, bucket: &str) -> VaultConfig {
        VaultConfig {
            url: None,
            endpoint: Some(self.weed.endpoint().parse().unwrap()),
            region: "us-east-1".into(),
            bucket: bucket.into(),
            prefix: "t".into(),
            retention_days: 2,
            chunk_retention_days: 1,
            credentials: CredentialsSource::Static {
                access_key_id: self.weed.access_key().into(),
                secret_access_key: self.weed.secret_key().into(),
            },
            ca_bundle: None,
            writers: Vec::new(),
            proxy: None,
            writer_key_file: None,
        }
    }

    async fn fixture(&self, segment_size: u64) -> Fixture {
        Fixture::new(Vault::open(self.config(BUCKET)).unwrap(), segment_size).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_bucket_passes_and_each_bad_one_is_named() {
    let server = server().await;
    let check = Vault::open(server.config(BUCKET)).unwrap().check().await.unwrap();
    assert!(check.clock_skew_seconds.is_some_and(|skew| skew.abs() < 60), "{check:?}");
    let reason = async |config: VaultConfig| match Vault::open(config) {
        Ok(vault) => vault.check().await.unwrap_err().reason(),
        Err(error) => error.reason(),
    };
    assert_eq!(reason(server.config("plain")).await, "BucketWithoutVersioning");
    assert_eq!(reason(server.config("missing")).await, "NoSuchBucket");
    let with = |id: &str, secret: &str| VaultConfig {
        credentials: CredentialsSource::Static { access_key_id: id.into(), secret_access_key: secret.into() },
        ..server.config(BUCKET)
    };
    assert_eq!(reason(with(server.weed.access_key(), "wrong")).await, "BadCredentials");
    assert_eq!(reason(with("nobody", server.weed.secret_key())).await, "BadCredentials");
    let nowhere = CredentialsSource::Directory("/nonexistent".into());
    assert_eq!(reason(VaultConfig { credentials: nowhere, ..server.config(BUCKET) }).await, "BadCredentials");
    let versioned = "versioned";
    server.client.create_bucket().bucket(versioned).send().await.unwrap();
    let enabled = aws_sdk_s3::types::VersioningConfiguration::builder()
        .status(aws_sdk_s3::types::BucketVersioningStatus::Enabled)
        .build();
    let put = server.client.put_bucket_versioning().bucket(versioned).versioning_configuration(enabled);
    put.send().await.unwrap();
    assert_eq!(reason(server.config(versioned)).await, "BucketWithoutObjectLock");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_once_and_locked() {
    let server = server().await;
    let store = S3Store::new(server.config(BUCKET)).unwrap();
    assert!(store.create("k", "first".into(), Lock::Long).await.unwrap().is_stored());
    assert_eq!(store.create("k", "second".into(), Lock::Long).await.unwrap(), Created::Exists);
    let object = store.get("k").await.unwrap().unwrap();
    assert_eq!((&object.bytes[..], object.total_len), (&b"first"[..], 5));
    let front = store.get_front("k", 2).await.unwrap().unwrap();
    assert_eq!((&front.bytes[..], front.total_len), (&b"fi"[..], 5));
    assert!(store.get("absent").await.unwrap().is_none());
    assert!(store.get_front("absent", 1).await.unwrap().is_none());
    let versions = store.versions("k").await.unwrap();
    assert_eq!(versions.len(), 1);
    let lock = store.retention("k", &versions[0].id).await.unwrap().unwrap();
    let until = lock.until.as_second() - jiff::Timestamp::now().as_second();
    assert!(lock.compliance && (until - 2 * 24 * 3600).abs() < 60, "{lock:?}");
    assert!(!store.try_delete_version("k", &versions[0].id).await.unwrap());
    // A delete marker frees the key: what was there stays, and is the oldest version.
    server.client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert!(store.get("k").await.unwrap().is_none());
    assert!(store.create("k", "third".into(), Lock::Short).await.unwrap().is_stored());
    let versions = store.versions("k").await.unwrap();
    let (markers, real): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| version.is_delete_marker);
    assert_eq!((markers.len(), real.len()), (1, 2));
    let oldest = store.get_version("k", &real[0].id).await.unwrap().unwrap();
    assert_eq!(&oldest.bytes[..], b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_version_is_found_however_many_were_put_over_it() {
    let server = server().await;
    let store = S3Store::new(server.config(BUCKET)).unwrap();
    store.create("t/v1/k", "first".into(), Lock::Long).await.unwrap();
    store.create("t/v1/k2", "another".into(), Lock::Long).await.unwrap();
    // More than a page of a listing.
    let put = |n: usize| {
        let put = server.client.put_object().bucket(BUCKET).key("t/v1/k");
        async move { put.body(format!("forged {n}").into_bytes().into()).send().await.unwrap() }
    };
    futures::stream::iter(0..1030).map(put).buffer_unordered(16).collect::<Vec<_>>().await;
    let versions = store.versions("t/v1/k").await.unwrap();
    let oldest = store.get_version("t/v1/k", &versions[0].id).await.unwrap().unwrap();
    assert_eq!(&oldest.bytes[..], b"first");
    let vault = Vault::open(server.config(BUCKET)).unwrap();
    let mut walk = vault.walk_keys("", None);
    let (first, second) = (walk.next().await.unwrap().unwrap(), walk.next().await.unwrap().unwrap());
    assert_eq!((first.version.as_ref(), first.newer_versions), (Some(&versions[0].id), 1030));
    assert_eq!((second.key.as_str(), second.tampered()), ("t/v1/k2", false));
    assert!(walk.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_survives_the_power_cut_of_the_store() {
    let mut server = server().await;
    let fixture = server.fixture(small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let mut reader = fixture.reader(start).await;
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        while read.len() < 2_000_000 {
            match reader.next().await {
                Ok(ReadEvent::Wal { data, .. }) => read.extend_from_slice(&data),
                Ok(_) => {}
                Err(error) => assert!(!error.is_permanent(), "{error}"),
            }
        }
        read
    });
    let middle = append(&writer, start, 1_000_000, 4000, 0).await;
    tokio::task::block_in_place(|| {
        server.weed.kill();
        std::thread::sleep(Duration::from_secs(1));
        server.weed.restart();
    });
    let end = append(&writer, middle, 1_000_000, 4000, 0).await;
    durable(&writer, end).await;
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(read == wal(start, 2_000_000, 0), "the bytes differ");
    assert_eq!(fixture.database.tip().await.unwrap().tip, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_wins_against_a_busy_writer() {
    let server = server().await;
    let fixture = server.fixture(small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let writer = Arc::new(writer);
    let load = tokio::spawn({
        let writer = writer.clone();
        async move {
            let mut at = start;
            while writer.append(at, wal(at, 4000, 0)).await.is_ok() {
                at = Lsn(at.0 + 4000);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let state = TakerState::generate("run-1");
    let taken = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    println!("takeover against a busy writer: {:?}, {} requests", began.elapsed(), taken.requests);
    load.await.unwrap();
    let reported = writer.state().borrow().clone();
    assert!(reported.durable <= taken.sealed && reported.fenced.is_some(), "{reported:?} {taken:?}");
    let read = fixture.read(start, reported.durable).await;
    assert!(read == wal(start, read.len(), 0), "the bytes differ");
    assert!(fixture.claim(&origin()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_tampering_are_named() {
    let server = server().await;
    let fixture = server.fixture(small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let middle = append(&writer, start, 1000, 1000, 0).await;
    durable(&writer, middle).await;
    let end = append(&writer, middle, 1000, 1000, 0).await;
    durable(&writer, end).await;
    let key = |start: Lsn| format!("t/v1/db/billing/log/0000000000000001/{}", start.hex16());
    server.client.delete_object().bucket(BUCKET).key(key(middle)).send().await.unwrap();
    let mut reader = fixture.reader(start).await;
    let (mut read, mut found) = (0, None);
    while read < 2000 {
        match reader.next().await.unwrap() {
            ReadEvent::Wal { data, .. } => read += data.len(),
            ReadEvent::Tampering(tampering) => found = Some((tampering.key, tampering.what)),
            _ => {}
        }
    }
    assert_eq!(found, Some((key(middle), TamperingKind::DeleteMarker)));
    // A key where only rubbish ever stood, as a bad disk leaves it.
    server
        .client
        .put_object()
        .bucket(BUCKET)
        .key(key(end))
        .body(Bytes::from_static(b"rubbish").into())
        .send()
        .await
        .unwrap();
    let error = loop {
        if let Err(error) = reader.next().await {
            break error;
        }
    };
    assert!(
        matches!(&error, ReadError::Vault(VaultError::Damaged { key: named, .. }) if *named == key(end)),
        "{error}"
    );
    let fenced = writer.append(end, wal(end, 10, 0)).await;
    let mut state = writer.state();
    if fenced.is_ok() {
        state.wait_for(|state| state.fenced.is_some()).await.unwrap();
    }
}

/// Run by hand: `cargo test -p holdfast-vault --test seaweedfs -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    let server = server().await;
    let fixture = server.fixture(common::default_segments()).await;
    let (start, writer) = fixture.writer().await;
    let began = Instant::now();
    let (mut at, mut chunks) = (start, 0);
    while began.elapsed() < Duration::from_secs(3) {
        at = append(&writer, at, 1024, 1024, 0).await;
        durable(&writer, at).await;
        chunks += 1;
    }
    println!("1 KiB commits, one after another: {:.0}/s", f64::from(chunks) / began.elapsed().as_secs_f64());
    let began = Instant::now();
    let before = writer.state().borrow().chunks;
    let big = append(&writer, at, 64 << 20, 128 << 10, 0).await;
    durable(&writer, big).await;
    let took = began.elapsed().as_secs_f64();
    let stored = writer.state().borrow().chunks - before;
    println!("bulk: {:.1} MiB/s, {:.0} chunks/s", 64.0 / took, stored as f64 / took);
    let began = Instant::now();
    let mut reader = fixture.reader(start).await;
    read_until(&mut reader, start, at).await;
    println!("catch-up, 1 KiB chunks: {:.0}/s", f64::from(chunks) / began.elapsed().as_secs_f64());
    let began = Instant::now();
    read_until(&mut reader, at, big).await;
    println!("catch-up, bulk: {:.1} MiB/s", 64.0 / began.elapsed().as_secs_f64());
    let mut reader = fixture.reader(big).await;
    let mut total = Duration::ZERO;
    let mut at = big;
    for _ in 0..50 {
        let next = append(&writer, at, 1024, 1024, 0).await;
        durable(&writer, next).await;
        let began = Instant::now();
        read_until(&mut reader, at, next).await;
        total += began.elapsed();
        at = next;
    }
    println!("from durable to read: {:?} on average", total / 50);
}
