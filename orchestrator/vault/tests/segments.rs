//! Segments: what the archiver writes is what chunks held, whoever is killed when, and it is read when they are gone.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Fixture, ORIGIN, append, attached, durable, read_until, small_segments, wal};
use holdfast_vault::object::{Subject, decode};
use holdfast_vault::store::{MemoryStore, Store, Toxics};
use holdfast_vault::{
    ArchiveOptions, ArchiveStep, Archiver, Promotion, ReadError, ReadEvent, SealKind, TakeoverOptions, TakerState,
    Vault, VaultError,
};
use holdfast_wal::{Lsn, TimelineId};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn fixture() -> (Arc<MemoryStore>, Fixture) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "memory", "");
    (store, Fixture::new(vault, small_segments()).await)
}

async fn archiver(fixture: &Fixture, options: ArchiveOptions) -> Archiver {
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    fixture.database.archiver(identities, recipients, options).await.unwrap()
}

fn quick() -> ArchiveOptions {
    ArchiveOptions { look_every: Duration::from_millis(50), ..ArchiveOptions::default() }
}

/// Steps until everything up to `end` is read.
async fn catch_up(archiver: &mut Archiver, end: Lsn) {
    loop {
        let step = tokio::time::timeout(Duration::from_secs(60), archiver.step()).await.expect("a step in time");
        match step.unwrap() {
            ArchiveStep::AtEnd(tip) if tip == end => return,
            _ => {}
        }
    }
}

/// Everything into segments and an index.
async fn archive_all(fixture: &Fixture) {
    let mut archiver = archiver(fixture, quick()).await;
    let end = fixture.database.tip().await.unwrap().tip;
    catch_up(&mut archiver, end).await;
    archiver.finish().await.unwrap();
}

/// What the janitor does when the locks have ended: no chunk is left before the newest index's segments end.
async fn expire(store: &MemoryStore, fixture: &Fixture) -> usize {
    store.advance(9 * DAY);
    let covered = fixture.database.newest_index().await.unwrap().unwrap().index.archived.unwrap().at;
    let mut deleted = 0;
    for key in store.keys().iter().filter(|key| key.contains("/log/")) {
        let object = store.get(key).await.unwrap().unwrap();
        let Subject::Chunk(chunk) = decode(&object.bytes).unwrap().0.header.subject else { continue };
        if (chunk.epoch, chunk.start) < (covered.epoch, covered.start) {
            assert!(store.try_delete_version(key, &object.version_id.unwrap()).await.unwrap(), "{key} is locked");
            deleted += 1;
        }
    }
    deleted
}

fn segments(store: &MemoryStore) -> Vec<String> {
    let name = |key: String| key.strip_prefix("v1/db/billing/segment/").map(str::to_owned);
    store.keys().into_iter().filter_map(name).collect()
}

