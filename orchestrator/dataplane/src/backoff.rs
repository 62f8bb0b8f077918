//! Waiting between tries.

use std::time::Duration;

/// Doubles from `first` to `most`.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now; the next answer is twice as long.
    pub(crate) fn delay(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.most);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_millis(500));
        let delays: Vec<_> = (0..3).map(|_| backoff.delay().as_millis()).collect();
        assert_eq!(delays, [200, 400, 500]);
        backoff.reset();
        assert_eq!(backoff.delay().as_millis(), 200);
    }
}
