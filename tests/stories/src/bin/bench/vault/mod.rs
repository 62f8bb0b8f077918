//! The vault's figures beside their peers on the same bytes (the pipe `zstd -1 | age`, plain PUTs and plain GETs), and
//! beside what the documents promise (memory, requests, seconds).

mod cpu;
mod link;
mod objects;
mod opening;
mod roles;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_lab::{Bucket, BucketKind, Credentials};
use holdfast_test_postgres::{SeaweedFS, TestPostgres};
use holdfast_vault::{DatabaseVault, Identity, Recipients, VaultConfig};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SegmentName, SystemId, TimelineId};
use jiff::Timestamp;
use serde_json::{Value, json};

const BUCKET: &str = "bench";
const SYSTEM: SystemId = SystemId(7_357_812_345_678_901_234);
const MIB: f64 = 1024.0 * 1024.0;
const GB: f64 = 1e9;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// MiB of real WAL to work on.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// How often each rate is measured; the best counts, for ours and for the peer's.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Chunks of the log that is opened.
    #[arg(long, default_value_t = 100_000)]
    chunks: u32,
    /// Only these figures; without it all.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
}

/// What is measured together.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Figure {
    /// Sealing beside the pipe of programs
    Sealing,
    /// PUTs beside plain PUTs
    Storing,
    /// Reading and the scrub beside plain GETs and the pipe of programs
    Reading,
    /// The processes that catch up with a log: memory, and CPU of compaction
    Roles,
    /// Opening a log of 30 days
    Opening,
}

/// How fast, in plain WAL.
#[derive(Clone, Copy)]
struct Speed {
    mib_per_second: f64,
    /// CPU seconds: unlike the rate they stay nearly the same on a busy machine.
    cpu_per_gb: f64,
}

/// One line of the tables.
enum Row {
    /// A rate beside a peer's.
    Rate {
        what: String,
        ours: Speed,
        peer: &'static str,
        theirs: Speed,
        /// None: it is stated, and nothing is asked of it.
        wanted: Option<f64>,
    },
    /// What stands by itself.
    Reached { what: String, reached: String, wanted: &'static str },
}

pub(crate) async fn bench(arguments: &Arguments) -> Result<()> {
    let wanted = |figure| arguments.only.is_empty() || arguments.only.contains(&figure);
    let mut rows = Vec::new();
    if [Figure::Sealing, Figure::Storing, Figure::Reading, Figure::Roles].into_iter().any(wanted) {
        let bench = Bench::prepare(arguments)?;
        println!("{}", bench.subject()?);
        println!("load of the machine before: {}", cpu::load()?);
        rows.extend(bench.measure(wanted).await?);
    }
    if wanted(Figure::Opening) {
        rows.extend(opening::opening(arguments.chunks).await?);
    }
    print(&rows);
    println!("\nload of the machine after: {}", cpu::load()?);
    Ok(())
}

fn print(rows: &[Row]) {
    let (rate, cpu) = ("MiB/s", "CPU s/GB");
    println!("\n{:<58}{rate:>7}{cpu:>10}  {:<27}{rate:>7}{cpu:>10}{:>7}{:>8}", "", "peer", "ratio", "wanted");
    for row in rows {
        if let Row::Rate { what, ours, peer, theirs, wanted } = row {
            let wanted = wanted.map_or_else(String::new, |wanted| format!(">= {wanted}"));
            let speed = |speed: &Speed| format!("{:>7.0}{:>10.2}", speed.mib_per_second, speed.cpu_per_gb);
            let ratio = ours.mib_per_second / theirs.mib_per_second;
            println!("{what:<58}{}  {peer:<27}{}{ratio:>7.2}{wanted:>8}", speed(ours), speed(theirs));
        }
    }
    println!("\n{:<58}{:>44}  wanted", "", "reached");
    for row in rows {
        if let Row::Reached { what, reached, wanted } = row {
            println!("{what:<58}{reached:>44}  {wanted}");
        }
    }
}

struct Bench {
    /// Whole segments, in order.
    wal: Vec<Bytes>,
    /// The first one.
    first: SegmentName,
    folder: tempfile::TempDir,
    /// Secrets and recipients, as a site's and the escrow's.
    keys: Vec<(String, String)>,
    rounds: usize,
}

impl Bench {
    fn prepare(arguments: &Arguments) -> Result<Bench> {
        eprintln!("making {} MiB of WAL with pgbench …", arguments.mib);
        let (first, wal) = wal(arguments.mib)?;
        let keys: Vec<_> = (0..2).map(|_| holdfast_vault::generate_identity()).collect();
        let folder = tempfile::tempdir().context("a folder for the WAL")?;
        let bench = Bench { wal, first, folder, keys, rounds: arguments.rounds.max(1) };
        std::fs::write(bench.path("wal"), bench.wal.concat()).context("writing the WAL")?;
        std::fs::write(bench.path("identity"), &bench.keys[0].0).context("writing the identity")?;
        bench.pipe("wal", &format!("{} > {}", bench.sealing_pipe(1), bench.path("sealed").display()))?;
        Ok(bench)
    }

