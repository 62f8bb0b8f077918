//! The names of objects. Fixed-width hexadecimal, so that names sort as positions do.

use std::fmt;

use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::object::Nonce;

/// A place in the log's key space: where an object of the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The first byte of what stands there.
    pub start: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} at {}", self.epoch, self.start)
    }
}

/// One line of history, as the folder of its segments names it. Timeline numbers are not unique (two standbys may both
/// pick 2), epochs are, and lines sort as the log runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentLine {
    /// The epoch in which the line began: the first one after the seal that named it.
    pub branch: u64,
    /// The timeline.
    pub timeline: TimelineId,
}

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentKey {
    /// Its line of history.
    #[serde(flatten)]
    pub line: SegmentLine,
    /// Its first byte.
    pub start: Lsn,
    /// 0, unless something that is no segment of this log stood at the key before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copy: u32,
}

fn is_zero(copy: &u32) -> bool {
    *copy == 0
}

/// Whether a name may stand in a key: lower-case letters, digits, `-`, `_` and `.`, at most 128, starting with a
/// letter or a digit.
pub fn is_valid_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let first = name.bytes().next();
    name.len() <= 128 && first.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) && name.bytes().all(inner)
}

/// The keys of one vault.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let root = if prefix.is_empty() { "v1".to_owned() } else { format!("{prefix}/v1") };
        Keys { root }
    }

    /// Where everything of the vault is, with its slash.
    pub(crate) fn root(&self) -> String {
        format!("{}/", self.root)
    }

    /// The folder of all databases, with its slash.
    pub(crate) fn databases(&self) -> String {
        format!("{}/db/", self.root)
    }

    pub(crate) fn database(&self, name: &str) -> DatabaseKeys {
        DatabaseKeys { root: format!("{}/db/{name}", self.root) }
    }

    pub(crate) fn run(&self, uid: &str, n: u64) -> String {
        format!("{}/run/{uid}/{n:08}", self.root)
    }

    pub(crate) fn plan(&self, name: &str, hash: &str) -> String {
        format!("{}/plan/{name}/{hash}", self.root)
    }

    /// The folder of one kind of evidence, with its slash.
    pub(crate) fn evidence_folder(&self, kind: &str) -> String {
        format!("{}/evidence/{kind}/", self.root)
    }

    pub(crate) fn evidence(&self, kind: &str, created: Timestamp, nonce: Nonce) -> String {
        format!("{}{}-{nonce}", self.evidence_folder(kind), created.strftime("%Y%m%dT%H%M%SZ"))
    }

    pub(crate) fn probe(&self, id: &str) -> String {
        format!("{}/probe/{id}", self.root)
    }
}

/// The keys of one database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseKeys {
    root: String,
}

impl DatabaseKeys {
    pub(crate) fn identity(&self) -> String {
        format!("{}/identity", self.root)
    }

    /// The folder of the log, with its slash.
    pub(crate) fn log(&self) -> String {
        format!("{}/log/", self.root)
    }

    /// The folder of one epoch, with its slash.
    pub(crate) fn epoch(&self, epoch: u64) -> String {
        format!("{}/log/{epoch:016X}/", self.root)
    }

    pub(crate) fn at(&self, position: Position) -> String {
        format!("{}/log/{:016X}/{}", self.root, position.epoch, position.start.hex16())
    }

    /// Reads a key of the log back; `None` for anything else.
    pub(crate) fn parse(&self, key: &str) -> Option<Position> {
        let rest = key.strip_prefix(&self.log())?;
        let (epoch, start) = rest.split_once('/')?;
        // An epoch is written as a position is: 16 upper-case digits.
        let epoch = Lsn::from_hex16(epoch).ok()?.0;
        Some(Position { epoch, start: Lsn::from_hex16(start).ok()? })
    }

    /// Reads the epoch of a folder of the log back.
    pub(crate) fn parse_epoch(&self, folder: &str) -> Option<u64> {
        let epoch = folder.strip_prefix(&self.log())?.strip_suffix('/')?;
        Some(Lsn::from_hex16(epoch).ok()?.0)
    }

    /// The folder of the indexes, with its slash.
    pub(crate) fn indexes(&self) -> String {
        format!("{}/index/", self.root)
    }

    pub(crate) fn index(&self, n: u64) -> String {
        format!("{}/index/{n:016X}", self.root)
    }

    /// Reads the key of an index back; `None` for anything else.
    pub(crate) fn parse_index(&self, key: &str) -> Option<u64> {
        // Written as a position is: 16 upper-case digits.
        Some(Lsn::from_hex16(key.strip_prefix(&self.indexes())?).ok()?.0)
    }

