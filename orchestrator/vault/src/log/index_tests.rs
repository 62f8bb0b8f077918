//! What is an index and what is not, and what opening a long log costs.

use std::time::{Duration, Instant};

use holdfast_wal::TimelineId;
use holdfast_wal::history::TimelineHistory;

use super::*;
use crate::log::access::{Sure, TAKER_STEPS};
use crate::log::claim::encode_seal;
use crate::log::takeover::TakeoverOptions;
use crate::log::types::{Identity, Promotion, TakerState};
use crate::log::writer::WriterCore;
use crate::object::{decode_header, encode_plain};
use crate::store::{Lock, MemoryStore, Store, Toxics};
use crate::vault::Vault;
use crate::{DatabaseVault, WriterKey};

const ORIGIN: Lsn = Lsn(3 << 20);
const SEGMENT: u64 = 1 << 20;
/// Chunks that a writer has under way at most.
const IN_FLIGHT: usize = 4;

async fn database(store: &Arc<MemoryStore>) -> DatabaseVault {
    let vault = Vault::with_store(store.clone(), "test", "");
    let history = TimelineHistory::initial(TimelineId(1));
    let (system_id, created) = (SystemId(7), Timestamp::UNIX_EPOCH);
    let identity = Identity { system_id, history, segment_size: SEGMENT, origin: ORIGIN, created };
    let database = vault.database("billing").unwrap();
    database.register(identity).await.unwrap();
    database
}

/// A writer without a sealer: its chunks are stored as they are.
struct Log {
    access: LogAccess,
    me: Incarnation,
    cursor: Cursor,
    core: Option<WriterCore>,
}

impl Log {
    async fn new(database: &DatabaseVault) -> Log {
        let access = database.access().await.unwrap();
        let cursor = access.genesis();
        let mut log = Log { access, me: Incarnation::random(), cursor, core: None };
        log.claim().await;
        log
    }

    async fn claim(&mut self) {
        self.me = Incarnation::random();
        let next = (self.cursor.position().start, self.cursor.lineage().clone());
        let object = encode_seal(&self.me, &self.cursor, SealKind::Claim, next, "test").unwrap();
        self.access.put_seal(self.cursor.position(), &object).await.unwrap();
        self.cursor.apply(&decode_header(&object).unwrap()).unwrap();
        self.core = WriterCore::new(&self.cursor, IN_FLIGHT);
    }

    /// A takeover, and where an instance is named its promotion.
    async fn take_over(&mut self, database: &DatabaseVault, taker: &TakerState, promoted: Option<&str>) {
        let taken = database.takeover(taker, &TakeoverOptions::default()).await.unwrap();
        if let Some(instance_id) = promoted.map(str::to_owned) {
            let promotion = Promotion { start: taken.sealed, instance_id, new_timeline: TimelineId(2) };
            database.promote(taker, &taken, &promotion).await.unwrap();
        }
        self.cursor = self.access.end().await.unwrap();
    }

    async fn chunk(&mut self, len: u64) {
        let start = self.send(len).await;
        self.answered(start);
    }

    fn answered(&mut self, start: Lsn) {
        self.core.as_mut().unwrap().answered(start, crate::log::writer::ChunkAnswer::Stored { at: None });
    }

    /// A chunk that is stored, of which its writer does not know it yet.
    async fn send(&mut self, len: u64) -> Lsn {
        let core = self.core.as_mut().unwrap();
        let cut = core.plan(len).unwrap();
        let header = self.me.header(core.subject(cut));
        let plain = vec![7; (cut.end.0 - cut.start.0) as usize];
        let (object, hash) = encode_plain(header.clone(), &plain, self.me.key()).unwrap();
        let at = core.sent(cut, hash);
        let key = self.access.key(at);
        self.access.store.create(&key, object.clone(), Lock::Short).await.unwrap();
        // Made here, so its signature need not be looked at.
        let header = crate::object::Header { body: body(&plain), ..header };
        let decoded = Decoded { header, hash, body_at: object.len() - plain.len(), stored: None };
        self.cursor.apply(&decoded).unwrap();
        cut.start
    }

    /// So many chunks, and then the most that a writer sends before it hears of the first.
    async fn chunks_in_flight(&mut self, chunks: u32) {
        for _ in 0..chunks {
            self.chunk(64).await;
        }
        let mut sent = Vec::new();
        for _ in 0..IN_FLIGHT {
            sent.push(self.send(64).await);
        }
        assert!(self.core.as_ref().unwrap().plan(64).is_none(), "it would send more");
        sent.into_iter().for_each(|start| self.answered(start));
    }
}

