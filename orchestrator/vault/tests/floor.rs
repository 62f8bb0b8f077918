//! The end of the last complete record, found in real WAL that came through the vault.

mod common;

use std::sync::Arc;

use common::{Fixture, attached, durable, identity};
use holdfast_test_postgres::TestPostgres;
use holdfast_vault::store::MemoryStore;
use holdfast_vault::{Promotion, ReadError, TakeoverOptions, TakerState, Vault};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, TimelineId};

/// Starts of records, as PostgreSQL's own tool sees them.
fn record_starts(postgres: &TestPostgres, segment: &str, end: &str) -> Vec<Lsn> {
    let dump = postgres.run("pg_waldump", &["--end", end, segment]);
    let lsn = |line: &str| line.split("lsn: ").nth(1)?.split(',').next()?.trim().parse().ok();
    dump.lines().filter_map(lsn).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn floor_is_a_record_boundary() {
    let (name, bytes, starts) = tokio::task::block_in_place(|| {
        let postgres = TestPostgres::start(&[]);
        postgres.psql("select pg_switch_wal()");
        let name = postgres.psql("select pg_walfile_name(pg_current_wal_lsn() + 1)");
        postgres.psql("create table t as select n, repeat('x', 500) from generate_series(1, 2000) n");
        postgres.psql("checkpoint");
        let end = postgres.psql("select pg_current_wal_flush_lsn()");
        let path = postgres.data_dir().join("pg_wal").join(&name);
        let starts = record_starts(&postgres, path.to_str().unwrap(), &end);
        (name.clone(), std::fs::read(&path).unwrap(), starts)
    });
    let name: holdfast_wal::SegmentName = name.parse().unwrap();
    let start = name.start(SEGMENT_SIZE_DEFAULT);
    let vault = Vault::with_store(Arc::new(MemoryStore::default()), "memory", "");
    let fixture = Fixture::new(vault, SEGMENT_SIZE_DEFAULT).await;
    // The fixture's log begins elsewhere: another database for this one.
    let database = fixture.vault.database("real").unwrap();
    database.register(holdfast_vault::Identity { origin: start, ..identity(SEGMENT_SIZE_DEFAULT) }).await.unwrap();
    let server = attached("origin", TimelineHistory::initial(TimelineId(1)));
    let writer = database.claim(&server, &fixture.recipients, Default::default()).await.unwrap();
    let writer = writer.into_running(common::limits()).unwrap();
    // Up to the middle of some record.
    let torn = starts[starts.len() / 2];
    let end = Lsn(torn.0 + 10);
    writer.append(start, bytes::Bytes::copy_from_slice(&bytes[..(end.0 - start.0) as usize])).await.unwrap();
    durable(&writer, end).await;
    let keys = fixture.identities.clone();
    assert_eq!(database.floor(keys.clone(), start, end).await.unwrap(), torn);
    assert_eq!(database.floor(keys.clone(), torn, end).await.unwrap(), torn);
    let beyond = database.floor(keys.clone(), start, Lsn(end.0 + 1)).await.unwrap_err();
    assert!(matches!(beyond, ReadError::EndsBefore { .. }), "{beyond}");

    // Another site goes on where the torn record began, and what was stored of that one is cut off.
    let state = TakerState::generate("test");
    let taken = database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    assert_eq!(taken.sealed, end);
    assert_eq!(database.floor(keys.clone(), start, end).await.unwrap(), torn);
    let promotion = Promotion { start: torn, instance_id: "pvc-1".into(), new_timeline: TimelineId(2) };
    let promoted = database.promote(&state, &taken, &promotion).await.unwrap();
    let server = attached("pvc-1", promoted.lineage.history.clone());
    let writer = database.claim(&server, &fixture.recipients, Default::default()).await.unwrap();
    let writer = writer.into_running(common::limits()).unwrap();
    let later = starts[starts.len() * 3 / 4];
    let end = Lsn(later.0 + 10);
    let (from, to) = ((torn.0 - start.0) as usize, (end.0 - start.0) as usize);
    writer.append(torn, bytes::Bytes::copy_from_slice(&bytes[from..to])).await.unwrap();
    durable(&writer, end).await;
    for from in [start, torn] {
        assert_eq!(database.floor(keys.clone(), from, end).await.unwrap(), later, "from {from}");
    }
    let beyond = database.floor(keys, start, Lsn(end.0 + 1)).await.unwrap_err();
    assert!(matches!(beyond, ReadError::EndsBefore { tip, .. } if tip == end), "{beyond}");
}
