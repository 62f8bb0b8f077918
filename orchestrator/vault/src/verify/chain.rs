//! The log's chain, object by object in the order of its keys, going on behind damage. Without I/O.
//!
//! A reader stops at the first object that does not fit. A scrub has to tell what is still good behind it: it finds the
//! chain again at the next seal, or at the next chunk that the owner of the epoch signed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_wal::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cost::{Span, Spans};
use super::report::{Finding, FindingKind};
use crate::keys::Position;
use crate::log::index::Place;
use crate::log::walk::{Cursor, LogFacts, Met};
use crate::object::{Decoded, ObjectError, Subject};

/// How far apart the moments are that are remembered.
const MOMENTS_APART: Duration = Duration::from_secs(10);

/// An object of the log, as it was found.
pub(super) struct LogObject<'a> {
    pub(super) key: &'a str,
    pub(super) at: Position,
    /// When the store made it.
    pub(super) stored: Option<Timestamp>,
    /// Stored so recently that what belongs before it may still be on its way: a writer has several PUTs in flight.
    pub(super) is_young: bool,
    pub(super) decoded: Result<&'a Decoded, ObjectError>,
}

/// What the scrub knows after some objects; kept between the steps of a long one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chain {
    /// The log's folder, with its slash.
    folder: String,
    /// Where the chain stands; none while it is lost.
    place: Option<Place>,
    /// After the last seal that was met on it.
    anchor: Option<Place>,
    /// The finding that lost the chain, and where.
    open: Option<(usize, Lsn)>,
    /// All WAL below is in segments: chunks below may be gone.
    pub(super) archived: Lsn,
    /// WAL in sound chunks.
    pub(super) wal: Spans,
    /// The highest place at which anything was seen.
    tip: Lsn,
    /// Objects beside the chain: what was put behind a seal.
    pub(super) beside: u64,
    /// When the store had the WAL up to a position.
    pub(super) moments: BTreeMap<Lsn, Timestamp>,
}

impl Chain {
    /// Before the first object of the log whose folder this is. All WAL below `archived` is in segments.
    pub(super) fn begin(genesis: &Cursor, folder: String, archived: Option<Lsn>) -> Chain {
        let place = Some(genesis.place());
        let tip = genesis.position().start;
        Chain { folder, place, archived: archived.unwrap_or(Lsn(0)), tip, ..Chain::default() }
    }

    /// The end of the log, as far as it is known.
    pub(super) fn tip(&self) -> Lsn {
        self.tip.max(self.archived)
    }

    /// Takes the next object, in the order of the keys.
    pub(super) fn meet(&mut self, facts: &Arc<LogFacts>, object: &LogObject<'_>, findings: &mut Vec<Finding>) {
        let cursor = self.place.as_ref().and_then(|place| Cursor::from_place(facts.clone(), place).ok());
        let Some(mut cursor) = cursor else { return self.find_again(facts, object, findings) };
        let expected = cursor.position();
        if object.at < expected {
            self.beside += 1;
        } else if object.at > expected && object.is_young && object.at.start > self.archived {
            // The log is being written here. What stands behind is judged when it is older.
        } else if object.at > expected {
            self.hole(expected, object.at, findings);
            self.find_again(facts, object, findings);
        } else {
            match object.decoded.clone().and_then(|decoded| cursor.apply(decoded)) {
                Ok(met) => self.stepped(&cursor, &met, object, findings),
                Err(error) => self.damaged(facts, object, &error, findings),
            }
        }
    }

    /// After the last object.
    pub(super) fn end(&mut self, findings: &mut [Finding]) {
        self.close(self.tip, findings);
    }

    fn stepped(&mut self, cursor: &Cursor, met: &Met, object: &LogObject<'_>, findings: &mut [Finding]) {
        self.close(object.at.start, findings);
        let place = cursor.place();
        match met {
            Met::Chunk { start, end, .. } => {
                self.wal.add(Span { from: *start, to: *end });
                self.tip = self.tip.max(*end);
                self.moment(*end, object.stored);
            }
            Met::Seal(seal) => {
                // What a cut took back is no longer part of the log.
                self.wal.truncate(seal.next_start);
                self.moments.split_off(&seal.next_start);
                self.tip = seal.next_start;
                self.moment(seal.next_start, object.stored);
                self.anchor = Some(place.clone());
            }
        }
        self.place = Some(place);
    }

