//! The chain: what may stand at a place, and what follows. Without I/O.
//!
//! A [`Cursor`] is a verified place of the chain: the key to look at next and what the object there must name. The
//! chain before a cursor never changes, so a cursor holds for ever.

use std::sync::Arc;
use std::time::Duration;

use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;

use crate::keys::Position;
use crate::log::mutant::{Mutant, on};
use crate::log::types::SealSummary;
use crate::object::{Chunk, Decoded, Lineage, Link, Nonce, ObjectError, PublicKey, Seal, SealKind, Stored, Subject};
use crate::trust::Trust;

/// What is the same for a whole log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// The database's name in the vault.
    pub database: String,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// Where the log begins.
    pub origin: Lsn,
    /// Whose seals count.
    pub trust: Trust,
    /// How long a chunk is locked at least. Unless an index covers it, nobody builds on one that is half as old.
    pub chunk_life: Duration,
}

/// A claim is renewed after so long, or after an eighth of the lifetime of a chunk, whichever is less.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// A writer of small chunks comes by the multiples of so many bytes, so that a seal ahead is met soon.
const STRIDE: u64 = 64 * 1024;

impl LogFacts {
    /// A chunk that begins inside a stride ends with it, unless it ends with its segment.
    pub fn stride(&self) -> u64 {
        STRIDE.min(self.segment_size / 2).max(1)
    }

    /// The moment, by the store's clock, before which it must have answered for a chunk to count, in an epoch that was
    /// opened by a seal that the store made then (rule 17).
    pub fn counts_until(&self, opened: Timestamp) -> Timestamp {
        opened.saturating_add(self.chunk_life / 2).unwrap_or(Timestamp::MAX)
    }

    /// When, by the store's clock, the owner of such an epoch claims anew.
    pub fn renew_at(&self, opened: Timestamp) -> Timestamp {
        opened.saturating_add(RENEW_AFTER.min(self.chunk_life / 8)).unwrap_or(Timestamp::MAX)
    }

    /// A reader that looked for the newest index so long ago looks again.
    pub fn look_again_after(&self) -> Duration {
        RENEW_AFTER.min(self.chunk_life / 8)
    }

    /// Whether what was read beyond the newest index is a chunk too old to be built on: when it was stored, and the
    /// moment since which that is too early. Seals are never deleted.
    pub fn stale(&self, decoded: &Decoded, now: Option<Timestamp>) -> Option<(Timestamp, Timestamp)> {
        let Subject::Chunk(_) = &decoded.header.subject else { return None };
        if on(Mutant::NoAgeLimit) {
            return None;
        }
        let limit = now?.saturating_sub(self.chunk_life / 2).ok()?;
        decoded.stored.filter(|stored| *stored < limit).map(|stored| (stored, limit))
    }
}

/// Who may put chunks, or promote, in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The incarnation.
    pub nonce: Nonce,
    /// Its key.
    pub key: PublicKey,
}

/// A verified place of the chain.
#[derive(Clone, Debug)]
pub struct Cursor {
    facts: Arc<LogFacts>,
    position: Position,
    prev: Vec<Link>,
    lineage: Lineage,
    opener: Option<Opener>,
}

#[derive(Clone, Debug)]
struct Opener {
    summary: SealSummary,
    owner: Owner,
    /// When the store made it, by the store's clock.
    stored: Option<Timestamp>,
}

/// What stood at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// WAL.
    Chunk {
        /// Its first byte.
        start: Lsn,
        /// The first byte after it.
        end: Lsn,
        /// Its timeline.
        timeline: TimelineId,
    },
    /// The end of an epoch.
    Seal(Box<SealSummary>),
}

/// How one line of history stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descent {
    /// The same timeline with the same ancestors.
    Same,
    /// Left the other timeline there.
    Left(Lsn),
    /// Neither.
    Unrelated,
}

