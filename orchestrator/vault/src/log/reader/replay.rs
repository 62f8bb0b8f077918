//! Where the chunks are gone: the same events from segments, up to the place from which on no chunk was ever deleted.

use bytes::Bytes;
use holdfast_wal::Lsn;

use super::{Follower, Gone};
use crate::fetch::damaged;
use crate::keys::Position;
use crate::log::errors::ReadError;
use crate::log::types::{ReadEvent, SealSummary};
use crate::log::walk::Cursor;
use crate::object::ObjectError;
use crate::segment::SegmentLink;
use crate::segment::read::{From, Opened};

/// WAL is given in pieces of this size, in bytes.
const PIECE: usize = 1024 * 1024;

/// What a reader has given already.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// WAL was given: the consumer must hear of every cut from there on.
    pub(super) given: bool,
    /// All segments up to this place were given.
    through: Option<Position>,
}

impl Follower {
    /// Gives what segments hold from where the reader is, at `at`. Returns the place where chunks follow.
    pub(super) async fn replay(&mut self, at: Position) -> Result<Result<Cursor, Gone>, ReadError> {
        let (kept, last) = match (&self.index.kept, self.index.index.as_ref().and_then(|stored| stored.index.segment)) {
            (Some(kept), Some(last)) => (kept.clone(), last),
            _ => return Err(self.gone(at)),
        };
        let from = match self.replayed.through.max(self.replayed.given.then_some(at)) {
            Some(place) => From::Place(place),
            None => From::Byte(self.position),
        };
        for link in self.access.segments(last, from).await? {
            let opened = self.access.open_segment(link, &self.identities).await?;
            let through = opened.segment.through.at;
            if self.give(link, opened).await?.is_err() {
                return Ok(Err(Gone));
            }
            self.replayed.through = Some(through);
        }
        Ok(Ok(kept))
    }

    async fn give(&mut self, link: SegmentLink, opened: Opened) -> Result<Result<(), Gone>, ReadError> {
        for seal in self.access.turns(&opened.segment).await? {
            if self.give_seal(seal).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        let (start, end, timeline) = (opened.segment.start, opened.segment.end, opened.segment.line.timeline);
        if start < self.position && self.replayed.given && self.cut_to(start).await.is_err() {
            return Ok(Err(Gone));
        }
        if start > self.position {
            let reason = format!("it begins at {start}, and the one before it ends at {}", self.position);
            let key = self.access.keys.segment(link.at);
            return Err(damaged(&key)(ObjectError::Misplaced { reason }).into());
        }
        if end > self.position {
            let skip = (self.position.0 - start.0) as usize;
            let (from, rest) = (self.position, opened.plain.slice(skip.min(opened.plain.len())..));
            (self.position, self.replayed.given) = (end, true);
            return Ok(self.give_wal(timeline, from, rest).await);
        }
        Ok(Ok(()))
    }

    async fn give_seal(&self, seal: SealSummary) -> Result<(), Gone> {
        if seal.at.start < self.position {
            return Ok(());
        }
        self.give_event(ReadEvent::Seal(seal)).await
    }

    async fn cut_to(&mut self, to: Lsn) -> Result<(), Gone> {
        let from = std::mem::replace(&mut self.position, to);
        self.give_event(ReadEvent::Cut { from, to }).await
    }

    async fn give_wal(&self, timeline: holdfast_wal::TimelineId, start: Lsn, wal: Bytes) -> Result<(), Gone> {
        for at in (0..wal.len()).step_by(PIECE) {
            let data = wal.slice(at..(at + PIECE).min(wal.len()));
            self.give_event(ReadEvent::Wal { timeline, start: Lsn(start.0 + at as u64), data }).await?;
        }
        Ok(())
    }

    /// An event that no place of the chain belongs to.
    async fn give_event(&self, event: ReadEvent) -> Result<(), Gone> {
        self.events.send(Ok((event, None, None))).await.map_err(|_| Gone)
    }
}
