//! The vault's figures beside their peers on the same bytes: the pipe `zstd -1 | age`, plain PUTs and plain GETs.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_lab::{Bucket, BucketKind, Credentials};
use holdfast_test_postgres::{SeaweedFS, TestPostgres};
use holdfast_vault::store::{MemoryStore, S3Store, Store};
use holdfast_vault::{
    BackupMeta, BackupWriter, Budget, DatabaseVault, Identities, Identity, Vault, VaultConfig, Verifier, VerifyOptions,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use serde_json::json;

const BUCKET: &str = "bench";
const IN_FLIGHT: usize = 8;
const PUT_BYTES: usize = 16 << 20;
const MIB: f64 = 1024.0 * 1024.0;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// MiB of real WAL to work on.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// How often each figure is measured; the best counts, for ours and for the peer's.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// One line of the table.
struct Row {
    what: &'static str,
    /// MiB of plain WAL a second.
    ours: f64,
    peer: &'static str,
    theirs: f64,
    /// None: it is stated, and nothing is asked of it.
    wanted: Option<f64>,
}

pub(crate) async fn bench(arguments: &Arguments) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the WAL")?;
    eprintln!("making {} MiB of WAL with pgbench …", arguments.mib);
    let wal = wal(arguments.mib)?;
    let keys: Vec<_> = (0..2).map(|_| holdfast_vault::generate_identity()).collect();
    let bench = Bench { wal, folder: folder.path().to_owned(), keys, rounds: arguments.rounds };
    let rows = bench.measure().await?;
    println!("\n{:<44}{:>12}  {:<34}{:>12}{:>8}{:>9}", "", "ours MiB/s", "peer", "MiB/s", "ratio", "wanted");
    for row in &rows {
        let ratio = row.ours / row.theirs;
        println!(
            "{:<44}{:>12.0}  {:<34}{:>12.0}{ratio:>8.2}{:>9}",
            row.what,
            row.ours,
            row.peer,
            row.theirs,
            row.wanted.map_or_else(String::new, |wanted| format!(">= {wanted}"))
        );
    }
    Ok(())
}

struct Bench {
    wal: Vec<Bytes>,
    folder: PathBuf,
    /// Secrets and recipients, as a site's and the escrow's.
    keys: Vec<(String, String)>,
    rounds: usize,
}

impl Bench {
    async fn measure(&self) -> Result<Vec<Row>> {
        let mut rows = vec![self.sealing().await?];
        let server = SeaweedFS::start();
        let (access_key, secret_key) = (server.access_key().to_owned(), server.secret_key().to_owned());
        let bucket = Bucket::new(&server.endpoint(), BUCKET, &Credentials { access_key, secret_key });
        bucket.create(BucketKind::Locked).await?;
        rows.push(self.storing(&server, &bucket).await?);
        rows.extend(self.reading(&server, &bucket).await?);
        Ok(rows)
    }

    fn plain_bytes(&self) -> f64 {
        self.wal.iter().map(Bytes::len).sum::<usize>() as f64
    }

    fn recipients(&self) -> Vec<&str> {
        self.keys.iter().map(|(_, recipient)| recipient.as_str()).collect()
    }

    /// MiB of plain WAL a second, the best of the rounds.
    async fn best(&self, bytes: f64, mut once: impl AsyncFnMut(usize) -> Result<Duration>) -> Result<f64> {
        let mut best = f64::MAX;
        for round in 0..self.rounds.max(1) {
            best = best.min(once(round).await?.as_secs_f64());
        }
        Ok(bytes / MIB / best)
    }

    async fn sealing(&self) -> Result<Row> {
        eprintln!("sealing …");
        let ours = self
            .best(self.plain_bytes(), async |_| {
                // Storing is a copy of a pointer here.
                let vault = Vault::with_store(Arc::new(MemoryStore::default()), BUCKET, "");
                let writer = self.backup(&vault, "sealed").await?;
                let began = Instant::now();
                self.write(writer).await?;
                Ok(began.elapsed())
            })
            .await?;
        let file = self.folder.join("wal");
        std::fs::write(&file, self.wal.concat())?;
        let recipients = self.recipients().iter().map(|r| format!("-r {r}")).collect::<Vec<_>>().join(" ");
        let pipe = format!("zstd -1 -q -c | age {recipients} > /dev/null");
        let theirs = self
            .best(self.plain_bytes(), async |_| {
                let began = Instant::now();
                let status = Command::new("sh").args(["-c", &pipe]).stdin(File::open(&file)?).status()?;
                ensure!(status.success(), "`{pipe}` failed: are zstd and age installed?");
                Ok(began.elapsed())
            })
            .await?;
        Ok(Row { what: "seal (zstd, age, hash, sign)", ours, peer: "zstd -1 | age", theirs, wanted: Some(1.2) })
    }

    /// PUTs of bytes that do not compress, as sealed objects are: what is measured is the way to the store.
    async fn storing(&self, server: &SeaweedFS, bucket: &Bucket) -> Result<Row> {
        eprintln!("storing …");
        let object = Bytes::from(noise(PUT_BYTES));
        let count = self.wal.len();
        let bytes = (count * object.len()) as f64;
        let store = S3Store::new(config(server)?)?;
        let ours = self
            .best(bytes, async |round| {
                let keys: Vec<_> = (0..count).map(|n| format!("ours/{round}/{n}")).collect();
                let began = Instant::now();
                let puts = keys.iter().map(|key| store.create(key, object.clone(), holdfast_vault::store::Lock::Long));
                stream::iter(puts).buffer_unordered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
                Ok(began.elapsed())
            })
            .await?;
        let theirs = self
            .best(bytes, async |round| {
                let began = Instant::now();
                let puts = (0..count).map(|n| {
                    let put = bucket.client().put_object().bucket(BUCKET).key(format!("theirs/{round}/{n}"));
                    put.body(ByteStream::from(object.clone())).send()
                });
                stream::iter(puts).buffer_unordered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
                Ok(began.elapsed())
            })
            .await?;
        Ok(Row {
            what: "PUT 16 MiB sealed, 8 in flight",
            ours,
            peer: "plain PUT, 8 in flight",
            theirs,
            wanted: Some(0.9),
        })
    }

