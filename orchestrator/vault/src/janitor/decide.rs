//! What may be deleted; without I/O.

use std::time::Duration;

use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;
use serde::Serialize;

use crate::backup::BackupManifest;
use crate::catalogue::ListedKey;
use crate::keys::{Position, SegmentKey};

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is deleted.
    Delete(Expired),
    /// It stays.
    Keep(Kept),
}

/// Why an object may go. Its lock has ended in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Expired {
    /// Segments and an index have covered it for a day.
    Covered,
    /// A newer complete base backup is kept.
    Superseded,
    /// The base backup never finished.
    Unfinished,
    /// No kept base backup needs it.
    NotNeeded,
}

/// Why an object stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kept {
    /// Seals stay as long as the vault.
    Seal,
    /// Its lock holds.
    Locked,
    /// No index that is a day old says that segments hold its WAL.
    NotCovered,
    /// Somebody hid or overwrote it: a person should look.
    Tampered,
    /// It cannot be read as what its key says: a person should look.
    Unreadable,
    /// The newest complete base backup.
    Newest,
    /// A kept base backup needs it.
    Needed,
    /// The store refused.
    Refused,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Delete(Expired::Covered) => "delete: segments and an index have covered it for a day",
            Self::Delete(Expired::Superseded) => "delete: expired, a newer base backup is kept",
            Self::Delete(Expired::Unfinished) => "delete: expired, its base backup never finished",
            Self::Delete(Expired::NotNeeded) => "delete: expired, no kept base backup needs it",
            Self::Keep(Kept::Seal) => "keep: seals stay as long as the vault",
            Self::Keep(Kept::Locked) => "keep: its lock holds",
            Self::Keep(Kept::NotCovered) => "keep: not covered by segments and an index for a day yet",
            Self::Keep(Kept::Tampered) => "keep: somebody hid or overwrote it, look at it",
            Self::Keep(Kept::Unreadable) => "keep: it is not what its key says, look at it",
            Self::Keep(Kept::Newest) => "keep: the newest base backup",
            Self::Keep(Kept::Needed) => "keep: a kept base backup needs it",
            Self::Keep(Kept::Refused) => "keep: the store refused to delete it",
        }
    }
}

/// What stands at a key of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// WAL.
    Chunk,
    /// The end of an epoch.
    Seal,
    /// Neither.
    Unreadable,
}

/// What a listing alone says of a key of the log; none: its header must be read.
pub fn log_by_listing(
    at: Position,
    listed: &ListedKey,
    covered: Option<Position>,
    now: Timestamp,
    chunk_life: Duration,
) -> Option<Verdict> {
    if listed.tampered() || listed.version.is_none() {
        return Some(Verdict::Keep(Kept::Tampered));
    }
    if covered.is_none_or(|covered| at >= covered) {
        return Some(Verdict::Keep(Kept::NotCovered));
    }
    // Without the store's own time nothing expires.
    let age = listed.stored.map(|stored| now.duration_since(stored));
    let young = age.is_none_or(|age| Duration::try_from(age).unwrap_or_default() < chunk_life);
    young.then_some(Verdict::Keep(Kept::Locked))
}

/// What is done with an object of the log that is old, covered and untouched.
pub fn log(kind: LogKind, locked_until: Option<Timestamp>, now: Timestamp) -> Verdict {
    match kind {
        LogKind::Seal => Verdict::Keep(Kept::Seal),
        LogKind::Unreadable => Verdict::Keep(Kept::Unreadable),
        LogKind::Chunk if locked_until.is_some_and(|until| until > now) => Verdict::Keep(Kept::Locked),
        LogKind::Chunk => Verdict::Delete(Expired::Covered),
    }
}

/// What is known of a base backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where its replay begins, and on which timeline; none when it never finished.
    pub start: Option<(Lsn, TimelineId)>,
    /// The end of the longest lock of its objects.
    pub locked_until: Option<Timestamp>,
}

impl Backup {
    /// One that has a manifest.
    pub fn complete(manifest: &BackupManifest) -> Backup {
        Backup { start: Some((manifest.meta.start, manifest.meta.timeline)), locked_until: None }
    }

    /// One that has none.
    pub fn incomplete() -> Backup {
        Backup { start: None, locked_until: None }
    }
}

