//! The receiving end against a real PostgreSQL.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{LIMIT, config, connect, flushed, unpack_base_backup};
use holdfast_protocol::client::{BaseBackupEvent, BaseBackupOptions, ClientError, ReplicationClient, ReplicationEvent};
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SegmentName, TimelineId};

const FIRST: TimelineId = TimelineId(1);

fn segment(server: &TestPostgres, timeline: TimelineId, at: Lsn) -> Vec<u8> {
    let name = SegmentName::new(timeline, at, SEGMENT_SIZE_DEFAULT).to_string();
    fs::read(server.data_dir().join("pg_wal").join(name)).expect("a WAL segment")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_streamed_is_what_lies_in_the_segment_files() {
    let server = TestPostgres::start(&[]);
    let mut client = connect(&server).await;
    let system = client.identify_system().await.unwrap();
    assert_eq!(system.system_id.to_string(), server.psql("SELECT system_identifier FROM pg_control_system()"));
    assert_eq!(system.timeline, FIRST);
    assert_eq!(client.wal_segment_size().await.unwrap(), SEGMENT_SIZE_DEFAULT);
    assert!(client.server_version().starts_with("15."));

    let start = system.flush_lsn.segment_start(SEGMENT_SIZE_DEFAULT);
    let (mut reader, writer) = client.start_replication(None, start, FIRST).await.unwrap();
    server.psql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 20000000))");
    server.psql("SELECT pg_switch_wal()");
    server.psql("SELECT pg_logical_emit_message(true, 'test', 'last')");
    let end = flushed(&server);

    let mut received = Vec::new();
    while reader.position() < end {
        match tokio::time::timeout(LIMIT, reader.next()).await.unwrap().unwrap() {
            ReplicationEvent::Wal { data, .. } => received.extend_from_slice(&data),
            ReplicationEvent::Keepalive { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let mut stored = Vec::new();
    while stored.len() < received.len() {
        stored.extend(segment(&server, FIRST, Lsn(start.0 + stored.len() as u64)));
    }
    assert!(received.len() > SEGMENT_SIZE_DEFAULT as usize);
    assert!(received == stored[..received.len()], "streamed and stored bytes differ");

    writer.send_status(end, end, Lsn::INVALID, false).await.unwrap();
    let seen = "SELECT flush_lsn, replay_lsn IS NULL FROM pg_stat_replication WHERE application_name = 'holdfast_test'";
    server.wait_for(seen, &format!("{end}|t"), LIMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_commit_waits_for_the_reported_flush() {
    let server = TestPostgres::start(&[("synchronous_standby_names", "holdfast_test")]);
    let mut client = connect(&server).await;
    let start = client.identify_system().await.unwrap().flush_lsn;
    let (mut reader, writer) = client.start_replication(None, start, FIRST).await.unwrap();
    writer.send_status(start, start, Lsn::INVALID, false).await.unwrap();
    server.wait_for("SELECT sync_state FROM pg_stat_replication", "sync", LIMIT);

    let connection = server.connection_string();
    let commit = std::thread::spawn(move || {
        let psql = std::process::Command::new("/usr/lib/postgresql/15/bin/psql");
        let mut psql = psql;
        psql.args(["-Xq", &connection, "-c", "CREATE TABLE patient (mrn int)"]).status().unwrap().success()
    });
    server.wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1", LIMIT);
    let written = flushed(&server);
    while reader.position() < written {
        reader.next().await.unwrap();
    }
    // Written is not flushed.
    writer.send_status(reader.position(), start, Lsn::INVALID, false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!commit.is_finished(), "the commit did not wait for the flush");
    writer.send_status(reader.position(), reader.position(), Lsn::INVALID, false).await.unwrap();
    assert!(commit.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_reply_comes_at_once() {
    let server = TestPostgres::start(&[]);
    let mut client = connect(&server).await;
    let start = client.identify_system().await.unwrap().flush_lsn;
    let (mut reader, writer) = client.start_replication(None, start, FIRST).await.unwrap();
    for _ in 0..2 {
        writer.send_status(start, start, Lsn::INVALID, true).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                if let event @ ReplicationEvent::Keepalive { .. } = reader.next().await.unwrap() {
                    return event;
                }
            }
        });
        assert!(matches!(event.await.unwrap(), ReplicationEvent::Keepalive { server_end, .. } if server_end >= start));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_made_once_and_dropped_once() {
    let server = TestPostgres::start(&[]);
    let mut client = connect(&server).await;
    for _ in 0..2 {
        client.create_physical_slot("holdfast_registration", true).await.unwrap();
    }
    let slots = "SELECT slot_name, restart_lsn IS NOT NULL FROM pg_replication_slots";
    assert_eq!(server.psql(slots), "holdfast_registration|t");
    let start = client.identify_system().await.unwrap().flush_lsn;
    let streaming = client.start_replication(Some("holdfast_registration"), start, FIRST).await.unwrap();

    // A slot in use is an error that passes, and the connection goes on.
    let mut other = connect(&server).await;
    let error = other.drop_slot("holdfast_registration").await.unwrap_err();
    assert_eq!((error.sqlstate(), error.is_permanent()), (Some("55006"), false));
    drop(streaming);
    server.wait_for("SELECT active FROM pg_replication_slots", "f", LIMIT);
    for _ in 0..2 {
        other.drop_slot("holdfast_registration").await.unwrap();
    }
    assert_eq!(server.psql(slots), "");
    let error = other.create_physical_slot("Not a name!", true).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("42602"));
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_is_told_why() {
    let server = TestPostgres::start(&[("password_encryption", "md5")]);
    server.psql(
        "CREATE ROLE clerk LOGIN PASSWORD 'secret'; CREATE ROLE courier LOGIN REPLICATION PASSWORD 'secret'; \
         CREATE ROLE plain LOGIN REPLICATION PASSWORD 'secret'",
    );
    let failure = async |user: &str, password: Option<&str>| {
        let connected = ReplicationClient::connect(&config(server.port(), user, password)).await;
        let error = connected.expect_err("must be refused");
        assert!(error.is_permanent(), "{error}");
        error
    };
    // Before any of the lines that initdb wrote.
    let hba = server.data_dir().join("pg_hba.conf");
    let lines = fs::read_to_string(&hba).unwrap();
    let own = "host replication clerk,courier 127.0.0.1/32 md5\nhost replication radius all gss\nhost replication plain all password\n";
    fs::write(&hba, format!("{own}{lines}")).unwrap();
    server.psql("SELECT pg_reload_conf()");
    server.wait_for(
        "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method IN ('md5', 'gss', 'password')",
        "3",
        LIMIT,
    );

    for (user, password) in
        [("postgres", Some("wrong")), ("postgres", None), ("nobody", Some("x")), ("clerk", Some("wrong"))]
    {
        let error = failure(user, password).await;
        assert!(matches!(error, ClientError::AuthenticationFailed { .. }), "{user}: {error}");
    }
    let error = failure("clerk", Some("secret")).await;
    assert!(matches!(&error, ClientError::NoReplicationRole { user, .. } if user == "clerk"), "{error}");
    assert!(error.to_string().contains("ALTER ROLE \"clerk\" REPLICATION"), "{error}");
    let error = failure("radius", Some("secret")).await;
    assert!(matches!(error, ClientError::UnsupportedAuthentication { .. }), "{error}");

    for user in ["courier", "plain"] {
        let connected = ReplicationClient::connect(&config(server.port(), user, Some("secret"))).await;
        connected.expect("other methods are fine too").close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_worth_another_try() {
    let mut server = TestPostgres::start(&[]);
    let config = config(server.port(), server.user(), Some(server.password()));
    let mut client = ReplicationClient::connect(&config).await.unwrap();
    let start = client.identify_system().await.unwrap().flush_lsn;
    let (mut reader, _writer) = client.start_replication(None, start, FIRST).await.unwrap();
    server.stop(Stop::Immediate);
    let error = loop {
        if let Err(error) = reader.next().await {
            break error;
        }
    };
    assert!(!error.is_permanent(), "{error}");
    let error = ReplicationClient::connect(&config).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(!error.is_permanent());
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_gone_is_gone_for_good() {
    let server = TestPostgres::start(&[("wal_keep_size", "0"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")]);
    let old = flushed(&server).segment_start(SEGMENT_SIZE_DEFAULT);
    for _ in 0..4 {
        server.psql("SELECT pg_logical_emit_message(true, 'test', 'x'); SELECT pg_switch_wal()");
    }
    server.psql("CHECKPOINT");
    let client = connect(&server).await;
    let (mut reader, _writer) = client.start_replication(None, old, FIRST).await.unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!((error.sqlstate(), error.is_permanent()), (Some("58P01"), true), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_passes_postgresqls_own_verification() {
    let server = TestPostgres::start(&[]);
    server.psql("CREATE TABLE patient AS SELECT i AS mrn FROM generate_series(1, 100000) i");
    let target = tempfile::tempdir().unwrap();
    let before = flushed(&server);
    let (start, end, manifest) = unpack_base_backup(connect(&server).await, target.path()).await;
    assert!(start >= before && end > start, "{before} {start} {end}");
    fs::write(target.path().join("backup_manifest"), &manifest).unwrap();
    let label = fs::read_to_string(target.path().join("backup_label")).unwrap();
    assert!(label.contains(&format!("START WAL LOCATION: {start} ")) && label.contains("LABEL: test"), "{label}");

    let verify = |dir: &Path| {
        let mut command = std::process::Command::new("/usr/lib/postgresql/15/bin/pg_verifybackup");
        command.arg("--no-parse-wal").arg(dir).output().unwrap()
    };
    let verified = verify(target.path());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    // The verification can fail.
    fs::write(target.path().join("PG_VERSION"), "16\n").unwrap();
    assert!(!verify(target.path()).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_tablespaces_names_each() {
    let server = TestPostgres::start(&[]);
    let location = server.make_dir("scans");
    server.psql(&format!("CREATE TABLESPACE scans LOCATION '{}'", location.display()));
    server.psql("CREATE TABLE scan (id int) TABLESPACE scans");
    let options = BaseBackupOptions { fast_checkpoint: true, ..BaseBackupOptions::default() };
    let mut backup = connect(&server).await.base_backup(&options).await.unwrap();
    let mut archives = Vec::new();
    let mut complete = false;
    while let Some(event) = backup.next().await.unwrap() {
        match event {
            BaseBackupEvent::Archive { name, location } => archives.push((name, location)),
            BaseBackupEvent::End { .. } => complete = true,
            _ => {}
        }
    }
    let oid = server.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'scans'");
    let scans = (format!("{oid}.tar"), Some(location.display().to_string()));
    assert!(complete);
    assert_eq!(archives, [scans, ("base.tar".into(), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_ends_where_its_history_says() {
    let mut server = TestPostgres::start(&[("restore_command", "false")]);
    let start = flushed(&server).segment_start(SEGMENT_SIZE_DEFAULT);
    server.psql("CREATE TABLE patient (mrn int)");
    server.stop(Stop::Fast);
    fs::write(server.data_dir().join("recovery.signal"), "").unwrap();
    server.restart();
    server.wait_for("SELECT pg_is_in_recovery()", "f", LIMIT);

    let second = TimelineId(2);
    let mut client = connect(&server).await;
    let system = client.identify_system().await.unwrap();
    assert_eq!(system.timeline, second);
    let history = client.timeline_history(second).await.unwrap();
    let file = fs::read_to_string(server.data_dir().join("pg_wal").join(history.file_name())).unwrap();
    assert_eq!(history.render(), file);
    let switch = history.switch_from(FIRST).expect("timeline 1 is an ancestor");
    assert_eq!(client.timeline_history(FIRST).await.unwrap().entries, []);
    let error = client.timeline_history(TimelineId(3)).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("58P01"));

    let ended = ReplicationEvent::EndOfTimeline { next_timeline: second, next_start: switch };
    for from in [start, switch] {
        let (mut reader, _writer) = connect(&server).await.start_replication(None, from, FIRST).await.unwrap();
        let event = loop {
            match reader.next().await.unwrap() {
                ReplicationEvent::Wal { .. } | ReplicationEvent::Keepalive { .. } => {}
                other => break other,
            }
        };
        assert_eq!((&event, reader.position()), (&ended, switch));
        assert!(reader.next().await.is_err());
    }
}
