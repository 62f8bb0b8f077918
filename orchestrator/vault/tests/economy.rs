//! The janitor deletes what has expired and nothing else; a hold keeps it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Fixture, append, durable, small_segments, wal};
use holdfast_vault::cost::{PriceTable, Readers};
use holdfast_vault::janitor::Sweep;
use holdfast_vault::janitor::decide::{Expired, Kept, Verdict};
use holdfast_vault::store::{MemoryStore, Store};
use holdfast_vault::{ArchiveOptions, ArchiveStep, BackupMeta, RunningWriter, Vault, VaultError, WriterLimits};
use holdfast_wal::{Lsn, TimelineId};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DELETE: Verdict = Verdict::Delete(Expired::Covered);

async fn fixture() -> (Arc<MemoryStore>, Fixture) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "memory", "");
    (store, Fixture::new(vault, small_segments()).await)
}

/// A claim and WAL in small chunks, one after another.
async fn write(fixture: &Fixture, len: usize) -> (Lsn, Lsn) {
    let writer = fixture.claim(&common::origin()).await.unwrap();
    let start = writer.start();
    let limits = WriterLimits { max_chunk_bytes: 100_000, ..common::limits() };
    let writer: RunningWriter = writer.into_running(limits).unwrap();
    let end = append(&writer, start, len, 50_000, 0).await;
    durable(&writer, end).await;
    writer.close().await;
    (start, end)
}

async fn archive(fixture: &Fixture) {
    let options = ArchiveOptions { look_every: Duration::from_millis(50), ..ArchiveOptions::default() };
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    let mut archiver = fixture.database.archiver(identities, recipients, options).await.unwrap();
    while !matches!(archiver.step().await.unwrap(), ArchiveStep::AtEnd(_)) {}
    archiver.finish().await.unwrap();
}

async fn back_up(fixture: &Fixture, id: &str, start: Lsn) {
    let finished = fixture.vault.store_time().await.unwrap();
    back_up_at(fixture, id, start, finished).await;
}

async fn back_up_at(fixture: &Fixture, id: &str, start: Lsn, finished: jiff::Timestamp) {
    let meta = BackupMeta {
        id: id.into(),
        start,
        timeline: TimelineId(1),
        server_version: "18".into(),
        label: "test".into(),
        started: jiff::Timestamp::UNIX_EPOCH,
        settings: Default::default(),
        tablespaces: Vec::new(),
    };
    let mut backup = fixture.database.begin_backup(meta, fixture.recipients.clone()).await.unwrap();
    backup.part(vec![Bytes::from_static(b"one")]).await.unwrap();
    backup.part(vec![Bytes::from_static(b"two")]).await.unwrap();
    backup.finish(start, finished).await.unwrap();
}

async fn sweep(store: &MemoryStore, fixture: &Fixture, dry_run: bool) -> Sweep {
    fixture.database.sweep(store, dry_run, &|_, _| {}).await.unwrap()
}

fn count(sweep: &Sweep, kind: &str, verdict: Verdict) -> u64 {
    sweep.rows.iter().filter(|row| row.kind == kind && row.verdict == verdict).map(|row| row.objects).sum()
}

