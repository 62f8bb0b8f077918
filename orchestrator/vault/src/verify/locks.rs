//! Which ended lock is a finding. Without I/O.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keys::{Position, SegmentKey};
use crate::store::Retention;

/// A lock may end so much before the time at which its object was made and the retention say: it is computed before the
/// object is on its way.
const SLACK: Duration = Duration::from_secs(60 * 60);

/// What is needed, however old it is: locks of it are made longer again and again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Needed {
    /// What stands before this place of the log is in segments.
    pub(super) covered: Option<Position>,
    /// The newest base backup.
    pub(super) backup: Option<String>,
    /// The first segment that it needs; none: it cannot be told.
    pub(super) segment: Option<SegmentKey>,
    /// The newest index.
    pub(super) index: Option<u64>,
}

/// What is locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Locked<'a> {
    Identity,
    Log(Position),
    Segment(SegmentKey),
    Index(u64),
    Backup(&'a str),
    Other,
}

impl Needed {
    fn holds(&self, what: Locked<'_>) -> bool {
        match what {
            Locked::Identity => true,
            Locked::Log(at) => self.covered.is_none_or(|covered| at >= covered),
            Locked::Segment(at) => self.backup.is_some() && self.segment.is_none_or(|first| at >= first),
            Locked::Index(n) => self.index == Some(n),
            Locked::Backup(id) => self.backup.as_deref() == Some(id),
            Locked::Other => false,
        }
    }

    /// What is wrong with a lock. One that has ended is fine when it lasted for the vault's retention and nothing needs the
    /// object any more: it waits for the janitor, or stays for ever unlocked.
    pub(super) fn problem(
        &self,
        what: Locked<'_>,
        lock: Option<&Retention>,
        (stored, retention): (Option<Timestamp>, Option<Duration>),
        now: Option<Timestamp>,
    ) -> Option<String> {
        let Some(lock) = lock else { return Some("no retention".to_owned()) };
        if !lock.compliance {
            return Some("its retention is not in COMPLIANCE mode".to_owned());
        }
        if now.is_none_or(|now| lock.until > now) {
            return None;
        }
        if self.holds(what) {
            return Some(format!("its lock ended at {}, and it is still needed", lock.until));
        }
        let least =
            stored.zip(retention).and_then(|(stored, long)| stored.checked_add(long.saturating_sub(SLACK)).ok());
        let lasted = least.is_some_and(|least| lock.until >= least);
        (!lasted).then(|| format!("its lock ended at {}, before the vault's retention was over", lock.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SegmentLine;
    use holdfast_wal::{Lsn, TimelineId};

    const DAY: i64 = 24 * 60 * 60;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    #[test]
    fn an_ended_lock_is_a_finding_when_it_ended_too_early_or_its_object_is_needed() {
        let segment = |n: u64| {
            let line = SegmentLine { branch: 0, timeline: TimelineId(1) };
            SegmentKey { line, start: Lsn(n << 24), copy: 0 }
        };
        let place = |epoch| Position { epoch, start: Lsn(1) };
        let (covered, backup) = (Some(place(3)), Some("new".to_owned()));
        let needed = Needed { covered, backup, segment: Some(segment(5)), index: Some(9) };
        let retention = Some(Duration::from_secs(90 * DAY as u64));
        let wrong = |what, from: i64, until: i64, now: i64| {
            let lock = Retention { compliance: true, until: day(until) };
            needed.problem(what, Some(&lock), (Some(day(from)), retention), Some(day(now))).is_some()
        };
        for (what, is_needed) in [
            (Locked::Identity, true),
            (Locked::Log(place(2)), false),
            (Locked::Log(place(3)), true),
            (Locked::Segment(segment(4)), false),
            (Locked::Segment(segment(5)), true),
            (Locked::Index(8), false),
            (Locked::Index(9), true),
            (Locked::Backup("old"), false),
            (Locked::Backup("new"), true),
            (Locked::Other, false),
        ] {
            assert!(!wrong(what, 10, 100, 99), "{what:?}: it holds");
            assert_eq!(wrong(what, 10, 100, 100), is_needed, "{what:?}: it ended when it was to end");
            assert!(wrong(what, 10, 98, 100), "{what:?}: it ended too early");
        }
        let governance = Retention { compliance: false, until: day(900) };
        for lock in [None, Some(&governance)] {
            assert!(needed.problem(Locked::Other, lock, (Some(day(1)), retention), Some(day(2))).is_some());
        }
    }
}