/// Everybody who opens a log, and how many requests it takes each to find the end of it.
async fn openings(store: &Arc<MemoryStore>, database: &DatabaseVault, end: &Cursor) -> Vec<(&'static str, u64)> {
    let mut costs = Vec::new();
    for who in ["reader", "claimant", "taker", "relay"] {
        let (mut requests, mut took) = opening(store, database, end, who).await;
        // A machine that does other things as well is slow now and then, and not three times.
        for _ in 0..2 {
            if took > Duration::from_secs(1) {
                (requests, took) = opening(store, database, end, who).await;
            }
        }
        assert!(took <= Duration::from_secs(1), "{who}: {took:?}");
        costs.push((who, requests));
    }
    costs
}

/// One of them, where each request takes 20 ms.
async fn opening(store: &MemoryStore, database: &DatabaseVault, end: &Cursor, who: &str) -> (u64, Duration) {
    let opened = DatabaseVault::new(database.vault.clone(), "billing");
    store.set_toxics(Toxics { latency: Duration::from_millis(20), ..Toxics::default() });
    let (before, began) = (store.requests(), Instant::now());
    let found = match who {
        "reader" => opened.tip().await.unwrap().tip,
        "relay" => {
            let (near, _) = opened.access().await.unwrap().at_or_before(end.position().start).await.unwrap();
            assert!(near.position().start <= end.position().start);
            end.position().start
        }
        _ => {
            let access = opened.access().await.unwrap();
            let mut near = access.near_end().await.unwrap();
            let claims = who == "claimant";
            let (sure, steps) = if claims { (Sure::Beyond(near.listed), u32::MAX) } else { (Sure::No, TAKER_STEPS) };
            let walked = access.walk_on(&mut near.known, near.cursor, sure, steps).await.unwrap();
            walked.position().start
        }
    };
    let cost = (store.requests() - before, began.elapsed());
    store.set_toxics(Toxics::default());
    assert_eq!(found, end.position().start, "{who}");
    cost
}

fn body(plain: &[u8]) -> Option<crate::object::BodyInfo> {
    let (len, sha256) = (plain.len() as u64, Hash::of(plain));
    let encoding = crate::object::Encoding::Plain;
    Some(crate::object::BodyInfo { len, sha256, plain_len: len, plain_sha256: sha256, encoding })
}

fn stored(written: IndexWritten) -> StoredIndex {
    match written {
        IndexWritten::Stored(index) => index,
        IndexWritten::Lost(index) => panic!("lost to {index:?}"),
    }
}

#[tokio::test]
async fn a_log_of_any_age_is_opened_with_few_requests() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let (chunks, day) = (100_000_u64, Duration::from_secs(24 * 60 * 60));
    let between = day * 30 / chunks as u32;
    let mut log = Log::new(&database).await;
    let (mut newest, mut hours, mut days) = (None, 0, 0);
    for n in 0..chunks {
        log.chunk(64).await;
        store.advance(between);
        let passed = between * (n + 1) as u32;
        if passed >= Duration::from_secs(3600) * (hours + 1) {
            hours += 1;
            newest = Some(stored(database.write_index(newest.as_ref(), &log.cursor, None).await.unwrap()));
        }
        if passed >= day * (days + 1) && n + 1 < chunks {
            days += 1;
            log.claim().await;
        }
    }
    // Mid-hour, so that chunks stand behind the index, each time with the most that may be under way at the end.
    let (mut most, taker) = (0, TakerState::generate("a run"));
    for step in
        ["chunks", "a claim and chunks", "a claim", "chunks", "a takeover", "a promotion", "its claim", "its chunks"]
    {
        match step {
            "a takeover" | "a promotion" => {
                log.take_over(&database, &taker, (step == "a promotion").then_some("standby")).await;
            }
            "a claim" | "its claim" => log.claim().await,
            "a claim and chunks" => {
                log.claim().await;
                log.chunks_in_flight(80).await;
            }
            _ => log.chunks_in_flight(80).await,
        }
        let costs = openings(&store, &database, &log.cursor).await;
        println!("{chunks} chunks, {hours} indexes, then {step}: requests to open {costs:?}");
        most = costs.iter().map(|(_, requests)| *requests).chain([most]).max().unwrap();
    }
    assert_eq!(most, 12, "of all openings");
}

