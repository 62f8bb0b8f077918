//! Where segments begin and end; without I/O. What it says follows from the chain alone (and from where segments were
//! cut short before), so that two archivers, or one that was killed and begins again, make the same segments.

use bytes::Bytes;
use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;

use super::{MAX_TURNS, MAX_WRITTEN, Segment, SegmentLink, Through, WrittenBy};
use crate::keys::SegmentLine;
use crate::log::types::SealSummary;
use crate::log::walk::Cursor;
use crate::object::{Lineage, Link};

/// The most WAL in one segment, unless one chunk alone is longer. PostgreSQL's own segments have 16 MiB unless a cluster
/// was made otherwise.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Puts chunks together.
#[derive(Debug)]
pub(crate) struct Compactor {
    lineage: Lineage,
    branch: u64,
    /// Seals since the last segment that changed the line of history.
    turns: Vec<Link>,
    open: Option<Open>,
    /// Somebody else has cut a segment short here: so must we.
    cut_at: Option<Lsn>,
    segment_size: u64,
}

/// A segment that is not complete.
#[derive(Debug)]
struct Open {
    line: SegmentLine,
    lineage: String,
    turns: Vec<Link>,
    start: Lsn,
    end: Lsn,
    pieces: Vec<Bytes>,
    written: Vec<WrittenBy>,
    after: Cursor,
}

/// A segment to be written.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What it says, but for the segment before it.
    pub(crate) segment: Segment,
    /// Its WAL.
    pub(crate) pieces: Vec<Bytes>,
    /// The place after the last chunk in it: what comes before is in segments once this one is stored.
    pub(crate) after: Cursor,
}

impl Compactor {
    /// Goes on at a place of the log. `last` is the last segment before it.
    pub(crate) fn new(place: &Cursor, last: Option<&SegmentLink>, cut_at: Option<Lsn>) -> Compactor {
        Compactor {
            lineage: place.lineage().clone(),
            branch: last.map_or(0, |last| last.at.line.branch),
            turns: Vec::new(),
            open: None,
            cut_at,
            segment_size: place.facts().segment_size,
        }
    }

    /// WAL that waits to be written, in bytes.
    pub(crate) fn waiting(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.end.0 - open.start.0)
    }

    /// Whether somebody else's segment says where the next one ends.
    pub(crate) fn is_bound(&self) -> bool {
        self.cut_at.is_some()
    }

    /// A chunk was met, which the store made at `stored`. `after` is the place after it.
    pub(crate) fn wal(
        &mut self,
        timeline: TimelineId,
        (start, data): (Lsn, Bytes),
        stored: Option<Timestamp>,
        after: &Cursor,
    ) -> Vec<Ready> {
        let line = SegmentLine { branch: self.branch, timeline };
        let len = data.len() as u64;
        let end = Lsn(start.0 + len);
        let mut ready = Vec::new();
        let follows = |open: &Open| {
            let long = open.end.0 - open.start.0 + len > MAX_SEGMENT_BYTES;
            open.line == line && open.end == start && !long && open.written.len() < MAX_WRITTEN
        };
        if self.open.as_ref().is_some_and(|open| !follows(open)) {
            ready.extend(self.flush());
        }
        let (turns, lineage) = (&mut self.turns, &self.lineage.id);
        let open = self.open.get_or_insert_with(|| Open {
            line,
            lineage: lineage.clone(),
            turns: std::mem::take(turns),
            start,
            end: start,
            pieces: Vec::new(),
            written: Vec::new(),
            after: after.clone(),
        });
        if let Some(writer) = after.opened_by().and_then(|seal| seal.writer) {
            WrittenBy::add(&mut open.written, writer, stored);
        }
        open.pieces.push(data);
        (open.end, open.after) = (end, after.clone());
        if end.segment_offset(self.segment_size) == 0 || self.cut_at.is_some_and(|cut| end >= cut) {
            ready.extend(self.flush());
        }
        ready
    }

    /// A seal was met. `after` is the place after it.
    pub(crate) fn seal(&mut self, seal: &SealSummary, after: &Cursor) -> Option<Ready> {
        if seal.lineage == self.lineage {
            return None;
        }
        self.lineage = seal.lineage.clone();
        let ready = self.flush_below(seal.next_start);
        self.branch = after.position().epoch;
        self.turns.extend(after.prev().first());
        if self.turns.len() > MAX_TURNS {
            // Each seal names the whole history: the later ones say all.
            self.turns.remove(0);
        }
        ready
    }

    /// The line of history ends at `cut`: what was stored beyond it holds no whole record, and is in no segment.
    fn flush_below(&mut self, cut: Lsn) -> Option<Ready> {
        let open = self.open.as_mut()?;
        if cut <= open.start {
            // Its seals still tell the way.
            let open = self.open.take()?;
            self.turns = open.turns;
            return None;
        }
        if cut < open.end {
            let mut keep = cut.0 - open.start.0;
            open.pieces.retain_mut(|piece| {
                let take = keep.min(piece.len() as u64);
                piece.truncate(take as usize);
                keep -= take;
                take > 0
            });
            open.end = cut;
        }
        self.flush()
    }

    /// The segment as far as it goes.
    pub(crate) fn flush(&mut self) -> Option<Ready> {
        let open = self.open.take()?;
        self.cut_at = None;
        let facts = open.after.facts();
        let segment = Segment {
            database: facts.database.clone(),
            system_id: facts.system_id,
            line: open.line,
            lineage: open.lineage,
            start: open.start,
            end: open.end,
            prev: None,
            turns: open.turns,
            through: Through { at: open.after.position(), prev: open.after.prev().to_vec() },
            written: open.written,
        };
        Some(Ready { segment, pieces: open.pieces, after: open.after })
    }
}
