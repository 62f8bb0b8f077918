//! Metrics of the checks of vaults.

use holdfast_api::Vault;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::observe::Observed;
use crate::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VaultLabels {
    namespace: String,
    vault: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    namespace: String,
    vault: String,
    attempt: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    namespace: String,
    vault: String,
    outcome: String,
}

/// `holdfast_vault_check_*`.
#[derive(Clone, Default)]
pub(crate) struct CheckMetrics {
    checks: Family<OutcomeLabels, Counter>,
    harmful: Family<AttemptLabels, Gauge>,
    last_probe: Family<VaultLabels, Gauge>,
    clock_skew: Family<VaultLabels, Gauge>,
}

impl CheckMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        metrics.register_under(
            "vault_check",
            "harmful",
            "1 for each attempt that did harm at the last lock probe, 0 for the others",
            new.harmful.clone(),
        );
        metrics.register_under(
            "vault_check",
            "checks",
            "Checks of vaults by outcome: sound, harm (the lock probe found some), or faulty",
            new.checks.clone(),
        );
        metrics.register_under(
            "vault_check",
            "last_probe_timestamp_seconds",
            "When the lock was probed last, by the store's clock",
            new.last_probe.clone(),
        );
        metrics.register_under(
            "vault_check",
            "clock_skew_seconds",
            "The store's clock minus this site's",
            new.clock_skew.clone(),
        );
        new
    }

    /// Counts one check.
    pub(super) fn observe(&self, vault: &Vault, observed: &Observed) {
        let (namespace, name) = (vault.namespace().unwrap_or_default(), vault.name_any());
        let labels = VaultLabels { namespace: namespace.clone(), vault: name.clone() };
        let mut outcome = "sound";
        match observed {
            Observed::Faulty { .. } => outcome = "faulty",
            Observed::Sound { clock_skew_seconds, probed } => {
                if let Some(skew) = clock_skew_seconds {
                    self.clock_skew.get_or_create(&labels).set(*skew);
                }
                if let Some(probed) = probed {
                    self.last_probe.get_or_create(&labels).set(probed.probe.ended.as_second());
                    for tried in &probed.probe.attempts {
                        let attempt = tried.attempt.name().to_owned();
                        let labels = AttemptLabels { namespace: namespace.clone(), vault: name.clone(), attempt };
                        let harmful = tried.outcome.is_harmful();
                        self.harmful.get_or_create(&labels).set(i64::from(harmful));
                        outcome = if harmful { "harm" } else { outcome };
                    }
                }
            }
        }
        let labels = OutcomeLabels { namespace, vault: name, outcome: outcome.to_owned() };
        self.checks.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::Probed;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_probe_is_told_attempt_by_attempt() {
        let metrics = Metrics::new();
        let checks = CheckMetrics::new(&metrics);
        let vault: Vault = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v", "namespace": "h"},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}}
        }))
        .unwrap();
        let probe = serde_json::from_value(json!({
            "bucket": "b00", "ended": "1970-01-01T00:00:07Z", "probe": "k", "lockedUntil": "2026-11-25T12:00:00Z",
            "clockSkewSeconds": -3, "attempts": [
                {"attempt": "hide", "outcome": "refused", "said": "403"},
                {"attempt": "put-policy", "outcome": "harmful", "what": "w", "remedy": "r"}]
        }))
        .unwrap();
        let probed = Some(Box::new(Probed { probe, evidence: None }));
        checks.observe(&vault, &Observed::Sound { clock_skew_seconds: Some(-3), probed });
        let text = metrics.encode().unwrap();
        for line in [
            r#"holdfast_vault_check_harmful{namespace="h",vault="v",attempt="hide"} 0"#,
            r#"holdfast_vault_check_harmful{namespace="h",vault="v",attempt="put-policy"} 1"#,
            r#"holdfast_vault_check_last_probe_timestamp_seconds{namespace="h",vault="v"} 7"#,
            r#"holdfast_vault_check_clock_skew_seconds{namespace="h",vault="v"} -3"#,
            r#"holdfast_vault_check_checks_total{namespace="h",vault="v",outcome="harm"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
