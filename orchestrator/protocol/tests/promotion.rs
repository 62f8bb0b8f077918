//! A standby that is promoted at any byte goes on where the record scanner says.

mod common;

use std::fs;

use common::{FIRST, LIMIT, OurServer, Site, connect, flushed};
use holdfast_protocol::client::ReplicationEvent;
use holdfast_protocol::server::ServeOptions;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::record::RecordScanner;
use holdfast_wal::{Lsn, PAGE_SIZE, SEGMENT_SIZE_DEFAULT, TimelineId};

const SECOND: TimelineId = TimelineId(2);

/// Where the records of `bytes` end, in order.
fn ends(start: Lsn, bytes: &[u8]) -> Vec<Lsn> {
    let mut scanner = RecordScanner::new(start, SEGMENT_SIZE_DEFAULT, true);
    let mut ends = vec![start];
    for piece in bytes.chunks(8) {
        scanner.push(piece).unwrap();
        if ends.last() != Some(&scanner.complete_end()) {
            ends.push(scanner.complete_end());
        }
    }
    ends
}

/// Feeds a standby up to `tip`, promotes it, and returns it with the point where its timeline begins.
async fn promote_at(site: &Site, tip: Lsn) -> (holdfast_test_postgres::TestPostgres, Lsn) {
    let mut ours = OurServer::start(site.source.cut(FIRST, tip), ServeOptions::default()).await;
    let standby = site.standby(&ours.conninfo("standby1"));
    ours.wait_for(|progress| progress.flushed == tip).await;
    standby.psql("SELECT pg_promote()");
    standby.wait_for("SELECT pg_is_in_recovery()", "f", LIMIT);
    let file = fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history")).unwrap();
    let history = TimelineHistory::parse(SECOND, &file).unwrap();
    (standby, history.switch_from(FIRST).expect("timeline 1 is the ancestor"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_timeline_begins_at_the_end_of_the_last_complete_record() {
    let site = Site::start().await;
    site.insert(1000);
    site.primary.psql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 50000))");
    site.insert(10);
    let end = flushed(&site.primary);
    site.source.wait_for_tip(FIRST, end).await;
    let (start, bytes) = site.source.wal(FIRST);
    let ends = ends(start, &bytes);
    let after = |lsn: Lsn| ends.iter().position(|end| *end > lsn).expect("a record");

    // In a record's header; in the data of one that fills pages; between two pages of it; at an end.
    let small = ends[ends.len() - 4];
    let is_message = |pair: &&[Lsn]| (50_000..60_000).contains(&(pair[1].0 - pair[0].0));
    let long = ends.windows(2).find(is_message).expect("the long record")[0];
    let page = Lsn((long.0 + 20_000).next_multiple_of(PAGE_SIZE));
    for tip in [Lsn(small.0 + 16), Lsn(long.0 + 30_000), page, small] {
        let mut scanner = RecordScanner::new(start, SEGMENT_SIZE_DEFAULT, true);
        scanner.push(&bytes[..(tip.0 - start.0) as usize]).unwrap();
        assert_eq!(scanner.complete_end(), ends[after(tip) - 1]);
        let (standby, switch) = promote_at(&site, tip).await;
        assert_eq!(switch, scanner.complete_end(), "promoted at {tip}");

        // What follows on the new timeline names the last record of the old one.
        let (mut reader, _writer) = connect(&standby).await.start_replication(None, switch, SECOND).await.unwrap();
        let mut follower = RecordScanner::new(switch, SEGMENT_SIZE_DEFAULT, true);
        while follower.first_record().is_none() {
            if let ReplicationEvent::Wal { data, .. } = reader.next().await.unwrap() {
                follower.push(&data).unwrap();
            }
        }
        assert_eq!(follower.first_previous(), scanner.last_record());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_saw_a_segment_switch_goes_on_in_the_next_segment() {
    let site = Site::start().await;
    site.insert(10);
    let before = flushed(&site.primary);
    site.primary.psql("SELECT pg_switch_wal()");
    site.insert(10);
    site.source.wait_for_tip(FIRST, flushed(&site.primary)).await;
    let (start, bytes) = site.source.wal(FIRST);
    let tip = Lsn(before.0 + 100_000);
    assert!(tip < before.segment_end(SEGMENT_SIZE_DEFAULT));

    let mut scanner = RecordScanner::new(start, SEGMENT_SIZE_DEFAULT, true);
    scanner.push(&bytes[..(tip.0 - start.0) as usize]).unwrap();
    let pending = scanner.pending_switch().expect("the tip lies behind a switch");
    assert!(scanner.complete_end() < tip);
    let (_standby, switch) = promote_at(&site, tip).await;
    assert_eq!(switch, pending.end);
}
