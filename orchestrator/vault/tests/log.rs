//! The log with its drivers over a store in memory that loses, delays and repeats.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::faulty::Faulty;
use common::{Fixture, ORIGIN, append, attached, durable, origin, read_until, small_segments, wal};
use holdfast_vault::store::{MemoryStore, Toxics};
use holdfast_vault::{
    AppendError, ClaimError, ClaimOptions, Position, Promotion, ReadError, ReadEvent, SealKind, TakeoverError,
    TakeoverOptions, TakerState, TamperingKind, Vault, VaultError,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};

async fn fixture() -> (Arc<MemoryStore>, Fixture) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "memory", "");
    (store, Fixture::new(vault, small_segments()).await)
}

fn key(at: Position) -> String {
    format!("v1/db/billing/log/{:016X}/{}", at.epoch, at.start.hex16())
}

#[tokio::test]
async fn a_name_belongs_to_one_system() {
    let (_, fixture) = fixture().await;
    let mut other = common::identity(small_segments());
    assert!(fixture.database.register(other.clone()).await.is_ok(), "the same again");
    other.system_id = SystemId(1);
    let again = fixture.vault.database("billing").unwrap();
    let refused = again.register(other).await;
    assert!(matches!(refused, Err(VaultError::OtherSystem { stored: common::SYSTEM, .. })), "{refused:?}");
    assert!(fixture.vault.database("../x").is_err());
    let unknown = fixture.vault.database("lab").unwrap();
    assert!(unknown.identity().await.unwrap().is_none());
    assert!(matches!(unknown.tip().await, Err(VaultError::UnknownDatabase { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_is_read_over_a_bad_network() {
    let (store, fixture) = fixture().await;
    let delay = Duration::from_millis(3);
    store.set_toxics(Toxics { lose_request: 0.05, lose_answer: 0.1, duplicate: 0.1, delay, ..Toxics::default() });
    let len = 3 * small_segments() as usize + 777;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, len, 30_000, 0).await;
    durable(&writer, end).await;
    // A second incarnation goes on where the first one stopped.
    let state = writer.close().await;
    assert_eq!(state.durable, end);
    let (again, writer) = fixture.writer().await;
    assert_eq!(again, end);
    let end = append(&writer, again, 5000, 100, 0).await;
    durable(&writer, end).await;
    let from = Lsn(ORIGIN.0 + 12_345);
    let want = wal(from, (end.0 - from.0) as usize, 0);
    assert!(fixture.read(from, end).await == want, "the bytes differ");
    let tip = fixture.database.tip().await.unwrap();
    assert_eq!((tip.epoch, tip.tip), (2, end));
}

#[tokio::test]
async fn no_chunk_crosses_a_segment_boundary_nor_splits_a_piece() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let segment = small_segments();
    // A piece that ends 100 bytes above a boundary.
    let end = append(&writer, start, segment as usize + 100, segment as usize + 100, 0).await;
    durable(&writer, end).await;
    let places: Vec<String> = store.keys().into_iter().filter(|key| key.contains("/log/0000000000000001/")).collect();
    let boundary = Lsn(start.0 + segment);
    let want = [start, boundary].map(|start| key(Position { epoch: 1, start }));
    assert_eq!(places, want);
}

#[tokio::test]
async fn the_overlap_is_what_was_stored_last() {
    let (_, fixture) = fixture().await;
    assert!(fixture.claim(&origin()).await.unwrap().overlap().is_empty());
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 40_000, 3000, 0).await;
    durable(&writer, end).await;
    writer.close().await;
    for _ in 0..2 {
        // The second time the newest objects are seals alone.
        let writer = fixture.claim(&origin()).await.unwrap();
        let overlap = writer.overlap();
        assert_eq!(overlap.last().map(|stretch| stretch.end), Some(end));
        assert!(end.0 - overlap[0].start.0 >= 8192);
        for stretch in overlap {
            let bytes = wal(stretch.start, (stretch.end.0 - stretch.start.0) as usize, 0);
            assert_eq!(stretch.plain_sha256, holdfast_vault::Hash::of(&bytes));
        }
    }
}

#[tokio::test]
async fn a_newer_writer_fences_the_older() {
    let (_, fixture) = fixture().await;
    let (start, old) = fixture.writer().await;
    let end = append(&old, start, 1000, 1000, 0).await;
    durable(&old, end).await;
    let (again, new) = fixture.writer().await;
    assert_eq!(again, end);
    // Idle, it looks.
    let mut state = old.state();
    let state = tokio::time::timeout(Duration::from_secs(5), state.wait_for(|s| s.fenced.is_some()));
    let fence = state.await.unwrap().unwrap().fenced.clone().unwrap();
    assert_eq!(fence.by.unwrap().kind, SealKind::Claim);
    let refused = old.append(end, wal(end, 10, 0)).await;
    assert!(matches!(refused, Err(AppendError::Fenced(_))), "{refused:?}");
    let end = append(&new, end, 1000, 1000, 0).await;
    durable(&new, end).await;
}

#[tokio::test]
async fn who_may_claim() {
    let (_, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 10_000, 1000, 0).await;
    durable(&writer, end).await;
    writer.close().await;
    let first = TimelineHistory::initial(TimelineId(1));
    let refused = |attached| {
        let fixture = &fixture;
        async move { fixture.claim(&attached).await.unwrap_err() }
    };
    let mut behind = origin();
    behind.flushed = Lsn(end.0 - 1);
    assert!(matches!(refused(behind).await, ClaimError::BehindTail { tail, .. } if tail == end));
    let other = attached("origin", TimelineHistory::initial(TimelineId(3)));
    assert!(matches!(refused(other).await, ClaimError::LineageNotOurs { .. }));
    let below = attached("origin", first.branch(TimelineId(2), Lsn(end.0 - 1), ""));
    assert!(matches!(refused(below).await, ClaimError::BranchBelowTail { .. }));
    let stranger = attached("pvc-1", first.clone());
    assert!(matches!(refused(stranger).await, ClaimError::Fenced { .. }));
    // A local switch above the tail: nothing is cut, and the rest of the old timeline comes first.
    let branch = Lsn(end.0 + 500);
    let above = attached("origin", first.branch(TimelineId(2), branch, "failover"));
    let writer = fixture.claim(&above).await.unwrap();
    assert_eq!((writer.start(), writer.timeline(), writer.timeline_at(branch)), (end, TimelineId(1), TimelineId(2)));
    let writer = writer.into_running(common::limits()).unwrap();
    let end = append(&writer, end, 1000, 1000, 0).await;
    durable(&writer, end).await;
    writer.close().await;
    // From now on the old timeline is a stranger.
    assert!(matches!(refused(origin()).await, ClaimError::LineageNotOurs { .. }));
    let tip = fixture.database.tip().await.unwrap();
    assert_eq!(tip.timeline, TimelineId(2));
}

fn promotion(start: Lsn) -> Promotion {
    Promotion { start, instance_id: "pvc-1".into(), new_timeline: TimelineId(2) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_fences_a_busy_writer() {
    let (store, fixture) = fixture().await;
    store.set_toxics(Toxics { delay: Duration::from_millis(2), ..Toxics::default() });
    let (start, writer) = fixture.writer().await;
    let writer = Arc::new(writer);
    let load = tokio::spawn({
        let writer = writer.clone();
        async move {
            let mut at = start;
            while writer.append(at, wal(at, 2000, 0)).await.is_ok() {
                at = Lsn(at.0 + 2000);
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let state = TakerState::generate("run-1");
    let began = std::time::Instant::now();
    let taken = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    println!("takeover after {:?} and {} requests", began.elapsed(), taken.requests);
    load.await.unwrap();
    let reported = writer.state().borrow().clone();
    assert!(reported.durable <= taken.sealed, "{} reported, sealed at {}", reported.durable, taken.sealed);
    assert!(reported.fenced.is_some());
    // Repeated, it finds its own seal.
    let again = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    assert_eq!((again.epoch, again.sealed), (taken.epoch, taken.sealed));
    let want = wal(start, (taken.sealed.0 - start.0) as usize, 0);
    assert!(fixture.read(start, taken.sealed).await == want, "the bytes differ");
}

#[tokio::test]
async fn a_promote_decides_and_cuts_the_torn_record() {
    let (_, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 1000, 500, 0).await;
    durable(&writer, end).await;
    let mut reader = fixture.reader(start).await;
    read_until(&mut reader, start, end).await;
    let state = TakerState::generate("run-1");
    let taken = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    assert_eq!(taken.sealed, end);
    let pending = fixture.claim(&origin()).await.unwrap_err();
    assert!(matches!(pending, ClaimError::TakeoverPending { .. }), "{pending:?}");
    let floor = Lsn(end.0 - 100);
    let promoted = fixture.database.promote(&state, &taken, &promotion(floor)).await.unwrap();
    let again = fixture.database.promote(&state, &taken, &promotion(floor)).await.unwrap();
    assert_eq!((promoted.start, again), (floor, promoted.clone()));
    assert_eq!(fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap().sealed, end);
    let refused = fixture.claim(&origin()).await.unwrap_err();
    assert!(matches!(refused, ClaimError::Fenced { promoted: true, .. }), "{refused:?}");
    // The promoted instance goes on, and the reader is told what was cut.
    let new = attached("pvc-1", promoted.lineage.history.clone());
    let writer = fixture.claim(&new).await.unwrap();
    assert_eq!((writer.start(), writer.timeline()), (floor, TimelineId(2)));
    assert!(writer.overlap().iter().all(|stretch| stretch.end <= floor));
    let writer = writer.into_running(common::limits()).unwrap();
    let end = append(&writer, floor, 300, 300, 9).await;
    durable(&writer, end).await;
    let (mut kinds, mut cut) = (Vec::new(), None);
    let after = loop {
        match reader.next().await.unwrap() {
            ReadEvent::Seal(seal) => kinds.push(seal.kind),
            ReadEvent::Cut { from, to } => cut = Some((from, to)),
            ReadEvent::Wal { start, data, timeline } => break (start, data, timeline),
            _ => {}
        }
    };
    assert_eq!(kinds, [SealKind::Takeover, SealKind::Promote, SealKind::Claim]);
    assert_eq!(cut, Some((taken.sealed, floor)));
    assert_eq!(after, (floor, wal(floor, 300, 9), TimelineId(2)));
}

#[tokio::test]
async fn a_reclaim_defeats_the_promote() {
    let (_, fixture) = fixture().await;
    let state = TakerState::generate("run-1");
    let taken = fixture.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    let reclaim = ClaimOptions { reclaim_pending: true };
    fixture.database.claim(&origin(), &fixture.recipients, reclaim).await.unwrap();
    let lost = fixture.database.promote(&state, &taken, &promotion(taken.sealed)).await.unwrap_err();
    assert!(matches!(&lost, TakeoverError::Lost { by } if by.kind == SealKind::Claim), "{lost:?}");
    // Two takers: the second takes over the first, which may not promote any more.
    let (first, second) = (TakerState::generate("a"), TakerState::generate("b"));
    let options = TakeoverOptions::default();
    let taken = fixture.database.takeover(&first, &options).await.unwrap();
    fixture.database.takeover(&second, &options).await.unwrap();
    let lost = fixture.database.promote(&first, &taken, &promotion(taken.sealed)).await.unwrap_err();
    assert!(matches!(&lost, TakeoverError::Lost { by } if by.by == "b"), "{lost:?}");
}

#[tokio::test]
async fn the_store_goes_away_and_comes_back() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    store.set_away(true);
    let end = append(&writer, start, 5000, 500, 0).await;
    let mut state = writer.state();
    state.wait_for(|state| state.store_problem.is_some()).await.unwrap();
    assert_eq!(state.borrow().durable, start);
    store.set_away(false);
    durable(&writer, end).await;
    assert_eq!(writer.close().await.store_problem, None);
}

#[tokio::test]
async fn a_damaged_chunk_is_named() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let middle = append(&writer, start, 1000, 1000, 0).await;
    durable(&writer, middle).await;
    let end = append(&writer, middle, 1000, 1000, 0).await;
    durable(&writer, end).await;
    let place = key(Position { epoch: 1, start: middle });
    store.damage(&place, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let mut reader = fixture.reader(start).await;
    read_until(&mut reader, start, middle).await;
    for _ in 0..2 {
        // It stays so, and nothing behind it is served.
        let error = reader.next().await.unwrap_err();
        assert!(matches!(&error, ReadError::Vault(VaultError::Damaged { key, .. }) if *key == place), "{error}");
    }
}

#[tokio::test]
async fn tampering_is_reported_and_the_oldest_version_read() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let mut ends = vec![start];
    for _ in 0..3 {
        let end = append(&writer, ends[ends.len() - 1], 1000, 1000, 0).await;
        durable(&writer, end).await;
        ends.push(end);
    }
    let place = |n: usize| key(Position { epoch: 1, start: ends[n] });
    store.overwrite(&place(0), "nothing of ours".into());
    store.put_delete_marker(&place(2));
    // The seal that would fence: hidden, and a claimant and a taker still see it.
    let mut reader = fixture.reader(start).await;
    let (mut read, mut tampering) = (0, Vec::new());
    while read < 3000 {
        match reader.next().await.unwrap() {
            ReadEvent::Wal { data, .. } => read += data.len(),
            ReadEvent::Tampering(found) => tampering.push((found.key, found.what)),
            _ => {}
        }
    }
    let want = [(place(0), TamperingKind::NewerVersion), (place(2), TamperingKind::DeleteMarker)];
    assert_eq!(tampering, want);
    let tip = fixture.database.tip().await.unwrap();
    assert_eq!(tip.tip, ends[3]);
    // A seal behind a delete marker is not free again.
    let taken = TakerState::generate("run-1");
    let taken = fixture.database.takeover(&taken, &TakeoverOptions::default()).await.unwrap();
    store.put_delete_marker(&key(Position { epoch: 1, start: taken.sealed }));
    let pending = fixture.claim(&origin()).await.unwrap_err();
    assert!(matches!(pending, ClaimError::TakeoverPending { .. }), "{pending:?}");
    let second = TakerState::generate("run-2");
    let second = fixture.database.takeover(&second, &TakeoverOptions::default()).await.unwrap();
    assert_eq!((second.epoch, second.sealed), (taken.epoch + 1, taken.sealed));
}

#[tokio::test]
async fn a_reader_without_the_key_says_so() {
    let (_, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 100, 100, 0).await;
    durable(&writer, end).await;
    let (secret, _) = holdfast_vault::generate_identity();
    let stranger = holdfast_vault::Identities::parse(&secret).unwrap();
    let mut reader = fixture.database.reader(stranger, start, Default::default()).await.unwrap();
    let error = loop {
        if let Err(error) = reader.next().await {
            break error;
        }
    };
    assert!(error.to_string().contains("identities"), "{error}");
    let early = fixture.reader(Lsn(ORIGIN.0 - 1)).await.next().await.unwrap_err();
    assert!(matches!(early, ReadError::BeforeOrigin { origin: ORIGIN, .. }));
}

#[tokio::test]
async fn opening_a_long_log_needs_few_requests() {
    let (store, fixture) = fixture().await;
    for _ in 0..3 {
        let (start, writer) = fixture.writer().await;
        let mut at = start;
        for _ in 0..1500 {
            writer.append(at, wal(at, 40, 0)).await.unwrap();
            at = Lsn(at.0 + 40);
            durable(&writer, at).await;
        }
        writer.close().await;
    }
    let before = store.requests();
    let tip = fixture.database.tip().await.unwrap();
    let requests = store.requests() - before;
    assert_eq!(tip.tip, Lsn(ORIGIN.0 + 3 * 1500 * 40));
    assert!(requests <= 24, "{requests} requests");
    // Reading from the middle does not begin at the beginning.
    let from = Lsn(ORIGIN.0 + 2 * 1500 * 40 + 1000);
    let before = store.requests();
    fixture.read(from, Lsn(from.0 + 100)).await;
    let requests = store.requests() - before;
    assert!(requests <= 400, "{requests} requests");
}

/// Close behind a busy writer there is always a next object, and never much to fetch ahead.
#[tokio::test]
async fn a_reader_close_behind_a_busy_writer_seldom_lists() {
    const CHUNKS: u64 = 300;
    /// Chunks between the two, above what a reader holds before it waits for its consumer: it never finds the end.
    const BEHIND: u64 = 7;
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let chunk = async |n: u64| {
        let at = Lsn(start.0 + n * 40);
        writer.append(at, wal(at, 40, 0)).await.unwrap();
        durable(&writer, Lsn(at.0 + 40)).await;
    };
    for n in 0..BEHIND {
        chunk(n).await;
    }
    let mut reader = fixture.reader(start).await;
    let (before, mut got) = (store.requests(), 0);
    while got < CHUNKS {
        if let ReadEvent::Wal { .. } = reader.next().await.unwrap() {
            chunk(BEHIND + got).await;
            got += 1;
        }
    }
    let read = store.requests() - before - CHUNKS;
    assert!((CHUNKS..CHUNKS * 4 / 3).contains(&read), "{read} requests for {CHUNKS} chunks");
    writer.close().await;
}

async fn faulty() -> (Arc<Faulty>, Fixture) {
    let store = Arc::new(Faulty::default());
    let vault = Vault::with_store(store.clone(), "memory", "");
    (store, Fixture::new(vault, small_segments()).await)
}

#[tokio::test]
async fn a_seal_that_is_not_listed_yet_is_looked_for_again() {
    let (store, fixture) = faulty().await;
    store.list_late(3);
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 1000, 1000, 0).await;
    durable(&writer, end).await;
    // When the store made the claim is known: it is to be renewed.
    store.inner.advance(Duration::from_secs(2 * 24 * 60 * 60));
    writer.append(end, wal(end, 10, 0)).await.unwrap();
    let mut state = writer.state();
    tokio::time::timeout(Duration::from_secs(30), state.wait_for(|state| state.renew)).await.unwrap().unwrap();
    // One that is never listed is no claim, and may be one the next time.
    store.list_late(u32::MAX);
    let Err(ClaimError::Vault(error)) = fixture.claim(&origin()).await else { panic!("claimed") };
    assert!(!error.is_permanent() && error.to_string().contains("no version of it is listed"), "{error}");
    store.list_late(0);
    fixture.claim(&origin()).await.unwrap();
}

#[tokio::test]
async fn a_put_that_panics_ends_the_writer_and_is_seen() {
    let (store, fixture) = faulty().await;
    let (start, writer) = fixture.writer().await;
    store.panic_on_create();
    let _ = writer.append(start, wal(start, 1000, 0)).await;
    let mut state = writer.state();
    let failed = tokio::time::timeout(Duration::from_secs(30), state.wait_for(|state| state.failed.is_some()));
    let failed = failed.await.expect("it is seen").unwrap().failed.clone().unwrap();
    assert_eq!((failed.reason.as_str(), failed.message.contains("panicked")), ("WriterFailed", true), "{failed:?}");
    let refused = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let received = writer.state().borrow().received;
            if let Err(error) = writer.append(received, wal(start, 10, 0)).await {
                break error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(refused.await.unwrap(), AppendError::Stopped { .. }));
}

/// The header that all pages have.
fn header(at: Lsn, info: u16) -> Vec<u8> {
    let mut page = Vec::new();
    page.extend(0xD110_u16.to_le_bytes());
    page.extend(info.to_le_bytes());
    page.extend(1_u32.to_le_bytes());
    page.extend(at.0.to_le_bytes());
    page.extend([0; 8]);
    page
}

fn record(page: &mut Vec<u8>, len: u32, previous: Lsn) {
    page.extend(len.to_le_bytes());
    page.extend(9_u32.to_le_bytes());
    page.extend(previous.0.to_le_bytes());
    page.resize(page.len() + len as usize - 16, 0);
}

/// The first page of a segment, with two records; where these begin.
fn page(at: Lsn) -> (Vec<u8>, [Lsn; 2]) {
    let mut page = header(at, 2);
    page.extend(7_u64.to_le_bytes());
    page.extend((small_segments() as u32).to_le_bytes());
    page.extend(8192_u32.to_le_bytes());
    let (first, second) = (Lsn(at.0 + 40), Lsn(at.0 + 40 + 64));
    record(&mut page, 64, Lsn(at.0 - 64));
    record(&mut page, 8192 - 40 - 64, first);
    (page, [first, second])
}

/// A later page, as far as the end of its first record; where that begins.
fn later_page(at: Lsn, previous: Lsn) -> (Vec<u8>, Lsn) {
    let mut page = header(at, 0);
    record(&mut page, 64, previous);
    (page, Lsn(at.0 + 24))
}

#[tokio::test]
async fn where_the_last_record_begins_is_written_down() {
    let (_, fixture) = fixture().await;
    assert_eq!(fixture.claim(&origin()).await.unwrap().last_record(), None);
    let (start, writer) = fixture.writer().await;
    let (page, [first, second]) = page(start);
    // Cut anywhere: the last one that was begun counts, whole or not.
    let cuts = [(0, 60), (60, 104), (104, 4000)];
    for (from, upto) in cuts {
        writer.append(Lsn(start.0 + from as u64), page[from..upto].to_vec().into()).await.unwrap();
        durable(&writer, Lsn(start.0 + upto as u64)).await;
    }
    let next = fixture.claim(&origin()).await.unwrap();
    let written: Vec<_> = next.overlap().iter().map(|stretch| stretch.last_record).collect();
    assert_eq!(written, [Some(first), Some(first), Some(second)]);
    assert_eq!(next.last_record(), Some(second));
    // One that begins in the middle of a page does not know whether a record began there: `second` need not be the last.
    let (at, writer) = (next.start(), next.into_running(common::limits()).unwrap());
    writer.append(at, page[4000..5000].to_vec().into()).await.unwrap();
    durable(&writer, Lsn(at.0 + 1000)).await;
    assert_eq!(fixture.claim(&origin()).await.unwrap().last_record(), None);
    // From the next page on it does.
    let next = fixture.claim(&origin()).await.unwrap();
    let (at, writer) = (next.start(), next.into_running(common::limits()).unwrap());
    let (following, last) = later_page(Lsn(start.0 + page.len() as u64), second);
    writer.append(at, [&page[5000..], &following].concat().into()).await.unwrap();
    durable(&writer, Lsn(start.0 + (page.len() + following.len()) as u64)).await;
    assert_eq!(fixture.claim(&origin()).await.unwrap().last_record(), Some(last));
}
