//! What the relay counts.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use holdfast_wal::Lsn;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::Metrics;
use crate::lag::Lag;
use crate::status::RelayStatus;
use crate::store_metrics::StoreMetrics;

type Whole = Gauge<u64, AtomicU64>;
type Real = Gauge<f64, AtomicU64>;
type RequestLabels = [(&'static str, &'static str); 1];

/// The relay's own registry.
pub(crate) struct RelayMetrics {
    registry: Registry,
    pub(crate) served_bytes: Counter,
    pub(crate) read_failures: Counter,
    pub(crate) tampering: Counter,
    pub(crate) chunks_read: Counter,
    requests: Family<RequestLabels, Counter>,
    pub(crate) store: StoreMetrics,
    behind: Mutex<Behind>,
    lag_bytes: Whole,
    lag_seconds: Real,
    served: Whole,
    tip: Whole,
    tip_epoch: Whole,
    clients: Whole,
    at_end: Whole,
}

/// How far the standby is behind the vault; of several the slowest.
#[derive(Default)]
struct Behind {
    lag: Lag,
    /// Where it was when it was heard of last. One that has gone away gets no nearer.
    applied: Option<Lsn>,
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
        let (chunks_read, requests) = (Counter::default(), Family::<RequestLabels, Counter>::default());
        registry.register("chunks_read", "Chunks of the log read from the vault", chunks_read.clone());
        registry.register("requests", "Requests of standbys, by command of the replication protocol", requests.clone());
        let (lag_bytes, lag_seconds) = (Whole::default(), Real::default());
        registry.register("lag_bytes", "WAL in the vault that the standby has not replayed", lag_bytes.clone());
        registry.register(
            "lag_seconds",
            "Age of the oldest byte that the standby has not replayed",
            lag_seconds.clone(),
        );
        let store = StoreMetrics::default();
        store.register(&mut registry);
        Self {
            registry,
            store,
            served_bytes,
            read_failures,
            tampering,
            chunks_read,
            requests,
            behind: Mutex::default(),
            lag_bytes,
            lag_seconds,
            served,
            tip,
            tip_epoch,
            clients,
            at_end,
        }
    }

    /// A standby has sent this command.
    pub(crate) fn requested(&self, command: &'static str) {
        self.requests.get_or_create(&[("request", command)]).inc();
    }

    /// The stored log was seen to reach up to here.
    pub(crate) fn tip_at(&self, tip: Lsn, now: Instant) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).lag.server_at(tip, now);
    }

    /// Bytes, and seconds. None behind while no standby was ever heard of.
    fn lag(&self, status: &RelayStatus, now: Instant) -> (u64, f64) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let slowest = status.clients.iter().filter_map(|client| client.applied).min();
        behind.applied = slowest.or(behind.applied);
        match behind.applied {
            Some(applied) => behind.lag.measure(applied, now),
            None => (0, 0.0),
        }
    }
}

impl Metrics<RelayStatus> for RelayMetrics {
    fn render(&self, status: &RelayStatus) -> String {
        self.served.set(status.served.unwrap_or_default().0);
        self.tip.set(status.tip.unwrap_or_default().0);
        self.tip_epoch.set(status.tip_epoch.unwrap_or_default());
        self.clients.set(status.clients.len() as u64);
        self.at_end.set(u64::from(status.at_end));
        let (bytes, seconds) = self.lag(status, Instant::now());
        self.lag_bytes.set(bytes);
        self.lag_seconds.set(seconds);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::RelayClient;
    use std::time::Duration;

    fn followed_to(applied: &[u64]) -> RelayStatus {
        let client = |lsn: &u64| RelayClient {
            address: format!("10.0.0.1:{lsn}"),
            application_name: "standby".to_owned(),
            sent: None,
            flushed: None,
            applied: Some(Lsn(*lsn)),
        };
        RelayStatus { clients: applied.iter().map(client).collect(), ..RelayStatus::default() }
    }

    #[test]
    fn the_slowest_standby_tells_the_lag_also_when_it_has_gone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let metrics = RelayMetrics::new();
        metrics.tip_at(Lsn(100), at(0));
        metrics.tip_at(Lsn(200), at(2));
        assert_eq!(metrics.lag(&followed_to(&[]), at(3)), (0, 0.0));
        assert_eq!(metrics.lag(&followed_to(&[200, 100]), at(3)), (100, 1.0));
        assert_eq!(metrics.lag(&followed_to(&[]), at(9)), (100, 7.0));
        assert_eq!(metrics.lag(&followed_to(&[200]), at(9)), (0, 0.0));
        metrics.requested("START_REPLICATION");
        let text = metrics.render(&followed_to(&[200]));
        for line in [
            r#"holdfast_relay_requests_total{request="START_REPLICATION"} 1"#,
            "holdfast_relay_chunks_read_total 0",
            "holdfast_relay_lag_bytes 0",
            "holdfast_relay_lag_seconds 0",
            "holdfast_relay_store_gets_total 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
