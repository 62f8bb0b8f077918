//! Figures of a load while it runs.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::Client;
use crate::ledger::Entry;
use crate::record::Service;
use crate::verify::Percentiles;

/// How far back rate and latency look.
const WINDOW: Duration = Duration::from_secs(2);

/// A load's figures at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Since the load was started.
    pub elapsed: Duration,
    /// Acknowledged writes that are in the ledger on disk, of all services.
    pub acked: u64,
    /// Attempts that failed or had no answer.
    pub errors: u64,
    /// The last error's text.
    pub last_error: Option<String>,
    /// Acknowledged writes a second, over the last two seconds.
    pub rate_per_second: f64,
    /// Of whole requests acknowledged in the last two seconds.
    pub latency: Percentiles,
    /// Of their COMMIT alone.
    pub commit: Percentiles,
    /// Indexed by [`Service::index`].
    pub services: [ServiceStats; 3],
}

/// One service's figures.
#[derive(Clone, Debug, Default)]
pub struct ServiceStats {
    pub acked: u64,
    pub errors: u64,
    /// How long ago the last write was acknowledged; from the start if none was.
    pub silent_for: Duration,
    /// The site that is being tried now, counted from 0.
    pub site: usize,
}

struct Sample {
    at: Instant,
    latency_us: u64,
    commit_us: u64,
}

#[derive(Default)]
struct Inner {
    services: [ServiceStats; 3],
    last_acked: [Option<Instant>; 3],
    window: VecDeque<Sample>,
    last_error: Option<String>,
}

/// Collects what writers and ledger report.
pub(super) struct Meter {
    started: Instant,
    inner: Mutex<Inner>,
}

impl Meter {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an entry that is on disk.
    pub(super) fn observe(&self, entry: &Entry) {
        let Entry::Acked { service, latency_us, commit_us, .. } = entry else {
            return;
        };
        let now = Instant::now();
        let mut inner = self.lock();
        inner.services[service.index()].acked += 1;
        inner.last_acked[service.index()] = Some(now);
        inner.window.push_back(Sample { at: now, latency_us: *latency_us, commit_us: *commit_us });
        inner.forget_before(now);
    }

    /// Takes note of an attempt that was not acknowledged.
    pub(super) fn failed(&self, service: Service, why: &str) {
        let mut inner = self.lock();
        inner.services[service.index()].errors += 1;
        inner.last_error = Some(format!("{service}: {why}"));
    }

    pub(super) fn figures(&self, client: &Client) -> Stats {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.forget_before(now);
        let mut services = inner.services.clone();
        for service in Service::ALL {
            let figures = &mut services[service.index()];
            let last = inner.last_acked[service.index()].unwrap_or(self.started);
            figures.silent_for = now.saturating_duration_since(last);
            figures.site = client.site(service);
        }
        let elapsed = now.saturating_duration_since(self.started);
        let seconds = elapsed.min(WINDOW).as_secs_f64().max(0.001);
        let of = |value: fn(&Sample) -> u64| inner.window.iter().map(value).collect();
        Stats {
            elapsed,
            acked: services.iter().map(|figures| figures.acked).sum(),
            errors: services.iter().map(|figures| figures.errors).sum(),
            last_error: inner.last_error.clone(),
            rate_per_second: inner.window.len() as f64 / seconds,
            latency: Percentiles::of(of(|sample| sample.latency_us)),
            commit: Percentiles::of(of(|sample| sample.commit_us)),
            services,
        }
    }
}

impl Inner {
    fn forget_before(&mut self, now: Instant) {
        while self.window.front().is_some_and(|sample| now.saturating_duration_since(sample.at) > WINDOW) {
            self.window.pop_front();
        }
    }
}
