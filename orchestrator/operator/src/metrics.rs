//! The operator's metrics. Each operator has a registry of its own; nothing is global.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// Labels of a reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: String,
    outcome: String,
}

/// The registry and the metrics of every reconcile.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<ReconcileLabels, Counter>,
    durations: Family<ReconcileLabels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    /// A registry with the reconcile metrics in it.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("holdfast")),
            reconciles: Family::default(),
            durations: Family::new_with_constructor(duration_histogram),
        };
        metrics.register(
            "reconciles",
            "Reconciles by kind and outcome: ok, or the reason of the failure",
            metrics.reconciles.clone(),
        );
        metrics.register(
            "reconcile_duration_seconds",
            "How long reconciles took, by kind and outcome",
            metrics.durations.clone(),
        );
        metrics
    }

    /// Adds a metric of the operator itself; its name is prefixed with `holdfast_operator_`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.register_under("operator", name, help, metric);
    }

    /// Adds a metric of what the operator looks after; its name is prefixed with `holdfast_` and this.
    pub fn register_under(&self, prefix: &str, name: &str, help: &str, metric: impl Metric) {
        let mut registry = self.registry.lock().unwrap_or_else(|e| e.into_inner());
        registry.sub_registry_with_prefix(prefix).register(name, help, metric);
    }

    /// Counts one reconcile.
    pub(crate) fn reconciled(&self, kind: &str, outcome: &str, took: Duration) {
        let labels = ReconcileLabels { kind: kind.to_owned(), outcome: outcome.to_owned() };
        self.reconciles.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When a registered metric cannot be encoded.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(|e| e.into_inner());
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_is_counted_by_kind_and_outcome() {
        let metrics = Metrics::new();
        metrics.reconciled("Vault", "ok", Duration::from_millis(7));
        let text = metrics.encode().unwrap();
        let line = r#"holdfast_operator_reconciles_total{kind="Vault",outcome="ok"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
