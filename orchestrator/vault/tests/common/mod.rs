//! What the tests of the vault share: a database in some store, and WAL that can be told apart.

// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod faulty;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::{
    Attached, BackupManifest, BackupMeta, ClaimError, ClaimOptions, CredentialsSource, DatabaseVault, Identities,
    Identity, LogReader, LogWriter, ReadEvent, ReadOptions, Recipients, RunningWriter, Vault, VaultConfig,
    WriterLimits, generate_identity,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SystemId, TimelineId};
use jiff::Timestamp;

pub const ORIGIN: Lsn = Lsn(0x300_0000);
pub const SYSTEM: SystemId = SystemId(7_357_812_345_678_901_234);

/// A registered database and the keys to it.
pub struct Fixture {
    pub vault: Vault,
    pub database: DatabaseVault,
    pub identities: Identities,
    pub recipients: Recipients,
}

impl Fixture {
    pub async fn new(vault: Vault, segment_size: u64) -> Fixture {
        let database = vault.database("billing").unwrap();
        database.register(identity(segment_size)).await.unwrap();
        let (secret, recipient) = generate_identity();
        let identities = Identities::parse(&secret).unwrap();
        let recipients = Recipients::parse(&[recipient]).unwrap();
        Fixture { vault, database, identities, recipients }
    }

    pub async fn claim(&self, attached: &Attached) -> Result<LogWriter, ClaimError> {
        self.database.claim(attached, &self.recipients, ClaimOptions::default()).await
    }

    /// A running writer of the first instance.
    pub async fn writer(&self) -> (Lsn, RunningWriter) {
        let writer = self.claim(&origin()).await.unwrap();
        (writer.start(), writer.into_running(limits()).unwrap())
    }

    /// Stores a base backup of three parts.
    pub async fn backup(&self, id: &str, start: Lsn, end: Lsn) -> BackupManifest {
        let meta = BackupMeta {
            id: id.into(),
            start,
            timeline: TimelineId(1),
            server_version: "17.5".into(),
            label: "test".into(),
            started: Timestamp::UNIX_EPOCH,
            settings: Default::default(),
            tablespaces: Vec::new(),
        };
        let mut writer = self.database.begin_backup(meta, self.recipients.clone()).await.unwrap();
        for n in 0..3 {
            writer.part(vec![wal(Lsn(n << 20), 200_000, 9)]).await.unwrap();
        }
        writer.finish(end, Timestamp::UNIX_EPOCH).await.unwrap()
    }

    /// A megabyte of WAL in several chunks and the backup `a` at its beginning, by a writer that is gone. Returns its end.
    pub async fn protected_once(&self) -> Lsn {
        let (start, writer) = self.writer().await;
        let mut end = start;
        for _ in 0..8 {
            end = append(&writer, end, 128 * 1024, 64 * 1024, 7).await;
            // A writer puts what waits into one chunk: several take patience.
            durable(&writer, end).await;
        }
        writer.close().await;
        self.backup("a", start, Lsn(start.0 + 0x1_0000)).await;
        end
    }

    pub async fn reader(&self, from: Lsn) -> LogReader {
        self.database.reader(self.identities.clone(), from, ReadOptions::default()).await.unwrap()
    }

    /// Reads from `from` to `upto`.
    pub async fn read(&self, from: Lsn, upto: Lsn) -> Vec<u8> {
        read_until(&mut self.reader(from).await, from, upto).await
    }
}

pub fn limits() -> WriterLimits {
    WriterLimits { idle_check: Duration::from_millis(200), ..WriterLimits::default() }
}

pub fn identity(segment_size: u64) -> Identity {
    let history = TimelineHistory::initial(TimelineId(1));
    Identity { system_id: SYSTEM, history, segment_size, origin: ORIGIN, created: Timestamp::UNIX_EPOCH }
}

pub fn small_segments() -> u64 {
    1024 * 1024
}

pub fn default_segments() -> u64 {
    SEGMENT_SIZE_DEFAULT
}

/// The server that was protected first.
pub fn origin() -> Attached {
    attached("origin", TimelineHistory::initial(TimelineId(1)))
}

pub fn attached(instance_id: &str, history: TimelineHistory) -> Attached {
    let flushed = Lsn(u64::MAX / 2);
    Attached { instance_id: instance_id.into(), system_id: SYSTEM, history, flushed, by: "test".into() }
}

/// WAL of `len` bytes at `start`: each 8 bytes tell their position and a tag.
pub fn wal(start: Lsn, len: usize, tag: u64) -> Bytes {
    let first = start.0 / 8;
    let words = (first..).flat_map(|word| (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ tag).to_le_bytes());
    words.skip((start.0 % 8) as usize).take(len).collect::<Vec<u8>>().into()
}

/// Appends WAL in pieces; returns its end.
pub async fn append(writer: &RunningWriter, start: Lsn, len: usize, piece: usize, tag: u64) -> Lsn {
    let (mut at, end) = (start, Lsn(start.0 + len as u64));
    while at < end {
        let take = piece.min((end.0 - at.0) as usize);
        writer.append(at, wal(at, take, tag)).await.unwrap();
        at = Lsn(at.0 + take as u64);
    }
    end
}

/// Waits until the writer has reported so far.
pub async fn durable(writer: &RunningWriter, upto: Lsn) {
    let mut state = writer.state();
    let wait = state.wait_for(|state| state.durable >= upto || state.fenced.is_some());
    let state = tokio::time::timeout(Duration::from_secs(60), wait).await.expect("durable in time").unwrap();
    assert!(state.durable >= upto, "fenced: {:?}", state.fenced);
}

/// Collects WAL; it must be contiguous.
pub async fn read_until(reader: &mut LogReader, from: Lsn, upto: Lsn) -> Vec<u8> {
    let mut read = Vec::new();
    while from.0 + (read.len() as u64) < upto.0 {
        let event = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("an event in time");
        if let ReadEvent::Wal { start, data, .. } = event.unwrap() {
            assert_eq!(start, Lsn(from.0 + read.len() as u64), "contiguous");
            read.extend_from_slice(&data);
        }
    }
    read.truncate((upto.0 - from.0) as usize);
    read
}

/// A vault on a real server, with its one identity and short locks.
pub fn s3_config(server: &SeaweedFS, bucket: &str, prefix: &str) -> VaultConfig {
    let credentials = CredentialsSource::Static {
        access_key_id: server.access_key().into(),
        secret_access_key: server.secret_key().into(),
    };
    let endpoint = Some(server.endpoint().parse().unwrap());
    let config = VaultConfig { endpoint, prefix: prefix.into(), ..VaultConfig::new(bucket, credentials) };
    VaultConfig { retention_days: 2, chunk_retention_days: 1, ..config }
}

/// A client that is not the vault's.
pub fn s3_client(server: &SeaweedFS) -> Client {
    s3_client_of(server, server.access_key(), server.secret_key())
}

/// The same with the keys of somebody else.
pub fn s3_client_of(server: &SeaweedFS, access_key: &str, secret_key: &str) -> Client {
    let keys = Credentials::new(access_key, secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .credentials_provider(keys)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// Makes a bucket with Object Lock.
pub async fn create_bucket(server: &SeaweedFS, bucket: &str) {
    let create = s3_client(server).create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true);
    create.send().await.unwrap();
}
