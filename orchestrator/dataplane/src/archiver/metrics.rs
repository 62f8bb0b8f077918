//! What the archiver counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::Metrics;
use crate::status::{ArchiverState, ArchiverStatus};
use crate::store_metrics::StoreMetrics;

type Whole = Gauge<u64, AtomicU64>;
type Real = Gauge<f64, AtomicU64>;

/// The archiver's own registry.
#[derive(Default)]
pub(crate) struct ArchiverMetrics {
    registry: Registry,
    pub(crate) segments: Counter,
    pub(crate) archived_bytes: Counter,
    pub(crate) stored_bytes: Counter,
    pub(crate) indexes: Counter,
    pub(crate) failures: Counter,
    pub(crate) tampering: Counter,
    pub(crate) extended: Counter,
    pub(crate) store: StoreMetrics,
    read: Whole,
    archived: Whole,
    index: Whole,
    waiting: Whole,
    at_end: Whole,
    damaged: Whole,
    behind: Real,
}

impl ArchiverMetrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self { registry: Registry::with_prefix("holdfast_archiver"), ..Self::default() };
        metrics.store.register(&mut metrics.registry);
        let counters = [
            ("segments", "Segments written or found written", &metrics.segments),
            ("archived_bytes", "WAL in those segments", &metrics.archived_bytes),
            ("stored_bytes", "Bytes of segments stored, compressed and encrypted", &metrics.stored_bytes),
            ("indexes", "Indexes written", &metrics.indexes),
            ("failures", "Steps that failed and were tried again", &metrics.failures),
            ("tampering", "Objects of the vault that somebody hid or overwrote", &metrics.tampering),
            ("extended_locks", "Locks that were made longer", &metrics.extended),
        ];
        for (name, help, counter) in counters {
            metrics.registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("read_lsn", "End of the log that was read, as a number", &metrics.read),
            ("archived_lsn", "End of the WAL that is in segments, as a number", &metrics.archived),
            ("index", "Number of the newest index", &metrics.index),
            ("waiting_bytes", "WAL read that is in no segment yet", &metrics.waiting),
            ("at_end", "1 when all that is stored was read", &metrics.at_end),
            ("damaged", "1 when an object of the log does not verify", &metrics.damaged),
        ];
        for (name, help, gauge) in gauges {
            metrics.registry.register(name, help, gauge.clone());
        }
        let help = "How long the log has run on beyond the newest index";
        metrics.registry.register("index_behind_seconds", help, metrics.behind.clone());
        metrics
    }
}

impl Metrics<ArchiverStatus> for ArchiverMetrics {
    fn render(&self, status: &ArchiverStatus) -> String {
        self.read.set(status.read.unwrap_or_default().0);
        self.archived.set(status.archived.unwrap_or_default().0);
        self.index.set(status.index.unwrap_or_default());
        self.waiting.set(status.waiting_bytes);
        self.at_end.set(u64::from(status.at_end));
        self.damaged.set(u64::from(status.state == ArchiverState::Damaged));
        self.behind.set(status.index_behind_seconds);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
