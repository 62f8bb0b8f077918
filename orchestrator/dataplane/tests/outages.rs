//! What goes away comes back, and the data path goes on where it was, without a restart.

mod common;

use std::time::Duration;

use common::{Cloud, Load, Role, make_ledger, missing, start_restored, wait};
use holdfast_dataplane::restore;
use holdfast_dataplane::status::AgentState;
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_wal::{Lsn, TimelineId};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_and_the_database_go_and_come() {
    let mut cloud = Cloud::start().await;
    let mut server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    let before = agent.wait_protected().await;
    let mut load = Load::start(&server, 4, 0);
    load.wait_for_more(50).await;

    cloud.weed.kill();
    let status = agent.wait_problem("VaultUnreachable").await;
    assert_eq!(status.state, AgentState::Streaming);
    let hanging = load.acknowledged();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(load.acknowledged(), hanging, "nothing is acknowledged that is not in the vault");
    let away = agent.wait_agent("lag", |s| s.lag_bytes > 0 && s.lag_seconds > 2.0).await;
    assert!(away.written > away.durable);
    tokio::task::block_in_place(|| cloud.weed.restart());
    load.wait_for_more(50).await;
    agent.wait_agent("no problem", |s| s.problem.is_none()).await;

    server.stop(Stop::Immediate);
    agent.wait_state(AgentState::Retrying).await;
    tokio::task::block_in_place(|| server.restart());
    load.wait_for_more(50).await;
    let after = agent.wait_state(AgentState::Streaming).await;
    assert_eq!((after.epoch, after.incarnation), (before.epoch, before.incarnation), "the same writer went on");
    let ledger = load.stop();
    assert_eq!(missing(&server, &ledger.acknowledged), Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_follows_across_the_death_of_its_relay() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    agent.wait_protected().await;
    let mut load = Load::start(&server, 4, 0);
    load.wait_for_more(50).await;

    let folder = tempfile::tempdir().expect("a folder");
    let mut relay_config = cloud.relay_config("a", None);
    let password = cloud.folder.path().join("relay-password");
    std::fs::write(&password, "it's secret").expect("writable");
    relay_config.password_file = Some(password.clone());
    let mut restore_config = cloud.restore_config("a", folder.path(), relay_config.serve, "volume");
    restore_config.primary.password_file = Some(password);
    // What an interrupted restore left is wiped.
    std::fs::create_dir_all(folder.path().join("pgdata/base")).expect("writable");
    std::fs::write(folder.path().join("pgdata/base/rubbish"), "x").expect("writable");
    restore::run(restore_config, CancellationToken::new()).await.expect("restores");
    assert!(!folder.path().join("pgdata/base/rubbish").exists());
    let mut relay = Role::relay(relay_config.clone());
    let standby = start_restored(folder.path(), &[("fsync", "on")]);
    for _ in 0..3 {
        relay.kill().await;
        load.wait_for_more(50).await;
        relay = Role::relay(relay_config.clone());
        let written: Lsn = server.psql("SELECT pg_current_wal_flush_lsn()").parse().expect("a position");
        let replayed = || async { standby.psql("SELECT pg_last_wal_replay_lsn()").parse::<Lsn>().expect("a position") };
        wait("replayed", replayed, |seen| *seen >= written).await;
    }
    let status = relay.wait_relay("a client", |s| s.clients.len() == 1).await;
    assert_eq!(status.clients[0].application_name, "holdfast_a");
    assert!(relay.text("/metrics").await.contains("holdfast_relay_clients 1"));
    let ledger = load.stop();
    // Both are asked each time: what was under way when the writers ended may still become visible on the primary.
    let rows = "SELECT count(*), sum(id) FROM ledger";
    wait("the same rows", || async { (standby.psql(rows), server.psql(rows)) }, |(there, here)| there == here).await;
    assert_eq!(missing(&standby, &ledger.acknowledged), Vec::<i64>::new());
}

/// A primary that was recovered in place goes on on a new timeline of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_timeline_of_the_same_server_goes_into_the_log_and_to_the_standby() {
    let cloud = Cloud::start().await;
    let mut server = TestPostgres::start(&[("fsync", "on"), ("restore_command", "false")]);
    make_ledger(&server);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    let before = agent.wait_protected().await;
    let relay_config = cloud.relay_config("a", None);
    let folder = tempfile::tempdir().expect("a folder");
    let restore_config = cloud.restore_config("a", folder.path(), relay_config.serve, "volume");
    restore::run(restore_config, CancellationToken::new()).await.expect("restores");
    let relay = Role::relay(relay_config);
    let standby = start_restored(folder.path(), &[("fsync", "on")]);
    server.psql("INSERT INTO ledger VALUES (1, 'on the first timeline')");

    server.stop(Stop::Fast);
    let signal = server.data_dir().join("recovery.signal");
    std::fs::write(&signal, "").expect("writable");
    // The server removes it; it is nobody's when the test is root, and fails harmlessly otherwise.
    let _ = std::os::unix::fs::chown(&signal, Some(65534), Some(65534));
    tokio::task::block_in_place(|| server.restart());
    server.wait_for("SELECT pg_is_in_recovery()", "f", Duration::from_secs(60));
    let after = agent
        .wait_agent("on timeline 2", |s| s.state == AgentState::Streaming && s.timeline == Some(TimelineId(2)))
        .await;
    assert!(after.epoch > before.epoch);
    server.psql("INSERT INTO ledger VALUES (2, 'on the second')");
    let rows = || async { standby.psql("SELECT count(*) FROM ledger") };
    wait("both rows", rows, |seen| seen == "2").await;
    relay.wait_relay("on timeline 2", |s| s.timeline == Some(TimelineId(2)) && s.clients.len() == 1).await;
}

