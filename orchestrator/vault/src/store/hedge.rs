//! When a request that has no answer yet is sent a second time, on another connection. Create-if-absent makes that safe for a
//! PUT: the bytes are the same, so that whichever of the two comes second finds its own object.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, select};

use super::{StoreError, StoreErrorKind, Traffic};

/// Up to this a PUT counts as small: its time says nothing about that of a big one.
const SMALL_BYTES: usize = 256 * 1024;
/// So many times are kept of each size.
const WINDOW: usize = 64;
/// Nothing is known before so many.
const ENOUGH: usize = 20;
/// A slow PUT has waited so many times longer than nearly all others (the 95th percentile)...
const FACTOR: u32 = 2;
/// ... and at least so long.
const LEAST: Duration = Duration::from_millis(200);
/// Second tries are at most one in so many PUTs, so that a store that is slow for everybody gets no double load...
const ONE_IN: u32 = 20;
/// ... after a burst of at most so many.
const BURST: u32 = 5;
/// After "slow down" there are none for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Watches the PUTs of one client and decides.
#[derive(Debug)]
pub(super) struct Hedger(Mutex<State>);

#[derive(Debug)]
struct State {
    small: VecDeque<Duration>,
    big: VecDeque<Duration>,
    /// In parts of a second try: each PUT earns one, a second try costs [`ONE_IN`].
    earned: u32,
    quiet_until: Option<Instant>,
    traffic: Traffic,
}

impl Default for Hedger {
    fn default() -> Self {
        let (small, big) = (VecDeque::new(), VecDeque::new());
        let state = State { small, big, earned: BURST * ONE_IN, quiet_until: None, traffic: Traffic::default() };
        Hedger(Mutex::new(state))
    }
}

impl Hedger {
    /// Sends a request of so many bytes, and when its answer takes too long the same once more. The first answer that is no
    /// error counts.
    pub(super) async fn run<T, F>(&self, len: usize, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let (began, wait) = (Instant::now(), self.begin(len));
        let mut first = pin!(request());
        let early = match wait {
            None => Some(first.as_mut().await),
            Some(wait) => tokio::time::timeout(wait, first.as_mut()).await.ok(),
        };
        let (outcome, by_the_second) = match early {
            Some(outcome) => (outcome, false),
            None if !self.take(Instant::now()) => (first.await, false),
            None => match select(first, pin!(request())).await {
                Either::Left((Ok(answer), _)) => (Ok(answer), false),
                Either::Right((Ok(answer), _)) => (Ok(answer), true),
                Either::Left((Err(_), second)) => (second.await, true),
                Either::Right((Err(_), first)) => (first.await, false),
            },
        };
        match &outcome {
            Ok(_) => self.answered(len, began.elapsed(), by_the_second),
            Err(error) => self.failed(error.kind == StoreErrorKind::Throttled, Instant::now()),
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A PUT of so many bytes begins: after how long without an answer it may be sent again; none when not at all.
    fn begin(&self, len: usize) -> Option<Duration> {
        let mut state = self.state();
        state.traffic.puts += 1;
        state.earned = (state.earned + 1).min(BURST * ONE_IN);
        let times = if len <= SMALL_BYTES { &state.small } else { &state.big };
        (times.len() >= ENOUGH).then(|| (percentile_95(times) * FACTOR).max(LEAST))
    }

    /// The time is over: whether to send it again now.
    fn take(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.earned < ONE_IN || state.quiet_until.is_some_and(|until| now < until) {
            return false;
        }
        state.earned -= ONE_IN;
        state.traffic.hedged += 1;
        true
    }

    /// It was answered, after so long since it began.
    fn answered(&self, len: usize, took: Duration, by_the_second: bool) {
        let mut state = self.state();
        state.traffic.hedges_won += u64::from(by_the_second);
        let times = if len <= SMALL_BYTES { &mut state.small } else { &mut state.big };
        if times.len() == WINDOW {
            times.pop_front();
        }
        times.push_back(took);
    }

    /// It failed.
    fn failed(&self, throttled: bool, now: Instant) {
        let mut state = self.state();
        state.traffic.failed += 1;
        if throttled {
            state.traffic.throttled += 1;
            state.quiet_until = now.checked_add(QUIET);
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.state().traffic
    }
}

impl Traffic {
    /// What was counted as PUTs were GETs.
    pub(super) fn of_gets(self) -> Traffic {
        Traffic {
            gets: self.puts,
            gets_hedged: self.hedged,
            gets_hedges_won: self.hedges_won,
            gets_failed: self.failed,
            gets_throttled: self.throttled,
            ..Traffic::default()
        }
    }
}

fn percentile_95(times: &VecDeque<Duration>) -> Duration {
    let mut sorted: Vec<_> = times.iter().copied().collect();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * 95 / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn warm(took: Duration) -> Hedger {
        let hedger = Hedger::default();
        for _ in 0..ENOUGH {
            hedger.begin(100);
            hedger.answered(100, took, false);
        }
        hedger
    }

    #[test]
    fn the_wait_follows_what_puts_of_that_size_take() {
        assert_eq!(Hedger::default().begin(100), None);
        assert_eq!(warm(MS).begin(100), Some(LEAST));
        assert_eq!(warm(300 * MS).begin(100), Some(600 * MS));
        assert_eq!(warm(300 * MS).begin(SMALL_BYTES + 1), None, "nothing is known of big ones");
        let hedger = warm(300 * MS);
        hedger.answered(100, 9000 * MS, false);
        assert_eq!(hedger.begin(100), Some(600 * MS), "one straggler changes nothing");
        for _ in 0..WINDOW {
            hedger.answered(100, 400 * MS, false);
        }
        assert_eq!(hedger.begin(100), Some(800 * MS), "what is old is forgotten");
    }

    #[test]
    fn second_tries_are_few() {
        let (hedger, now) = (warm(MS), Instant::now());
        let taken = (0..100).filter(|_| hedger.take(now)).count();
        assert_eq!(taken as u32, BURST);
        for _ in 0..ONE_IN - 1 {
            hedger.begin(100);
        }
        assert!(!hedger.take(now));
        hedger.begin(100);
        assert!(hedger.take(now) && !hedger.take(now));
        assert_eq!(hedger.traffic().hedged, u64::from(BURST) + 1);
    }

    #[test]
    fn there_are_none_while_the_store_asks_to_slow_down() {
        let (hedger, now) = (warm(MS), Instant::now());
        hedger.failed(false, now);
        assert!(hedger.take(now));
        hedger.failed(true, now);
        assert!(!hedger.take(now) && !hedger.take(now + QUIET - MS));
        assert!(hedger.take(now + QUIET));
        let traffic = hedger.traffic();
        assert_eq!((traffic.failed, traffic.throttled), (2, 1));
        let both = traffic + traffic.of_gets();
        assert_eq!((both.puts, both.gets, both.gets_failed, both.gets_throttled), (traffic.puts, traffic.puts, 2, 1));
    }
}
