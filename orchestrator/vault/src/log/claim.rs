//! Who may claim, and how a claim is won. Without I/O.

use bytes::Bytes;
use holdfast_wal::Lsn;
use jiff::Timestamp;

use crate::log::errors::ClaimError;
use crate::log::incarnation::Incarnation;
use crate::log::mutant::{Mutant, on};
use crate::log::types::{Attached, ClaimOptions};
use crate::log::walk::{Cursor, Descent, descent};
use crate::object::{Lineage, ObjectError, Seal, SealKind, Subject, encode_header};

/// What stands at a key where a seal was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealAnswer {
    /// Exactly what was put, and nothing older.
    Mine {
        /// When the store made it, by the store's clock.
        stored: Option<Timestamp>,
    },
    /// Something else: walk on.
    Foreign,
}

/// What a claim wants next.
#[derive(Debug)]
pub(crate) enum ClaimWish {
    /// A walk to the end of the chain.
    Walk,
    /// This object at the cursor's place.
    Put(Bytes),
    /// It is stored. A walk from the newest index, begun now, must meet it: where no newer index stands than the one
    /// that the last walk began at, such a walk comes to the cursor given.
    Look(Box<Cursor>),
    /// It is over. The cursor is in the new epoch, and the claimant owns it.
    Won(Box<Cursor>),
    /// It is over.
    Refused(ClaimError),
}

/// A claim on its way.
pub(crate) struct ClaimCore {
    me: Incarnation,
    attached: Attached,
    options: ClaimOptions,
    cursor: Cursor,
    /// The tail that was read first. The one that counts is where the seal lands.
    first_tail: Option<Lsn>,
    state: State,
}

enum State {
    Walking,
    AtEnd,
    Putting(Bytes),
    Stored(Box<Cursor>),
    Won,
}

impl ClaimCore {
    pub(crate) fn new(me: Incarnation, attached: Attached, options: ClaimOptions, cursor: Cursor) -> ClaimCore {
        ClaimCore { me, attached, options, cursor, first_tail: None, state: State::Walking }
    }

    /// What to do now. Asking again without an answer gives the same: a key that was tried keeps its bytes.
    pub(crate) fn wish(&mut self) -> Result<ClaimWish, ObjectError> {
        if matches!(self.state, State::AtEnd) {
            let lineage = match may_claim(&self.cursor, &self.attached, self.options) {
                Ok(lineage) => lineage,
                Err(error) => return Ok(ClaimWish::Refused(error)),
            };
            self.state = State::Putting(self.encode(lineage)?);
        }
        Ok(match &self.state {
            State::Putting(object) => ClaimWish::Put(object.clone()),
            State::Stored(after) => ClaimWish::Look(after.clone()),
            State::Won => ClaimWish::Won(Box::new(self.cursor.clone())),
            State::Walking | State::AtEnd => ClaimWish::Walk,
        })
    }

    /// Where the walk begins.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The walk came to the end of the chain.
    pub(crate) fn walked(&mut self, end: Cursor) {
        self.first_tail = self.first_tail.or(Some(end.position().start));
        self.cursor = end;
        self.state = State::AtEnd;
    }

    /// What stands at the key.
    pub(crate) fn answered(&mut self, answer: SealAnswer) -> Result<(), ObjectError> {
        let State::Putting(object) = &self.state else { return Ok(()) };
        self.state = match answer {
            SealAnswer::Foreign => State::Walking,
            SealAnswer::Mine { stored } => {
                let decoded = crate::object::decode_header(object)?.stored_at(stored);
                let mut after = self.cursor.clone();
                after.apply(&decoded)?;
                if on(Mutant::SleepingClaimant) {
                    self.cursor = after;
                    self.state = State::Won;
                    return Ok(());
                }
                State::Stored(Box::new(after))
            }
        };
        Ok(())
    }

    /// The walk that was asked for after the seal was stored came to its end. A key may have come free in between, and
    /// then what was put there is no part of the chain (rule 17).
    pub(crate) fn looked(&mut self, end: Cursor) {
        if self.me.is(end.owner()) {
            self.cursor = end;
            self.state = State::Won;
        } else {
            self.walked(end);
        }
    }

    /// Where the new epoch starts: where the claim lands.
    fn start(&self) -> Lsn {
        let tail = self.cursor.position().start;
        let branch = self.attached.history.entries.last().map_or(tail, |last| last.switch);
        match self.first_tail {
            Some(first) if on(Mutant::ClaimApartFromFence) => first,
            _ if on(Mutant::BranchNamedAgain) => tail.min(branch),
            _ => tail,
        }
    }

    fn encode(&self, lineage: Lineage) -> Result<Bytes, ObjectError> {
        let start = self.start();
        let by = &self.attached.by;
        encode_seal(&self.me, &self.cursor, SealKind::Claim, (start, lineage), by)
    }
}

/// A seal at the cursor's place.
pub(crate) fn encode_seal(
    me: &Incarnation,
    cursor: &Cursor,
    kind: SealKind,
    (next_start, lineage): (holdfast_wal::Lsn, Lineage),
    by: &str,
) -> Result<Bytes, ObjectError> {
    let seal = Seal {
        seal: kind,
        database: cursor.facts().database.clone(),
        system_id: cursor.facts().system_id,
        epoch: cursor.position().epoch,
        start: cursor.position().start,
        next_start,
        lineage,
        ahead: false,
        by: by.to_owned(),
        prev: cursor.prev().to_vec(),
    };
    let (block, _) = encode_header(&me.header(Subject::Seal(seal)), me.key())?;
    Ok(block.into())
}

/// Rules 10 and 11: whether the server may write on from the end of the chain, and which lineage its claim names.
pub(crate) fn may_claim(end: &Cursor, ours: &Attached, options: ClaimOptions) -> Result<Lineage, ClaimError> {
    let (lineage, tail) = (end.lineage(), end.position().start);
    if lineage.id != ours.instance_id && !on(Mutant::ClaimAnyLineage) {
        // The first lineage is nobody's opponent: without a seal there is nothing that fences.
        return Err(match end.opened_by() {
            Some(by) => ClaimError::Fenced { by: Box::new(by.clone()), promoted: true },
            None => not_ours(lineage, ours),
        });
    }
    let unchecked = on(Mutant::ClaimAnyLineage) || on(Mutant::LineageIsSite);
    match descent(&lineage.history, &ours.history) {
        _ if unchecked => {}
        Descent::Same => {}
        Descent::Left(branch) if branch >= tail => {}
        Descent::Left(branch) => {
            return Err(ClaimError::BranchBelowTail { timeline: lineage.history.timeline, branch, tail });
        }
        Descent::Unrelated => return Err(not_ours(lineage, ours)),
    }
    if ours.flushed < tail {
        return Err(ClaimError::BehindTail { flushed: ours.flushed, tail });
    }
    if let (Some(by), Some(_), false) = (end.opened_by(), end.taker(), options.reclaim_pending) {
        return Err(ClaimError::TakeoverPending { by: Box::new(by.clone()) });
    }
    if unchecked {
        return Ok(lineage.clone());
    }
    Ok(Lineage::new(ours.instance_id.clone(), &ours.history))
}

fn not_ours(lineage: &Lineage, ours: &Attached) -> ClaimError {
    ClaimError::LineageNotOurs { lineage: Box::new(lineage.clone()), timeline: ours.history.timeline }
}
