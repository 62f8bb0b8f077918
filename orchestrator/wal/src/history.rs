//! Timeline history files: which timelines led to one, and where each was left.

use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// How a timeline came to be: its ancestors, oldest first, and where each was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline that this is the history of.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; timeline numbers and switch points only grow.
    pub entries: Vec<Entry>,
}

/// One ancestor of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that belongs to the next timeline and not to this one.
    pub switch: Lsn,
    /// Free text; PostgreSQL writes why recovery ended there.
    pub reason: String,
}

/// A history file that PostgreSQL would refuse too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line is not `timeline, switch point, reason`.
    #[error("line {line} of the history of timeline {timeline} is not `timeline<TAB>LSN<TAB>reason`")]
    Syntax {
        /// Whose history.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
    },
    /// Timelines or switch points do not grow from line to line.
    #[error("line {line} of the history of timeline {timeline} goes back: timelines and positions must grow")]
    Order {
        /// Whose history.
        timeline: TimelineId,
        /// Counted from 1.
        line: usize,
    },
}

impl TimelineHistory {
    /// The history of a timeline without ancestors.
    pub fn initial(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory { timeline, entries: Vec::new() }
    }

    /// Reads a history file. Blank lines and `#` comments are skipped, as PostgreSQL does.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<TimelineHistory, HistoryError> {
        let mut history = TimelineHistory::initial(timeline);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_line(line).ok_or(HistoryError::Syntax { timeline, line: number + 1 })?;
            let grows =
                history.entries.last().is_none_or(|last| last.timeline < entry.timeline && last.switch <= entry.switch);
            if !grows || entry.timeline >= timeline {
                return Err(HistoryError::Order { timeline, line: number + 1 });
            }
            history.entries.push(entry);
        }
        Ok(history)
    }

    /// Writes the history file as PostgreSQL does.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{}\t{}\t{}", entry.timeline, entry.switch, entry.reason);
        }
        text
    }

    /// The name of the history file, `00000002.history`.
    pub fn file_name(&self) -> String {
        format!("{:08X}.history", self.timeline.0)
    }

    /// Whether WAL of `timeline` up to `upto` (exclusive) is part of this history.
    pub fn contains(&self, timeline: TimelineId, upto: Lsn) -> bool {
        timeline == self.timeline || self.switch_from(timeline).is_some_and(|switch| upto <= switch)
    }

    /// Where this history leaves `timeline`; `None` for its own timeline and for strangers.
    pub fn switch_from(&self, timeline: TimelineId) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.timeline == timeline).map(|entry| entry.switch)
    }

    /// The timeline that follows `timeline` in this history; `None` for its own and for strangers.
    pub fn next_after(&self, timeline: TimelineId) -> Option<TimelineId> {
        let index = self.entries.iter().position(|entry| entry.timeline == timeline)?;
        Some(self.entries.get(index + 1).map_or(self.timeline, |entry| entry.timeline))
    }

    /// The timeline that the byte at `lsn` belongs to.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.entries.iter().find(|entry| lsn < entry.switch).map_or(self.timeline, |entry| entry.timeline)
    }

    /// This history, going on as `timeline` from `switch`.
    pub fn branch(&self, timeline: TimelineId, switch: Lsn, reason: impl Into<String>) -> TimelineHistory {
        let mut entries = self.entries.clone();
        entries.push(Entry { timeline: self.timeline, switch, reason: reason.into() });
        TimelineHistory { timeline, entries }
    }
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(3, '\t');
    let timeline = TimelineId(u32::from_str(fields.next()?.trim()).ok()?);
    let switch = fields.next()?.trim().parse().ok()?;
    let reason = fields.next().unwrap_or_default().trim_end().to_owned();
    Some(Entry { timeline, switch, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "1\t0/3000060\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n";

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(3), FILE).unwrap()
    }

    #[test]
    fn reads_and_writes() {
        let history = history();
        assert_eq!(history.entries.len(), 2);
        assert_eq!(history.entries[0].switch, Lsn(0x300_0060));
        assert_eq!(history.entries[0].reason, "no recovery target specified");
        assert_eq!(history.file_name(), "00000003.history");
        assert_eq!(TimelineHistory::parse(TimelineId(3), &history.render()), Ok(history));
    }

    #[test]
    fn comments_and_missing_reasons_are_fine() {
        let history = TimelineHistory::parse(TimelineId(2), "# by hand\n  1\t0/10\n").unwrap();
        assert_eq!(history.entries, [Entry { timeline: TimelineId(1), switch: Lsn(16), reason: String::new() }]);
    }

    #[test]
    fn membership() {
        let history = history();
        for (timeline, upto, expected) in [
            (1, 0x300_0060, true),
            (1, 0x300_0061, false),
            (2, 0x500_0000, true),
            (2, 0x500_0001, false),
            (3, u64::MAX, true),
            (4, 1, false),
        ] {
            assert_eq!(history.contains(TimelineId(timeline), Lsn(upto)), expected, "{timeline} {upto:X}");
        }
    }

    #[test]
    fn which_timeline_holds_a_byte() {
        let history = history();
        assert_eq!(history.timeline_at(Lsn(0x300_005F)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x300_0060)), TimelineId(2));
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), TimelineId(3));
        assert_eq!(history.next_after(TimelineId(1)), Some(TimelineId(2)));
        assert_eq!(history.next_after(TimelineId(2)), Some(TimelineId(3)));
        assert_eq!(history.next_after(TimelineId(3)), None);
    }

    #[test]
    fn branch_adds_an_ancestor() {
        let child = TimelineHistory::initial(TimelineId(1)).branch(TimelineId(2), Lsn(16), "test");
        assert_eq!(child.render(), "1\t0/10\ttest\n");
        assert_eq!(child.switch_from(TimelineId(1)), Some(Lsn(16)));
    }

    #[test]
    fn refuses_what_postgresql_refuses() {
        for (text, line) in [("x\t0/1\t", 1), ("1\n", 1), ("1\t0/1\n\n2 0/1\n", 3)] {
            let timeline = TimelineId(9);
            assert_eq!(TimelineHistory::parse(timeline, text), Err(HistoryError::Syntax { timeline, line }));
        }
        for (timeline, text) in [(2, "1\t0/2\n1\t0/3\n"), (2, "2\t0/1\n"), (9, "1\t0/9\n2\t0/8\n")] {
            let parsed = TimelineHistory::parse(TimelineId(timeline), text);
            assert!(matches!(parsed, Err(HistoryError::Order { .. })), "{text:?}");
        }
    }
}