#[tokio::test]
async fn the_newest_of_very_many_indexes_is_found_by_when_they_were_made() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let log = Log::new(&database).await;
    // Ten years, hourly. They all say the same.
    let me = Incarnation::random();
    let mut prev: Option<IndexLink> = None;
    let many = 87_600;
    for n in 0..many {
        let (database, system_id, place) = ("billing".to_owned(), SystemId(7), log.cursor.place());
        let index = Index { database, system_id, n, prev, place, archived: None, segment: None };
        let (block, hash) = encode_header(&me.header(Subject::Index(Box::new(index))), me.key()).unwrap();
        store.create(&log.access.keys.index(n), block.into(), Lock::Long).await.unwrap();
        store.advance(Duration::from_secs(3600));
        prev = Some(IndexLink { n, hash });
    }
    let before = store.requests();
    let newest = database.newest_index().await.unwrap().unwrap();
    let requests = store.requests() - before;
    println!("{many} indexes: the newest found with {requests} requests");
    assert_eq!(newest.index.n, many - 1);
    assert!(requests <= 7, "{requests} requests");
}

#[tokio::test]
async fn a_stale_listing_and_a_replayed_index_are_noticed() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    assert_eq!(database.newest_index().await.unwrap(), None);
    let mut written = Vec::new();
    for _ in 0..3 {
        log.chunk(64).await;
        written.push(stored(database.write_index(written.last(), &log.cursor, None).await.unwrap()));
    }
    // A hint of an old one leads to the newest all the same.
    let access = database.access().await.unwrap();
    let found = access.newest_index_after(Some(written[0].clone())).await.unwrap();
    assert_eq!(found.as_ref(), written.last());
    // An old one put over the newest, or a delete marker: the oldest version of the key counts.
    let key = access.keys.index(2);
    let first = store.get(&access.keys.index(0)).await.unwrap().unwrap();
    store.overwrite(&key, first.bytes.clone());
    store.put_delete_marker(&key);
    assert_eq!(database.newest_index().await.unwrap().as_ref(), written.last());
    // One put where the next belongs is passed over, and the next is written behind it.
    store.create(&access.keys.index(3), first.bytes, Lock::Long).await.unwrap();
    assert_eq!(database.newest_index().await.unwrap().as_ref(), written.last());
    log.chunk(64).await;
    let next = stored(database.write_index(written.last(), &log.cursor, None).await.unwrap());
    assert_eq!((next.index.n, next.index.prev), (4, Some(written[2].link())));
    assert_eq!(database.newest_index().await.unwrap(), Some(next.clone()));
    // Two makers at once: one of them is told to begin again.
    let lost = database.write_index(written.last(), &log.cursor, None).await.unwrap();
    assert_eq!(lost, IndexWritten::Lost(next));
}

#[tokio::test]
async fn an_index_must_fit_its_place() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    log.chunk(64).await;
    let archived = log.cursor.clone();
    let before = stored(database.write_index(None, &archived, Some(archived_at(&archived))).await.unwrap());
    log.chunk(64).await;
    let facts = log.access.facts.clone();
    let good = Index {
        database: "billing".into(),
        system_id: SystemId(7),
        n: 1,
        prev: Some(before.link()),
        place: log.cursor.place(),
        archived: Some(archived.place()),
        segment: before.index.segment,
    };
    let me = Incarnation::random();
    let check = |index: &Index| {
        let subject = Subject::Index(Box::new(index.clone()));
        let (block, _) = encode_header(&me.header(subject), me.key()).unwrap();
        check_index(&facts, 1, Some(&before), &decode_header(&block).unwrap())
    };
    assert!(check(&good).is_ok());
    type Change = fn(&mut Index);
    let changes: &[(&str, Change)] = &[
        ("another database", |i| i.database = "lab".into()),
        ("another system", |i| i.system_id = SystemId(8)),
        ("another number", |i| i.n = 2),
        ("nothing before it", |i| i.prev = None),
        ("another before it", |i| i.prev = Some(IndexLink { n: 0, hash: Hash::of(b"x") })),
        ("before the log", |i| i.place.at.start = Lsn(ORIGIN.0 - 8)),
        ("back behind the one before", |i| i.place = i.archived.clone().unwrap().clone()),
        ("no seal", |i| i.place.opener = None),
        ("the seal of another epoch", |i| i.place.at.epoch += 1),
        ("a seal above it", |i| i.place.opener.as_mut().unwrap().next_start = Lsn(ORIGIN.0 + (1 << 30))),
        ("chunks in a pending epoch", |i| i.place.opener.as_mut().unwrap().seal = SealKind::Takeover),
        ("nothing stands before it", |i| i.place.prev.clear()),
        ("what stands before it comes later", |i| i.place.prev[0].at.epoch = 9),
        ("segments beyond it", |i| i.archived.as_mut().unwrap().at.start = Lsn(ORIGIN.0 + SEGMENT)),
        ("segments end earlier than they did", |i| i.archived = None),
        ("timelines that go back", |i| {
            let history = &mut i.place.lineage.history;
            *history = history.branch(TimelineId(5), Lsn(9), "");
            history.timeline = TimelineId(1);
        }),
    ];
    for (what, change) in changes {
        let mut index = good.clone();
        change(&mut index);
        if *what == "back behind the one before" {
            // Equal places are fine; one below is not.
            index.place.at.start = Lsn(index.place.at.start.0 - 8);
            index.archived = None;
        }
        assert!(check(&index).is_err(), "{what}");
    }
    let (block, _) = encode_header(&me.header(Subject::Probe), me.key()).unwrap();
    assert!(check_index(&facts, 1, Some(&before), &decode_header(&block).unwrap()).is_err(), "another kind");
}

