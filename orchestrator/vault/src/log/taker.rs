//! How a standby site takes the log over: the takeover at the tail, the takeovers put ahead of a busy writer, and
//! the promote. Without I/O.

use bytes::Bytes;
use holdfast_wal::Lsn;

use crate::keys::Position;
use crate::log::claim::{SealAnswer, encode_seal};
use crate::log::errors::TakeoverError;
use crate::log::incarnation::Incarnation;
use crate::log::mutant::{Mutant, on};
use crate::log::types::{Promoted, Promotion, SealSummary, Taken, TakerState};
use crate::log::walk::{Cursor, promoted_lineage};
use crate::object::{ObjectError, Seal, SealKind, Subject, encode_header};

/// What a taker wants next.
#[derive(Debug)]
pub(crate) enum TakerWish {
    /// A walk to the end of the chain, from the cursor on.
    Walk,
    /// A walk from the newest index, begun now: where no newer index stands than the one that the last such walk began
    /// at, it comes to the cursor.
    Look,
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
    /// The cursor comes from a walk that was begun at the newest index after the last answer.
    looked: bool,
    /// Tails lost.
    lost: u32,
    requests: u32,
    ahead: Ahead,
    /// What a wrong taker believes; see [`Mutant`].
    other: Option<Taken>,
}

/// The seals ahead in one epoch.
#[derive(Clone, Copy)]
struct Ahead {
    epoch: u64,
    /// At the end of a stride: a writer of small chunks meets it soon, one of big chunks may hop over it.
    near: Post,
    /// At the end of a segment: nothing hops over it.
    far: Post,
}

/// One of them.
#[derive(Clone, Copy)]
struct Post {
    /// It goes to a multiple of so many bytes.
    grid: u64,
    /// It stands there.
    stands_at: Option<Lsn>,
    /// How many such multiples ahead the next one goes.
    steps: u64,
}

impl Ahead {
    fn new(cursor: &Cursor) -> Ahead {
        let facts = cursor.facts();
        let post = |grid| Post { grid, stands_at: None, steps: 1 };
        Ahead { epoch: cursor.position().epoch, near: post(facts.stride()), far: post(facts.segment_size) }
    }

    fn posts(&mut self) -> [&mut Post; 2] {
        [&mut self.near, &mut self.far]
    }
}

impl Post {
    /// Where to put it, unless it stands already.
    fn wanted(&self, tail: Lsn) -> Option<Lsn> {
        if self.stands_at.is_some() {
            return None;
        }
        tail.segment_end(self.grid).checked_add((self.steps - 1).checked_mul(self.grid)?)
    }

    /// The writer was there first, or hopped over it: the next one goes twice as far.
    fn missed(&mut self) {
        self.stands_at = None;
        self.steps = self.steps.saturating_mul(2);
    }
}

impl TakerCore {
    pub(crate) fn new(state: &TakerState, cursor: Cursor) -> TakerCore {
        let ahead = Ahead::new(&cursor);
        let me = Incarnation::of_taker(state);
        TakerCore {
            me,
            by: state.by.clone(),
            cursor,
            at_end: false,
            looked: true,
            lost: 0,
            requests: 0,
            ahead,
            other: None,
        }
    }

    /// Tails lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    /// Where the walk begins.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Its seal ahead, for a mutant that takes that one for the one that it won by.
    #[cfg(test)]
    pub(crate) fn other(&self) -> Option<&Taken> {
        self.other.as_ref()
    }

    /// What to do now. A seal that is stored does not count before a walk meets it.
    pub(crate) fn wish(&mut self) -> Result<TakerWish, ObjectError> {
        if let Some(taken) = self.taken() {
            // A key may have come free while this taker slept: what it put there then is no part of the chain.
            return Ok(if self.looked || on(Mutant::SleepingPromoter) || on(Mutant::AheadCounts) {
                TakerWish::Won(Box::new(taken))
            } else {
                TakerWish::Look
            });
        }
        if !self.at_end {
            return Ok(TakerWish::Walk);
        }
        if let Some(start) = self.wants_ahead() {
            // A walk that went on after a sleep may be on a dead branch, whose lineage is not that of the epoch: put ahead
            // in the epoch on the chain, such a seal would be in the way for ever.
            if !self.looked {
                return Ok(TakerWish::Look);
            }
            let at = Position { epoch: self.ahead.epoch, start };
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
            self.ahead = Ahead::new(&end);
        }
        let tail = end.position().start;
        for post in self.ahead.posts() {
            if post.stands_at.is_some_and(|at| at < tail) {
                post.missed();
            }
        }
        self.cursor = end;
        self.at_end = true;
    }

