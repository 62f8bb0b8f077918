//! The scanner against PostgreSQL's own reader, on WAL that PostgreSQL wrote.
//!
//! The oracle is the extension `pg_walinspect`, whose `end_lsn` is the reader's `EndRecPtr`.

use std::fs;

use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_wal::record::{FirstRecord, RecordError, RecordScanner};
use holdfast_wal::{Lsn, SegmentName, TimelineId};

/// The smallest segments, so that records cross them.
const SEGMENT: u64 = 1 << 20;

/// Start, end and predecessor of every record, as PostgreSQL says.
type Records = Vec<(Lsn, Lsn, Lsn)>;

fn start_server() -> TestPostgres {
    let server = TestPostgres::start_with_initdb(&["--wal-segsize=1"], &[("autovacuum", "off")]);
    server.psql("CREATE EXTENSION pg_walinspect; CREATE TABLE patient (mrn int PRIMARY KEY, name text)");
    server
}

fn lsn(server: &TestPostgres, sql: &str) -> Lsn {
    server.psql(sql).parse().expect("an LSN")
}

fn records(server: &TestPostgres, from: Lsn, upto: Lsn) -> Records {
    let sql = format!(
        "SELECT start_lsn, end_lsn, prev_lsn FROM pg_get_wal_records_info_till_end_of_wal('{from}') \
         WHERE end_lsn <= '{upto}' ORDER BY 1"
    );
    let answer = server.psql(&sql);
    let parse = |text: &str| text.parse().expect("an LSN");
    let mut records = Vec::new();
    for line in answer.lines() {
        let columns: Vec<Lsn> = line.split('|').map(parse).collect();
        records.push((columns[0], columns[1], columns[2]));
    }
    records
}

/// The WAL from `from` up to the end of the segment that holds `upto`.
fn wal(server: &TestPostgres, from: Lsn, upto: Lsn) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = from.segment_start(SEGMENT);
    while at < upto {
        let name = SegmentName::new(TimelineId(1), at, SEGMENT);
        bytes.extend(fs::read(server.data_dir().join("pg_wal").join(name.to_string())).expect("a WAL segment"));
        at = at.segment_end(SEGMENT);
    }
    bytes.split_off(from.segment_offset(SEGMENT) as usize)
}

/// Scans 8 bytes at a time, so that no two records end in one push, and compares every end.
fn compare(records: &Records, bytes: &[u8], from: Lsn, upto: Lsn) {
    let mut scanner = RecordScanner::new(from, SEGMENT, true);
    let mut ends = Vec::new();
    for piece in bytes[..(upto.0 - from.0) as usize].chunks(8) {
        scanner.push(piece).unwrap();
        if scanner.complete_end() != from && ends.last() != Some(&scanner.complete_end()) {
            ends.push(scanner.complete_end());
        }
    }
    let expected: Vec<Lsn> = records.iter().map(|record| record.1).collect();
    let different = ends.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!(different, None, "record {:?}", different.map(|index| (ends[index], records[index])));
    assert_eq!(ends.len(), expected.len());
    let first = FirstRecord { start: records[0].0, previous: records[0].2 };
    assert_eq!(scanner.first_record(), Some(first));
    assert_eq!(scanner.last_record(), records.last().map(|record| record.0));
}

