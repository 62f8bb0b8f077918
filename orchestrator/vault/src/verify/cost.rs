//! What damage costs: which moments can no longer be restored. Without I/O.
//!
//! A moment is a position of the log: the database as it was when the WAL up to there was replayed. A base backup can
//! be brought to every moment from its end up to the first byte of WAL that is missing after its start.

use holdfast_wal::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A stretch of the log: of WAL from `from` up to but not including `to`; of moments from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub from: Lsn,
    /// Its end.
    pub to: Lsn,
}

/// Stretches of WAL in order, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// Adds a stretch. Cheap at the end, where a walk adds.
    pub fn add(&mut self, span: Span) {
        if span.from >= span.to {
            return;
        }
        let begin = self.0.partition_point(|other| other.to < span.from);
        let end = self.0.partition_point(|other| other.from <= span.to);
        let mut whole = span;
        for other in &self.0[begin..end] {
            whole = Span { from: whole.from.min(other.from), to: whole.to.max(other.to) };
        }
        self.0.splice(begin..end, [whole]);
    }

    /// Drops everything at and after a position.
    pub fn truncate(&mut self, at: Lsn) {
        self.0.retain(|span| span.from < at);
        if let Some(last) = self.0.last_mut() {
            last.to = last.to.min(at);
        }
    }

    /// The end of the contiguous WAL from a position on; the position itself when nothing stands there.
    pub fn reach(&self, from: Lsn) -> Lsn {
        let found = self.0.iter().find(|span| span.from <= from && from < span.to);
        found.map_or(from, |span| span.to)
    }

    /// What is missing of a stretch.
    pub fn missing(&self, of: Span) -> Vec<Span> {
        let (mut at, mut missing) = (of.from, Vec::new());
        for span in self.0.iter().filter(|span| span.to > of.from && span.from < of.to) {
            if span.from > at {
                missing.push(Span { from: at, to: span.from });
            }
            at = at.max(span.to);
        }
        if at < of.to {
            missing.push(Span { from: at, to: of.to });
        }
        missing
    }

    /// The same with what others have.
    pub fn union(&self, others: &Spans) -> Spans {
        let mut all = self.clone();
        others.0.iter().for_each(|span| all.add(*span));
        all
    }

    /// The end of the last one.
    pub fn end(&self) -> Option<Lsn> {
        self.0.last().map(|last| last.to)
    }

    /// The stretches.
    pub fn as_slice(&self) -> &[Span] {
        &self.0
    }
}

/// What recovery needs to know of a base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpan {
    /// Its id.
    pub id: String,
    /// Replay begins here.
    pub start: Lsn,
    /// Replay must reach this.
    pub end: Lsn,
    /// When it finished, by its maker's clock.
    pub finished: Timestamp,
    /// All of it can be read.
    pub sound: bool,
}

/// All that a database can be restored from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The complete backups.
    pub backups: Vec<BackupSpan>,
    /// The WAL that is on the chain and can be read.
    pub wal: Spans,
    /// The end of the log.
    pub tip: Lsn,
}

