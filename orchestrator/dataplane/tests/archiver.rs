//! A standby is restored and follows although the chunks are gone: their WAL is in segments.

mod common;

use std::time::Duration;

use common::{Cloud, Load, Role, make_ledger, missing, start_restored, wait};
use holdfast_dataplane::restore;
use holdfast_dataplane::status::ArchiverState;
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_vault::object::{Subject, decode_header};
use holdfast_wal::Lsn;
use tokio_util::sync::CancellationToken;

const SEGMENT: u64 = 16 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_follows_when_the_chunks_are_gone() {
    let cloud = Cloud::start().await;
    let mut server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    agent.wait_protected().await;
    let mut load = Load::start(&server, 4, 0);
    // Killed again and again while it archives.
    let mut config = cloud.archiver_config("a");
    for _ in 0..4 {
        let archiver = Role::archiver(config.clone());
        load.wait_for_more(200).await;
        server.psql("SELECT pg_switch_wal()");
        tokio::time::sleep(Duration::from_millis(700)).await;
        archiver.kill().await;
        config.listen = common::free_address();
    }
    let archiver = Role::archiver(config);
    let switched: Lsn = server.psql("SELECT pg_switch_wal()").parse().expect("a position");
    let end = switched.segment_end(SEGMENT);
    load.wait_for_more(50).await;
    let status = archiver
        .wait_archiver("everything up to the switch in segments and an index", |s| {
            s.archived >= Some(end) && s.indexed >= Some(end)
        })
        .await;
    assert_eq!((status.state, status.problem), (ArchiverState::Archiving, None));
    assert!(status.held_until.is_some() && status.hold_problem.is_none(), "locks are looked after");
    assert!(archiver.metric("holdfast_archiver_segments_total").await > 0.0);
    // What each role asked of the store is counted, reads of the log too.
    assert!(archiver.metric("holdfast_archiver_store_gets_total").await > 10.0);
    assert!(archiver.metric("holdfast_archiver_store_puts_total").await >= 2.0, "a segment and an index");
    assert!(agent.metric("holdfast_agent_store_puts_total").await > 50.0);
    assert!(agent.metric("holdfast_agent_store_gets_total").await > 0.0, "it reads before it claims");
    archiver.kill().await;
    let ledger = load.stop();
    agent.kill().await;
    let count = |text: String| text.parse::<u64>().expect("a number");
    let rows = count(server.psql("SELECT count(*) FROM ledger"));
    server.stop(Stop::Fast);

    // What is left when all locks have ended and the janitor was here.
    let database = cloud.database("a");
    let index = database.newest_index().await.expect("readable").expect("an index");
    let covered = index.index.archived.expect("segments").at;
    cloud.bucket("later", true).await;
    let is_covered = |_: &str, bytes: &[u8]| match decode_header(bytes).expect("an object").header.subject {
        Subject::Chunk(chunk) => (chunk.epoch, chunk.start) >= (covered.epoch, covered.start),
        _ => true,
    };
    let gone = cloud.copy("later", is_covered).await;
    assert!(gone > 100, "only {gone} chunks were covered");

    let folder = tempfile::tempdir().expect("a folder");
    let mut relay_config = cloud.relay_config("a", None);
    relay_config.vault = cloud.vault_config("later");
    let mut restore_config = cloud.restore_config("a", folder.path(), relay_config.serve, "volume");
    restore_config.vault = cloud.vault_config("later");
    restore::run(restore_config, CancellationToken::new()).await.expect("restores");
    let relay = Role::relay(relay_config);
    let standby = start_restored(folder.path(), &[("fsync", "on")]);
    wait("every acknowledged row", || async { missing(&standby, &ledger.acknowledged) }, Vec::is_empty).await;
    wait("the same rows", || async { count(standby.psql("SELECT count(*) FROM ledger")) }, |there| *there >= rows)
        .await;
    assert!(relay.metric("holdfast_relay_store_gets_total").await > 5.0);
    assert_eq!(relay.metric("holdfast_relay_store_puts_total").await, 0.0, "a relay only reads");
}