    fn moment(&mut self, at: Lsn, stored: Option<Timestamp>) {
        let Some(stored) = stored else { return };
        let last = self.moments.last_key_value().map(|(_, last)| *last);
        if last.is_none_or(|last| stored.duration_since(last).unsigned_abs() >= MOMENTS_APART) {
            self.moments.insert(at, stored);
        }
    }

    fn damaged(&mut self, facts: &LogFacts, object: &LogObject<'_>, error: &ObjectError, findings: &mut Vec<Finding>) {
        let start = object.at.start;
        self.close(start, findings);
        let kind = FindingKind::of(error);
        findings.push(Finding::new(object.key, kind, error.to_string()));
        self.lose(findings.len() - 1, start);
        // A chunk ends at the boundary of its segment at the latest.
        self.tip = self.tip.max(start.segment_end(facts.segment_size));
    }

    /// Nothing stands at `expected`, and something behind it.
    fn hole(&mut self, expected: Position, next: Position, findings: &mut Vec<Finding>) {
        let from = expected.start.max(self.archived);
        self.place = None;
        if expected.epoch == next.epoch && next.start <= self.archived {
            return; // In segments, and its chunks have expired.
        }
        let key = format!("{}{:016X}/{}", self.folder, expected.epoch, from.hex16());
        let what = if expected.epoch == next.epoch { "no chunk" } else { "no seal" };
        let detail = format!("{what} stands here, and the log goes on at {next}");
        findings.push(Finding::new(&key, FindingKind::Missing, detail));
        self.lose(findings.len() - 1, from);
    }

    fn lose(&mut self, finding: usize, from: Lsn) {
        self.place = None;
        self.open = Some((finding, from));
    }

    /// The damage that lost the chain ends here.
    fn close(&mut self, at: Lsn, findings: &mut [Finding]) {
        let Some((finding, from)) = self.open.take() else { return };
        if let Some(finding) = findings.get_mut(finding) {
            finding.span = Some(Span { from, to: at.max(from) });
        }
    }

    fn find_again(&mut self, facts: &Arc<LogFacts>, object: &LogObject<'_>, findings: &mut Vec<Finding>) {
        let decoded = match &object.decoded {
            Ok(decoded) => *decoded,
            Err(error) => return self.damaged(facts, object, error, findings),
        };
        let found = match &decoded.header.subject {
            Subject::Seal(seal) if seal.ahead => None,
            Subject::Seal(_) => after_seal(facts, object, decoded),
            _ => self.at_chunk(facts, object, decoded),
        };
        match found {
            Some((cursor, met)) => self.stepped(&cursor, &met, object, findings),
            None => self.beside += 1,
        }
    }

    /// A chunk that the owner of its epoch signed; what stood before it cannot be read.
    fn at_chunk(&self, facts: &Arc<LogFacts>, object: &LogObject<'_>, decoded: &Decoded) -> Option<(Cursor, Met)> {
        let Subject::Chunk(chunk) = &decoded.header.subject else { return None };
        let anchor = self.anchor.as_ref().filter(|anchor| anchor.at.epoch == object.at.epoch)?;
        let place = Place { at: object.at, prev: chunk.prev.clone(), ..anchor.clone() };
        let mut cursor = Cursor::from_place(facts.clone(), &place).ok()?;
        let met = cursor.apply(decoded).ok()?;
        Some((cursor, met))
    }
}

/// The place after a seal that stands where it says. Whoever put it had walked to its place.
fn after_seal(facts: &Arc<LogFacts>, object: &LogObject<'_>, decoded: &Decoded) -> Option<(Cursor, Met)> {
    let cursor = Cursor::after_seal(facts.clone(), decoded).ok()?;
    let seal = cursor.opened_by()?.clone();
    (seal.at == object.at).then(|| (cursor, Met::Seal(Box::new(seal))))
}
