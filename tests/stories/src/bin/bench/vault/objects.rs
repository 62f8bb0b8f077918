//! Objects of 16 MiB of WAL each: sealed, stored, read, scrubbed.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_lab::Bucket;
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Lock, MemoryStore, S3Store, Store};
use holdfast_vault::{BackupMeta, BackupWriter, Budget, DatabaseVault, Identities, Vault, Verifier, VerifyOptions};
use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;

use super::link::Link;
use super::{BUCKET, Bench, GB, MIB, Row, Speed, config, cpu, plain_client};

const IN_FLIGHT: usize = 8;
const PUT_BYTES: usize = 16 << 20;
/// What is read is the WAL so many times over: a recovery reads a terabyte, so the first and the last objects must not decide.
const TIMES: usize = 8;
/// 1 Gbit/s.
const LINK_BYTES_PER_SECOND: f64 = 125e6;

impl Bench {
    /// The best of the rounds, and the CPU time of all of them: that of this process and of the programs that it ran, not
    /// of the store.
    async fn best(&self, bytes: f64, mut once: impl AsyncFnMut(usize) -> Result<Duration>) -> Result<Speed> {
        let (mut best, before) = (f64::MAX, cpu::of_us()?);
        for round in 0..self.rounds {
            best = best.min(once(round).await?.as_secs_f64());
        }
        let cpu = (cpu::of_us()? - before) / self.rounds as f64;
        Ok(Speed { mib_per_second: bytes / MIB / best, cpu_per_gb: cpu / (bytes / GB) })
    }

    /// The programs that make the same of WAL.
    pub(super) fn sealing_pipe(&self, level: u32) -> String {
        let recipients: Vec<String> = self.public_keys().iter().map(|key| format!("-r {key}")).collect();
        format!("zstd -{level} -q -c | age {}", recipients.join(" "))
    }

    /// The programs that make WAL of the same.
    pub(super) fn opening_pipe(&self) -> String {
        format!("age -d -i {} | zstd -dc", self.path("identity").display())
    }

