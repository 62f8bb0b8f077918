//! How fast reading is against the store's own speed. Run by hand:
//! `cargo test -p holdfast-vault --test reading_speed -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use common::{Fixture, default_segments, durable};
use futures::StreamExt;
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{S3Store, Store};
use holdfast_vault::{Budget, CredentialsSource, ReadEvent, ReadOptions, Vault, VaultConfig, Verifier, VerifyOptions};
use holdfast_wal::Lsn;

const PLAIN: usize = 256 << 20;
const PIECE: usize = 2 << 20;
const PARALLEL: usize = 8;

/// Half of each page repeats, half does not: it shrinks about to a half, as busy WAL does.
fn page_like(at: Lsn, len: usize) -> Bytes {
    let random = common::wal(at, len, 11);
    let mut bytes = random.to_vec();
    bytes.chunks_mut(8192).for_each(|page| {
        let half = page.len() / 2;
        page[half..].fill(7);
    });
    bytes.into()
}

fn config(weed: &SeaweedFS) -> VaultConfig {
    let credentials = CredentialsSource::Static {
        access_key_id: weed.access_key().into(),
        secret_access_key: weed.secret_key().into(),
    };
    let endpoint = Some(weed.endpoint().parse().unwrap());
    VaultConfig { endpoint, retention_days: 2, ..VaultConfig::new("speed", credentials) }
}

async fn make_bucket(weed: &SeaweedFS) {
    let keys = Credentials::new(weed.access_key(), weed.secret_key(), None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(weed.endpoint())
        .force_path_style(true)
        .credentials_provider(keys)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    client.create_bucket().bucket("speed").object_lock_enabled_for_bucket(true).send().await.unwrap();
}

fn say(what: &str, bytes: u64, took: Duration) -> f64 {
    let speed = bytes as f64 / 1e6 / took.as_secs_f64();
    println!("{what:<44} {:>6.0} MB in {took:>8.2?}: {speed:>6.0} MB/s stored", bytes as f64 / 1e6);
    speed
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn reading_against_raw_gets() {
    let weed = SeaweedFS::start();
    make_bucket(&weed).await;
    let fixture = Fixture::new(Vault::open(config(&weed)).unwrap(), default_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = Lsn(start.0 + PLAIN as u64);
    let mut at = start;
    while at < end {
        writer.append(at, page_like(at, PIECE)).await.unwrap();
        at = Lsn(at.0 + PIECE as u64);
    }
    durable(&writer, end).await;
    let store = S3Store::new(config(&weed)).unwrap();
    let (mut walk, mut keys, mut bytes) = (fixture.vault.walk_keys("db/billing/log/", None), Vec::new(), 0);
    while let Some(listed) = walk.next().await.unwrap() {
        bytes += listed.size;
        keys.push((listed.key, listed.version.unwrap()));
    }
    println!(
        "{} objects of {} bytes on average, {:.2} of the plain bytes",
        keys.len(),
        bytes / keys.len() as u64,
        bytes as f64 / PLAIN as f64
    );
    for round in 1..=2 {
        println!("round {round}");
        let began = Instant::now();
        let get = |(key, id)| {
            let store = &store;
            async move { store.get_version(key, id).await.unwrap().unwrap().total_len }
        };
        let gets = futures::stream::iter(keys.iter().map(|(key, id)| (key.as_str(), id.as_str()))).map(get);
        let read: u64 = gets.buffer_unordered(PARALLEL).fold(0, |sum, len| async move { sum + len }).await;
        let raw = say("raw GETs, 8 at a time", read, began.elapsed());

        let options = VerifyOptions { locks: false, parallel: PARALLEL, ..VerifyOptions::default() };
        let identities = Some(fixture.identities.clone());
        let mut verifier = Verifier::begin(&fixture.database, identities, options).await.unwrap();
        let began = Instant::now();
        assert!(verifier.step(Budget::unlimited()).await.unwrap());
        let verify = say("scrub: read, verify, decrypt, decompress", verifier.totals().bytes, began.elapsed());
        assert!(verifier.findings().is_empty());

        let options = ReadOptions { prefetch: PARALLEL, prefetch_bytes: 32 << 20, ..ReadOptions::default() };
        let began = Instant::now();
        let mut reader = fixture.database.reader(fixture.identities.clone(), start, options).await.unwrap();
        let mut upto = start;
        while upto < end {
            if let ReadEvent::Wal { start, data, .. } = reader.next().await.unwrap() {
                upto = Lsn(start.0 + data.len() as u64);
            }
        }
        let follow = say("reader: the same, in order", bytes, began.elapsed());
        println!("scrub {:.2} and reader {:.2} of raw GETs", verify / raw, follow / raw);
    }
}