impl Recovery {
    /// The moments that can be restored, in order.
    pub fn windows(&self) -> Vec<Span> {
        let reach = |backup: &BackupSpan| Span { from: backup.end, to: self.wal.reach(backup.start) };
        let usable = self.backups.iter().filter(|backup| backup.sound).map(reach);
        let mut spans: Vec<Span> = usable.filter(|span| span.from <= span.to).collect();
        spans.sort_by_key(|span| (span.from, span.to));
        let mut windows: Vec<Span> = Vec::new();
        for span in spans {
            match windows.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => windows.push(span),
            }
        }
        windows
    }

    /// The moments that cannot be restored and could be if nothing was damaged: those between `from` and `to`.
    pub fn lost(&self) -> Vec<Span> {
        let Some(first) = self.backups.iter().map(|backup| backup.end).min() else { return Vec::new() };
        let (mut at, mut lost) = (first, Vec::new());
        for window in self.windows() {
            if window.from > at {
                lost.push(Span { from: at, to: window.from });
            }
            at = at.max(window.to);
        }
        if at < self.tip {
            lost.push(Span { from: at, to: self.tip });
        }
        lost
    }

    /// What it costs that this stretch of WAL cannot be read, nothing else being wrong.
    pub fn cost_of_wal(&self, gone: Span) -> Vec<Span> {
        let mut wal = Spans::default();
        wal.add(Span { from: Lsn(0), to: gone.from });
        wal.add(Span { from: gone.to, to: Lsn(self.tip.0.max(gone.to.0)) });
        let backups = self.backups.iter().map(|backup| BackupSpan { sound: true, ..backup.clone() }).collect();
        Recovery { backups, wal, tip: self.tip }.lost()
    }

    /// What it costs that this backup cannot be read, nothing else being wrong.
    pub fn cost_of_backup(&self, id: &str) -> Vec<Span> {
        let mut wal = Spans::default();
        wal.add(Span { from: Lsn(0), to: self.tip });
        let sound = |backup: &BackupSpan| BackupSpan { sound: backup.id != id, ..backup.clone() };
        Recovery { backups: self.backups.iter().map(sound).collect(), wal, tip: self.tip }.lost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: u64, to: u64) -> Span {
        Span { from: Lsn(from), to: Lsn(to) }
    }

    fn backup(id: &str, start: u64, end: u64) -> BackupSpan {
        let (id, finished) = (id.to_owned(), Timestamp::UNIX_EPOCH);
        BackupSpan { id, start: Lsn(start), end: Lsn(end), finished, sound: true }
    }

    /// Two backups, WAL from 100 to 1000.
    fn recovery() -> Recovery {
        let mut wal = Spans::default();
        wal.add(span(100, 1000));
        Recovery { backups: vec![backup("a", 150, 200), backup("b", 550, 600)], wal, tip: Lsn(1000) }
    }

    fn without(recovery: &Recovery, gone: Span) -> Recovery {
        let mut wal = Spans::default();
        recovery.wal.missing(gone); // What is there is no matter.
        wal.add(span(100, gone.from.0));
        wal.add(Span { from: gone.to, to: recovery.tip });
        Recovery { wal, ..recovery.clone() }
    }

    #[test]
    fn spans_join_and_split() {
        let mut spans = Spans::default();
        for (from, to) in [(10, 20), (30, 40), (20, 25), (50, 50), (24, 31)] {
            spans.add(span(from, to));
        }
        assert_eq!(spans.as_slice(), [span(10, 40)]);
        assert_eq!(spans.missing(span(5, 45)), [span(5, 10), span(40, 45)]);
        assert_eq!((spans.reach(Lsn(10)), spans.reach(Lsn(40)), spans.reach(Lsn(3))), (Lsn(40), Lsn(40), Lsn(3)));
        spans.truncate(Lsn(15));
        assert_eq!(spans.as_slice(), [span(10, 15)]);
        spans.truncate(Lsn(10));
        assert_eq!(spans.end(), None);
    }

    #[test]
    fn a_sound_vault_loses_nothing() {
        assert_eq!(recovery().windows(), [span(200, 1000)]);
        assert_eq!(recovery().lost(), []);
    }

    #[test]
    fn wal_costs_what_no_later_backup_can_reach() {
        let cases = [
            // Between the two backups: from there to the end of the next backup.
            (span(300, 310), vec![span(300, 600)]),
            // After the last: up to the tip.
            (span(700, 710), vec![span(700, 1000)]),
            // Under the second backup: the second begins later than the first can reach.
            (span(560, 570), vec![span(560, 1000)]),
            // Under the first: nothing before the second.
            (span(160, 170), vec![span(200, 600)]),
            // Before every backup: nobody needs it.
            (span(110, 120), vec![]),
            // Just at the start of the second: that one begins there.
            (span(540, 550), vec![span(540, 600)]),
        ];
        for (gone, lost) in cases {
            assert_eq!(without(&recovery(), gone).lost(), lost, "{gone:?}");
            assert_eq!(recovery().cost_of_wal(gone), lost, "{gone:?} alone");
        }
    }

    #[test]
    fn a_backup_costs_what_no_other_can_reach() {
        assert_eq!(recovery().cost_of_backup("b"), [], "the first reaches all of it");
        assert_eq!(recovery().cost_of_backup("a"), [span(200, 600)]);
        let mut only = recovery();
        only.backups.truncate(1);
        assert_eq!(only.cost_of_backup("a"), [span(200, 1000)], "all");
    }

    #[test]
    fn damage_adds_up() {
        let mut recovery = without(&recovery(), span(300, 310));
        recovery.backups[1].sound = false;
        assert_eq!(recovery.windows(), [span(200, 300)]);
        assert_eq!(recovery.lost(), [span(300, 1000)], "the second backup would have bridged the hole");
    }

    #[test]
    fn without_a_backup_there_is_nothing_to_lose() {
        let recovery = Recovery { backups: Vec::new(), ..recovery() };
        assert_eq!((recovery.windows(), recovery.lost()), (vec![], vec![]));
    }
}
