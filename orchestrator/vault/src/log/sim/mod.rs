//! A small seeded simulation of the log: the cores that ship, over a store whose requests are delayed, lost and
//! done twice, with writers and takers that crash and linger. Every step checks the invariants. A wrong variant of a
//! rule must be found, or the simulation proves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::keys::Position;
use crate::log::claim::{ClaimCore, ClaimWish, SealAnswer};
use crate::log::incarnation::{Incarnation, now};
use crate::log::taker::{PromoteWish, TakerCore, TakerWish, promote};
use crate::log::types::{Attached, ClaimOptions, ORIGIN, Promotion, SealSummary, Taken, TakerState};
use crate::log::walk::{Cursor, LogFacts, Met};
use crate::log::writer::{ChunkAnswer, WriterCore};
use crate::object::{BodyInfo, Decoded, Encoding, Hash, Lineage, Link, Nonce, Subject, decode_header, encode_header};

mod actors;

const SEGMENT: u64 = 8;
const RECORD: u64 = 4;
const START: u64 = 16;
const STEPS: usize = 160;

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// 412 counts as stored.
    FlushOnExists,
    /// The end of the last stored chunk counts, whatever lies before it.
    FlushOverHole,
    /// A seal ahead counts when it is stored.
    AheadCounts,
    /// The standby opens on its takeover alone.
    NoPromote,
    /// A writer claims whatever the lineage.
    AnyLineage,
    /// A walk begins at any chunk.
    BeginAtChunk,
    /// The reader goes on in an epoch that a seal has ended.
    ReadPastSeal,
}

/// A PostgreSQL: its history, and a tag for each byte of WAL, which tells who wrote it.
#[derive(Clone)]
struct Instance {
    id: String,
    history: TimelineHistory,
    wal: Vec<u8>,
    tag: u8,
}

enum Phase {
    Claiming(Box<ClaimCore>),
    Writing(Box<WriterCore>),
    Over,
}

struct Writer {
    me: Incarnation,
    instance: usize,
    phase: Phase,
    /// The bytes of each chunk that has no answer yet.
    sent: BTreeMap<Lsn, Bytes>,
}

struct Taker {
    state: TakerState,
    core: TakerCore,
    taken: Option<Taken>,
    promote: Option<(Position, Bytes)>,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Writer(usize),
    Taker(usize),
}

#[derive(Clone)]
struct Put {
    from: Actor,
    at: Position,
    bytes: Bytes,
}

struct World {
    rng: Xoshiro256PlusPlus,
    mutant: Mutant,
    facts: Arc<LogFacts>,
    store: BTreeMap<Position, (Bytes, Decoded)>,
    net: Vec<Put>,
    answers: Vec<(Put, bool)>,
    instances: Vec<Instance>,
    writers: Vec<Writer>,
    takers: Vec<Taker>,
    owners: BTreeMap<u64, Nonce>,
    /// WAL that was acknowledged to a client, by content.
    acknowledged: Vec<Vec<u8>>,
    /// Cursor, and what was served up to it.
    reader: (Cursor, Vec<u8>),
    stats: Stats,
}

#[derive(Default, Debug)]
struct Stats {
    promoted: usize,
    acknowledged: usize,
    fenced: usize,
    ahead_won: usize,
    reclaimed: usize,
    switched: usize,
    cut: usize,
}

type Check = Result<(), String>;

