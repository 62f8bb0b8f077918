//! Metrics of the verification of Vaults, as their statuses tell them, and of what it costs.

use std::sync::Arc;

use holdfast_api::Vault;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::status;
use crate::context::Stores;
use crate::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct VaultLabels {
    namespace: String,
    vault: String,
}

impl VaultLabels {
    /// Those of this Vault.
    pub(super) fn of(vault: &Vault) -> Self {
        Self { namespace: vault.namespace().unwrap_or_default(), vault: vault.name_any() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    namespace: String,
    vault: String,
    part: String,
}

/// `holdfast_vault_verification_*`.
#[derive(Clone, Default)]
pub(crate) struct VerificationMetrics {
    objects: Family<PartLabels, Gauge>,
    bytes: Family<PartLabels, Gauge>,
    findings: Family<PartLabels, Gauge>,
    last_completed: Family<VaultLabels, Gauge>,
    read_bytes: Family<VaultLabels, Counter>,
    requests: Family<VaultLabels, Counter>,
}

impl VerificationMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let under = "vault_verification";
        let of_part = [
            (
                "objects",
                "Objects of a database (or of journals, plans and evidence) that were looked at last",
                &new.objects,
            ),
            ("bytes", "Bytes of them that were read", &new.bytes),
            ("findings", "What is wrong with them: how many findings", &new.findings),
        ];
        for (name, help, gauge) in of_part {
            metrics.register_under(under, name, help, gauge.clone());
        }
        let help = "When the last complete pass over everything that is stored ended, by this site's clock";
        metrics.register_under(under, "last_completed_timestamp_seconds", help, new.last_completed.clone());
        metrics.register_under(under, "read_bytes", "Bytes read by steps so far", new.read_bytes.clone());
        metrics.register_under(under, "requests", "Requests made by steps so far", new.requests.clone());
        new
    }

    /// One step read and asked so much.
    pub(super) fn read(&self, labels: &VaultLabels, bytes: u64, requests: u64) {
        self.read_bytes.get_or_create(labels).inc_by(bytes);
        self.requests.get_or_create(labels).inc_by(requests);
    }

    /// Takes over what the statuses say now; an object that has gone leaves nothing.
    pub(crate) fn take(&self, stores: &Stores) {
        self.take_from(&stores.vaults.state());
    }

    fn take_from(&self, vaults: &[Arc<Vault>]) {
        self.objects.clear();
        self.bytes.clear();
        self.findings.clear();
        self.last_completed.clear();
        for vault in vaults {
            let Some(record) = vault.status.as_ref().and_then(|status| status.verification.as_ref()) else { continue };
            let labels = VaultLabels::of(vault);
            if let Some(completed) = record.last_completed {
                self.last_completed.get_or_create(&labels).set(completed.as_second());
            }
            for part in status::parts(record) {
                let VaultLabels { namespace, vault } = labels.clone();
                let labels = PartLabels { namespace, vault, part: part.name.clone() };
                self.objects.get_or_create(&labels).set(part.objects);
                self.bytes.get_or_create(&labels).set(part.bytes);
                self.findings.get_or_create(&labels).set(part.findings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_tells_what_was_found_and_a_gone_vault_nothing() {
        let registry = Metrics::new();
        let metrics = VerificationMetrics::new(&registry);
        let vault: Vault = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v", "namespace": "h"},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}},
            "status": {"verification": {"lastCompleted": "1970-01-01T00:01:00Z",
                "databases": [{"name": "lab", "objects": 7, "bytes": 900, "findings": 2}],
                "shared": {"name": "journals", "objects": 3}}}
        }))
        .unwrap();
        let labels = VaultLabels::of(&vault);
        metrics.take_from(&[Arc::new(vault)]);
        metrics.read(&labels, 512, 4);
        let text = registry.encode().unwrap();
        for line in [
            r#"holdfast_vault_verification_objects{namespace="h",vault="v",part="lab"} 7"#,
            r#"holdfast_vault_verification_bytes{namespace="h",vault="v",part="lab"} 900"#,
            r#"holdfast_vault_verification_findings{namespace="h",vault="v",part="lab"} 2"#,
            r#"holdfast_vault_verification_findings{namespace="h",vault="v",part="journals"} 0"#,
            r#"holdfast_vault_verification_last_completed_timestamp_seconds{namespace="h",vault="v"} 60"#,
            r#"holdfast_vault_verification_read_bytes_total{namespace="h",vault="v"} 512"#,
            r#"holdfast_vault_verification_requests_total{namespace="h",vault="v"} 4"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        metrics.take_from(&[]);
        assert!(!registry.encode().unwrap().contains(r#"part="lab""#));
    }
}
