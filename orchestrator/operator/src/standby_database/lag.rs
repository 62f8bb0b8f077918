//! For how long a standby has been behind. Pure but for the instants it is given.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_wal::Lsn;

/// More samples than this are thinned out; the answer gets coarser, never smaller.
const SAMPLES: usize = 512;

/// The trackers of all standbys, by namespace and name.
#[derive(Default)]
pub(crate) struct LagTrackers(Mutex<HashMap<String, LagTracker>>);

impl LagTrackers {
    /// Takes note of where the vault and the standby are and says for how long the standby has been behind.
    pub(crate) fn observe(&self, object: String, tip: Lsn, replayed: Lsn, now: Instant) -> Duration {
        let mut trackers = self.0.lock().unwrap_or_else(|e| e.into_inner());
        trackers.entry(object).or_default().observe(tip, replayed, now)
    }
}

/// When the vault's end was first seen at which position, for positions that are not replayed yet.
#[derive(Default)]
struct LagTracker {
    tips: VecDeque<(Instant, Lsn)>,
}

impl LagTracker {
    fn observe(&mut self, tip: Lsn, replayed: Lsn, now: Instant) -> Duration {
        if self.tips.back().is_none_or(|(_, last)| *last < tip) {
            if self.tips.len() == SAMPLES {
                self.tips.pop_back();
            }
            self.tips.push_back((now, tip));
        }
        while self.tips.front().is_some_and(|(_, tip)| *tip <= replayed) {
            self.tips.pop_front();
        }
        let oldest = self.tips.front();
        oldest.map_or(Duration::ZERO, |(since, _)| now.duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_position_that_is_not_replayed() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut tracker = LagTracker::default();
        let steps = [
            (0, 100, 100, 0),
            (2, 200, 100, 0),
            (4, 300, 150, 2),
            (6, 300, 200, 2),
            (8, 300, 300, 0),
            (20, 300, 300, 0),
            (21, 400, 300, 0),
            (25, 400, 300, 4),
        ];
        for (second, tip, replayed, lag) in steps {
            let seen = tracker.observe(Lsn(tip), Lsn(replayed), at(second));
            assert_eq!(seen, Duration::from_secs(lag), "at {second} s");
        }
    }

    #[test]
    fn a_standby_that_is_behind_for_long_keeps_its_oldest_sample() {
        let start = Instant::now();
        let mut tracker = LagTracker::default();
        let mut lag = Duration::ZERO;
        for n in 0..2000 {
            lag = tracker.observe(Lsn(n + 1), Lsn(0), start + Duration::from_secs(n));
        }
        assert_eq!(lag, Duration::from_secs(1999));
        assert!(tracker.tips.len() <= SAMPLES);
    }
}
