//! What the agent counts.

use std::sync::atomic::AtomicU64;

use holdfast_vault::WriterState;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::Metrics;
use crate::status::{AgentState, AgentStatus};
use crate::store_metrics::StoreMetrics;

type FloatGauge = Gauge<f64, AtomicU64>;
type StateLabels = Vec<(&'static str, String)>;

/// The agent's own registry.
pub(crate) struct AgentMetrics {
    registry: Registry,
    pub(crate) received_bytes: Counter,
    pub(crate) backups: Counter,
    pub(crate) backup_failures: Counter,
    pub(crate) store: StoreMetrics,
    written: Gauge<u64, AtomicU64>,
    durable: Gauge<u64, AtomicU64>,
    epoch: Gauge<u64, AtomicU64>,
    lag_bytes: Gauge<u64, AtomicU64>,
    lag_seconds: FloatGauge,
    synchronous: Gauge<u64, AtomicU64>,
    store_requests: Gauge<u64, AtomicU64>,
    chunks: Gauge<u64, AtomicU64>,
    stored_bytes: Gauge<u64, AtomicU64>,
    in_flight: Gauge<u64, AtomicU64>,
    hedged: Gauge<u64, AtomicU64>,
    hedges_won: Gauge<u64, AtomicU64>,
    failed: Gauge<u64, AtomicU64>,
    throttled: Gauge<u64, AtomicU64>,
    state: Family<StateLabels, Gauge<u64, AtomicU64>>,
}

impl AgentMetrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("holdfast_agent"),
            received_bytes: Counter::default(),
            backups: Counter::default(),
            backup_failures: Counter::default(),
            store: StoreMetrics::default(),
            written: Gauge::default(),
            durable: Gauge::default(),
            epoch: Gauge::default(),
            lag_bytes: Gauge::default(),
            lag_seconds: FloatGauge::default(),
            synchronous: Gauge::default(),
            store_requests: Gauge::default(),
            chunks: Gauge::default(),
            stored_bytes: Gauge::default(),
            in_flight: Gauge::default(),
            hedged: Gauge::default(),
            hedges_won: Gauge::default(),
            failed: Gauge::default(),
            throttled: Gauge::default(),
            state: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        self.store.register(registry);
        registry.register("wal_received_bytes", "WAL received from PostgreSQL", self.received_bytes.clone());
        registry.register("base_backups", "Base backups completed", self.backups.clone());
        registry.register("base_backup_failures", "Base backups that failed", self.backup_failures.clone());
        registry.register("written_lsn", "End of the WAL received, as a number", self.written.clone());
        registry.register("durable_lsn", "End of the WAL stored without a hole, as a number", self.durable.clone());
        registry.register("epoch", "Epoch of the log that is written", self.epoch.clone());
        registry.register("lag_bytes", "WAL that the database has and the vault has not", self.lag_bytes.clone());
        registry.register(
            "lag_seconds",
            "Age of the oldest byte that the vault does not have",
            self.lag_seconds.clone(),
        );
        registry.register("synchronous", "1 when commits wait for the vault", self.synchronous.clone());
        registry.register("store_requests", "PUTs of this epoch's chunks", self.store_requests.clone());
        registry.register("chunks", "Chunks stored in this epoch", self.chunks.clone());
        registry.register(
            "stored_bytes",
            "Bytes stored in this epoch, compressed and encrypted",
            self.stored_bytes.clone(),
        );
        registry.register("puts_in_flight", "PUTs without an answer yet", self.in_flight.clone());
        registry.register("puts_hedged", "PUTs sent twice because the answer took too long", self.hedged.clone());
        registry.register("puts_hedged_won", "Of these, the ones that the second answered", self.hedges_won.clone());
        registry.register("puts_failed", "PUTs that failed and are sent again", self.failed.clone());
        registry.register("puts_throttled", "Of these, the ones told to slow down", self.throttled.clone());
        registry.register("state", "1 for the state that the agent is in", self.state.clone());
    }

    /// Takes over what the writer counts.
    pub(crate) fn writer(&self, state: &WriterState) {
        self.store_requests.set(state.requests);
        self.chunks.set(state.chunks);
        self.stored_bytes.set(state.stored_bytes);
        self.in_flight.set(state.in_flight as u64);
        self.hedged.set(state.traffic.hedged);
        self.hedges_won.set(state.traffic.hedges_won);
        self.failed.set(state.traffic.failed);
        self.throttled.set(state.traffic.throttled);
    }
}

impl Metrics<AgentStatus> for AgentMetrics {
    fn render(&self, status: &AgentStatus) -> String {
        self.written.set(status.written.unwrap_or_default().0);
        self.durable.set(status.durable.unwrap_or_default().0);
        self.epoch.set(status.epoch.unwrap_or_default());
        self.lag_bytes.set(status.lag_bytes);
        self.lag_seconds.set(status.lag_seconds);
        self.synchronous.set(u64::from(status.synchronous));
        for state in AgentState::ALL {
            let labels = vec![("state", format!("{state:?}"))];
            self.state.get_or_create(&labels).set(u64::from(state == status.state));
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