/// How `ours` stands to `theirs`: whether WAL of `theirs` is part of it, and up to where.
pub fn descent(theirs: &TimelineHistory, ours: &TimelineHistory) -> Descent {
    let same = |a: &[_], b: &[holdfast_wal::history::Entry]| {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(x, y): (&holdfast_wal::history::Entry, _)| x.timeline == y.timeline && x.switch == y.switch)
    };
    if ours.timeline == theirs.timeline {
        return if same(&ours.entries, &theirs.entries) { Descent::Same } else { Descent::Unrelated };
    }
    let Some(index) = ours.entries.iter().position(|entry| entry.timeline == theirs.timeline) else {
        return Descent::Unrelated;
    };
    if same(&ours.entries[..index], &theirs.entries) {
        Descent::Left(ours.entries[index].switch)
    } else {
        Descent::Unrelated
    }
}

/// The lineage that a promote begins: the history up to `start`, then the new timeline.
pub fn promoted_lineage(parent: &Lineage, start: Lsn, instance_id: &str, timeline: TimelineId) -> Lineage {
    let mut entries = parent.history.entries.clone();
    entries.retain(|entry| entry.switch <= start);
    let of = parent.history.timeline_at(start);
    let base = TimelineHistory { timeline: of, entries };
    Lineage::new(instance_id, &base.branch(timeline, start, ""))
}

fn misplaced<T>(reason: impl Into<String>) -> Result<T, ObjectError> {
    Err(ObjectError::Misplaced { reason: reason.into() })
}

fn require(holds: bool, reason: &str) -> Result<(), ObjectError> {
    if holds { Ok(()) } else { misplaced(reason) }
}

impl Cursor {
    /// The beginning of the log: epoch 0, which has no owner. `identity` names the identity object.
    pub fn genesis(facts: Arc<LogFacts>, lineage: Lineage, identity: Link) -> Cursor {
        let position = Position { epoch: 0, start: facts.origin };
        Cursor { facts, position, prev: vec![identity], lineage, opener: None }
    }

    /// A place that was written down ([`Cursor::from_place`] checks it): the seal that opened its epoch, with the
    /// epoch's owner and when the store made it.
    pub(crate) fn restored(
        facts: Arc<LogFacts>,
        position: Position,
        prev: Vec<Link>,
        lineage: Lineage,
        opener: Option<(SealSummary, Owner, Option<Timestamp>)>,
    ) -> Cursor {
        let opener = opener.map(|(summary, owner, stored)| Opener { summary, owner, stored });
        Cursor { facts, position, prev, lineage, opener }
    }

    /// The place after a seal that was found somewhere. Every seal that was not put ahead is on the chain, because
    /// its maker had walked to its place.
    pub fn after_seal(facts: Arc<LogFacts>, decoded: &Decoded) -> Result<Cursor, ObjectError> {
        let Subject::Seal(seal) = &decoded.header.subject else {
            return misplaced("not a seal");
        };
        facts.trust.check(decoded)?;
        require(!seal.ahead || on(Mutant::BeginAtAhead), "a seal that was put ahead is no place to begin")?;
        require(facts.database == seal.database && facts.system_id == seal.system_id, "of another database")?;
        let at = Position { epoch: seal.epoch, start: seal.start };
        Ok(Cursor {
            facts,
            position: next_epoch(seal)?,
            prev: vec![Link { at, hash: decoded.hash }],
            lineage: seal.lineage.clone(),
            opener: Some(Opener::of(seal, decoded)),
        })
    }

    /// The place that a chunk's `stored` names, or the start of its epoch. `seal` is the seal that opened it.
    pub fn before_chunk(facts: Arc<LogFacts>, chunk: &Decoded, seal: &Decoded) -> Result<Cursor, ObjectError> {
        Cursor::after_seal(facts, seal)?.leap(chunk)
    }

    /// From here to the place that a chunk of this epoch says its maker had reached; stays here when it says none that
    /// is further on. The epoch's owner signed that everything before it was stored.
    pub fn leap(mut self, chunk: &Decoded) -> Result<Cursor, ObjectError> {
        let Subject::Chunk(stated) = &chunk.header.subject else {
            return misplaced("not a chunk");
        };
        require(self.opened_by().map(|seal| seal.at) == Some(stated.opened_by), "another seal opened its epoch")?;
        require(self.position.epoch == stated.epoch, "of another epoch")?;
        let owner = Owner { nonce: chunk.header.nonce, key: chunk.header.key };
        require(self.owner() == Some(owner), "not made by the owner of its epoch")?;
        self.check_stored(chunk)?;
        let forged = stated.prev.first().filter(|link| on(Mutant::BeginAtChunk) && link.at.epoch == stated.epoch);
        let forged = forged.map(|link| Stored { link: *link, end: stated.start });
        let Some(stored) = forged.or(stated.stored).filter(|stored| stored.end > self.position.start) else {
            return Ok(self);
        };
        let inside = stored.link.at.epoch == stated.epoch
            && stored.link.at.start >= self.position.start
            && stored.link.at.start < stored.end
            && stored.end <= stated.start;
        require(inside, "its stored run is not in its epoch before it")?;
        self.position.start = stored.end;
        self.prev = vec![stored.link];
        Ok(self)
    }

