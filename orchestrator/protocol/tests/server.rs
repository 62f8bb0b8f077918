//! The serving end, followed by a real standby.

mod common;

use std::fs;
use std::process::Command;

use common::{COUNT, FIRST, LIMIT, MemorySource, OurServer, Site, connect, copy, feed, flushed};
use holdfast_protocol::client::ReplicationEvent;
use holdfast_protocol::server::{Authentication, ServeOptions};
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SegmentName, SystemId, TimelineId};

const SECOND: TimelineId = TimelineId(2);

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_primary_appear_on_a_standby_that_knows_only_us() {
    let site = Site::start().await;
    let mut ours = OurServer::start(site.source.clone(), ServeOptions::default()).await;
    let mut standby = site.standby(&ours.conninfo("standby1"));
    site.insert(1000);
    standby.wait_for(COUNT, "1000", LIMIT);

    // Over a segment boundary, and far more at once than one message holds.
    site.primary.psql("SELECT pg_switch_wal()");
    site.insert(200_000);
    standby.wait_for(COUNT, "201000", LIMIT);
    let tip = flushed(&site.primary);
    let progress = ours.wait_for(|progress| progress.applied >= tip).await;
    assert_eq!((progress.application_name.as_str(), progress.timeline, progress.connected), ("standby1", FIRST, true));
    assert!(progress.sent >= tip && progress.flushed >= tip);
    assert_eq!(standby.psql("SELECT status, received_tli FROM pg_stat_wal_receiver"), "streaming|1");

    // A standby that crashed goes on where it was.
    standby.stop(Stop::Immediate);
    ours.wait_for(|progress| !progress.connected).await;
    site.insert(5);
    standby.restart();
    standby.wait_for(COUNT, "201005", LIMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_stays_connected_when_there_is_nothing_to_send() {
    let site = Site::start().await;
    let mut ours = OurServer::start(site.source.clone(), ServeOptions::default()).await;
    let conninfo = ours.conninfo("quiet");
    // Much shorter than any real setting: only signs of life keep this connection up.
    let settings = [("primary_conninfo", conninfo.as_str()), ("wal_receiver_timeout", "3s"), ("restore_command", "")];
    let standby = TestPostgres::start_from(&settings, |data| {
        copy(site.backup.path(), data);
        fs::write(data.join("standby.signal"), "").unwrap();
    });
    let tip = flushed(&site.primary);
    ours.wait_for(|progress| progress.applied >= tip).await;
    site.feeding.abort();
    let receiver = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    let before = standby.psql(receiver);
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    assert_eq!(standby.psql(receiver), before, "the walreceiver was replaced:\n{}", standby.log());
    assert!(!before.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_follows_onto_the_next_timeline() {
    let mut site = Site::start().await;
    let ours = OurServer::start(site.source.clone(), ServeOptions::default()).await;
    let standby = site.standby(&ours.conninfo("standby1"));
    site.insert(10);
    standby.wait_for(COUNT, "10", LIMIT);

    // The primary comes back on a timeline of its own.
    site.primary.stop(Stop::Fast);
    fs::write(site.primary.data_dir().join("recovery.signal"), "").unwrap();
    site.primary.restart();
    site.primary.wait_for("SELECT pg_is_in_recovery()", "f", LIMIT);
    site.feeding.abort();

    // What is missing of timeline 1 first, then timeline 2 from the segment that holds the switch.
    let tip = site.source.tip(FIRST);
    let (reader, writer) = connect(&site.primary).await.start_replication(None, tip, FIRST).await.unwrap();
    let ended = feed(site.source.clone(), FIRST, reader, writer).await;
    let ReplicationEvent::EndOfTimeline { next_timeline: SECOND, next_start: switch } = ended else {
        panic!("{ended:?}");
    };
    let mut client = connect(&site.primary).await;
    let history = client.timeline_history(SECOND).await.unwrap();
    let start = switch.segment_start(SEGMENT_SIZE_DEFAULT);
    site.source.add_timeline(history.clone(), start);
    let (reader, writer) = client.start_replication(None, start, SECOND).await.unwrap();
    tokio::spawn(feed(site.source.clone(), SECOND, reader, writer));
    let before = standby.psql("SELECT pid FROM pg_stat_wal_receiver");
    site.source.end(FIRST, SECOND, switch);

    site.insert(7);
    standby.wait_for(COUNT, "17", LIMIT);
    standby.wait_for("SELECT received_tli FROM pg_stat_wal_receiver", "2", LIMIT);
    // Handed over on the same connection, and not by failing and trying again.
    assert_eq!(standby.psql("SELECT pid FROM pg_stat_wal_receiver"), before, "{}", standby.log());
    let file = standby.data_dir().join("pg_wal").join(history.file_name());
    assert_eq!(fs::read_to_string(file).unwrap(), history.render());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_another_system_follows_nothing() {
    let site = Site::start().await;
    let stranger = MemorySource::new(SystemId(42));
    stranger.add_timeline(TimelineHistory::initial(FIRST), Lsn(SEGMENT_SIZE_DEFAULT));
    let ours = OurServer::start(stranger, ServeOptions::default()).await;
    let conninfo = ours.conninfo("lost");
    let settings = [("primary_conninfo", conninfo.as_str()), ("wal_retrieve_retry_interval", "100ms")];
    // Without WAL it never becomes consistent, and so accepts nobody.
    let standby = TestPostgres::spawn_from(&settings, |data| {
        copy(site.backup.path(), data);
        fs::write(data.join("standby.signal"), "").unwrap();
    });
    standby.wait_for_log("database system identifier differs", LIMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_receivewal_gets_the_segments_with_the_password_only() {
    let site = Site::start().await;
    site.primary.psql("SELECT pg_switch_wal()");
    site.insert(1000);
    let options = ServeOptions { authentication: Authentication::Password("relay".into()), ..ServeOptions::default() };
    let ours = OurServer::start(site.source.clone(), options).await;
    let end = flushed(&site.primary);
    site.source.wait_for_tip(FIRST, end).await;
    let receive = |password: &str| {
        let target = tempfile::tempdir().unwrap();
        let mut command = Command::new("/usr/lib/postgresql/15/bin/pg_receivewal");
        command.args(["-h", "127.0.0.1", "-U", "follower", "--no-loop", "--no-sync"]).env("PGPASSWORD", password);
        command.arg("-p").arg(ours.address.port().to_string()).arg(format!("--endpos={end}"));
        let output = command.arg("-D").arg(target.path()).output().unwrap();
        (output, target)
    };
    let (output, _) = receive("wrong");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && complaint.contains("password authentication failed"), "{complaint}");

    // Without a segment on its disk it starts at the segment of what we say is flushed.
    let (output, target) = receive("relay");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = SegmentName::new(FIRST, Lsn(end.0 - 1), SEGMENT_SIZE_DEFAULT).to_string();
    let received =
        [name.clone(), format!("{name}.partial")].iter().find_map(|name| fs::read(target.path().join(name)).ok());
    let stored = fs::read(site.primary.data_dir().join("pg_wal").join(name)).unwrap();
    let length = end.segment_offset(SEGMENT_SIZE_DEFAULT) as usize;
    assert!(received.expect("a segment")[..length] == stored[..length]);
}
