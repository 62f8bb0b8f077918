//! Decides what of the log one standby gets; without I/O.
//!
//! The log knows positions and seals, a standby asks for WAL of one timeline. A timeline ends for it where the newest
//! history leaves it, and never earlier than that history is certain: a promote only announces a server, the claim that
//! follows proves that it has opened. Until then nothing goes on, and above all the announced server itself, which is
//! still a standby here, is not told of its own timeline.

use bytes::Bytes;
use holdfast_protocol::server::WalPiece;
use holdfast_vault::{SealKind, SealSummary, Tip};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};

use crate::config::Until;

/// Where one standby is.
#[derive(Debug)]
pub(crate) struct Cursor {
    timeline: TimelineId,
    position: Lsn,
    /// The newest history that is certain.
    history: TimelineHistory,
    until: Option<Until>,
    finished: bool,
}

/// Not a position of this log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotHere {
    #[error("timeline {0} is not in the history of the log")]
    Timeline(TimelineId),
    #[error("timeline {timeline} ends at {switch}")]
    Beyond { timeline: TimelineId, switch: Lsn },
}

impl Cursor {
    pub(crate) fn new(
        timeline: TimelineId,
        start: Lsn,
        history: TimelineHistory,
        until: Option<Until>,
    ) -> Result<Self, NotHere> {
        match history.switch_from(timeline) {
            Some(switch) if start > switch => return Err(NotHere::Beyond { timeline, switch }),
            None if timeline != history.timeline => return Err(NotHere::Timeline(timeline)),
            _ => {}
        }
        Ok(Self { timeline, position: start, history, until, finished: false })
    }

    /// The fixed end is reached: nothing follows.
    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// A piece of the log was read: what of it is sent?
    pub(crate) fn wal(&mut self, timeline: TimelineId, start: Lsn, data: &Bytes) -> Vec<WalPiece> {
        let mut pieces = Vec::new();
        let end = Lsn(start.0 + data.len() as u64);
        // Bytes of the standby's own timeline or of one before it (its first segment begins with the older one's); what
        // an ancestor wrote beyond its switch was cut.
        let known = self.history.contains(timeline, start);
        let limit = self.history.switch_from(timeline).unwrap_or(Lsn(u64::MAX)).min(self.fixed_end());
        let (from, to) = (start.max(self.position), end.min(limit));
        let wanted = known && from < to && timeline <= self.timeline;
        if wanted && start > self.position {
            tracing::error!(%start, position = %self.position, "the log has a hole; the stream ends before it");
            self.finished = true;
            return pieces;
        }
        if wanted {
            let slice = data.slice(offset(from, start)..offset(to, start));
            self.position = to;
            pieces.push(WalPiece::Wal { start: from, data: slice });
        }
        self.close(&mut pieces);
        pieces
    }

    /// A seal was read: is the timeline at its end?
    pub(crate) fn seal(&mut self, seal: &SealSummary) -> Vec<WalPiece> {
        let mut pieces = Vec::new();
        if self.until.is_some_and(|until| seal.at.epoch >= until.epoch) {
            self.finished = true;
            return pieces;
        }
        // An old claim, met on the way to the newest history, says less than what is known.
        let extends = seal.lineage.history.switch_from(self.history.timeline).is_some();
        if seal.kind == SealKind::Claim && extends {
            self.history = seal.lineage.history.clone();
        }
        self.close(&mut pieces);
        pieces
    }

    /// Everything that is stored was read, up to `tip`.
    pub(crate) fn tip(&self, tip: Lsn) -> WalPiece {
        WalPiece::Tip(tip.min(self.fixed_end()).max(self.position))
    }

    fn fixed_end(&self) -> Lsn {
        self.until.map_or(Lsn(u64::MAX), |until| until.lsn)
    }

    fn close(&mut self, pieces: &mut Vec<WalPiece>) {
        if self.finished {
            return;
        }
        if self.position >= self.fixed_end() {
            self.finished = true;
            pieces.push(WalPiece::Tip(self.position));
            return;
        }
        if let Some(switch) = self.history.switch_from(self.timeline)
            && self.position >= switch
            && let Some(timeline) = self.history.next_after(self.timeline)
        {
            self.finished = true;
            pieces.push(WalPiece::EndOfTimeline { timeline, switch });
        }
    }
}

fn offset(at: Lsn, start: Lsn) -> usize {
    usize::try_from(at.0 - start.0).unwrap_or(usize::MAX)
}