fn promotion(start: Lsn) -> Promotion {
    Promotion { start, instance_id: "pvc-1".into(), new_timeline: TimelineId(2) }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_is_the_same_when_its_chunks_are_gone() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 3 * small_segments() as usize + 5000, 30_000, 0).await;
    durable(&writer, end).await;
    archive_all(&fixture).await;
    let line = "0000000000000000-00000001";
    let starts = [0, 1, 2, 3].map(|n| format!("{line}/{}", Lsn(ORIGIN.0 + n * small_segments()).hex16()));
    assert_eq!(segments(&store), starts);
    let key = format!("v1/db/billing/segment/{}", starts[1]);
    let version = store.versions(&key).await.unwrap().remove(0);
    let lock = store.retention(&key, &version.id).await.unwrap().unwrap();
    assert_eq!(lock.until, jiff::Timestamp::UNIX_EPOCH + 90 * DAY);
    assert!(expire(&store, &fixture).await >= 4);
    for from in [start, Lsn(start.0 + 7), Lsn(start.0 + 2 * small_segments()), Lsn(end.0 - 1)] {
        let want = wal(from, (end.0 - from.0) as usize, 0);
        assert!(fixture.read(from, end).await == want, "from {from}");
    }
    // The log goes on, and a reader goes over from segments to chunks.
    let (again, writer) = fixture.writer().await;
    assert_eq!(again, end);
    let end = append(&writer, end, 40_000, 1000, 0).await;
    durable(&writer, end).await;
    let from = Lsn(start.0 + small_segments() + 1);
    assert!(fixture.read(from, end).await == wal(from, (end.0 - from.0) as usize, 0), "across");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_a_cut_when_the_chunks_are_gone() {
    // Where the standby opens: in the last segment; in the one before it, which is archived whole already.
    for (len, floor, archived_before) in [(5000, 4900, false), (small_segments() + 300, small_segments() - 100, true)] {
        let (store, fixture) = fixture().await;
        let (start, writer) = fixture.writer().await;
        let end = append(&writer, start, len as usize, 1000, 1).await;
        durable(&writer, end).await;
        let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
        let mut first = fixture.database.archiver(identities, recipients, quick()).await.unwrap();
        catch_up(&mut first, end).await;
        assert_eq!(first.archived().is_some(), archived_before);
        let state = TakerState::generate("run-1");
        let taken = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
        let floor = Lsn(start.0 + floor);
        let promoted = fixture.database.promote(&state, &taken, &promotion(floor)).await.unwrap();
        let writer = fixture.claim(&attached("pvc-1", promoted.lineage.history.clone())).await.unwrap();
        let writer = writer.into_running(common::limits()).unwrap();
        let end = append(&writer, floor, 2 * small_segments() as usize, 50_000, 2).await;
        durable(&writer, end).await;
        // The archiver that met it while it happened, and one that comes later.
        catch_up(&mut first, end).await;
        first.finish().await.unwrap();
        let stored = segments(&store);
        archive_all(&fixture).await;
        assert_eq!(segments(&store), stored, "the same segments");
        assert!(stored.last().unwrap().starts_with("0000000000000003-00000002/"), "{stored:?}");
        expire(&store, &fixture).await;
        let mut reader = fixture.reader(start).await;
        let before = read_until(&mut reader, start, floor).await;
        assert!(before == wal(start, (floor.0 - start.0) as usize, 1), "before the cut");
        let (mut promotes, mut at, mut after) = (0, None, Vec::new());
        while at.is_none_or(|at: Lsn| at.0 + (after.len() as u64) < end.0) {
            match reader.next().await.unwrap() {
                ReadEvent::Seal(seal) if seal.kind == SealKind::Promote => promotes += 1,
                ReadEvent::Cut { to, .. } => assert_eq!(to, floor),
                ReadEvent::Wal { start, data, timeline } => {
                    assert_eq!(timeline, TimelineId(2));
                    at.get_or_insert(start);
                    after.extend_from_slice(&data);
                }
                _ => {}
            }
        }
        assert_eq!((promotes, at), (1, Some(floor)));
        assert!(after == wal(floor, (end.0 - floor.0) as usize, 2), "after the cut");
        // Begun on the new line of history, nothing of the old one is given.
        let from = Lsn(floor.0 + 10);
        assert!(fixture.read(from, end).await == wal(from, (end.0 - from.0) as usize, 2), "from behind the cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_it_goes_on() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 4 * small_segments() as usize + 99, 100_000, 0).await;
    durable(&writer, end).await;
    store.set_toxics(Toxics { lose_request: 0.05, lose_answer: 0.1, duplicate: 0.1, ..Toxics::default() });
    let options = ArchiveOptions { index_segments: 1, ..quick() };
    let mut kills = 0;
    for steps in 1_u32.. {
        let mut archiver = archiver(&fixture, options).await;
        let mut done = false;
        for _ in 0..steps {
            // Now and then it dies in the middle of a step.
            let Ok(step) = tokio::time::timeout(Duration::from_millis(40), archiver.step()).await else { break };
            done = matches!(step.unwrap(), ArchiveStep::AtEnd(_));
        }
        kills += 1;
        if done {
            archiver.finish().await.unwrap();
            break;
        }
        assert!(kills < 500, "no progress");
    }
    store.set_toxics(Toxics::default());
    assert!(kills > 5, "{kills}");
    assert_eq!(segments(&store).len(), 5, "none twice: {:?}", segments(&store));
    expire(&store, &fixture).await;
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_archivers_make_one_line_of_segments() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, small_segments() as usize + 70_000, 10_000, 0).await;
    durable(&writer, end).await;
    let options = ArchiveOptions { index_segments: 1, ..quick() };
    let mut slow = archiver(&fixture, options).await;
    for _ in 0..5 {
        slow.step().await.unwrap();
    }
    // The other one does not wait for a whole segment.
    archive_all(&fixture).await;
    assert_eq!(segments(&store).len(), 2);
    let end = append(&writer, end, 2 * small_segments() as usize, 100_000, 0).await;
    durable(&writer, end).await;
    catch_up(&mut slow, end).await;
    archive_all(&fixture).await;
    catch_up(&mut slow, end).await;
    slow.finish().await.unwrap();
    let stored = segments(&store);
    assert_eq!(stored.len(), 5, "each begins where the one before it ends: {stored:?}");
    assert!(stored.iter().all(|name| !name[26..].contains('-')), "nothing was passed over: {stored:?}");
    expire(&store, &fixture).await;
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_segment_is_named() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 3 * small_segments() as usize, 100_000, 0).await;
    durable(&writer, end).await;
    // Rubbish where a segment belongs is passed over.
    let second = format!("v1/db/billing/segment/0000000000000000-00000001/{}", Lsn(start.0 + small_segments()).hex16());
    store.create(&second, "rubbish".into(), holdfast_vault::store::Lock::Long).await.unwrap();
    archive_all(&fixture).await;
    let stored = segments(&store);
    assert!(stored[2].ends_with("-01"), "{stored:?}");
    expire(&store, &fixture).await;
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
    // A newer version of a segment is not what is read.
    let key = format!("v1/db/billing/segment/{}", stored[0]);
    let foreign = store.get(&format!("v1/db/billing/segment/{}", stored[3])).await.unwrap().unwrap().bytes;
    store.overwrite(&key, foreign);
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
    // A damaged body, and a segment that is gone.
    let damaged = format!("v1/db/billing/segment/{}", stored[2]);
    store.damage(&damaged, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(named(&fixture, start).await, damaged);
    let gone = format!("v1/db/billing/segment/{}", stored[3]);
    let version = store.versions(&gone).await.unwrap().remove(0);
    store.set_enforce_lock(false);
    store.try_delete_version(&gone, &version.id).await.unwrap();
    assert_eq!(named(&fixture, start).await, gone);
}

/// The key that reading from `start` stumbles over.
async fn named(fixture: &Fixture, start: Lsn) -> String {
    let mut reader = fixture.reader(start).await;
    loop {
        match reader.next().await {
            Ok(_) => {}
            Err(ReadError::Vault(VaultError::Damaged { key, .. })) => return key,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_at_the_key_of_a_segment_stops_no_archiver() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 2 * small_segments() as usize, 30_000, 0).await;
    durable(&writer, end).await;
    let first = format!("v1/db/billing/segment/0000000000000000-00000001/{}", start.hex16());
    for copy in 0..300 {
        let key = if copy == 0 { first.clone() } else { format!("{first}-{copy:02X}") };
        store.create(&key, "rubbish".into(), holdfast_vault::store::Lock::Long).await.unwrap();
    }
    archive_all(&fixture).await;
    assert!(segments(&store).contains(&format!("0000000000000000-00000001/{}-12C", start.hex16())));
    expire(&store, &fixture).await;
    assert!(fixture.read(start, end).await == wal(start, (end.0 - start.0) as usize, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_behind_by_the_age_of_what_it_does_not_cover() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 5000, 1000, 0).await;
    durable(&writer, end).await;
    drop(writer);
    let mut archiver = archiver(&fixture, quick()).await;
    catch_up(&mut archiver, end).await;
    archiver.finish().await.unwrap();
    assert_eq!(archiver.index_behind(), Duration::ZERO);
    // Nothing is written for days, which is no lag.
    store.advance(3 * DAY);
    let (_, writer) = fixture.writer().await;
    let end = append(&writer, end, 1000, 1000, 0).await;
    durable(&writer, end).await;
    catch_up(&mut archiver, end).await;
    assert_eq!(archiver.index_behind(), Duration::ZERO);
    store.advance(DAY / 2);
    assert_eq!(archiver.index_behind(), DAY / 2);
    archiver.finish().await.unwrap();
    assert_eq!(archiver.index_behind(), Duration::ZERO);
}