    /// A place that nobody walked to, for a mutant.
    #[cfg(test)]
    pub(crate) fn forged(&self, start: Lsn, prev: Link) -> Cursor {
        let position = Position { start, ..self.position };
        Cursor { position, prev: vec![prev], ..self.clone() }
    }

    /// What is the same for the whole log.
    pub fn facts(&self) -> &Arc<LogFacts> {
        &self.facts
    }

    /// The key to look at next: the open epoch and the end of the chain so far.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What the object there must name.
    pub fn prev(&self) -> &[Link] {
        &self.prev
    }

    /// The lineage of the log here.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The timeline of the next byte.
    pub fn timeline(&self) -> TimelineId {
        self.lineage.history.timeline_at(self.position.start)
    }

    /// The seal that opened this epoch; none in epoch 0.
    pub fn opened_by(&self) -> Option<&SealSummary> {
        self.opener.as_ref().map(|opener| &opener.summary)
    }

    /// When the store made the seal that opened this epoch, by the store's clock, if that is known.
    pub fn opener_stored(&self) -> Option<Timestamp> {
        self.opener.as_ref()?.stored
    }

    /// Who may put chunks in this epoch; nobody in epoch 0 and in a pending epoch.
    pub fn owner(&self) -> Option<Owner> {
        let opener = self.opener.as_ref()?;
        (opener.summary.kind != SealKind::Takeover).then_some(opener.owner)
    }

    /// Who may promote: the taker whose takeover opened this epoch.
    pub fn taker(&self) -> Option<Owner> {
        let opener = self.opener.as_ref()?;
        (opener.summary.kind == SealKind::Takeover).then_some(opener.owner)
    }

    /// Checks an object that stands at the cursor and steps over it. Changes nothing when it does not fit.
    pub fn apply(&mut self, decoded: &Decoded) -> Result<Met, ObjectError> {
        match &decoded.header.subject {
            Subject::Chunk(chunk) => self.apply_chunk(chunk, decoded),
            Subject::Seal(seal) => self.apply_seal(seal, decoded),
            _ => misplaced("neither a chunk nor a seal"),
        }
    }

    fn check_place(&self, database: &str, system_id: SystemId, at: Position) -> Result<(), ObjectError> {
        if database != self.facts.database || system_id != self.facts.system_id {
            return misplaced(format!("it belongs to database `{database}` with system identifier {system_id}"));
        }
        if at != self.position {
            return misplaced(format!("it belongs at {at}"));
        }
        Ok(())
    }

    /// A chunk is vouched for by the seal that opened its epoch; once that seal's writer is revoked, when the chunk was
    /// stored decides.
    fn check_stored(&self, chunk: &Decoded) -> Result<(), ObjectError> {
        let writer = self.opened_by().and_then(|seal| seal.writer);
        self.facts.trust.admits(writer, chunk.stored).map_err(ObjectError::Untrusted)
    }

