//! A seeded simulation of the log: the code that ships (cores and drivers) over a store whose requests are delayed,
//! lost, done twice and reordered, take effect after their sender died, and whose answers get lost; with writers,
//! takers, standbys and archivers that crash, sleep and come back as zombies, listings that are stale, local clocks
//! that say anything, delete markers, and a janitor. Every step checks the invariants. Every rule left out must be
//! found (`mutants`), or the simulation proves nothing.
//!
//! A seed that fails says how it is told again, step by step ([`story`]):
//!
//! ```text
//! HOLDFAST_SEED=1311 cargo test -p holdfast-vault --lib -- --nocapture the_rules_hold
//! ```
//!
//! and `HOLDFAST_SEEDS` says how many seeds are run, instead of 20,000.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use self::lean::{Act, Kind, Lean};
use self::reader::Reader;
use self::store::SimStore;
use self::story::{Wrong, run, said};
use self::truth::Truth;
use crate::error::VaultError;
use crate::keys::{Keys, Position};
use crate::log::access::LogAccess;
use crate::log::claim::ClaimCore;
use crate::log::incarnation::Incarnation;
use crate::log::index::StoredIndex;
use crate::log::mutant::{Mutant, leave_out, on};
use crate::log::open::Known;
use crate::log::taker::TakerCore;
use crate::log::types::{ORIGIN, Taken, TakerState};
use crate::log::walk::LogFacts;
use crate::log::writer::WriterCore;
use crate::object::{Hash, Lineage, Link, Nonce, known};
use crate::store::Created;
use crate::trust::Trust;

mod archiver;
mod lean;
mod mutants;
mod progress;
mod reader;
mod store;
mod story;
mod takers;
mod truth;
mod writers;

const SEGMENT: u64 = 8;
const RECORD: u64 = 3;
const START: u64 = 24;
const STEPS: usize = 200;
/// The lifetime of a chunk, in seconds of the store's clock. A claim is renewed, and a reader looks for the newest index,
/// after an eighth of it; for that long an index must stand before what it covers is deleted.
const LIFE: i64 = 800;
const DAY: i64 = LIFE / 8;

/// A PostgreSQL: its history, and a tag for each byte of WAL, which tells who wrote it.
#[derive(Clone)]
struct Instance {
    id: String,
    history: TimelineHistory,
    wal: Vec<u8>,
    tag: u8,
}

enum Phase {
    Claiming(Box<ClaimCore>, Box<Known>),
    Writing(Box<WriterCore>),
    Over,
}

struct Writer {
    me: Incarnation,
    instance: usize,
    phase: Phase,
    /// The epoch that it owns.
    epoch: u64,
    /// The bytes of each chunk that has no answer yet.
    sent: BTreeMap<Lsn, Bytes>,
}

struct Taker {
    state: TakerState,
    core: TakerCore,
    /// The index that its last walk began at.
    known: Known,
    /// The standby that it would promote, and that standby's life.
    standby: (usize, u32),
    taken: Option<Taken>,
    promote: Option<(Position, Bytes)>,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Writer(usize),
    Taker(usize),
    Archiver,
}

/// A request on its way.
#[derive(Clone)]
struct Put {
    from: Actor,
    at: Position,
    key: String,
    bytes: Bytes,
}

struct World {
    rng: Xoshiro256PlusPlus,
    lean: Lean,
    store: Arc<SimStore>,
    access: LogAccess,
    /// Time passes in leaps, and chunks are deleted.
    expiry: bool,
    /// Chunks that are on no chain are deleted too, when they are old: worse than the janitor.
    hostile: bool,
    /// Servers do not have again what is stored, so it is not compared (rule 12), and no two histories are the same.
    recycled: bool,
    net: Vec<Put>,
    answers: Vec<(Put, Created)>,
    instances: Vec<Instance>,
    writers: Vec<Writer>,
    takers: Vec<Taker>,
    standbys: Vec<Reader>,
    owners: BTreeMap<u64, Nonce>,
    /// What segments hold up to the place that an index names, by the digest of the index.
    archives: BTreeMap<Hash, Vec<u8>>,
    truth: Truth,
    stats: Stats,
    /// What happens is told as it happens.
    aloud: bool,
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
    indexed: usize,
    deleted: usize,
    marked: usize,
    expired: usize,
    waited: usize,
    restored: usize,
    differed: usize,
}