/// Behind a segment switch PostgreSQL is at the segment's end at once: the log must not be cut in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_chunk_ends_between_a_segment_switch_and_its_segments_end() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    let segment = 16 * 1024 * 1024;
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    agent.wait_protected().await;
    let mut switches: Vec<Lsn> = Vec::new();
    for index in 0..3 {
        server.psql(&format!("CREATE TABLE t{index} ()"));
        switches.push(server.psql("SELECT pg_switch_wal()").parse().expect("a position"));
    }
    let last = switches.iter().max().expect("some").segment_end(segment);
    agent.wait_agent("stored", |s| s.durable >= Some(last)).await;
    let starts: Vec<u64> = cloud
        .keys("hospital/v1/db/a/log/")
        .await
        .iter()
        .filter_map(|key| u64::from_str_radix(key.rsplit('/').next()?, 16).ok())
        .collect();
    for switch in switches {
        let inside: Vec<&u64> =
            starts.iter().filter(|start| **start >= switch.0 && **start < switch.segment_end(segment).0).collect();
        assert!(inside.is_empty(), "chunks begin at {inside:x?}, behind the switch at {switch}");
    }
}

/// `HOLDFAST_OUTAGE_SECONDS` shortens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes an hour"]
async fn a_store_that_is_away_for_an_hour_costs_no_data_and_no_restart() {
    let seconds = std::env::var("HOLDFAST_OUTAGE_SECONDS").map_or(3600, |text| text.parse().expect("seconds"));
    let mut cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    server.psql("CREATE TABLE meanwhile (id int, what text)");
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    let before = agent.wait_protected().await;
    let archiver = Role::archiver(cloud.archiver_config("a"));
    let (standby, relay) = common::takeover::standby(&cloud, "a").await;
    let mut load = Load::start(&server, 4, 0);
    load.wait_for_more(50).await;

    cloud.weed.kill();
    agent.wait_problem("VaultUnreachable").await;
    let hanging = load.acknowledged();
    // Whoever does not wait for the vault goes on: the server keeps the WAL that the agent cannot store.
    for part in 0..12 {
        tokio::time::sleep(Duration::from_secs(seconds) / 12).await;
        server.psql(&format!(
            "SET synchronous_commit = local; \
             INSERT INTO meanwhile SELECT {part}, md5(i::text) FROM generate_series(1, 100000) i"
        ));
    }
    assert_eq!(load.acknowledged(), hanging, "nothing is acknowledged that is not in the vault");
    tokio::task::block_in_place(|| cloud.weed.restart());

    load.wait_for_more(50).await;
    let after = agent.wait_agent("no problem", |s| s.problem.is_none() && s.state == AgentState::Streaming).await;
    assert_eq!((after.epoch, after.incarnation), (before.epoch, before.incarnation), "the same writer went on");
    let ledger = load.stop();
    let rows = "SELECT (SELECT count(*) FROM ledger), (SELECT count(*) FROM meanwhile)";
    wait("the same rows", || async { (standby.psql(rows), server.psql(rows)) }, |(there, here)| there == here).await;
    assert_eq!(missing(&standby, &ledger.acknowledged), Vec::<i64>::new());
    archiver.wait_archiver("at work", |s| s.problem.is_none() && s.archived > before.durable).await;
    drop(relay);
}
