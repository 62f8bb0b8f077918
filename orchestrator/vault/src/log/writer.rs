//! The writer of one epoch: what it cuts, what it counts as durable, when it is fenced. Without I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;

use crate::keys::Position;
use crate::log::mutant::{Mutant, on};
use crate::log::types::{Fence, SealSummary};
use crate::log::walk::{Cursor, LogFacts};
use crate::object::{Chunk, Hash, Lineage, Link, Stored, Subject};

/// A stretch of WAL to be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Its first byte.
    pub start: Lsn,
    /// The first byte after it.
    pub end: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// What came of a PUT of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkAnswer {
    /// The store says so: 200, or 412 and the whole object there is the very one.
    Stored {
        /// The store's time in that answer; none when it tells none.
        at: Option<Timestamp>,
    },
    /// Something else stands there.
    Foreign(Option<Box<SealSummary>>),
}

/// The core of a writer: an owner of one epoch.
///
/// Guarantees: [`WriterCore::durable`] is the end of a contiguous run of its own stored chunks; it only grows, and
/// never after a fence, nor by an answer that comes half the lifetime of a chunk after its claim. The same bytes are never
/// cut twice.
#[derive(Debug)]
pub struct WriterCore {
    facts: Arc<LogFacts>,
    epoch: u64,
    lineage: Lineage,
    opened_by: Position,
    max_in_flight: usize,
    /// What the next chunk must name.
    prev: Vec<Link>,
    /// Where the next chunk starts.
    next: Lsn,
    durable: Lsn,
    last_stored: Option<Stored>,
    slots: VecDeque<Slot>,
    fence: Option<Fence>,
    /// Answers from this moment on count for nothing (rule 17).
    counts_until: Option<Timestamp>,
    expired: bool,
}

#[derive(Debug)]
struct Slot {
    start: Lsn,
    end: Lsn,
    hash: Hash,
    stored: bool,
}

impl WriterCore {
    /// A writer of the epoch that the cursor is in. `None` unless the cursor stands at the start of an epoch with an
    /// owner (who must be this writer; the caller has just won it).
    pub fn new(won: &Cursor, max_in_flight: usize) -> Option<WriterCore> {
        won.owner()?;
        let opened_by = won.opened_by()?;
        let start = won.position().start;
        let claimed = won.opener_stored().map(|opened| won.facts().counts_until(opened));
        // Nor does a chunk count that is stored when its writer's key has ended.
        let revoked = opened_by.writer.and_then(|writer| won.facts().trust.entry(writer)?.not_after);
        (opened_by.next_start == start).then(|| WriterCore {
            facts: won.facts().clone(),
            epoch: won.position().epoch,
            lineage: won.lineage().clone(),
            opened_by: opened_by.at,
            max_in_flight: max_in_flight.max(1),
            prev: won.prev().to_vec(),
            next: start,
            durable: start,
            last_stored: None,
            slots: VecDeque::new(),
            fence: None,
            counts_until: claimed.into_iter().chain(revoked).min(),
            expired: false,
        })
    }

    /// The only position that may be reported as flushed.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Where the next chunk starts.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Where somebody else's object was met.
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// It slept too long, or its claim was not renewed: nothing counts any more. A new incarnation claims.
    pub fn expired(&self) -> bool {
        self.expired
    }