#[tokio::test]
async fn a_stranger_cannot_end_the_log_with_an_index() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let log = Log::new(&database).await;
    let key = WriterKey::generate();
    let (name, public_key, not_after) = ("north".to_owned(), key.public(), None);
    let trust = crate::Trust::only(vec![crate::TrustedWriter { name, public_key, not_after }]);
    let trusting = |key| Vault::with_store(store.clone(), "test", "").with_trust(trust.clone()).with_writer_key(key);
    let access = trusting(key.clone()).database("billing").unwrap();
    let mut facts = crate::log::walk::LogFacts::clone(&log.access.facts);
    facts.trust = trust.clone();
    let access = LogAccess { facts: Arc::new(facts), keys: access.keys, ..log.access.clone() };
    let stranger = Incarnation::random().vouched(Some(&WriterKey::generate()));
    let ours = Incarnation::random().vouched(Some(&key));
    log.access.write_index(&stranger, None, &log.cursor, None).await.unwrap();
    assert_eq!(access.newest_index().await.unwrap(), None);
    let written = stored(access.write_index(&ours, None, &log.cursor, None).await.unwrap());
    assert_eq!(written.index.n, 1);
    assert_eq!(access.newest_index().await.unwrap(), Some(written));
}

#[tokio::test]
async fn rubbish_in_any_number_is_passed_over() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    log.chunk(64).await;
    let first = stored(database.write_index(None, &log.cursor, None).await.unwrap());
    for n in 1..=40 {
        store.create(&log.access.keys.index(n), Bytes::from_static(b"rubbish"), Lock::Long).await.unwrap();
    }
    assert_eq!(database.newest_index().await.unwrap(), Some(first.clone()));
    assert_eq!(database.tip().await.unwrap().tip, log.cursor.position().start);
    log.chunk(64).await;
    let next = stored(database.write_index(Some(&first), &log.cursor, None).await.unwrap());
    assert_eq!((next.index.n, next.index.prev), (41, Some(first.link())));
    // With a good one behind it rubbish costs nothing more.
    let before = store.requests();
    assert_eq!(database.newest_index().await.unwrap(), Some(next.clone()));
    assert!(store.requests() - before <= 5, "{} requests", store.requests() - before);
}

#[tokio::test]
async fn numbers_that_somebody_made_up_hide_no_index() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let log = Log::new(&database).await;
    let (me, mut prev) = (Incarnation::random(), None);
    for n in 0..1100 {
        let (database, system_id, place) = ("billing".to_owned(), SystemId(7), log.cursor.place());
        let index = Index { database, system_id, n, prev, place, archived: None, segment: None };
        let (block, hash) = encode_header(&me.header(Subject::Index(Box::new(index))), me.key()).unwrap();
        store.create(&log.access.keys.index(n), block.into(), Lock::Long).await.unwrap();
        prev = Some(IndexLink { n, hash });
    }
    for n in (1 << 40)..(1 << 40) + 1100 {
        store.create(&log.access.keys.index(n), Bytes::from_static(b"rubbish"), Lock::Long).await.unwrap();
    }
    assert_eq!(database.newest_index().await.unwrap().map(|newest| newest.link()), prev);
}

