//! What is wrong is said on `/status`, with what to do; and it mends without a restart.

mod common;

use std::time::Duration;

use common::{Cloud, Load, Role, free_address, make_ledger, missing};
use holdfast_dataplane::config::Durability;
use holdfast_dataplane::restore;
use holdfast_dataplane::status::{AgentState, RelayState};
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_vault::{CredentialsSource, TakeoverOptions, TakerState};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_cannot_be_protected() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    let config = cloud.agent_config(&server, "a");

    let mut nowhere = cloud.agent_config(&server, "a");
    nowhere.connection.port = free_address().port();
    Role::agent(nowhere).wait_problem("DatabaseUnreachable").await;

    let mut wrong = cloud.agent_config(&server, "a");
    wrong.connection.credentials_dir = cloud.credentials("postgres", "guess");
    let status = Role::agent(wrong).wait_problem("WrongPassword").await;
    assert!(!format!("{status:?}").contains("guess"), "no secrets in the status");

    let mut secret = cloud.agent_config(&server, "a");
    secret.connection.credentials_dir = "/nonexistent".into();
    Role::agent(secret).wait_problem("CredentialsUnreadable").await;

    let careless = TestPostgres::start(&[("fsync", "off")]);
    Role::agent(cloud.agent_config(&careless, "a")).wait_problem("UnsafeSettings").await;

    let minimal = TestPostgres::start(&[("wal_level", "minimal"), ("max_wal_senders", "0")]);
    Role::agent(cloud.agent_config(&minimal, "a")).wait_problem("WalLevelMinimal").await;

    // Nothing of all this reached the log; and a role that is put right is taken up without a restart.
    assert_eq!(cloud.keys("hospital/v1/db/").await, Vec::<String>::new());
    server.psql("CREATE ROLE app LOGIN PASSWORD 'app'");
    let mut plain = config;
    plain.connection.credentials_dir = cloud.credentials("app", "app");
    let agent = Role::agent(plain);
    let status = agent.wait_problem("RoleWithoutReplication").await;
    server.psql(r#"ALTER ROLE "app" REPLICATION"#);
    assert!(status.problem.expect("one").hint.contains(r#"ALTER ROLE "app" REPLICATION"#));
    let hint = agent.wait_problem("SynchronousNotPermitted").await.problem.expect("one").hint;
    agent.wait_state(AgentState::Streaming).await;
    let statements = hint.split_once(": ").expect("SQL after the colon").1;
    statements.split_terminator(';').for_each(|statement| drop(server.psql(statement)));
    let status = agent.wait_protected().await;
    assert_eq!(status.problem, None);
    assert!(agent.text("/metrics").await.contains("holdfast_agent_synchronous 1"));
    assert_eq!(agent.text("/healthz").await, "ok\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_vault_that_cannot_hold_a_log() {
    let cloud = Cloud::start().await;
    cloud.bucket("plain", false).await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    let with_bucket = |bucket: &str| {
        let mut config = cloud.agent_config(&server, "a");
        config.vault.bucket = bucket.to_owned();
        config
    };
    Role::agent(with_bucket("plain"))
        .wait_agent("no lock", |s| s.problem.as_ref().is_some_and(|p| p.code.starts_with("BucketWithout")))
        .await;
    Role::agent(with_bucket("nowhere")).wait_problem("NoSuchBucket").await;
    let mut stranger = with_bucket("vault");
    stranger.vault.credentials =
        CredentialsSource::Static { access_key_id: "holdfast-test".to_owned(), secret_access_key: "wrong".to_owned() };
    Role::agent(stranger).wait_problem("BadCredentials").await;
    let mut keyless = with_bucket("vault");
    keyless.recipients = vec!["age1nonsense".to_owned()];
    Role::agent(keyless).wait_problem("RecipientsInvalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_belongs_to_one_database_and_one_agent() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    let owner = Role::agent(cloud.agent_config(&server, "a"));
    owner.wait_protected().await;

    let other = TestPostgres::start(&[("fsync", "on")]);
    let stranger = Role::agent(cloud.agent_config(&other, "a"));
    let status = stranger.wait_problem("SystemIdMismatch").await;
    assert_eq!(status.state, AgentState::Refused);
    assert_eq!(owner.agent_status().await.state, AgentState::Streaming);

    // A second agent of the same database takes over from the first, which stops and leaves the database alone.
    let second = Role::agent(cloud.agent_config(&server, "a"));
    second.wait_state(AgentState::Streaming).await;
    let fenced = owner.wait_state(AgentState::Fenced).await;
    assert_eq!(fenced.problem.expect("one").code, "AnotherWriter");
    second.wait_protected().await;
    server.psql("CREATE TABLE still_writable ()");

    // When that one ends, nobody would write: the first goes on.
    second.kill().await;
    let again = owner.wait_protected().await;
    assert!(again.fence.is_none(), "{:?}", again.fence);
    server.psql("CREATE TABLE still_writable_again ()");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settings_that_belong_to_somebody_else_stay() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on"), ("synchronous_standby_names", "other")]);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    // It says so before it streams, and streams all the same.
    agent.wait_problem("SynchronousStandbyNamesTaken").await;
    let status = agent.wait_state(AgentState::Streaming).await;
    assert!(status.problem.expect("one").hint.contains(r#"FIRST 2 ("other", "holdfast_a")"#));
    assert_eq!(server.psql("SHOW synchronous_standby_names"), "other");

    let mut relaxed = cloud.agent_config(&server, "b");
    relaxed.durability = Durability::Asynchronous;
    let agent = Role::agent(relaxed);
    let status = agent.wait_agent("a backup", |s| !s.backups.is_empty() && s.state == AgentState::Streaming).await;
    assert_eq!((status.problem, status.synchronous), (None, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tablespaces_stop_the_backup_and_not_the_log() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on"), ("allow_in_place_tablespaces", "on")]);
    server.psql("CREATE TABLESPACE elsewhere LOCATION ''");
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    let status = agent.wait_agent("refused", |s| s.backup_problem.is_some()).await;
    assert_eq!(status.backup_problem.expect("one").code, "TablespacesUnsupported");
    agent.wait_agent("synchronous", |s| s.synchronous && s.state == AgentState::Streaming).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_to_restore_and_nothing_to_relay() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = cloud.restore_config("nobody", folder.path(), free_address(), "volume");
    let waiting = restore::run(config, CancellationToken::new());
    assert!(tokio::time::timeout(Duration::from_secs(3), waiting).await.is_err(), "it waits for a backup");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0, "and touches nothing");
    let relay = Role::relay(cloud.relay_config("nobody", None));
    let status = relay.wait_relay("says so", |s| s.problem.is_some()).await;
    assert_eq!(status.problem.expect("one").code, "NothingToRestore");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_object_is_named_and_nothing_beyond_it_is_served() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    let agent = Role::agent(cloud.agent_config(&server, "a"));
    agent.wait_protected().await;
    agent.kill().await;
    let tip = cloud.database("a").tip().await.expect("a tip");
    let key = format!("hospital/v1/db/a/log/{:016x}/{}", tip.epoch, tip.tip.hex16());
    cloud.put(&key, b"not an object of the vault").await;
    let relay = Role::relay(cloud.relay_config("a", None));
    let status = relay.wait_relay("damaged", |s| s.state == RelayState::Damaged).await;
    let problem = status.problem.expect("one");
    assert_eq!(problem.code, "DamagedObject");
    assert!(problem.message.contains(&key), "{problem:?} names {key}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_takeover_that_is_given_up_can_be_taken_back() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let config = cloud.agent_config(&server, "a");
    let agent = Role::agent(config.clone());
    agent.wait_protected().await;
    let mut load = Load::start(&server, 2, 0);
    load.wait_for_more(20).await;
    let taker = TakerState::generate("test");
    while cloud.database("a").takeover(&taker, &TakeoverOptions::default()).await.is_err() {}
    let status = agent.wait_problem("TakeoverPending").await;
    assert_eq!(status.state, AgentState::TakeoverPending);
    // A writer that was told just before the seal has to write it down.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let hanging = load.acknowledged();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(load.acknowledged(), hanging, "nothing is acknowledged after the seal");
    assert_eq!(agent.agent_status().await.state, AgentState::TakeoverPending);
    agent.kill().await;

    let mut back = config;
    back.reclaim = true;
    let agent = Role::agent(back);
    agent.wait_state(AgentState::Streaming).await;
    load.wait_for_more(20).await;
    let ledger = load.stop();
    assert_eq!(missing(&server, &ledger.acknowledged), Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restored_snapshot_is_refused() {
    let cloud = Cloud::start().await;
    let mut server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let config = cloud.agent_config(&server, "a");
    let agent = Role::agent(config.clone());
    agent.wait_protected().await;
    server.stop(Stop::Fast);
    let snapshot = cloud.folder.path().join("snapshot");
    copy(&server.data_dir(), &snapshot);
    server.restart();
    agent.wait_state(AgentState::Streaming).await;
    server.psql("INSERT INTO ledger SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i");
    server.stop(Stop::Fast);
    copy(&snapshot, &server.data_dir());
    server.restart();
    let status = agent.wait_state(AgentState::Refused).await;
    assert_eq!(status.problem.expect("one").code, "DatabaseDiverged");

    // It goes on by itself, past what is stored: another agent finds that its WAL is not the stored one.
    let local =
        "SET synchronous_commit = local; INSERT INTO ledger SELECT i, repeat('y', 100) FROM generate_series(1, 9000) i";
    server.psql(local);
    agent.kill().await;
    let agent = Role::agent(config);
    let status = agent.wait_state(AgentState::Refused).await;
    let problem = status.problem.expect("one");
    assert_eq!(problem.code, "DatabaseDiverged");
    assert!(problem.message.contains("other WAL"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wal_that_the_server_has_thrown_away_cannot_be_had() {
    let cloud = Cloud::start().await;
    let server = TestPostgres::start(&[
        ("fsync", "on"),
        ("wal_keep_size", "0"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
    ]);
    make_ledger(&server);
    let config = cloud.agent_config(&server, "a");
    let agent = Role::agent(config.clone());
    agent.wait_protected().await;
    agent.kill().await;
    server.wait_for("SELECT active FROM pg_replication_slots", "f", Duration::from_secs(30));
    server.psql("SELECT pg_drop_replication_slot('holdfast_a')");
    for _ in 0..4 {
        server.psql(
            "SET synchronous_commit = local; INSERT INTO ledger SELECT coalesce(max(id), 0) + 1, 'x' FROM ledger",
        );
        server.psql("SELECT pg_switch_wal()");
        server.psql("CHECKPOINT");
    }
    let agent = Role::agent(config);
    let status = agent.wait_state(AgentState::Refused).await;
    assert_eq!(status.problem.expect("one").code, "WalGone");
    assert!(status.overlap_check.contains("no longer has"), "{}", status.overlap_check);
}

/// With owners and modes, in place of what is there.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}