fn keys(store: &MemoryStore, folder: &str) -> Vec<String> {
    store.keys().into_iter().filter(|key| key.contains(folder)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_when_their_lock_has_ended_and_segments_have_covered_them_for_a_day() {
    let (store, fixture) = fixture().await;
    let (start, end) = write(&fixture, 2 * small_segments() as usize + 1000).await;
    let chunks = keys(&store, "/log/").len() as u64 - 1;
    assert!(chunks > 10, "{chunks}");
    store.advance(8 * DAY);
    assert_eq!(sweep(&store, &fixture, false).await.deleted().0, 0, "nothing covers them");
    archive(&fixture).await;
    let early = sweep(&store, &fixture, false).await;
    assert_eq!((early.deleted().0, count(&early, "chunk", Verdict::Keep(Kept::NotCovered))), (0, chunks + 1));
    store.advance(DAY);
    let dry = sweep(&store, &fixture, true).await;
    assert_eq!((count(&dry, "chunk", DELETE), count(&dry, "seal", Verdict::Keep(Kept::Seal))), (chunks, 1));
    assert_eq!(keys(&store, "/log/").len() as u64, chunks + 1, "a dry run deletes nothing");
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!((&swept.rows, swept.deleted().0), (&dry.rows, chunks));
    assert_eq!(keys(&store, "/log/").len(), 1, "the seal stays");
    assert_eq!(sweep(&store, &fixture, false).await.deleted().0, 0, "done is done");
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
    // A new epoch is young again, and a lock that still holds is not tried.
    let (_, end) = write(&fixture, small_segments() as usize).await;
    archive(&fixture).await;
    store.advance(2 * DAY);
    let young = sweep(&store, &fixture, false).await;
    assert_eq!((young.deleted().0, count(&young, "chunk", Verdict::Keep(Kept::Locked)) > 5), (0, true), "{young:?}");
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "across");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_touched_stays_and_a_segment_that_is_gone_stops_everything() {
    let (store, fixture) = fixture().await;
    let (start, _) = write(&fixture, 2 * small_segments() as usize).await;
    archive(&fixture).await;
    store.advance(9 * DAY);
    let log = keys(&store, "/log/0000000000000001/");
    store.put_delete_marker(&log[2]);
    store.overwrite(&log[3], "newer".into());
    store.damage(&log[4], |bytes| bytes[0] ^= 1);
    let segments = keys(&store, "/segment/");
    let version = store.versions(&segments[0]).await.unwrap().remove(0);
    let kept = store.get(&segments[0]).await.unwrap().unwrap().bytes;
    store.set_enforce_lock(false);
    store.try_delete_version(&segments[0], &version.id).await.unwrap();
    let refused = fixture.database.sweep(&*store, false, &|_, _| {}).await.unwrap_err();
    assert!(matches!(&refused, VaultError::Damaged { key, .. } if *key == segments[0]), "{refused}");
    assert!(keys(&store, "/log/0000000000000001/").contains(&log[0]), "nothing was deleted");
    store.create(&segments[0], kept, holdfast_vault::store::Lock::Long).await.unwrap();
    store.set_enforce_lock(true);
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!(swept.tampered, [log[2].clone(), log[3].clone()]);
    assert_eq!(swept.unreadable, [log[4].clone()]);
    assert_eq!(swept.deleted().0, log.len() as u64 - 3);
    let version = store.versions(&log[2]).await.unwrap();
    assert!(version.iter().any(|version| !version.is_delete_marker), "what the marker hides is there");
    let end = fixture.database.tip().await.unwrap().tip;
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_and_segments_go_when_no_kept_backup_needs_them() {
    let (store, fixture) = fixture().await;
    let (first, _) = write(&fixture, 2 * small_segments() as usize).await;
    back_up(&fixture, "b1", first).await;
    // One that never finished.
    let part = store.get(&keys(&store, "/backup/b1/00000000")[0]).await.unwrap().unwrap().bytes;
    let lost = "v1/db/billing/backup/b0/00000000";
    store.create(lost, part, holdfast_vault::store::Lock::Long).await.unwrap();
    archive(&fixture).await;
    store.advance(50 * DAY);
    let (second, end) = write(&fixture, 2 * small_segments() as usize).await;
    back_up(&fixture, "b2", second).await;
    archive(&fixture).await;
    let segments = keys(&store, "/segment/").len();
    store.advance(39 * DAY);
    let locked = sweep(&store, &fixture, false).await;
    assert_eq!(count(&locked, "backup", Verdict::Keep(Kept::Locked)), 4, "{:?}", locked.rows);
    assert_eq!(keys(&store, "/segment/").len(), segments);
    store.advance(2 * DAY);
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!(count(&swept, "backup", Verdict::Delete(Expired::Superseded)), 3);
    assert_eq!(count(&swept, "backup", Verdict::Delete(Expired::Unfinished)), 1);
    assert_eq!(count(&swept, "backup", Verdict::Keep(Kept::Newest)), 3);
    assert_eq!(count(&swept, "segment", Verdict::Delete(Expired::NotNeeded)), 2, "{:?}", swept.rows);
    assert!(fixture.read(second, end).await == wal(second, (end.0 - second.0) as usize, 0), "the bytes differ");
    // However old it gets, the newest one and what it needs stay.
    store.advance(400 * DAY);
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!(count(&swept, "backup", Verdict::Keep(Kept::Newest)), 3);
    assert!(fixture.read(second, end).await == wal(second, (end.0 - second.0) as usize, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_rubbish_nor_a_wrong_clock_hides_the_newest_backup() {
    let (store, fixture) = fixture().await;
    let (start, _) = write(&fixture, 2 * small_segments() as usize).await;
    // Its maker's clock is a thousand years ahead.
    back_up_at(&fixture, "b1", start, "3026-01-01T00:00:00Z".parse().unwrap()).await;
    archive(&fixture).await;
    store.advance(DAY);
    back_up(&fixture, "b2", start).await;
    // The old one once more, put over itself by somebody; and what is none.
    store.advance(DAY);
    let first = store.get("v1/db/billing/backup/b1/manifest").await.unwrap().unwrap().bytes;
    store.overwrite("v1/db/billing/backup/b1/manifest", first.clone());
    let (junk, moved) = ("v1/db/billing/backup/x/manifest", "v1/db/billing/backup/y/manifest");
    store.create(junk, "rubbish".into(), holdfast_vault::store::Lock::Long).await.unwrap();
    store.create(moved, first, holdfast_vault::store::Lock::Long).await.unwrap();
    let ids: Vec<_> = fixture.database.backups().await.unwrap().into_iter().map(|backup| backup.meta.id).collect();
    assert_eq!(ids, ["b1", "b2"]);
    let left_out = fixture.database.backup_list().await.unwrap().left_out;
    assert_eq!(left_out.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    store.advance(50 * DAY);
    assert_eq!(fixture.database.hold_recovery(90 * DAY).await.unwrap().failed, 0);
    store.advance(50 * DAY);
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!(count(&swept, "backup", Verdict::Keep(Kept::Newest)), 3, "{:?}", swept.rows);
    assert_eq!(count(&swept, "backup", Verdict::Keep(Kept::Tampered)), 3, "its manifest was touched");
    assert_eq!(swept.unreadable, [junk, moved]);
    assert!(!swept.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_makes_every_lock_longer_and_none_shorter() {
    let (store, fixture) = fixture().await;
    write(&fixture, 2 * small_segments() as usize).await;
    archive(&fixture).await;
    let all = store.keys().len() as u64;
    let until = fixture.vault.store_time().await.unwrap() + 60 * DAY;
    let held = fixture.vault.hold("db/billing/", until, &|_, _| {}).await.unwrap();
    let chunks = keys(&store, "/log/").len() as u64 - 1;
    assert_eq!((held.extended, held.already, held.failed), (chunks, all - chunks, 0), "{held:?}");
    let again = fixture.vault.hold("", until, &|_, _| {}).await.unwrap();
    assert_eq!((again.extended, again.already), (0, all));
    store.advance(59 * DAY);
    let swept = sweep(&store, &fixture, false).await;
    assert_eq!((swept.deleted().0, count(&swept, "chunk", Verdict::Keep(Kept::Locked))), (0, chunks));
    store.advance(2 * DAY);
    assert_eq!(sweep(&store, &fixture, false).await.deleted().0, chunks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_newest_backup_needs_is_held_for_ever() {
    let (store, fixture) = fixture().await;
    write(&fixture, 2 * small_segments() as usize).await;
    let start = fixture.database.tip().await.unwrap().tip;
    write(&fixture, 2 * small_segments() as usize).await;
    back_up(&fixture, "b1", start).await;
    archive(&fixture).await;
    let keep = 90 * DAY;
    assert_eq!(fixture.database.hold_recovery(keep).await.unwrap().extended, 0, "all young");
    store.advance(50 * DAY);
    let held = fixture.database.hold_recovery(keep).await.unwrap();
    // Identity, manifest, two parts, one index, and the segments from the backup's start on.
    let needed = keys(&store, "/segment/").len() as u64 - 2;
    assert_eq!((held.extended, held.failed), (5 + needed, 0), "{held:?}");
    let now = fixture.vault.store_time().await.unwrap();
    let locked = async |key: &str| {
        let version = store.versions(key).await.unwrap().remove(0);
        store.retention(key, &version.id).await.unwrap().unwrap().until
    };
    assert_eq!(locked(&keys(&store, "/backup/b1/manifest")[0]).await, now + keep);
    assert_eq!(locked(keys(&store, "/segment/").last().unwrap()).await, now + keep);
    assert!(locked(&keys(&store, "/segment/")[0]).await < now + keep, "nobody needs the first");
    assert_eq!(fixture.database.hold_recovery(keep).await.unwrap().extended, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_priced_from_its_listing() {
    let (store, fixture) = fixture().await;
    write(&fixture, 2 * small_segments() as usize).await;
    archive(&fixture).await;
    store.advance(DAY);
    let readers = Readers { relays: 1, archivers: 1, outside: true };
    let report = fixture.vault.cost("", PriceTable::default(), readers, &|_| {}).await.unwrap();
    let objects: u64 = report.kinds.values().map(|row| row.objects).sum();
    assert_eq!(objects as usize, store.keys().len());
    assert_eq!(report.kinds["segment"].objects as usize, keys(&store, "/segment/").len());
    assert!((report.observed_days - 1.0).abs() < 1e-9 && report.total > 0.0, "{report:?}");
}