    fn apply_chunk(&mut self, chunk: &Chunk, decoded: &Decoded) -> Result<Met, ObjectError> {
        let at = Position { epoch: chunk.epoch, start: chunk.start };
        self.check_place(&chunk.database, chunk.system_id, at)?;
        require(self.owner().is_some(), "a chunk in an epoch that holds none")?;
        let owner = Owner { nonce: decoded.header.nonce, key: decoded.header.key };
        require(self.owner() == Some(owner), "a chunk that the owner of its epoch did not make")?;
        self.check_stored(decoded)?;
        require(chunk.prev == self.prev, "it does not follow the object before it")?;
        let opened_by = self.opener.as_ref().map(|opener| opener.summary.at);
        require(opened_by == Some(chunk.opened_by), "it names another seal")?;
        require(chunk.lineage == self.lineage.id, "it names another lineage")?;
        require(chunk.end > chunk.start, "it is empty")?;
        let boundary = chunk.start.segment_end(self.facts.segment_size);
        require(chunk.end <= boundary || on(Mutant::CrossBoundary), "it crosses a segment boundary")?;
        let history = &self.lineage.history;
        let last = Lsn(chunk.end.0 - 1);
        let timeline = history.timeline_at(chunk.start);
        require(timeline == chunk.timeline && history.timeline_at(last) == timeline, "it is on another timeline")?;
        let plain = decoded.header.body.as_ref().map(|body| body.plain_len);
        require(plain == Some(chunk.end.0 - chunk.start.0), "its body is not as long as its WAL")?;
        self.position.start = chunk.end;
        self.prev = vec![Link { at, hash: decoded.hash }];
        Ok(Met::Chunk { start: chunk.start, end: chunk.end, timeline })
    }

    fn apply_seal(&mut self, seal: &Seal, decoded: &Decoded) -> Result<Met, ObjectError> {
        let at = Position { epoch: seal.epoch, start: seal.start };
        self.check_place(&seal.database, seal.system_id, at)?;
        self.facts.trust.check(decoded)?;
        if seal.ahead {
            let takeover = seal.seal == SealKind::Takeover && seal.prev.is_empty();
            require(takeover, "only a takeover may be put ahead")?;
        } else {
            require(seal.prev == self.prev, "it does not follow the object before it")?;
        }
        match seal.seal {
            SealKind::Claim => self.check_claim(seal)?,
            SealKind::Takeover => {
                require(seal.next_start == seal.start, "a takeover that moves the log")?;
                require(seal.lineage == self.lineage, "a takeover that names another lineage")?;
            }
            SealKind::Promote => self.check_promote(seal, decoded)?,
        }
        let position = next_epoch(seal)?;
        let mut prev = vec![Link { at, hash: decoded.hash }];
        if seal.ahead {
            // It could not name what stands before it, so the next object names both.
            prev.extend(self.prev.first());
        }
        let opener = Opener::of(seal, decoded);
        let summary = opener.summary.clone();
        (self.position, self.prev) = (position, prev);
        self.lineage = seal.lineage.clone();
        self.opener = Some(opener);
        Ok(Met::Seal(Box::new(summary)))
    }

    fn check_claim(&self, seal: &Seal) -> Result<(), ObjectError> {
        let moved = on(Mutant::ClaimApartFromFence) || on(Mutant::BranchNamedAgain);
        require(seal.next_start == seal.start || moved, "a claim that moves the log")?;
        require(seal.lineage.id == self.lineage.id, "a claim by another instance")?;
        let fits = match descent(&self.lineage.history, &seal.lineage.history) {
            Descent::Same => true,
            Descent::Left(branch) => branch >= seal.start,
            Descent::Unrelated => false,
        };
        require(fits, "a claim of another line of history")
    }

    fn check_promote(&self, seal: &Seal, decoded: &Decoded) -> Result<(), ObjectError> {
        let owner = Owner { nonce: decoded.header.nonce, key: decoded.header.key };
        require(self.taker() == Some(owner), "a promote that is not by the taker of this epoch")?;
        let inside = seal.next_start <= seal.start && seal.next_start >= self.facts.origin;
        require(inside, "a promote that starts outside the log")?;
        let named = &seal.lineage;
        let expected = promoted_lineage(&self.lineage, seal.next_start, &named.id, named.history.timeline);
        let grows = expected.history.entries.last().is_some_and(|last| last.timeline < named.history.timeline);
        require(grows && *named == expected, "a promote whose timeline does not follow the log's")
    }
}

impl Opener {
    fn of(seal: &Seal, decoded: &Decoded) -> Opener {
        let owner = Owner { nonce: decoded.header.nonce, key: decoded.header.key };
        Opener { summary: SealSummary::of(seal, decoded), owner, stored: decoded.stored }
    }
}

fn next_epoch(seal: &Seal) -> Result<Position, ObjectError> {
    match seal.epoch.checked_add(1) {
        Some(epoch) => Ok(Position { epoch, start: seal.next_start }),
        None => misplaced("no epoch follows"),
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