    /// Runs a pipe of programs on a file, and how long that took.
    pub(super) fn pipe(&self, input: &str, pipe: &str) -> Result<Duration> {
        let (began, input) = (Instant::now(), File::open(self.path(input))?);
        let status = Command::new("sh").args(["-c", pipe]).stdin(input).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "`{pipe}` failed: are zstd and age installed?");
        Ok(began.elapsed())
    }

    pub(super) async fn sealing(&self) -> Result<Row> {
        eprintln!("sealing …");
        let ours = self
            .best(self.plain_bytes(), async |_| {
                // Storing is a copy of a pointer here.
                let vault = Vault::with_store(Arc::new(MemoryStore::default()), BUCKET, "");
                let writer = self.backup(&vault, "sealed").await?;
                let began = Instant::now();
                self.write(writer, 1).await?;
                Ok(began.elapsed())
            })
            .await?;
        let pipe = self.sealing_pipe(1);
        let theirs = self.best(self.plain_bytes(), async |_| self.pipe("wal", &pipe)).await?;
        let (what, peer) = ("seal (zstd, age, hash, sign)".to_owned(), "zstd -1 | age");
        Ok(Row::Rate { what, ours, peer, theirs, wanted: Some(1.2) })
    }

    /// PUTs of bytes that do not compress, as sealed objects are: what is measured is the way to the store.
    pub(super) async fn storing(&self, server: &SeaweedFS, bucket: &Bucket) -> Result<Row> {
        eprintln!("storing …");
        let object = Bytes::from(noise(PUT_BYTES));
        let count = self.wal.len();
        let bytes = (count * object.len()) as f64;
        let store = S3Store::new(config(&server.endpoint(), server)?)?;
        let ours = self
            .best(bytes, async |round| {
                let keys: Vec<_> = (0..count).map(|n| format!("ours/{round}/{n}")).collect();
                let began = Instant::now();
                let puts = keys.iter().map(|key| store.create(key, object.clone(), Lock::Long));
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
        let (what, peer) = ("PUT 16 MiB sealed, 8 in flight".to_owned(), "plain PUT, 8 in flight");
        Ok(Row::Rate { what, ours, peer, theirs, wanted: Some(0.9) })
    }

    /// Reading beside plain GETs, from a store on this machine (the processors are what is short) and from one behind a
    /// network (the link is); and beside the programs that do the same work.
    pub(super) async fn reading(&self, server: &SeaweedFS, bucket: &Bucket) -> Result<Vec<Row>> {
        eprintln!("reading …");
        let vault = Vault::open(config(&server.endpoint(), server)?)?;
        let writer = self.backup(&vault, "read").await?;
        self.write(writer, TIMES).await?;
        let keys = bucket.list("v1/db/bench/backup/read/").await?;
        let unsealed = self.store_unsealed(bucket).await?;
        let address = server.endpoint().trim_start_matches("http://").parse().context("the store's address")?;
        let link = Link::new(address, LINK_BYTES_PER_SECOND)?;
        let pipe = format!("{} | sha256sum", self.opening_pipe());
        let programs = self.best(self.plain_bytes(), async |_| self.pipe("sealed", &pipe)).await?;
        let mut rows = Vec::new();
        for (endpoint, where_to) in [(server.endpoint(), "on this machine"), (link.endpoint(), "behind 1 Gbit/s")] {
            let database = Vault::open(config(&endpoint, server)?)?.database("bench")?;
            let (read, scrub) = (self.read(&database).await?, self.scrub(&database).await?);
            let client = plain_client(&endpoint, server);
            let (plain, whole) = (self.plain_gets(&client, &keys).await?, self.plain_gets(&client, &unsealed).await?);
            let row = |what: &str, ours, (peer, theirs), wanted| {
                let what = format!("{what}, store {where_to}");
                Row::Rate { what, ours, peer, theirs, wanted }
            };
            let (gets, pipe) = (("plain GET, 8 in flight", plain), ("age -d | zstd -d | sha256sum", programs));
            rows.push(row("read, verify, decrypt, decompress", read, gets, Some(0.7)));
            rows.push(row("read, the same", read, ("plain GET of unsealed WAL", whole), None));
            rows.push(row("read, the same", read, pipe, None));
            rows.push(row("scrub, 8 in flight", scrub, gets, None));
            rows.push(row("scrub, the same", scrub, pipe, None));
        }
        Ok(rows)
    }

    async fn read(&self, database: &DatabaseVault) -> Result<Speed> {
        let manifest = database.backups().await?.pop().context("the backup is not listed")?;
        let identities = Identities::parse(&self.keys[0].0)?;
        self.best(self.read_bytes(), async |_| {
            let began = Instant::now();
            let mut reader = database.read_backup(&manifest, identities.clone());
            let mut bytes = 0;
            while let Some(part) = reader.next().await? {
                bytes += part.len();
            }
            ensure!(bytes as f64 == self.read_bytes(), "{bytes} bytes were read");
            Ok(began.elapsed())
        })
        .await
    }

    async fn scrub(&self, database: &DatabaseVault) -> Result<Speed> {
        let identities = Identities::parse(&self.keys[0].0)?;
        let options = VerifyOptions { locks: false, parallel: IN_FLIGHT, ..VerifyOptions::default() };
        self.best(self.read_bytes(), async |_| {
            let began = Instant::now();
            let mut verifier = Verifier::begin(database, Some(identities.clone()), options.clone()).await?;
            while !verifier.step(Budget::unlimited()).await? {}
            ensure!(verifier.findings().is_empty(), "the scrub found {:?}", verifier.findings());
            Ok(began.elapsed())
        })
        .await
    }

    /// The WAL as it is: what somebody reads who has neither compressed nor encrypted it. As many keys as are read of ours.
    async fn store_unsealed(&self, bucket: &Bucket) -> Result<Vec<String>> {
        let keys: Vec<_> = (0..self.wal.len()).map(|n| format!("unsealed/{n}")).collect();
        for (key, wal) in keys.iter().zip(&self.wal) {
            let put = bucket.client().put_object().bucket(BUCKET).key(key);
            put.body(ByteStream::from(wal.clone())).send().await?;
        }
        Ok(vec![keys; TIMES].concat())
    }

    /// These objects as they are, MiB of the WAL in them a second.
    async fn plain_gets(&self, bucket: &Bucket, keys: &[String]) -> Result<Speed> {
        self.best(self.read_bytes(), async |_| {
            let began = Instant::now();
            let gets = keys.iter().map(|key| async move {
                let answer = bucket.client().get_object().bucket(BUCKET).key(key).send().await?;
                anyhow::Ok(answer.body.collect().await?.into_bytes().len())
            });
            stream::iter(gets).buffer_unordered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
            Ok(began.elapsed())
        })
        .await
    }

    fn read_bytes(&self) -> f64 {
        self.plain_bytes() * TIMES as f64
    }

    /// A base backup of the WAL: its parts are objects of the size in question.
    async fn backup(&self, vault: &Vault, id: &str) -> Result<BackupWriter> {
        let database = vault.database("bench")?;
        self.register(&database).await?;
        let meta = BackupMeta {
            id: id.to_owned(),
            start: self.start(),
            timeline: TimelineId(1),
            server_version: "15".to_owned(),
            label: String::new(),
            started: Timestamp::now(),
            settings: BTreeMap::new(),
            tablespaces: Vec::new(),
        };
        Ok(database.begin_backup(meta, self.recipients()?).await?)
    }

    async fn write(&self, mut writer: BackupWriter, times: usize) -> Result<()> {
        for _ in 0..times {
            for part in &self.wal {
                writer.part(vec![part.clone()]).await?;
            }
        }
        writer.finish(Lsn(self.start().0 + 1), Timestamp::now()).await?;
        Ok(())
    }
}

/// Bytes that do not compress.
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