/// The history that is certain at `tip`, and the end of what may be served of it.
pub(crate) fn certain(tip: &Tip, until: Option<Until>) -> (TimelineHistory, Lsn) {
    let mut history = tip.lineage.history.clone();
    let mut end = tip.tip;
    let announced = tip.last_seal.as_ref().is_some_and(|seal| seal.kind == SealKind::Promote);
    if announced && let Some(parent) = history.entries.pop() {
        history.timeline = parent.timeline;
        end = end.min(parent.switch);
    }
    (history, until.map_or(end, |until| end.min(until.lsn)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::{Lineage, Nonce, Position};

    fn seal(kind: SealKind, epoch: u64, at: u64, next: u64, history: &TimelineHistory) -> SealSummary {
        SealSummary {
            kind,
            at: Position { epoch, start: Lsn(at) },
            next_start: Lsn(next),
            lineage: Lineage::new("x", history),
            nonce: Nonce([0; 16]),
            by: "test".to_owned(),
            ahead: false,
            writer: None,
            created: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn one() -> TimelineHistory {
        TimelineHistory::initial(TimelineId(1))
    }

    /// Timeline 2 from 95 on; the sealed end was 100.
    fn two() -> TimelineHistory {
        one().branch(TimelineId(2), Lsn(95), "")
    }

    fn wal(start: u64, data: &'static [u8]) -> WalPiece {
        WalPiece::Wal { start: Lsn(start), data: Bytes::from_static(data) }
    }

    fn end() -> WalPiece {
        WalPiece::EndOfTimeline { timeline: TimelineId(2), switch: Lsn(95) }
    }

    #[test]
    fn an_announced_timeline_is_served_only_after_its_claim() {
        let mut cursor = Cursor::new(TimelineId(1), Lsn(90), one(), None).expect("here");
        assert_eq!(cursor.wal(TimelineId(1), Lsn(88), &Bytes::from_static(b"0123456789AB")), [wal(90, b"23456789AB")]);
        assert_eq!(cursor.seal(&seal(SealKind::Takeover, 1, 100, 100, &one())), []);
        assert_eq!(cursor.seal(&seal(SealKind::Promote, 2, 100, 95, &two())), []);
        assert!(!cursor.finished());
        assert_eq!(cursor.seal(&seal(SealKind::Claim, 3, 95, 95, &two())), [end()]);
        assert!(cursor.finished());
    }

    #[test]
    fn what_was_cut_is_not_served_once_that_is_known() {
        let bytes = Bytes::from_static(b"0123456789");
        let mut old = Cursor::new(TimelineId(1), Lsn(90), two(), None).expect("here");
        assert_eq!(old.seal(&seal(SealKind::Claim, 0, 90, 90, &one())), [], "an older claim changes nothing");
        assert_eq!(old.wal(TimelineId(1), Lsn(90), &bytes), [wal(90, b"01234"), end()]);
        let mut new = Cursor::new(TimelineId(2), Lsn(90), two(), None).expect("here");
        assert_eq!(new.wal(TimelineId(1), Lsn(90), &bytes), [wal(90, b"01234")]);
        assert_eq!(new.wal(TimelineId(2), Lsn(95), &Bytes::from_static(b"abc")), [wal(95, b"abc")]);
        assert!(!new.finished());
    }

    #[test]
    fn a_hole_ends_the_stream() {
        let mut cursor = Cursor::new(TimelineId(1), Lsn(10), one(), None).expect("here");
        assert_eq!(cursor.wal(TimelineId(1), Lsn(11), &Bytes::from_static(b"a")), []);
        assert!(cursor.finished());
    }

    #[test]
    fn a_drill_ends_where_it_was_told() {
        let until = Some(Until { epoch: 4, lsn: Lsn(13) });
        let mut cursor = Cursor::new(TimelineId(1), Lsn(10), one(), until).expect("here");
        assert_eq!(
            cursor.wal(TimelineId(1), Lsn(10), &Bytes::from_static(b"abcdef")),
            [wal(10, b"abc"), WalPiece::Tip(Lsn(13))]
        );
        assert!(cursor.finished());
        let mut sealed = Cursor::new(TimelineId(1), Lsn(10), one(), until).expect("here");
        sealed.seal(&seal(SealKind::Claim, 3, 10, 10, &one()));
        assert!(!sealed.finished());
        sealed.seal(&seal(SealKind::Claim, 4, 12, 12, &one()));
        assert!(sealed.finished());
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(Cursor::new(TimelineId(3), Lsn(1), two(), None).err(), Some(NotHere::Timeline(TimelineId(3))));
        assert!(matches!(Cursor::new(TimelineId(1), Lsn(96), two(), None), Err(NotHere::Beyond { .. })));
    }

    #[test]
    fn after_a_promote_the_parent_is_certain() {
        let mut tip = Tip {
            epoch: 3,
            tip: Lsn(95),
            timeline: TimelineId(1),
            lineage: Lineage::new("x", &two()),
            last_seal: Some(seal(SealKind::Promote, 2, 100, 95, &two())),
        };
        assert_eq!(certain(&tip, None), (one(), Lsn(95)));
        tip.last_seal = Some(seal(SealKind::Claim, 3, 95, 95, &two()));
        tip.tip = Lsn(120);
        assert_eq!(certain(&tip, None), (two(), Lsn(120)));
        assert_eq!(certain(&tip, Some(Until { epoch: 9, lsn: Lsn(110) })).1, Lsn(110));
    }
}