type Check = Result<(), String>;

/// What a driver gives. The store answers at once, so nothing ever waits.
fn done<T, E: std::fmt::Display>(future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    future.now_or_never().expect("the store of the simulation answers at once")
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    fn new(seed: u64) -> World {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let lean = Lean::new(Kind::of(seed));
        let facts = Arc::new(LogFacts {
            database: "db".into(),
            system_id: SystemId(1),
            segment_size: SEGMENT,
            origin: Lsn(START),
            trust: Trust::anyone(),
            chunk_life: Duration::from_secs(LIFE as u64),
        });
        let store = Arc::new(SimStore::default());
        store.advance(LIFE * 10);
        let at = Position { epoch: 0, start: facts.origin };
        let lineage = Lineage::new(ORIGIN, &TimelineHistory::initial(TimelineId(1)));
        let genesis = (lineage, Link { at, hash: Hash::of(b"identity") });
        let access = LogAccess { store: store.clone(), keys: Keys::new("").database("db"), facts, genesis };
        let wal = vec![0; START as usize];
        let history = TimelineHistory::initial(TimelineId(1));
        let first = Instance { id: ORIGIN.into(), history, wal: wal.clone(), tag: 1 };
        let standbys = (0..2).map(|_| Reader::new(access.genesis(), wal.clone())).collect();
        World {
            rng,
            lean,
            store,
            expiry: is_expiry(seed),
            hostile: seed % 4 == 3,
            recycled: is_recycled(seed),
            net: Vec::new(),
            answers: Vec::new(),
            instances: vec![first],
            writers: Vec::new(),
            takers: Vec::new(),
            standbys,
            owners: BTreeMap::new(),
            archives: BTreeMap::new(),
            truth: Truth::new(access.genesis(), wal),
            access,
            stats: Stats::default(),
            aloud: false,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.aloud {
            println!("{} {}", self.store.time().as_second(), what());
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.rng.random_range(0..len))
    }

    /// One of those under way, which stand in the order in which they were sent.
    fn pick_sent(&mut self, len: usize) -> Option<usize> {
        let overtaken = if self.chance(self.lean.overtake) { len.saturating_sub(2) } else { 0 };
        Some(overtaken + self.pick(len - overtaken)?)
    }

    /// A local clock may say anything: nothing is decided by it.
    fn clock(&mut self) -> Timestamp {
        Timestamp::from_second(self.rng.random_range(0..4_000_000_000)).unwrap()
    }

    fn incarnation(&mut self) -> Incarnation {
        let created = self.clock();
        Incarnation::new(Nonce(self.rng.random()), &self.rng.random(), Some(created))
    }

    fn step(&mut self) -> Check {
        self.store.advance(self.rng.random_range(0..4));
        let unlisted = if self.chance(30) { self.rng.random_range(0..12) } else { 0 };
        self.store.set_unlisted(unlisted);
        if self.expiry && self.chance(self.lean.expire) {
            self.expire()?;
            return self.check();
        }
        match self.lean.act(&mut self.rng) {
            Act::Deliver => self.deliver(),
            Act::Answer => self.answer(),
            Act::Writer => self.writer(),
            Act::Taker => self.taker(),
            Act::Read => self.read(),
            Act::Switch => self.local_switch(),
            Act::Crash => self.crash(),
            Act::Mark => self.mark(),
            Act::Archive => self.archive(),
        }?;
        self.check()
    }

    fn send(&mut self, from: Actor, at: Position, bytes: Bytes) {
        let key = self.access.key(at);
        self.net.push(Put { from, at, key, bytes });
    }

    fn deliver(&mut self) -> Check {
        let Some(index) = self.pick_sent(self.net.len()) else { return Ok(()) };
        let put = self.net[index].clone();
        if !self.chance(self.lean.twice) {
            self.net.remove(index);
        }
        if self.chance(self.lean.lost) {
            return Ok(());
        }
        let Some(created) = self.store.put(&put.key, &put.bytes) else { return Ok(()) };
        self.tell(|| format!("{created:?} from {:?}: {}", put.from, said(&put.bytes)));
        if put.from == Actor::Archiver {
            return if created.is_stored() { self.indexed(&put) } else { Ok(()) };
        }
        if !self.chance(self.lean.lost) {
            self.answers.push((put, created));
        }
        Ok(())
    }

    /// An answer comes back, however late; what a refused one means, its sender finds out only now.
    fn answer(&mut self) -> Check {
        let Some(index) = self.pick_sent(self.answers.len()) else { return Ok(()) };
        let (put, created) = self.answers.remove(index);
        match put.from {
            Actor::Writer(index) => self.answer_writer(index, &put, created),
            Actor::Taker(index) => self.answer_taker(index, &put, created),
            Actor::Archiver => Ok(()),
        }
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
        let same = |other: &Instance| other.id == old.id && other.history == history;
        if self.recycled && self.instances.iter().any(same) {
            return Ok(());
        }
        let mut wal = old.wal[..branch.0 as usize].to_vec();
        let tag = self.instances.len() as u8 + 1;
        // A promoted server writes at once, before anything of it is stored.
        wal.extend(std::iter::repeat_n(tag, (self.rng.random_range(0..3) * RECORD) as usize));
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
        } else if let Some(index) = self.pick(self.takers.len())
            && self.takers[index].taken.is_none()
        {
            let Some(near) = self.near_end()? else { return Ok(()) };
            let taker = &mut self.takers[index];
            (taker.core, taker.known) = (TakerCore::new(&taker.state, near.cursor), near.known);
        }
        Ok(())
    }

    /// An attacker who may delete hides what is on the chain.
    fn mark(&mut self) -> Check {
        let keys = self.store.keys();
        if let Some(index) = self.pick(keys.len()) {
            self.store.hide(&keys[index]);
            self.tell(|| format!("hidden: {}", keys[index]));
            self.stats.marked += 1;
        }
        Ok(())
    }

    /// A driver's answer; `None` when it says to wait until the log is indexed.
    fn unless_waiting<T>(&mut self, result: Result<T, VaultError>) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(VaultError::NotIndexed { .. }) => {
                self.stats.waited += 1;
                Ok(None)
            }
            Err(error) => Err(told(error)),
        }
    }

    fn near_end(&mut self) -> Result<Option<crate::log::open::Near>, String> {
        let near = done(self.access.near_end());
        self.unless_waiting(near)
    }

    fn check(&mut self) -> Check {
        self.truth.advance(&self.access, &self.store, self.hostile)?;
        self.truth.check()?;
        // That mutant is to be found by what it opens with.
        for standby in self.standbys.iter().filter(|_| !on(Mutant::ReplayedCut)) {
            self.truth.check_served(&standby.cursor, &standby.log)?;
        }
        Ok(())
    }
}

