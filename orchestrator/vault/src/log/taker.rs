//! How a standby site takes the log over: the takeover at the tail, the takeovers put ahead of a busy writer, and
//! the promote. Without I/O.

use bytes::Bytes;
use holdfast_wal::Lsn;

use crate::keys::Position;
use crate::log::claim::{SealAnswer, encode_seal};
use crate::log::errors::TakeoverError;
use crate::log::incarnation::Incarnation;
use crate::log::types::{Promoted, Promotion, SealSummary, Taken, TakerState};
use crate::log::walk::{Cursor, Owner, promoted_lineage};
use crate::object::{ObjectError, Seal, SealKind, Subject, encode_header};

/// What a taker wants next.
#[derive(Debug)]
pub(crate) enum TakerWish {
    /// A walk to the end of the chain.
    Walk,
    /// This object at the cursor's place.
    PutTail(Bytes),
    /// This object ahead of the tail.
    PutAhead(Position, Bytes),
    /// It is over.
    Won(Box<Taken>),
}

/// A takeover on its way.
pub(crate) struct TakerCore {
    me: Incarnation,
    by: String,
    cursor: Cursor,
    at_end: bool,
    /// Tails lost.
    lost: u32,
    requests: u32,
    ahead: Ahead,
}

/// The seal ahead in one epoch.
#[derive(Clone, Copy)]
struct Ahead {
    epoch: u64,
    /// It stands there; nothing hops over it.
    stands_at: Option<Lsn>,
    /// How many segments ahead the next one goes.
    segments: u64,
}

impl TakerCore {
    pub(crate) fn new(state: &TakerState, cursor: Cursor) -> TakerCore {
        let ahead = Ahead { epoch: cursor.position().epoch, stands_at: None, segments: 1 };
        let me = Incarnation::of_taker(state);
        TakerCore { me, by: state.by.clone(), cursor, at_end: false, lost: 0, requests: 0, ahead }
    }

    /// Tails lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    /// Where the walk begins.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// What to do now. A seal that is stored does not count before a walk meets it.
    pub(crate) fn wish(&mut self) -> Result<TakerWish, ObjectError> {
        if let Some(taken) = self.taken() {
            return Ok(TakerWish::Won(Box::new(taken)));
        }
        if !self.at_end {
            return Ok(TakerWish::Walk);
        }
        if let Some(boundary) = self.wants_ahead() {
            let at = Position { epoch: self.ahead.epoch, start: boundary };
            return Ok(TakerWish::PutAhead(at, self.encode_ahead(at)?));
        }
        let tail = (self.cursor.position().start, self.cursor.lineage().clone());
        let object = encode_seal(&self.me, &self.cursor, SealKind::Takeover, tail, &self.by)?;
        Ok(TakerWish::PutTail(object))
    }

    /// The walk came to the end of the chain.
    pub(crate) fn walked(&mut self, end: Cursor) {
        if end.position().epoch != self.ahead.epoch {
            // A claim came between: what was put ahead in the old epoch is void.
            self.ahead = Ahead { epoch: end.position().epoch, stands_at: None, segments: 1 };
        }
        self.cursor = end;
        self.at_end = true;
    }

    /// What stands at the tail's key.
    pub(crate) fn tail_answered(&mut self, answer: SealAnswer) {
        self.requests += 1;
        self.at_end = false;
        if answer == SealAnswer::Foreign {
            self.lost += 1;
        }
    }

    /// What stands at the key ahead.
    pub(crate) fn ahead_answered(&mut self, at: Position, answer: SealAnswer) {
        self.requests += 1;
        if at.epoch != self.ahead.epoch {
            return;
        }
        match answer {
            SealAnswer::Mine => self.ahead.stands_at = Some(at.start),
            SealAnswer::Foreign => self.ahead.segments = self.ahead.segments.saturating_mul(2),
        }
    }