    /// The folder of the segments, with its slash.
    pub(crate) fn segments(&self) -> String {
        format!("{}/segment/", self.root)
    }

    /// The folder of the segments of one line of history, with its slash.
    pub(crate) fn segment_line(&self, line: SegmentLine) -> String {
        format!("{}/segment/{:016X}-{:08X}/", self.root, line.branch, line.timeline.0)
    }

    pub(crate) fn segment(&self, at: SegmentKey) -> String {
        let copy = if at.copy == 0 { String::new() } else { format!("-{:02X}", at.copy) };
        format!("{}{}{copy}", self.segment_line(at.line), at.start.hex16())
    }

    /// Reads the folder of a line of history back.
    pub(crate) fn parse_segment_line(&self, folder: &str) -> Option<SegmentLine> {
        let (branch, timeline) = folder.strip_prefix(&self.segments())?.strip_suffix('/')?.split_once('-')?;
        let upper = timeline.len() == 8 && !timeline.bytes().any(|b| b.is_ascii_lowercase() || b == b'+');
        let timeline = upper.then(|| u32::from_str_radix(timeline, 16).ok())??;
        Some(SegmentLine { branch: Lsn::from_hex16(branch).ok()?.0, timeline: TimelineId(timeline) })
    }

    /// Reads the key of a segment back; `None` for anything else.
    pub(crate) fn parse_segment(&self, key: &str) -> Option<SegmentKey> {
        let (folder, name) = key.split_at(key.rfind('/')? + 1);
        let line = self.parse_segment_line(folder)?;
        let (start, copy) = match name.split_once('-') {
            None => (name, 0),
            Some((start, copy)) => (start, u32::from_str_radix(copy, 16).ok()?),
        };
        let at = SegmentKey { line, start: Lsn::from_hex16(start).ok()?, copy };
        // Written in one way only.
        (self.segment(at) == key).then_some(at)
    }

    /// The folder of all backups, with its slash.
    pub(crate) fn backups(&self) -> String {
        format!("{}/backup/", self.root)
    }

    pub(crate) fn backup_part(&self, id: &str, n: u32) -> String {
        format!("{}/backup/{id}/{n:08}", self.root)
    }

    pub(crate) fn backup_manifest(&self, id: &str) -> String {
        format!("{}/backup/{id}/manifest", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort() {
        let keys = Keys::new("/hospital/").database("billing");
        let a = Position { epoch: 9, start: Lsn(0xFFFF_FFFF) };
        let b = Position { epoch: 10, start: Lsn(0x1_0000_0000) };
        assert_eq!(keys.at(a), "hospital/v1/db/billing/log/0000000000000009/00000000FFFFFFFF");
        assert!(keys.at(a) < keys.at(b));
        assert_eq!(keys.parse(&keys.at(b)), Some(b));
        assert_eq!(keys.parse_epoch(&keys.epoch(10)), Some(10));
        for foreign in ["hospital/v1/db/billing/log/1/2", "hospital/v1/db/billing/identity", ""] {
            assert_eq!(keys.parse(foreign), None, "{foreign}");
        }
        assert_eq!(Keys::new("").run("u", 7), "v1/run/u/00000007");
    }

    #[test]
    fn segments_read_back_and_sort_as_the_log_runs() {
        let keys = Keys::new("").database("billing");
        let at = |branch, timeline, start, copy| {
            let line = SegmentLine { branch, timeline: TimelineId(timeline) };
            SegmentKey { line, start: Lsn(start), copy }
        };
        let in_order = [at(0, 1, 0x300_0000, 0), at(0, 1, 0x300_0000, 1), at(0, 2, 0, 0), at(0x10, 2, 0x10, 0)];
        let names: Vec<String> = in_order.iter().map(|at| keys.segment(*at)).collect();
        assert_eq!(names[1], "v1/db/billing/segment/0000000000000000-00000001/0000000003000000-01");
        assert!(names.is_sorted());
        for (at, name) in in_order.into_iter().zip(&names) {
            assert_eq!(keys.parse_segment(name), Some(at));
        }
        for foreign in ["", "/", "-00", "-1", "-0A1"] {
            assert_eq!(
                keys.parse_segment(&format!("{}{foreign}", names[0])),
                (foreign.is_empty()).then_some(at(0, 1, 0x300_0000, 0))
            );
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in ["a", "billing-2", "0a_b.c"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "..", ".a", "a/b", "Ä", "A", "a b", &"x".repeat(129)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
