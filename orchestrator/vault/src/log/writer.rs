//! The writer of one epoch: what it cuts, what it counts as durable, when it is fenced. Without I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_wal::{Lsn, TimelineId};

use crate::keys::Position;
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
    Stored,
    /// Something else stands there.
    Foreign(Option<Box<SealSummary>>),
}

/// The core of a writer: an owner of one epoch.
///
/// Guarantees: [`WriterCore::durable`] is the end of a contiguous run of its own stored chunks; it only grows, and
/// never after a fence. The same bytes are never cut twice.
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

    /// Chunks without a known end.
    pub fn in_flight(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.stored).count()
    }

    /// The key that the next chunk would have, when everything before it is stored.
    pub fn idle_position(&self) -> Option<Position> {
        let idle = self.slots.is_empty() && self.fence.is_none();
        idle.then_some(Position { epoch: self.epoch, start: self.next })
    }

    /// What to cut of so many bytes on offer. A chunk never crosses a segment boundary (a seal ahead stands there)
    /// nor a switch of timelines. A stored chunk behind an unknown one keeps its slot, which bounds what a reader or
    /// a successor has to look at behind a hole.
    pub fn plan(&self, offered: u64) -> Option<Cut> {
        if offered == 0 || self.fence.is_some() || self.slots.len() >= self.max_in_flight {
            return None;
        }
        let start = self.next;
        let mut end = start.checked_add(offered)?;
        end = end.min(start.segment_end(self.facts.segment_size));
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
        if self.fence.is_some() {
            return;
        }
        match answer {
            ChunkAnswer::Stored => {
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

    fn advance(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.stored) {
            let Some(slot) = self.slots.pop_front() else { return };
            let link = Link { at: Position { epoch: self.epoch, start: slot.start }, hash: slot.hash };
            self.last_stored = Some(Stored { link, end: slot.end });
            self.durable = slot.end;
        }
    }
}