#[test]
fn every_record_of_a_workload_ends_where_postgresql_says() {
    let server = start_server();
    let from = lsn(&server, "SELECT pg_current_wal_insert_lsn()");
    // Full page images, many small records, records longer than a segment, switches.
    server.psql("INSERT INTO patient SELECT i, repeat('x', i % 700) FROM generate_series(1, 20000) i");
    server.psql("SELECT pg_logical_emit_message(true, 'test', repeat('y', 3500000))");
    server.psql("SELECT pg_switch_wal(); CHECKPOINT; UPDATE patient SET name = name || 'z' WHERE mrn % 3 = 0");
    server.psql(
        "DO $$ BEGIN FOR i IN 1..500 LOOP PERFORM pg_logical_emit_message(true, '', repeat('m', i)); END LOOP; END $$",
    );
    server.psql("SELECT pg_switch_wal(); DELETE FROM patient WHERE mrn % 2 = 0");
    server.psql("VACUUM patient");
    // VACUUM leaves its end to the background; a commit is flushed, and so ends a record.
    server.psql("SELECT pg_logical_emit_message(true, 'test', 'last')");
    let upto = lsn(&server, "SELECT pg_current_wal_flush_lsn()");

    let records = records(&server, from, upto);
    assert!(records.len() > 20_000, "{} records", records.len());
    let crossing =
        records.iter().filter(|record| record.0.segment_start(SEGMENT) != Lsn(record.1.0 - 1).segment_start(SEGMENT));
    assert!(crossing.count() >= 5);
    let bytes = wal(&server, from, upto);
    compare(&records, &bytes, from, upto);

    // The rest of the last segment is no WAL, and the scanner stops there (the server itself may have
    // written a little more).
    let mut scanner = RecordScanner::new(from, SEGMENT, true);
    assert!(matches!(scanner.push(&bytes), Err(RecordError::Zeros { .. } | RecordError::BadPage { .. })));
    assert!(scanner.complete_end() >= upto && scanner.complete_end().0 - upto.0 < 1000);
}

#[test]
fn a_scan_may_begin_at_any_segment() {
    let server = start_server();
    let from = lsn(&server, "SELECT pg_current_wal_insert_lsn()");
    server.psql("SELECT pg_logical_emit_message(true, 'test', repeat('y', 2500000))");
    server.psql("INSERT INTO patient SELECT i, 'x' FROM generate_series(1, 20000) i");
    let upto = lsn(&server, "SELECT pg_current_wal_flush_lsn()");
    let records = records(&server, from, upto);
    let bytes = wal(&server, from, upto);

    let mut boundary = from.segment_end(SEGMENT);
    while boundary < upto {
        let mut scanner = RecordScanner::new(boundary, SEGMENT, true);
        scanner.push(&bytes[(boundary.0 - from.0) as usize..(upto.0 - from.0) as usize]).unwrap();
        assert_eq!(scanner.complete_end(), upto);
        let first = records.iter().find(|record| record.0 >= boundary).expect("a record in every segment");
        assert_eq!(scanner.first_record(), Some(FirstRecord { start: first.0, previous: first.2 }));
        boundary = boundary.segment_end(SEGMENT);
    }
}

/// As PostgreSQL's own test 026_overwrite_contrecord makes it: the rest of a record is lost in a crash.
#[test]
fn a_record_that_lost_its_rest_in_a_crash_is_stepped_over() {
    let mut server = start_server();
    let from = lsn(&server, "SELECT pg_current_wal_insert_lsn()");
    server.psql("INSERT INTO patient VALUES (1, 'before')");
    let broken = lsn(&server, "SELECT pg_current_wal_insert_lsn()");
    server.psql("SELECT pg_logical_emit_message(true, 'test', repeat('y', 1500000))");
    let last = lsn(&server, "SELECT pg_current_wal_flush_lsn()");
    server.stop(Stop::Immediate);
    let mut at = last.segment_start(SEGMENT);
    while at > broken {
        let name = SegmentName::new(TimelineId(1), at, SEGMENT);
        fs::remove_file(server.data_dir().join("pg_wal").join(name.to_string())).expect("a WAL segment");
        at = Lsn(at.0 - SEGMENT);
    }
    server.restart();
    server.psql("INSERT INTO patient VALUES (2, 'after')");
    let upto = lsn(&server, "SELECT pg_current_wal_flush_lsn()");

    let bytes = wal(&server, from, upto);
    let records = records(&server, from, upto);
    assert!(records.iter().any(|record| record.0 >= broken.segment_end(SEGMENT)), "{records:?}");
    assert!(!records.iter().any(|record| record.0 == broken), "the record was not broken off");
    compare(&records, &bytes, from, upto);
}