/// Whether a base backup stays: as long as any lock of it holds, and the newest complete one for ever.
pub fn backup(backup: &Backup, is_newest: bool, now: Timestamp) -> Verdict {
    match backup.locked_until {
        _ if is_newest => Verdict::Keep(Kept::Newest),
        Some(until) if until > now => Verdict::Keep(Kept::Locked),
        _ if backup.start.is_some() => Verdict::Delete(Expired::Superseded),
        _ => Verdict::Delete(Expired::Unfinished),
    }
}

/// What the kept base backups need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Where the replay of each begins, and on which timeline.
    pub kept: Vec<(Lsn, TimelineId)>,
}

impl Needs {
    /// The first of the segments (in the order of the log) that a kept base backup needs. All of them when it cannot be
    /// told; when no backup is kept, none may go either.
    pub fn first_segment(&self, segments: &[SegmentKey], segment_size: u64) -> Option<SegmentKey> {
        let first_of = |(start, timeline): &(Lsn, TimelineId)| {
            // Timeline numbers are not unique: the earliest line of that number that can hold it.
            let holds = |at: &&SegmentKey| {
                at.line.timeline == *timeline && at.start.segment_end(segment_size) > *start && at.start <= *start
            };
            let later = |at: &&SegmentKey| at.line.timeline == *timeline && at.start > *start;
            let earlier = segments.iter().find(|at| at.line.timeline == *timeline);
            match (segments.iter().find(holds), segments.iter().find(later), earlier) {
                (Some(found), ..) => Some(*found),
                // Its WAL is in chunks: no segment of its line that ends before it is needed, and all after.
                (None, None, Some(line)) => {
                    segments.iter().rfind(|at| at.line == line.line && at.start <= *start).copied()
                }
                _ => None,
            }
        };
        if self.kept.is_empty() {
            return None;
        }
        let firsts: Option<Vec<SegmentKey>> = self.kept.iter().map(first_of).collect();
        firsts?.into_iter().min()
    }
}

/// What the key of a segment alone says; none: its lock must be asked for. `first` is the first that is needed.
pub fn segment_by_key(at: SegmentKey, first: Option<SegmentKey>) -> Option<Verdict> {
    let needed = first.is_none_or(|first| at >= first);
    needed.then_some(Verdict::Keep(Kept::Needed))
}

/// What is done with a segment that no kept base backup needs.
pub fn segment(is_segment: bool, locked_until: Option<Timestamp>, now: Timestamp) -> Verdict {
    match locked_until {
        _ if !is_segment => Verdict::Keep(Kept::Unreadable),
        Some(until) if until > now => Verdict::Keep(Kept::Locked),
        _ => Verdict::Delete(Expired::NotNeeded),
    }
}