impl World {
    fn new(seed: u64, mutant: Mutant) -> World {
        let facts = Arc::new(LogFacts {
            database: "db".into(),
            system_id: SystemId(1),
            segment_size: SEGMENT,
            origin: Lsn(START),
        });
        let wal = vec![0; START as usize];
        let history = TimelineHistory::initial(TimelineId(1));
        let first = Instance { id: ORIGIN.into(), history, wal: wal.clone(), tag: 1 };
        let reader = (genesis(&facts), wal);
        World {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            mutant,
            facts,
            store: BTreeMap::new(),
            net: Vec::new(),
            answers: Vec::new(),
            instances: vec![first],
            writers: Vec::new(),
            takers: Vec::new(),
            owners: BTreeMap::new(),
            acknowledged: Vec::new(),
            reader,
            stats: Stats::default(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.rng.random_range(0..len))
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation::new(Nonce(self.rng.random()), &self.rng.random(), Some(now()))
    }

    /// From the beginning to the first absent key: the truth. An object that does not fit is a broken chain.
    fn walk(&self, mut cursor: Cursor, mut log: Vec<u8>) -> Result<(Cursor, Vec<u8>), String> {
        while let Some((bytes, decoded)) = self.store.get(&cursor.position()) {
            let met = cursor.apply(decoded).map_err(|e| format!("chain broken at {}: {e}", cursor.position()))?;
            take(&mut log, &met, bytes, decoded);
        }
        Ok((cursor, log))
    }

    fn truth(&self) -> Result<(Cursor, Vec<u8>), String> {
        self.walk(genesis(&self.facts), vec![0; START as usize])
    }

    /// A place to begin as the driver finds it: by any stored object, or the beginning.
    fn begin(&mut self) -> Cursor {
        let keys: Vec<Position> = self.store.keys().copied().collect();
        for _ in 0..3 {
            let Some(index) = self.pick(keys.len()) else { break };
            let (_, decoded) = &self.store[&keys[index]];
            let cursor = match &decoded.header.subject {
                Subject::Seal(_) => Cursor::after_seal(self.facts.clone(), decoded).ok(),
                Subject::Chunk(chunk) => self.store.get(&chunk.opened_by).and_then(|(_, seal)| {
                    let mut shown = decoded.clone();
                    if let (Mutant::BeginAtChunk, Subject::Chunk(chunk)) = (self.mutant, &mut shown.header.subject) {
                        let link = chunk.prev[0];
                        let inside = link.at.epoch == chunk.epoch;
                        chunk.stored = inside.then_some(crate::object::Stored { link, end: chunk.start });
                    }
                    Cursor::before_chunk(self.facts.clone(), &shown, seal).ok()
                }),
                _ => None,
            };
            if let Some(cursor) = cursor {
                return cursor;
            }
        }
        genesis(&self.facts)
    }

    fn step(&mut self) -> Check {
        match self.rng.random_range(0..100) {
            0..35 => self.deliver(),
            35..55 => self.answer(),
            55..80 => self.writer(),
            80..92 => self.taker(),
            92..96 => self.read(),
            96..98 => self.local_switch(),
            _ => self.crash(),
        }?;
        self.check()
    }

    fn deliver(&mut self) -> Check {
        let Some(index) = self.pick(self.net.len()) else { return Ok(()) };
        let put = self.net[index].clone();
        if !self.chance(10) {
            self.net.swap_remove(index);
        }
        if self.chance(15) {
            return Ok(()); // Lost.
        }
        let stored = !self.store.contains_key(&put.at);
        if stored {
            let decoded = decode_header(&put.bytes).map_err(|e| e.to_string())?;
            self.store.insert(put.at, (put.bytes.clone(), decoded));
        }
        if !self.chance(15) {
            self.answers.push((put, stored));
        }
        Ok(())
    }

    /// An answer comes back, however late; after 412 the sender looks at what stands there.
    fn answer(&mut self) -> Check {
        let Some(index) = self.pick(self.answers.len()) else { return Ok(()) };
        let (put, stored) = self.answers.swap_remove(index);
        let there = self.store.get(&put.at).ok_or("answered and not stored")?;
        let mine = stored || there.0 == put.bytes;
        let by = SealSummary::of_object(&there.1).map(Box::new);
        match put.from {
            Actor::Writer(index) => self.answer_writer(index, &put, mine, by),
            Actor::Taker(index) => self.answer_taker(index, &put, mine),
        }
    }

    fn read(&mut self) -> Check {
        let (cursor, log) = &mut self.reader;
        let before = cursor.position();
        if let Some((bytes, decoded)) = self.store.get(&before) {
            let met = cursor.apply(decoded).map_err(|e| format!("reader: {e}"))?;
            let had = log.len();
            take(log, &met, bytes, decoded);
            self.stats.cut += usize::from(log.len() < had);
            if let (Mutant::ReadPastSeal, Met::Seal(_)) = (self.mutant, &met) {
                let late = self.store.iter().find(|(at, _)| at.epoch == before.epoch && at.start > before.start);
                if let Some((at, (bytes, decoded))) = late
                    && let Subject::Chunk(chunk) = &decoded.header.subject
                {
                    log.resize(at.start.0 as usize, 0);
                    let (start, end, timeline) = (chunk.start, chunk.end, chunk.timeline);
                    take(log, &Met::Chunk { start, end, timeline }, bytes, decoded);
                }
            }
        }
        Ok(())
    }

    /// Somebody promotes a copy of a primary beside it: the same instance id, another timeline.
    fn local_switch(&mut self) -> Check {
        let Some(index) = self.pick(self.instances.len()) else { return Ok(()) };
        if self.instances.len() >= 6 {
            return Ok(());
        }
        let old = self.instances[index].clone();
        let records = old.wal.len() as u64 / RECORD;
        let branch = Lsn(self.rng.random_range(records.saturating_sub(2)..=records) * RECORD);
        if branch.0 < START || old.history.entries.last().is_some_and(|last| last.switch > branch) {
            return Ok(());
        }
        // Two copies of one server must not be told apart by their timeline alone: the number may be taken.
        let timeline = TimelineId(old.history.timeline.0 + 1 + self.rng.random_range(0..2) * 10 + index as u32 * 100);
        let history = old.history.branch(timeline, branch, "");
        let wal = old.wal[..branch.0 as usize].to_vec();
        let tag = self.instances.len() as u8 + 1;
        self.instances.push(Instance { id: old.id, history, wal, tag });
        self.stats.switched += 1;
        Ok(())
    }

    /// A writer dies (its requests may still arrive), or a taker starts again with what it had journaled.
    fn crash(&mut self) -> Check {
        if self.chance(60) {
            if let Some(index) = self.pick(self.writers.len()) {
                self.writers[index].phase = Phase::Over;
            }
        } else if let Some(index) = self.pick(self.takers.len()) {
            let cursor = self.begin();
            let core = TakerCore::new(&self.takers[index].state, cursor);
            let taker = &mut self.takers[index];
            if taker.taken.is_none() {
                taker.core = core;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Check {
        let (end, log) = self.truth()?;
        for acknowledged in &self.acknowledged {
            if !log.starts_with(acknowledged) {
                return Err(format!("acknowledged up to {} and not in the log: {log:?}", acknowledged.len()));
            }
        }
        // Only the longest of each is looked at again.
        self.acknowledged.sort();
        self.acknowledged.dedup_by(|longer, shorter| {
            longer.starts_with(shorter) && {
                *shorter = longer.clone();
                true
            }
        });
        // What was served is the log so far, or a part of it that a declared cut will end.
        let (cursor, served) = &self.reader;
        let (again, rest) = self.walk(cursor.clone(), served.clone())?;
        if again.position() != end.position() || rest != log {
            return Err(format!("served {served:?}, and the log is {log:?}"));
        }
        self.stats.reclaimed += usize::from(end.opened_by().is_some_and(|seal| {
            let before = seal.at;
            self.store.iter().any(|(at, (_, d))| {
                at.epoch + 1 == before.epoch
                    && at.start == before.start
                    && SealSummary::of_object(d).is_some_and(|s| s.kind == crate::SealKind::Takeover)
                    && seal.kind == crate::SealKind::Claim
            })
        }));
        Ok(())
    }
}

fn genesis(facts: &Arc<LogFacts>) -> Cursor {
    let lineage = Lineage::new(ORIGIN, &TimelineHistory::initial(TimelineId(1)));
    let at = Position { epoch: 0, start: facts.origin };
    Cursor::genesis(facts.clone(), lineage, Link { at, hash: Hash::of(b"identity") })
}

/// The log after an object.
fn take(log: &mut Vec<u8>, met: &Met, bytes: &Bytes, decoded: &Decoded) {
    match met {
        Met::Chunk { .. } => log.extend_from_slice(&bytes[decoded.body_at..]),
        Met::Seal(seal) => log.truncate(seal.next_start.0 as usize),
    }
}

fn run(seed: u64, mutant: Mutant) -> (Stats, Check) {
    let mut world = World::new(seed, mutant);
    for step in 0..STEPS {
        if let Err(error) = world.step() {
            return (world.stats, Err(format!("seed {seed}, step {step}: {error}")));
        }
    }
    (world.stats, Ok(()))
}

fn seeds() -> u64 {
    std::env::var("HOLDFAST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1500)
}

#[test]
fn the_rules_hold() {
    let mut total = Stats::default();
    for seed in 0..seeds() {
        let (stats, check) = run(seed, Mutant::None);
        if let Err(error) = check {
            panic!("{error}");
        }
        total.promoted += stats.promoted;
        total.acknowledged += stats.acknowledged;
        total.fenced += stats.fenced;
        total.ahead_won += stats.ahead_won;
        total.reclaimed += stats.reclaimed;
        total.switched += stats.switched;
        total.cut += stats.cut;
    }
    println!("{total:?}");
    // A simulation in which nothing happens holds too.
    for (what, count) in [
        ("promoted", total.promoted),
        ("acknowledged", total.acknowledged),
        ("fenced", total.fenced),
        ("won by a seal ahead", total.ahead_won),
        ("reclaimed", total.reclaimed),
        ("switched", total.switched),
        ("cut", total.cut),
    ] {
        assert!(count > 0, "never {what}");
    }
}

#[test]
fn every_rule_left_out_is_found() {
    for mutant in [
        Mutant::FlushOnExists,
        Mutant::FlushOverHole,
        Mutant::AheadCounts,
        Mutant::NoPromote,
        Mutant::AnyLineage,
        Mutant::BeginAtChunk,
        Mutant::ReadPastSeal,
    ] {
        let found = (0..seeds() * 10).find_map(|seed| run(seed, mutant).1.err());
        println!("{mutant:?}: {}", found.as_deref().unwrap_or("not found"));
        assert!(found.is_some(), "{mutant:?} was not found");
    }
}
