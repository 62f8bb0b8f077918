//! The roles that catch up with a log, as processes: how much memory they take at most, and what compaction costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_stories::beside_us;
use holdfast_test_postgres::{SeaweedFS, TestPostgres, free_port};
use holdfast_vault::{Attached, ClaimOptions, ORIGIN, Vault, WriterLimits};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};
use serde_json::{Value, json};

use super::{Bench, GB, MIB, Row, SYSTEM, config, config_json, cpu};

/// The database's name in the vault.
const NAME: &str = "log";
/// What PostgreSQL sends at most in one message.
const MESSAGE_BYTES: usize = 128 * 1024;
/// As an agent cuts them.
const CHUNK_BYTES: usize = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(600);
const MEMORY: &str = "<= 64 MiB";

impl Bench {
    pub(super) async fn roles(&self, server: &SeaweedFS) -> Result<Vec<Row>> {
        eprintln!("writing a log …");
        self.write_log(server).await?;
        let mut rows = self.archiver(server).await?;
        rows.push(self.relay(server)?);
        Ok(rows)
    }

    /// The WAL as a log of chunks.
    async fn write_log(&self, server: &SeaweedFS) -> Result<()> {
        let database = Vault::open(config(&server.endpoint(), server)?)?.database(NAME)?;
        self.register(&database).await?;
        let (history, flushed) = (TimelineHistory::initial(TimelineId(1)), self.end());
        let by = "the benchmark".to_owned();
        let attached = Attached { instance_id: ORIGIN.to_owned(), system_id: SYSTEM, history, flushed, by };
        let writer = database.claim(&attached, &self.recipients()?, ClaimOptions::default()).await?;
        let limits = WriterLimits {
            max_chunk_bytes: CHUNK_BYTES,
            max_buffered_bytes: 4 * CHUNK_BYTES,
            ..WriterLimits::default()
        };
        let writer = writer.into_running(limits)?;
        let mut at = self.start();
        for segment in &self.wal {
            for from in (0..segment.len()).step_by(MESSAGE_BYTES) {
                let piece = segment.slice(from..segment.len().min(from + MESSAGE_BYTES));
                let len = piece.len() as u64;
                writer.append(at, piece).await?;
                at = Lsn(at.0 + len);
            }
        }
        let state = writer.close().await;
        ensure!(state.durable == self.end(), "the log ends at {} and not at {}", state.durable, self.end());
        Ok(())
    }

    fn end(&self) -> Lsn {
        Lsn(self.start().0 + self.plain_bytes() as u64)
    }

    /// Compaction of all chunks into segments, by one archiver from the first byte to the last.
    async fn archiver(&self, server: &SeaweedFS) -> Result<Vec<Row>> {
        eprintln!("an archiver catches up …");
        let listen = free_address();
        let own = json!({ "recipients": self.public_keys(), "rolling": false });
        let archiver = self.role("archiver", server, listen, own)?;
        let began = Instant::now();
        let done = |status: &Value| status["archived"] == json!(self.end()) && status["at_end"] == true;
        archiver.wait(listen, done).await?;
        let took = began.elapsed();
        let (ours, peak) = (cpu::of_process(archiver.0.id())?, cpu::peak_mib(archiver.0.id())?);
        drop(archiver);
        let pipe = format!("{} | {}", self.opening_pipe(), self.sealing_pipe(3));
        let before = cpu::of_children()?;
        self.pipe("sealed", &pipe)?;
        let theirs = cpu::of_children()? - before;
        let each = self.plain_bytes() / GB;
        let cost = format!("{:.1} (age -d|zstd -d|zstd -3|age: {:.1})", ours / each, theirs / each);
        let row = |what: &str, reached, wanted| Row::Reached { what: what.to_owned(), reached, wanted };
        Ok(vec![
            row("archiver catching up, peak memory", self.caught_up(peak, took), MEMORY),
            row("compaction, CPU s per GB of WAL", cost, ""),
        ])
    }

    /// PostgreSQL's own receiver follows a relay from the first whole segment to the end of the log.
    fn relay(&self, server: &SeaweedFS) -> Result<Row> {
        eprintln!("a standby catches up …");
        let (listen, serve) = (free_address(), free_address());
        let relay = self.role("relay", server, listen, json!({ "serve": serve }))?;
        let tools = TestPostgres::start(&[]);
        let received = tools.make_dir("received");
        // It goes on behind what is there.
        std::fs::write(received.join(self.first.to_string()), &self.wal[0])?;
        let deadline = Instant::now() + LIMIT;
        while std::net::TcpStream::connect(serve).is_err() {
            ensure!(Instant::now() < deadline, "the relay does not serve");
            std::thread::sleep(Duration::from_millis(50));
        }
        let (port, end) = (serve.port().to_string(), Lsn(self.end().0 - 1).to_string());
        let folder = received.display().to_string();
        let at = ["-h", "127.0.0.1", "-p", &port, "-U", "standby", "-D", &folder];
        let began = Instant::now();
        tools.run("pg_receivewal", &[&at[..], &["--no-loop", "--no-sync", "--endpos", &end]].concat());
        let (peak, took) = (cpu::peak_mib(relay.0.id())?, began.elapsed());
        let reached = self.caught_up(peak, took);
        Ok(Row::Reached { what: "relay catching up, peak memory".to_owned(), reached, wanted: MEMORY })
    }

    fn caught_up(&self, peak: f64, took: Duration) -> String {
        format!("{peak:.1} MiB at {:.0} MiB/s", self.plain_bytes() / MIB / took.as_secs_f64())
    }

    fn role(&self, name: &str, server: &SeaweedFS, listen: SocketAddr, own: Value) -> Result<Role> {
        let mut config = json!({
            "vault": config_json(&server.endpoint(), server),
            "identity_file": self.path("identity"),
            "name": NAME,
            "listen": listen,
        });
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), own) {
            config.extend(own);
        }
        let path = self.path(&format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
        let log = std::fs::File::create(self.path(&format!("{name}.log")))?;
        let mut command = Command::new(beside_us("holdfast")?);
        command.arg(name).arg("--config").arg(path).stdout(Stdio::null()).stderr(log);
        // As in the pods that the operator makes.
        command.env("MALLOC_ARENA_MAX", "1").env("MALLOC_MMAP_THRESHOLD_", "524288");
        Ok(Role(command.spawn().with_context(|| format!("starting the {name}"))?))
    }
}

/// A process that ends with its measurement.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Role {
    /// Waits until its status is as wanted.
    async fn wait(&self, listen: SocketAddr, done: impl Fn(&Value) -> bool) -> Result<()> {
        let (url, deadline) = (format!("http://{listen}/status"), Instant::now() + LIMIT);
        let mut last = Value::Null;
        while Instant::now() < deadline {
            // Not yet listening.
            if let Ok(answer) = reqwest::get(&url).await {
                last = answer.json().await?;
            }
            if done(&last) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("not through after {LIMIT:?}: {last}")
    }
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}
