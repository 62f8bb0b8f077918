//! Metrics of databases, as their statuses tell them, and of what the operator asks of their parts.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use holdfast_api::standby_database::Archive;
use holdfast_api::{ProtectedDatabase, Protection, StandbyDatabase};
use holdfast_wal::Lsn;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::context::Stores;
use crate::metrics::Metrics;

type Whole = Gauge<u64, AtomicU64>;
type Real = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatabaseLabels {
    namespace: String,
    database: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    role: String,
    outcome: String,
}

/// Where something is, and how far that is behind.
#[derive(Clone, Default)]
struct Progress {
    lsn: Family<DatabaseLabels, Whole>,
    lag_bytes: Family<DatabaseLabels, Whole>,
    lag_seconds: Family<DatabaseLabels, Real>,
}

impl Progress {
    fn clear(&self) {
        self.lsn.clear();
        self.lag_bytes.clear();
        self.lag_seconds.clear();
    }

    /// What is not known is left out, so that nobody takes it for zero.
    fn set(&self, of: &DatabaseLabels, lsn: Option<&String>, bytes: Option<i64>, seconds: Option<f64>) {
        if let Some(lsn) = lsn.and_then(|text| text.parse::<Lsn>().ok()) {
            self.lsn.get_or_create(of).set(lsn.0);
        }
        if let Some(bytes) = bytes {
            self.lag_bytes.get_or_create(of).set(bytes.unsigned_abs());
        }
        if let Some(seconds) = seconds {
            self.lag_seconds.get_or_create(of).set(seconds);
        }
    }
}

/// `holdfast_protected_*`, `holdfast_standby_*` and `holdfast_operator_requests`.
#[derive(Clone, Default)]
pub(crate) struct DatabaseMetrics {
    /// The vault behind a database that takes writes here.
    protected: Progress,
    /// A standby behind the vault.
    standby: Progress,
    /// All WAL below is in segments.
    archived: Family<DatabaseLabels, Whole>,
    index_behind: Family<DatabaseLabels, Whole>,
    requests: Family<RequestLabels, Counter>,
}

impl DatabaseMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let gauges = [
            ("protected", &new.protected, "durable_lsn", "End of the WAL stored without a hole, as a number"),
            ("standby", &new.standby, "replayed_lsn", "Where the standby has replayed to, as a number"),
        ];
        for (prefix, progress, name, help) in gauges {
            metrics.register_under(prefix, name, help, progress.lsn.clone());
            metrics.register_under(prefix, "lag_bytes", "WAL that it has not yet", progress.lag_bytes.clone());
            metrics.register_under(
                prefix,
                "lag_seconds",
                "Age of the oldest byte that it has not yet",
                progress.lag_seconds.clone(),
            );
        }
        let archived = "All WAL below is in segments, as a number";
        metrics.register_under("standby", "archived_lsn", archived, new.archived.clone());
        let behind = "For how long the log has run on beyond the newest index, in steps of a minute";
        metrics.register_under("standby", "index_behind_seconds", behind, new.index_behind.clone());
        metrics.register("requests", "Status requests to agents and relays, by role and outcome", new.requests.clone());
        new
    }

    /// One status request of the operator.
    pub(crate) fn asked(&self, role: &str, answered: bool) {
        let outcome = if answered { "ok" } else { "failed" };
        let labels = RequestLabels { role: role.to_owned(), outcome: outcome.to_owned() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Takes over what the statuses say now; an object that has gone leaves nothing.
    pub(crate) fn take(&self, stores: &Stores) {
        self.take_from(&stores.protected_databases.state(), &stores.standby_databases.state());
    }

    fn take_from(&self, protected: &[Arc<ProtectedDatabase>], standbys: &[Arc<StandbyDatabase>]) {
        self.protected.clear();
        self.standby.clear();
        self.archived.clear();
        self.index_behind.clear();
        for database in protected {
            if let Some(said) = database.status.as_ref().and_then(|status| status.protection.as_ref()) {
                self.protects(&labels(database.as_ref()), said);
            }
        }
        for standby in standbys {
            let (labels, Some(status)) = (labels(standby.as_ref()), standby.status.as_ref()) else { continue };
            if let Some(archive) = &status.archive {
                self.archives(&labels, archive);
            }
            match &status.protection {
                Some(said) => self.protects(&labels, said),
                None => {
                    self.standby.set(&labels, status.replayed_lsn.as_ref(), status.lag_bytes, status.lag_seconds);
                }
            }
        }
    }

    fn archives(&self, labels: &DatabaseLabels, said: &Archive) {
        if let Some(lsn) = said.archived_lsn.as_ref().and_then(|text| text.parse::<Lsn>().ok()) {
            self.archived.get_or_create(labels).set(lsn.0);
        }
        if let Some(minutes) = said.index_behind_minutes {
            self.index_behind.get_or_create(labels).set(minutes.unsigned_abs() * 60);
        }
    }

    fn protects(&self, labels: &DatabaseLabels, said: &Protection) {
        self.protected.set(labels, said.durable_lsn.as_ref(), said.lag_bytes, said.lag_seconds);
    }
}

fn labels(object: &impl ResourceExt) -> DatabaseLabels {
    DatabaseLabels { namespace: object.namespace().unwrap_or_default(), database: object.name_any() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn standby(name: &str, status: Value) -> Arc<StandbyDatabase> {
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "StandbyDatabase",
            "metadata": {"name": name, "namespace": "h"},
            "spec": {"vault": {"name": "v"}, "source": name, "image": "postgres:15", "storage": {"size": "1Gi"},
                "credentials": {"secretName": "s"}},
            "status": status,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_standby_tells_its_lag_and_once_promoted_that_of_the_vault() {
        let registry = Metrics::new();
        let metrics = DatabaseMetrics::new(&registry);
        let following = json!({"replayedLsn": "0/10", "lagBytes": 5, "lagSeconds": 1.5,
            "archive": {"state": "Archiving", "archivedLsn": "0/8", "indexBehindMinutes": 2}});
        metrics.take_from(&[], &[standby("lab", following), standby("new", json!(null))]);
        let text = registry.encode().unwrap();
        for line in [
            r#"holdfast_standby_replayed_lsn{namespace="h",database="lab"} 16"#,
            r#"holdfast_standby_lag_bytes{namespace="h",database="lab"} 5"#,
            r#"holdfast_standby_lag_seconds{namespace="h",database="lab"} 1.5"#,
            r#"holdfast_standby_archived_lsn{namespace="h",database="lab"} 8"#,
            r#"holdfast_standby_index_behind_seconds{namespace="h",database="lab"} 120"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains(r#"database="new""#), "{text}");

        let promoted = json!({"replayedLsn": "0/10", "protection": {"state": "Streaming", "durableLsn": "1/0",
            "lagBytes": 0, "lagSeconds": 0.0, "synchronous": true}});
        metrics.take_from(&[], &[standby("lab", promoted)]);
        let text = registry.encode().unwrap();
        assert!(text.contains(r#"holdfast_protected_durable_lsn{namespace="h",database="lab"} 4294967296"#), "{text}");
        assert!(!text.contains("holdfast_standby_lag_bytes{"), "{text}");
    }

    #[test]
    fn requests_are_counted_by_role_and_outcome() {
        let registry = Metrics::new();
        let metrics = DatabaseMetrics::new(&registry);
        metrics.asked("relay", true);
        metrics.asked("relay", false);
        let text = registry.encode().unwrap();
        let line = r#"holdfast_operator_requests_total{role="relay",outcome="failed"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
