//! How far one is behind another: the vault behind the database, a standby behind the vault.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use holdfast_wal::Lsn;

/// Enough for a long outage at [`SAMPLE_EVERY`]; the oldest sample, which tells the age, is never dropped.
const SAMPLES: usize = 4096;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// Remembers when the one that is followed was seen to be where.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    server_end: Lsn,
    seen: VecDeque<(Lsn, Instant)>,
    out_of_touch_since: Option<Instant>,
}

impl Lag {
    /// The server has said that it has written up to `end`.
    pub(crate) fn server_at(&mut self, end: Lsn, now: Instant) {
        self.out_of_touch_since = None;
        if end <= self.server_end {
            return;
        }
        self.server_end = end;
        let full = self.seen.len() >= SAMPLES;
        match self.seen.back_mut() {
            Some((last, when)) if full || now.duration_since(*when) < SAMPLE_EVERY => *last = end,
            _ => self.seen.push_back((end, now)),
        }
    }

    /// The connection is lost: what the server writes now is not known.
    pub(crate) fn out_of_touch(&mut self, now: Instant) {
        self.out_of_touch_since.get_or_insert(now);
    }

    /// Whether everything that is known of is stored.
    pub(crate) fn caught_up(&self, durable: Lsn) -> bool {
        self.out_of_touch_since.is_none() && self.server_end.is_valid() && durable >= self.server_end
    }

    /// Bytes, and the age in seconds of the oldest byte that is not stored.
    pub(crate) fn measure(&mut self, durable: Lsn, now: Instant) -> (u64, f64) {
        while self.seen.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            self.seen.pop_front();
        }
        let oldest = self.seen.front().map(|(_, when)| *when);
        let since = [oldest, self.out_of_touch_since].into_iter().flatten().min();
        let seconds = since.map_or(0.0, |when| now.duration_since(when).as_secs_f64());
        (self.server_end.saturating_sub(durable), seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unstored_byte_tells_the_age() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lag = Lag::default();
        lag.server_at(Lsn(100), at(0));
        lag.server_at(Lsn(200), at(2));
        assert_eq!(lag.measure(Lsn(50), at(3)), (150, 3.0));
        assert_eq!(lag.measure(Lsn(100), at(3)), (100, 1.0));
        assert!(!lag.caught_up(Lsn(100)));
        assert_eq!(lag.measure(Lsn(200), at(9)), (0, 0.0));
        assert!(lag.caught_up(Lsn(200)));
    }

    #[test]
    fn a_lost_connection_counts_as_lag() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.server_at(Lsn(100), start);
        lag.out_of_touch(start);
        assert_eq!(lag.measure(Lsn(100), start + Duration::from_secs(5)), (0, 5.0));
        assert!(!lag.caught_up(Lsn(100)));
        lag.server_at(Lsn(100), start + Duration::from_secs(6));
        assert!(lag.caught_up(Lsn(100)));
    }
}