    async fn reading(&self, server: &SeaweedFS, bucket: &Bucket) -> Result<[Row; 2]> {
        eprintln!("reading …");
        let vault = Vault::open(config(server)?)?;
        let writer = self.backup(&vault, "read").await?;
        self.write(writer).await?;
        let database = vault.database("bench")?;
        let manifest = database.backups().await?.pop().context("the backup is not listed")?;
        let identities = Identities::parse(&self.keys[0].0)?;
        let ours = self
            .best(self.plain_bytes(), async |_| {
                let began = Instant::now();
                let mut reader = database.read_backup(&manifest, identities.clone());
                while reader.next().await?.is_some() {}
                Ok(began.elapsed())
            })
            .await?;
        let options = VerifyOptions { locks: false, parallel: IN_FLIGHT, ..VerifyOptions::default() };
        let scrub = self
            .best(self.plain_bytes(), async |_| {
                let began = Instant::now();
                let mut verifier = Verifier::begin(&database, Some(identities.clone()), options.clone()).await?;
                while !verifier.step(Budget::unlimited()).await? {}
                ensure!(verifier.findings().is_empty(), "the scrub found {:?}", verifier.findings());
                Ok(began.elapsed())
            })
            .await?;
        let keys = bucket.list("v1/db/bench/backup/read/").await?;
        let theirs = self
            .best(self.plain_bytes(), async |_| {
                let began = Instant::now();
                let gets = keys.iter().map(|key| async move {
                    let answer = bucket.client().get_object().bucket(BUCKET).key(key).send().await?;
                    anyhow::Ok(answer.body.collect().await?.into_bytes().len())
                });
                stream::iter(gets).buffer_unordered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
                Ok(began.elapsed())
            })
            .await?;
        let row = |what, ours, wanted| Row { what, ours, peer: "plain GET, 8 in flight", theirs, wanted };
        let read = row("read, verify, decrypt, decompress", ours, Some(0.7));
        Ok([read, row("scrub: the same of all objects, 8 in flight", scrub, None)])
    }

    /// A base backup of the WAL: its parts are objects of the size in question.
    async fn backup(&self, vault: &Vault, id: &str) -> Result<BackupWriter> {
        let database = vault.database("bench")?;
        register(&database).await?;
        let recipients = holdfast_vault::Recipients::parse(&self.recipients())?;
        let meta = BackupMeta {
            id: id.to_owned(),
            start: Lsn(0x100_0000),
            timeline: TimelineId(1),
            server_version: "15".to_owned(),
            label: String::new(),
            started: Timestamp::now(),
            settings: BTreeMap::new(),
            tablespaces: Vec::new(),
        };
        Ok(database.begin_backup(meta, recipients).await?)
    }

    async fn write(&self, mut writer: BackupWriter) -> Result<()> {
        for part in &self.wal {
            writer.part(part.clone()).await?;
        }
        writer.finish(Lsn(0x200_0000), Timestamp::now()).await?;
        Ok(())
    }
}

/// WAL that PostgreSQL wrote for pgbench's tables and transactions, in segments of 16 MiB.
fn wal(mib: usize) -> Result<Vec<Bytes>> {
    let keep = format!("{}MB", mib * 2);
    let server = TestPostgres::start(&[("wal_keep_size", &keep), ("max_wal_size", "8GB"), ("fsync", "off")]);
    let port = server.port().to_string();
    let socket = server.data_dir();
    let host = socket.parent().context("a server without a folder")?.display().to_string();
    let at = ["-U", "postgres", "-h", &host, "-p", &port, "postgres"];
    let scale = (mib / 12).max(2).to_string();
    server.run("pgbench", &[&["-i", "-q", "-s", &scale], &at[..]].concat());
    server.run("pgbench", &[&["-c", "4", "-T", "10"], &at[..]].concat());
    let mut paths: Vec<_> = std::fs::read_dir(server.data_dir().join("pg_wal"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.len() == 24))
        .collect();
    paths.sort();
    let segments: Vec<Bytes> =
        paths.iter().map(std::fs::read).map(|read| read.map(Bytes::from)).collect::<Result<_, _>>()?;
    let count = (mib / 16).min(segments.len());
    ensure!(count > 0, "pgbench wrote no WAL");
    // The last ones are empty segments that PostgreSQL made ahead.
    Ok(segments.into_iter().take(count).collect())
}

async fn register(database: &DatabaseVault) -> Result<()> {
    let identity = Identity {
        system_id: SystemId(7_357_812_345_678_901_234),
        history: TimelineHistory { timeline: TimelineId(1), entries: Vec::new() },
        segment_size: 16 << 20,
        origin: Lsn(0x100_0000),
        created: Timestamp::now(),
    };
    database.register(identity).await?;
    Ok(())
}

fn config(server: &SeaweedFS) -> Result<VaultConfig> {
    Ok(serde_json::from_value(json!({
        "endpoint": server.endpoint(),
        "region": "us-east-1",
        "bucket": BUCKET,
        "retentionDays": 1,
        "chunkRetentionDays": 1,
        "credentials": { "static": { "access_key_id": server.access_key(), "secret_access_key": server.secret_key() } },
    }))?)
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
