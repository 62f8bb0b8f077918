//! How many small chunks go out side by side: fewer once the store is slow because of them.

use std::time::{Duration, Instant};

/// PUTs above this take their time for their bytes, and say nothing about a queue before the store.
const SMALL_BYTES: u64 = 64 * 1024;
/// A PUT may take so many times as long as the fastest one before it counts as waiting in a queue.
const PATIENCE: f64 = 2.0;
/// Weight of the newest PUT in the mean.
const WEIGHT: f64 = 0.125;
/// After one to two of these the fastest PUT is forgotten: the way to the store may have become longer.
const MEMORY: Duration = Duration::from_secs(300);

/// The pace of a writer, by how long its small PUTs take.
///
/// A store with nothing to do takes several chunks in the time of one: sending each at once makes commits fast. A store that is
/// busy takes them one after the other, and what waits in its queue could have waited here and gone out as one. So the
/// number allowed side by side falls as PUTs take longer than the fastest of late.
#[derive(Debug)]
pub(super) struct Pace {
    max: usize,
    /// Of small PUTs, in seconds; none before the first.
    mean: Option<f64>,
    /// The fastest since `since`, and the fastest in the time as long before.
    fastest: f64,
    fastest_before: f64,
    since: Instant,
}

impl Pace {
    pub(super) fn new(max: usize, now: Instant) -> Pace {
        Pace { max: max.max(1), mean: None, fastest: f64::INFINITY, fastest_before: f64::INFINITY, since: now }
    }

    /// A PUT of so many bytes was answered, after so long.
    pub(super) fn answered(&mut self, now: Instant, bytes: u64, took: Duration) {
        if bytes > SMALL_BYTES {
            return;
        }
        let took = took.as_secs_f64();
        self.mean = Some(self.mean.map_or(took, |mean| mean + WEIGHT * (took - mean)));
        if now.saturating_duration_since(self.since) >= MEMORY {
            (self.fastest_before, self.fastest, self.since) = (self.fastest, f64::INFINITY, now);
        }
        self.fastest = self.fastest.min(took);
    }

    /// How many may be on their way before a chunk that is not full is held back: 1 to the greatest number.
    pub(super) fn allowed(&self) -> usize {
        let Some(mean) = self.mean.filter(|mean| *mean > 0.0) else { return self.max };
        let fair = PATIENCE * self.fastest.min(self.fastest_before) / mean;
        ((fair * self.max as f64) as usize).clamp(1, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(10);
    const SMALL: u64 = 1000;

    fn after(pace: &mut Pace, now: Instant, puts: usize, took: Duration) -> usize {
        for _ in 0..puts {
            pace.answered(now, SMALL, took);
        }
        pace.allowed()
    }

    #[test]
    fn a_store_with_a_queue_gets_fewer_and_an_idle_one_all() {
        let now = Instant::now();
        let mut pace = Pace::new(4, now);
        assert_eq!(pace.allowed(), 4, "nothing is known yet");
        assert_eq!(after(&mut pace, now, 50, FAST), 4);
        assert_eq!(after(&mut pace, now, 50, FAST * 2), 4, "within what is taken for usual");
        assert_eq!(after(&mut pace, now, 50, FAST * 4), 2);
        assert_eq!(after(&mut pace, now, 50, FAST * 40), 1, "never none");
        assert_eq!(after(&mut pace, now, 50, FAST), 4);
    }

    #[test]
    fn one_slow_answer_changes_nothing_and_a_big_object_says_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(4, now);
        after(&mut pace, now, 50, FAST);
        assert_eq!(after(&mut pace, now, 1, FAST * 8), 4);
        for _ in 0..50 {
            pace.answered(now, 1 << 20, FAST * 100);
        }
        assert_eq!(pace.allowed(), 4);
    }

    #[test]
    fn a_longer_way_to_the_store_is_usual_after_a_while() {
        let began = Instant::now();
        let mut pace = Pace::new(4, began);
        after(&mut pace, began, 50, FAST);
        assert_eq!(after(&mut pace, began + MEMORY / 2, 50, FAST * 10), 1);
        assert_eq!(after(&mut pace, began + MEMORY, 50, FAST * 10), 1, "the fast ones are remembered");
        assert_eq!(after(&mut pace, began + MEMORY * 2, 50, FAST * 10), 4);
    }
}