    /// Chunks without a known end.
    pub fn in_flight(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.stored).count()
    }

    /// The key that the next chunk would have, when everything before it is stored.
    pub fn idle_position(&self) -> Option<Position> {
        let idle = self.slots.is_empty() && self.fence.is_none() && !self.expired;
        idle.then_some(Position { epoch: self.epoch, start: self.next })
    }

    /// What to cut of so many bytes on offer. A chunk never crosses a segment boundary (a seal ahead stands there)
    /// nor a switch of timelines, and one that begins inside a stride ends with it: a busy writer of small chunks meets
    /// a seal ahead soon, one of big chunks is not made to write small ones. Only what reaches to the end of the segment
    /// may go there at once, because a switch of segments is stored as one. A stored chunk behind an unknown one keeps its
    /// slot, which bounds what a reader or a successor has to look at behind a hole.
    pub fn plan(&self, offered: u64) -> Option<Cut> {
        if offered == 0 || self.fence.is_some() || self.expired || self.slots.len() >= self.max_in_flight {
            return None;
        }
        let start = self.next;
        let mut end = start.checked_add(offered)?;
        if !on(Mutant::CrossBoundary) {
            let boundary = start.segment_end(self.facts.segment_size);
            let stride = start.segment_end(self.facts.stride());
            let runs_on = end >= boundary || start.segment_offset(self.facts.stride()) == 0;
            end = if runs_on { end.min(boundary) } else { end.min(stride) };
        }
        let timeline = self.lineage.history.timeline_at(start);
        if let Some(switch) = self.lineage.history.switch_from(timeline) {
            end = end.min(switch);
        }
        Some(Cut { start, end, timeline })
    }

    /// What the chunk's header says.
    pub fn subject(&self, cut: Cut) -> Subject {
        Subject::Chunk(Chunk {
            database: self.facts.database.clone(),
            system_id: self.facts.system_id,
            epoch: self.epoch,
            start: cut.start,
            end: cut.end,
            timeline: cut.timeline,
            lineage: self.lineage.id.clone(),
            opened_by: self.opened_by,
            prev: self.prev.clone(),
            stored: self.last_stored,
            last_record: None,
        })
    }

    /// The chunk is sealed and goes out now; its bytes stay as they are from here on.
    pub fn sent(&mut self, cut: Cut, hash: Hash) -> Position {
        let at = Position { epoch: self.epoch, start: cut.start };
        self.prev = vec![Link { at, hash }];
        self.next = cut.end;
        self.slots.push_back(Slot { start: cut.start, end: cut.end, hash, stored: false });
        at
    }

    /// A PUT has an end. An unknown one is none: the same bytes are sent again.
    pub fn answered(&mut self, start: Lsn, answer: ChunkAnswer) {
        if self.fence.is_some() || self.expired {
            return;
        }
        match answer {
            // Since then keys of this epoch may have come free, and stored says nothing about the chain.
            ChunkAnswer::Stored { at } if self.comes_too_late(at) => {
                self.expired = true;
            }
            ChunkAnswer::Stored { .. } => {
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.start == start) {
                    slot.stored = true;
                }
                self.advance();
            }
            ChunkAnswer::Foreign(by) => {
                self.fence = Some(Fence { at: Position { epoch: self.epoch, start }, by });
            }
        }
    }

    fn comes_too_late(&self, at: Option<Timestamp>) -> bool {
        let late = self.counts_until.is_some_and(|until| at.is_none_or(|at| at >= until));
        late && !on(Mutant::SleepingWriter)
    }

    /// A chunk that is cut anew under its key, which a mutant does.
    #[cfg(test)]
    pub(crate) fn recut(&mut self, cut: Cut, hash: Hash) {
        if let Some(slot) = self.slots.back_mut().filter(|slot| slot.start == cut.start) {
            (slot.end, slot.hash, self.next) = (cut.end, hash, cut.end);
            self.prev = vec![Link { at: Position { epoch: self.epoch, start: cut.start }, hash }];
        }
    }

    /// A writer that goes on where another one was, which a mutant does.
    #[cfg(test)]
    pub(crate) fn resumed(at: &Cursor, max_in_flight: usize) -> Option<WriterCore> {
        let core = WriterCore {
            facts: at.facts().clone(),
            epoch: at.position().epoch,
            lineage: at.lineage().clone(),
            opened_by: at.opened_by()?.at,
            max_in_flight,
            prev: at.prev().to_vec(),
            next: at.position().start,
            durable: at.position().start,
            last_stored: None,
            slots: VecDeque::new(),
            fence: None,
            counts_until: None,
            expired: false,
        };
        at.owner().map(|_| core)
    }

    fn advance(&mut self) {
        if on(Mutant::FlushOverHole) {
            let stored = self.slots.iter().filter(|slot| slot.stored).map(|slot| slot.end);
            self.durable = stored.max().unwrap_or_default().max(self.durable);
        }
        while self.slots.front().is_some_and(|slot| slot.stored) {
            let Some(slot) = self.slots.pop_front() else { return };
            let link = Link { at: Position { epoch: self.epoch, start: slot.start }, hash: slot.hash };
            self.last_stored = Some(Stored { link, end: slot.end });
            self.durable = self.durable.max(slot.end);
        }
    }
}