    /// The first seal of the epoch before is ours: by a walk, so it counts.
    fn taken(&self) -> Option<Taken> {
        let opened_by = self.cursor.opened_by()?;
        let mine = opened_by.nonce == self.me.nonce();
        let (epoch, sealed, lineage) = match opened_by.kind {
            SealKind::Takeover if mine && self.cursor.taker() == Some(self.owner()) => {
                (self.cursor.position().epoch, self.cursor.position().start, self.cursor.lineage())
            }
            // Already promoted, by the same state: the takeover before it was won.
            SealKind::Promote if mine && self.cursor.owner() == Some(self.owner()) => {
                (opened_by.at.epoch, opened_by.at.start, self.cursor.lineage())
            }
            _ => return None,
        };
        Some(Taken { epoch, sealed, lineage: lineage.clone(), requests: self.requests })
    }

    fn owner(&self) -> Owner {
        Owner { nonce: self.me.nonce(), key: self.me.public() }
    }

    /// Against a writer that was faster at the tail: the boundary to put a seal at, unless one stands already.
    fn wants_ahead(&self) -> Option<Lsn> {
        if self.lost == 0 || self.ahead.stands_at.is_some() || self.cursor.owner().is_none() {
            return None;
        }
        let size = self.cursor.facts().segment_size;
        let next = self.cursor.position().start.segment_end(size);
        next.checked_add((self.ahead.segments - 1).checked_mul(size)?)
    }

    fn encode_ahead(&self, at: Position) -> Result<Bytes, ObjectError> {
        let seal = Seal {
            seal: SealKind::Takeover,
            database: self.cursor.facts().database.clone(),
            system_id: self.cursor.facts().system_id,
            epoch: at.epoch,
            start: at.start,
            next_start: at.start,
            lineage: self.cursor.lineage().clone(),
            ahead: true,
            by: self.by.clone(),
            prev: Vec::new(),
        };
        let (block, _) = encode_header(&self.me.header(Subject::Seal(seal)), self.me.key())?;
        Ok(block.into())
    }
}

/// What a promote does at the end of the chain.
#[derive(Debug)]
pub(crate) enum PromoteWish {
    /// Put this at the cursor's place: the point of no return.
    Put(Bytes),
    /// It is stored already.
    Done(Promoted),
}

/// Decides at the end of the chain whether `state` may still promote what it took.
pub(crate) fn promote(
    state: &TakerState,
    end: &Cursor,
    taken: &Taken,
    promotion: &Promotion,
) -> Result<PromoteWish, TakeoverError> {
    let me = Incarnation::of_taker(state);
    let owner = Owner { nonce: me.nonce(), key: me.public() };
    let at = Position { epoch: taken.epoch, start: taken.sealed };
    let Some(opened_by) = end.opened_by() else {
        return bad("the log was never taken over");
    };
    if opened_by.kind == SealKind::Promote && end.owner() == Some(owner) && opened_by.at == at {
        return Ok(PromoteWish::Done(promoted(opened_by)));
    }
    if end.position() != at || end.taker() != Some(owner) {
        return Err(TakeoverError::Lost { by: Box::new(opened_by.clone()) });
    }
    if promotion.start > taken.sealed || promotion.start < end.facts().origin {
        return bad(format!("start {} is not between the log's origin and {}", promotion.start, taken.sealed));
    }
    if promotion.instance_id.is_empty() || promotion.instance_id == end.lineage().id {
        return bad("the instance needs an id of its own");
    }
    let lineage = promoted_lineage(end.lineage(), promotion.start, &promotion.instance_id, promotion.new_timeline);
    if lineage.history.entries.last().is_none_or(|last| last.timeline >= promotion.new_timeline) {
        return bad(format!("timeline {} does not follow the log's", promotion.new_timeline));
    }
    let object = encode_seal(&me, end, SealKind::Promote, (promotion.start, lineage), &state.by);
    let key = at.to_string();
    Ok(PromoteWish::Put(object.map_err(|error| crate::VaultError::Damaged { key, error })?))
}

/// What a stored promote says.
pub(crate) fn promoted(seal: &SealSummary) -> Promoted {
    Promoted { epoch: seal.at.epoch + 1, start: seal.next_start, lineage: seal.lineage.clone() }
}

fn bad<T>(reason: impl Into<String>) -> Result<T, TakeoverError> {
    Err(TakeoverError::BadPromotion { reason: reason.into() })
}