#[tokio::test]
async fn the_end_is_found_behind_any_number_of_seals() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    log.chunk(64).await;
    database.write_index(None, &log.cursor, None).await.unwrap();
    // More than hang together with the index at a glance, and more than a taker walks at once.
    for _ in 0..60 {
        log.claim().await;
    }
    assert_eq!(database.tip().await.unwrap().epoch, log.cursor.position().epoch);
}

#[tokio::test]
async fn what_is_compared_with_the_server_cannot_be_hidden() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    let hidden = log.cursor.position();
    log.chunk(64).await;
    let overwritten = log.cursor.position();
    log.chunk(64).await;
    let all = log.access.stretches(&log.cursor, 128).await.unwrap();
    assert_eq!(all.iter().map(|stretch| stretch.start).collect::<Vec<_>>(), [hidden.start, overwritten.start]);
    store.put_delete_marker(&log.access.key(hidden));
    store.overwrite(&log.access.key(overwritten), Bytes::from_static(b"rubbish"));
    assert_eq!(log.access.stretches(&log.cursor, 128).await.unwrap(), all);
}

#[tokio::test]
async fn who_slept_on_a_walk_goes_on_from_the_newest_index() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    let (old, mut known) = (log.cursor.clone(), log.access.near_end().await.unwrap().known);
    let (freed, key) = (old.position(), log.access.key(old.position()));
    log.chunk(64).await;
    stored(database.write_index(None, &log.cursor, Some(archived_at(&log.cursor))).await.unwrap());
    store.advance(Duration::from_secs(9 * 24 * 60 * 60));
    // The janitor deletes the chunk, and a claim that was under way all the time lands at its key.
    let version = store.versions(&key).await.unwrap().remove(0);
    assert!(store.try_delete_version(&key, &version.id).await.unwrap());
    let next = (freed.start, old.lineage().clone());
    let late = encode_seal(&Incarnation::random(), &old, SealKind::Claim, next, "another who slept").unwrap();
    log.access.put_seal(freed, &late).await.unwrap();

    let dead = log.access.walk(old.clone(), Sure::Yes).await.unwrap();
    assert_eq!(dead.position(), Position { epoch: freed.epoch + 1, start: freed.start }, "the late claim is met");
    let end = log.access.walk_on(&mut known, old, Sure::Yes, u32::MAX).await.unwrap();
    assert_eq!((end.position(), end.prev()), (log.cursor.position(), log.cursor.prev()));
    // Who has looked since does not look again: a walk costs what it costs anybody.
    let before = store.requests();
    log.access.walk(end.clone(), Sure::Yes).await.unwrap();
    let alone = store.requests() - before;
    log.access.walk_on(&mut known, end, Sure::Yes, u32::MAX).await.unwrap();
    assert_eq!(store.requests() - before, 2 * alone);
}

#[tokio::test]
async fn the_janitor_believes_no_index_that_does_not_hang_together() {
    let store = Arc::new(MemoryStore::default());
    let database = database(&store).await;
    let mut log = Log::new(&database).await;
    log.chunk(64).await;
    database.write_index(None, &log.cursor, None).await.unwrap();
    log.chunk(64).await;
    let (place, segment) = (log.cursor.place(), Some(archived_at(&log.cursor).segment));
    let (prev, archived) = (Some(IndexLink { n: 0, hash: Hash::of(b"another") }), Some(place.clone()));
    let index = Index { database: "billing".into(), system_id: SystemId(7), n: 1, prev, place, archived, segment };
    let me = Incarnation::random();
    let (block, _) = encode_header(&me.header(Subject::Index(Box::new(index))), me.key()).unwrap();
    store.create(&log.access.keys.index(1), block.into(), Lock::Long).await.unwrap();
    store.advance(Duration::from_secs(9 * 24 * 60 * 60));
    let refused = database.sweep(&*store, false, &|_, _| {}).await.unwrap_err();
    let named = matches!(&refused, VaultError::Damaged { key, .. } if *key == log.access.keys.index(0));
    assert!(named, "{refused}");
}

fn archived_at(place: &Cursor) -> Archived<'_> {
    let line = crate::keys::SegmentLine { branch: 0, timeline: TimelineId(1) };
    let at = crate::keys::SegmentKey { line, start: ORIGIN, copy: 0 };
    Archived { place, segment: SegmentLink { at, hash: Hash::of(b"the last segment") } }
}