    /// What all is measured on.
    fn subject(&self) -> Result<String> {
        let sealed = std::fs::metadata(self.path("sealed"))?.len() as f64;
        let plain = self.plain_bytes();
        Ok(format!("{:.0} MiB of WAL, {:.0} MiB sealed ({:.1} to 1)", plain / MIB, sealed / MIB, plain / sealed))
    }

    async fn measure(&self, wanted: impl Fn(Figure) -> bool) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if wanted(Figure::Sealing) {
            rows.push(self.sealing().await?);
        }
        let server = SeaweedFS::start();
        let bucket = plain_client(&server.endpoint(), &server);
        bucket.create(BucketKind::Locked).await?;
        if wanted(Figure::Storing) {
            rows.push(self.storing(&server, &bucket).await?);
        }
        if wanted(Figure::Reading) {
            rows.extend(self.reading(&server, &bucket).await?);
        }
        if wanted(Figure::Roles) {
            rows.extend(self.roles(&server).await?);
        }
        Ok(rows)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plain_bytes(&self) -> f64 {
        self.wal.iter().map(Bytes::len).sum::<usize>() as f64
    }

    fn public_keys(&self) -> Vec<&str> {
        self.keys.iter().map(|(_, recipient)| recipient.as_str()).collect()
    }

    fn recipients(&self) -> Result<Recipients> {
        Ok(Recipients::parse(&self.public_keys())?)
    }

    /// The first byte of the WAL.
    fn start(&self) -> Lsn {
        self.first.start(SEGMENT_SIZE_DEFAULT)
    }

    /// What of PostgreSQL's history a log needs to begin with.
    async fn register(&self, database: &DatabaseVault) -> Result<()> {
        let history = TimelineHistory::initial(TimelineId(1));
        let (segment_size, created) = (SEGMENT_SIZE_DEFAULT, Timestamp::now());
        let identity = Identity { system_id: SYSTEM, history, segment_size, origin: self.start(), created };
        database.register(identity).await?;
        Ok(())
    }
}

/// A note of about 2 KB, as a report or a letter: text in which nothing comes twice.
const NOTE: &str = "INSERT INTO notes (body) SELECT string_agg(md5(random()::text), ' ') FROM generate_series(1, 64);";

/// WAL that PostgreSQL wrote for pgbench's transactions, half of them its own and half notes (and before them its tables,
/// where that is not enough): the newest whole segments of 16 MiB, and the name of the first. pgbench's own rows are mostly
/// blanks, which no hospital's are.
fn wal(mib: usize) -> Result<(SegmentName, Vec<Bytes>)> {
    let keep = format!("{}MB", mib * 4);
    let server = TestPostgres::start(&[("wal_keep_size", &keep), ("max_wal_size", "8GB"), ("fsync", "off")]);
    let port = server.port().to_string();
    let socket = server.data_dir();
    let host = socket.parent().context("a server without a folder")?.display().to_string();
    let at = ["-U", "postgres", "-h", &host, "-p", &port, "postgres"];
    let scale = (mib / 12).max(2).to_string();
    server.run("pgbench", &[&["-i", "-q", "-s", &scale], &at[..]].concat());
    server.psql("CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)");
    server.psql("CHECKPOINT");
    let script = server.make_dir("scripts").join("note.sql");
    std::fs::write(&script, NOTE)?;
    let note = script.display().to_string();
    server.run("pgbench", &[&["-c", "4", "-T", "20", "-b", "tpcb-like", "-f", &note], &at[..]].concat());
    let current = server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let folder = server.data_dir().join("pg_wal");
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.len() == current.len() && *name < current)
        .collect();
    names.sort();
    let names = names.split_off(names.len().saturating_sub(mib / 16));
    let first = names.first().context("pgbench wrote no WAL")?.parse().context("the name of a WAL segment")?;
    let segments = names.iter().map(|name| std::fs::read(folder.join(name)).map(Bytes::from));
    let segments: Vec<Bytes> = segments.collect::<Result<_, _>>()?;
    ensure!(segments.iter().all(|bytes| bytes.len() as u64 == SEGMENT_SIZE_DEFAULT), "a segment is not whole");
    Ok((first, segments))
}

/// A client that does nothing but send requests.
fn plain_client(endpoint: &str, server: &SeaweedFS) -> Bucket {
    let (access_key, secret_key) = (server.access_key().to_owned(), server.secret_key().to_owned());
    Bucket::new(endpoint, BUCKET, &Credentials { access_key, secret_key })
}

fn config_json(endpoint: &str, server: &SeaweedFS) -> Value {
    json!({
        "endpoint": endpoint,
        "region": "us-east-1",
        "bucket": BUCKET,
        "retentionDays": 1,
        "chunkRetentionDays": 1,
        "credentials": { "static": { "access_key_id": server.access_key(), "secret_access_key": server.secret_key() } },
    })
}

fn config(endpoint: &str, server: &SeaweedFS) -> Result<VaultConfig> {
    Ok(serde_json::from_value(config_json(endpoint, server))?)
}