/// The same, unless somebody touched the key.
pub fn unless_tampered(verdict: Verdict, listed: &ListedKey) -> Verdict {
    match verdict {
        Verdict::Delete(_) if listed.tampered() || listed.version.is_none() => Verdict::Keep(Kept::Tampered),
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SegmentLine;

    const SEGMENT: u64 = 1 << 20;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn listed(newer_versions: usize, delete_markers: usize) -> ListedKey {
        let (key, version) = ("k".to_owned(), Some("v1".to_owned()));
        ListedKey { key, version, size: 1, stored: Some(at(1000)), newer_versions, delete_markers }
    }

    fn position(epoch: u64, start: u64) -> Position {
        Position { epoch, start: Lsn(start) }
    }

    #[test]
    fn a_chunk_goes_only_when_it_is_covered_old_and_untouched() {
        let (life, old) = (Duration::from_secs(100), at(1100));
        let covered = Some(position(2, 500));
        let decide = |place, covered, listed: &ListedKey, now| log_by_listing(place, listed, covered, now, life);
        let keep = |kept| Some(Verdict::Keep(kept));
        let cases = [
            (decide(position(2, 499), covered, &listed(0, 0), old), None),
            (decide(position(1, 900), covered, &listed(0, 0), old), None),
            (decide(position(2, 500), covered, &listed(0, 0), old), keep(Kept::NotCovered)),
            (decide(position(3, 0), covered, &listed(0, 0), old), keep(Kept::NotCovered)),
            (decide(position(2, 499), None, &listed(0, 0), old), keep(Kept::NotCovered)),
            (decide(position(2, 499), covered, &listed(0, 0), at(1099)), keep(Kept::Locked)),
            (decide(position(2, 499), covered, &listed(0, 0), at(0)), keep(Kept::Locked)),
            (decide(position(2, 499), covered, &ListedKey { stored: None, ..listed(0, 0) }, old), keep(Kept::Locked)),
            (decide(position(2, 499), covered, &listed(1, 0), old), keep(Kept::Tampered)),
            (decide(position(2, 499), covered, &listed(0, 1), old), keep(Kept::Tampered)),
        ];
        for (n, (verdict, expected)) in cases.into_iter().enumerate() {
            assert_eq!(verdict, expected, "case {n}");
        }
        assert_eq!(log(LogKind::Chunk, Some(old), old), Verdict::Delete(Expired::Covered));
        assert_eq!(log(LogKind::Chunk, None, old), Verdict::Delete(Expired::Covered));
        assert_eq!(log(LogKind::Chunk, Some(at(1101)), old), Verdict::Keep(Kept::Locked));
        assert_eq!(log(LogKind::Seal, None, old), Verdict::Keep(Kept::Seal));
        assert_eq!(log(LogKind::Unreadable, None, old), Verdict::Keep(Kept::Unreadable));
    }

    #[test]
    fn the_newest_backup_never_goes() {
        let complete = Backup { start: Some((Lsn(1), TimelineId(1))), locked_until: Some(at(100)) };
        assert_eq!(backup(&complete, true, at(200)), Verdict::Keep(Kept::Newest));
        assert_eq!(backup(&complete, false, at(99)), Verdict::Keep(Kept::Locked));
        assert_eq!(backup(&complete, false, at(100)), Verdict::Delete(Expired::Superseded));
        let incomplete = Backup { start: None, ..complete };
        assert_eq!(backup(&incomplete, false, at(99)), Verdict::Keep(Kept::Locked));
        assert_eq!(backup(&incomplete, false, at(100)), Verdict::Delete(Expired::Unfinished));
    }

    fn key(branch: u64, timeline: u32, n: u64) -> SegmentKey {
        let line = SegmentLine { branch, timeline: TimelineId(timeline) };
        SegmentKey { line, start: Lsn(n * SEGMENT), copy: 0 }
    }

    #[test]
    fn what_a_kept_backup_needs_stays() {
        let segments = [key(0, 1, 3), key(0, 1, 4), key(0, 1, 5), key(3, 2, 5), key(3, 2, 6), key(9, 2, 6)];
        let first = |kept: &[(u64, u32)]| {
            let kept = kept.iter().map(|(n, timeline)| (Lsn(n * SEGMENT + 7), TimelineId(*timeline))).collect();
            Needs { kept }.first_segment(&segments, SEGMENT)
        };
        assert_eq!(first(&[(4, 1)]), Some(key(0, 1, 4)));
        assert_eq!(first(&[(6, 2), (5, 1)]), Some(key(0, 1, 5)), "the oldest of them");
        assert_eq!(first(&[(6, 2)]), Some(key(3, 2, 6)), "the earlier line of the same number");
        assert_eq!(first(&[(8, 1)]), Some(key(0, 1, 5)), "it is in chunks yet");
        assert_eq!(first(&[]), None, "nothing to restore from: nothing goes");
        assert_eq!(first(&[(2, 1)]), None, "its segment is not there: nothing goes");
        assert_eq!(first(&[(4, 7)]), None, "an unknown timeline: nothing goes");
        assert_eq!(segment_by_key(key(0, 1, 4), Some(key(0, 1, 4))), Some(Verdict::Keep(Kept::Needed)));
        assert_eq!(segment_by_key(key(0, 1, 3), Some(key(0, 1, 4))), None);
        assert_eq!(segment_by_key(key(0, 1, 3), None), Some(Verdict::Keep(Kept::Needed)));
        assert_eq!(segment(true, Some(at(5)), at(5)), Verdict::Delete(Expired::NotNeeded));
        assert_eq!(segment(true, Some(at(6)), at(5)), Verdict::Keep(Kept::Locked));
        assert_eq!(segment(false, None, at(5)), Verdict::Keep(Kept::Unreadable));
    }
}