fn is_expiry(seed: u64) -> bool {
    seed % 2 == 1 || Kind::of(seed) == Kind::Sleeping
}

fn is_recycled(seed: u64) -> bool {
    is_expiry(seed) || seed / 16 % 2 == 1
}

impl Stats {
    fn each(&self) -> [(&'static str, usize); 14] {
        [
            ("promoted", self.promoted),
            ("acknowledged", self.acknowledged),
            ("fenced", self.fenced),
            ("won by a seal ahead", self.ahead_won),
            ("reclaimed", self.reclaimed),
            ("switched", self.switched),
            ("cut", self.cut),
            ("indexed", self.indexed),
            ("deleted", self.deleted),
            ("hidden by a delete marker", self.marked),
            ("an answer too late", self.expired),
            ("waited for an index", self.waited),
            ("read from segments", self.restored),
            ("other bytes than stored", self.differed),
        ]
    }

    fn add(&mut self, other: &Stats) {
        self.promoted += other.promoted;
        self.acknowledged += other.acknowledged;
        self.fenced += other.fenced;
        self.ahead_won += other.ahead_won;
        self.reclaimed += other.reclaimed;
        self.switched += other.switched;
        self.cut += other.cut;
        self.indexed += other.indexed;
        self.deleted += other.deleted;
        self.marked += other.marked;
        self.expired += other.expired;
        self.waited += other.waited;
        self.restored += other.restored;
        self.differed += other.differed;
    }
}
