//! Commit latency with and without the agent, and the roles' memory, on this machine. A measurement, not a test:
//! `HOLDFAST_BINARY=target/debug/holdfast cargo test -p holdfast-dataplane --test latency -- --ignored --nocapture`.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Cloud, Load, make_ledger, start_restored, wait};
use holdfast_dataplane::restore;
use holdfast_test_postgres::TestPostgres;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement; prints its figures"]
async fn commit_latency_and_memory() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    measure(&server, "without", 0).await;

    let agent = Process::start("agent", &cloud.agent_config(&server, "a"), cloud.folder.path());
    wait("synchronous", || async { server.psql("SHOW synchronous_standby_names") }, |names| names == "holdfast_a")
        .await;
    let database = cloud.database("a");
    wait("a backup", || async { database.backups().await.map_or(0, |all| all.len()) }, |count| *count > 0).await;
    println!("agent after its first backup: {}", agent.memory());

    let relay_config = cloud.relay_config("a", None);
    let folder = tempfile::tempdir().expect("a folder");
    let restore_config = cloud.restore_config("a", folder.path(), relay_config.serve, "volume");
    restore::run(restore_config, CancellationToken::new()).await.expect("restores");
    let relay = Process::start("relay", &relay_config, cloud.folder.path());
    let standby = start_restored(folder.path(), &[("fsync", "on")]);
    measure(&server, "with", 500_000_000).await;
    println!("agent under load: {}", agent.memory());
    println!("relay under load: {}", relay.memory());

    // As much WAL as the disk gives, with nobody waiting for it.
    server.psql("SET synchronous_commit = local; INSERT INTO ledger SELECT -i, repeat(md5(i::text), 30) FROM generate_series(1, 300000) i");
    let last = server.psql("SELECT pg_current_wal_flush_lsn()");
    let replayed = || async { standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{last}'")) };
    wait("replayed", replayed, |seen| seen == "t").await;
    println!("agent after a bulk load: {}", agent.memory());
    println!("relay after a bulk load: {}", relay.memory());
}

struct Process(Child);

impl Process {
    fn start(role: &str, config: &impl Serialize, folder: &Path) -> Self {
        let binary = std::env::var_os("HOLDFAST_BINARY").expect("HOLDFAST_BINARY names the holdfast binary");
        let path = folder.join(format!("{role}.json"));
        std::fs::write(&path, serde_json::to_vec(config).expect("JSON")).expect("writable");
        let child =
            Command::new(binary).arg(role).arg("--config").arg(path).stderr(Stdio::null()).spawn().expect("runs");
        Self(child)
    }

    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let lines =
            status.lines().filter(|line| ["VmHWM", "RssAnon", "RssFile"].iter().any(|name| line.starts_with(name)));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(server: &TestPostgres, what: &str, first: i64) {
    for writers in [1, 16] {
        let mut load = Load::start(server, writers, first + writers * 20_000_000);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut latencies = load.stop().latencies;
        latencies.sort();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        println!(
            "{what} the agent, {writers} writers: {} commits, p50 {:?}, p95 {:?}, p99 {:?}",
            latencies.len(),
            at(0.5),
            at(0.95),
            at(0.99)
        );
    }
}
