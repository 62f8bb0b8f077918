//! How fast a vault is read. Pure.

use std::time::Duration;

use holdfast_vault::Budget;

/// For how long of its average a step may read at once.
const BURST_SECONDS: u64 = 4;
/// Requests of a step. Each step begins with a listing of up to 1000 keys, so fewer would list more than they read.
const STEP_REQUESTS: u64 = 1000;
/// Requests in a second, on the average. A small part of what a store bears: a pass costs the same however long it takes.
const REQUESTS_PER_SECOND: u64 = 200;

/// An average that is kept by steps and rests.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_second: u64,
}

impl Pace {
    /// So many MiB (2^20 bytes) in a second.
    pub fn mebibytes_per_second(rate: u32) -> Self {
        Self { bytes_per_second: u64::from(rate.max(1)) << 20 }
    }

    /// How much one step may take.
    pub fn budget(&self) -> Budget {
        Budget { bytes: self.bytes_per_second.saturating_mul(BURST_SECONDS), requests: STEP_REQUESTS }
    }

    /// How long to rest after a step that read and asked so much and took so long.
    pub fn rest(&self, bytes: u64, requests: u64, took: Duration) -> Duration {
        let seconds = |amount: u64, rate: u64| Duration::from_secs_f64(amount as f64 / rate as f64);
        seconds(bytes, self.bytes_per_second).max(seconds(requests, REQUESTS_PER_SECOND)).saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_makes_up_for_what_was_too_fast() {
        let pace = Pace::mebibytes_per_second(16);
        assert_eq!(pace.budget().bytes, 64 << 20);
        for (mebibytes, requests, took_ms, rest_ms) in
            [(64, 10, 1000, 3000), (64, 10, 5000, 0), (0, 1000, 1000, 4000), (16, 1000, 0, 5000), (0, 0, 0, 0)]
        {
            let rest = pace.rest(mebibytes << 20, requests, Duration::from_millis(took_ms));
            assert_eq!(rest, Duration::from_millis(rest_ms), "{mebibytes} MiB, {requests} requests in {took_ms} ms");
        }
    }
}