    /// A walk from the newest index came to the end of the chain.
    pub(crate) fn looked(&mut self, end: Cursor) {
        self.walked(end);
        self.looked = true;
    }

    /// What stands at the tail's key.
    pub(crate) fn tail_answered(&mut self, answer: SealAnswer) {
        self.requests += 1;
        (self.at_end, self.looked) = (false, false);
        if answer == SealAnswer::Foreign {
            self.lost += 1;
        }
    }

    /// What stands at the key ahead.
    pub(crate) fn ahead_answered(&mut self, at: Position, answer: SealAnswer) {
        self.requests += 1;
        self.looked = false;
        if at.epoch != self.ahead.epoch {
            return;
        }
        match answer {
            SealAnswer::Mine { .. } => {
                for post in self.ahead.posts() {
                    // At the end of a segment it is both.
                    if at.start.segment_offset(post.grid) == 0 && post.stands_at.is_none() {
                        post.stands_at = Some(at.start);
                    }
                }
                if on(Mutant::AheadCounts) || on(Mutant::PromoteAtOther) {
                    let (epoch, lineage) = (at.epoch + 1, self.cursor.lineage().clone());
                    self.other = Some(Taken { epoch, sealed: at.start, lineage, requests: self.requests });
                }
            }
            SealAnswer::Foreign => {
                let tail = self.cursor.position().start;
                let was_for = |post: &Post| post.wanted(tail) == Some(at.start);
                self.ahead.posts().into_iter().filter(|post| was_for(post)).for_each(Post::missed);
            }
        }
    }

    /// The first seal of the epoch before is ours: by a walk, so it counts.
    fn taken(&self) -> Option<Taken> {
        if on(Mutant::AheadCounts) && self.other.is_some() {
            return self.other.clone();
        }
        let opened_by = self.cursor.opened_by()?;
        let (epoch, sealed, lineage) = match opened_by.kind {
            SealKind::Takeover if self.me.is(self.cursor.taker()) => {
                (self.cursor.position().epoch, self.cursor.position().start, self.cursor.lineage())
            }
            // Already promoted, by the same state: the takeover before it was won.
            SealKind::Promote if self.me.is(self.cursor.owner()) => {
                (opened_by.at.epoch, opened_by.at.start, self.cursor.lineage())
            }
            _ => return None,
        };
        Some(Taken { epoch, sealed, lineage: lineage.clone(), requests: self.requests })
    }

    /// Against a writer that was faster at the tail: where to put a seal ahead, unless both stand already.
    fn wants_ahead(&self) -> Option<Lsn> {
        if self.lost == 0 || self.cursor.owner().is_none() {
            return None;
        }
        let tail = self.cursor.position().start;
        self.ahead.near.wanted(tail).or_else(|| self.ahead.far.wanted(tail))
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
    /// Put this there, the cursor's place: the point of no return.
    Put(Position, Bytes),
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
    let at = Position { epoch: taken.epoch, start: taken.sealed };
    let Some(opened_by) = end.opened_by() else {
        return bad("the log was never taken over");
    };
    if opened_by.kind == SealKind::Promote && me.is(end.owner()) && opened_by.at == at {
        return Ok(PromoteWish::Done(promoted(opened_by)));
    }
    let elsewhere = end.position() != at && !on(Mutant::PromoteAtOther) && !on(Mutant::AheadCounts);
    if elsewhere || !me.is(end.taker()) {
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
    Ok(PromoteWish::Put(at, object.map_err(|error| crate::VaultError::Damaged { key, error })?))
}

/// What a stored promote says.
pub(crate) fn promoted(seal: &SealSummary) -> Promoted {
    Promoted { epoch: seal.at.epoch + 1, start: seal.next_start, lineage: seal.lineage.clone() }
}

fn bad<T>(reason: impl Into<String>) -> Result<T, TakeoverError> {
    Err(TakeoverError::BadPromotion { reason: reason.into() })
}
