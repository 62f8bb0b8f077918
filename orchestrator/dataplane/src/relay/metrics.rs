//! What the relay counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::Metrics;
use crate::status::RelayStatus;

type Whole = Gauge<u64, AtomicU64>;

/// The relay's own registry.
pub(crate) struct RelayMetrics {
    registry: Registry,
    pub(crate) served_bytes: Counter,
    pub(crate) read_failures: Counter,
    pub(crate) tampering: Counter,
    served: Whole,
    tip: Whole,
    tip_epoch: Whole,
    clients: Whole,
    at_end: Whole,
}

impl RelayMetrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("holdfast_relay");
        let metrics = (Counter::default(), Counter::default(), Counter::default());
        let gauges: [Whole; 5] = std::array::from_fn(|_| Whole::default());
        let [served, tip, tip_epoch, clients, at_end] = gauges;
        registry.register("served_bytes", "WAL given to standbys", metrics.0.clone());
        registry.register("read_failures", "Failed reads of the log", metrics.1.clone());
        registry.register("tampering", "Objects of the vault that somebody hid or overwrote", metrics.2.clone());
        registry.register("served_lsn", "Highest position sent to a standby, as a number", served.clone());
        registry.register("tip_lsn", "End of the stored log, as a number", tip.clone());
        registry.register("tip_epoch", "Epoch that is open", tip_epoch.clone());
        registry.register("clients", "Standbys that follow", clients.clone());
        registry.register("at_end", "1 when all that is stored was read", at_end.clone());
        let (served_bytes, read_failures, tampering) = metrics;
        Self { registry, served_bytes, read_failures, tampering, served, tip, tip_epoch, clients, at_end }
    }
}

impl Metrics<RelayStatus> for RelayMetrics {
    fn render(&self, status: &RelayStatus) -> String {
        self.served.set(status.served.unwrap_or_default().0);
        self.tip.set(status.tip.unwrap_or_default().0);
        self.tip_epoch.set(status.tip_epoch.unwrap_or_default());
        self.clients.set(status.clients.len() as u64);
        self.at_end.set(u64::from(status.at_end));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
