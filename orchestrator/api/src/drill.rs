//! Drill: one rehearsal of a plan, in isolation.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ObjectName, date_time};
use crate::condition::Condition;
use crate::run::{DatabaseResult, RunPhase, ServiceResult, Step};

/// One rehearsal of a RecoveryPlan in a namespace of its own, which can reach the vault and nothing else.
///
/// It restores the databases from the vault as they are when it begins, starts the services on top of the copies,
/// probes them, proves that production cannot be reached from there, writes a report into the vault and
/// removes everything that it made. Production does not notice. Deleting it stops it, and cleans up.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Drill",
    plural = "drills",
    namespaced,
    status = "DrillStatus",
    category = "holdfast",
    derive = "PartialEq",
    doc = "One rehearsal of a RecoveryPlan in an isolated namespace, from the vault alone.",
    validation = Rule::new("size(self.metadata.name) <= 40").message("the name of a Drill has at most 40 characters"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Isolated", type_ = "boolean", description = "Whether every probe of the isolation went as it must", json_path = ".status.isolated"),
    printcolumn(name = "Cleaned", type_ = "boolean", description = "Whether everything that it made is gone", json_path = ".status.cleanedUp"),
    printcolumn(name = "Serving", type_ = "number", description = "Seconds from its creation until every service answered", json_path = ".status.servingAfterSeconds"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Complete\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Complete\")].message"),
    printcolumn(name = "Evidence", type_ = "string", priority = 1, json_path = ".status.evidence")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Drill cannot change; create another Drill"))]
#[serde(rename_all = "camelCase")]
pub struct DrillSpec {
    /// The RecoveryPlan that is rehearsed.
    pub plan: ObjectName,
    /// Why, in the words of the person who asks for it. It goes into the evidence: no patient data.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// What has happened so far. The vault's journal, named by `evidence`, has it first and has it all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillStatus {
    /// `metadata.generation` of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default)]
    pub phase: RunPhase,
    /// The namespace that it makes and removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// When the first entry of its journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub started_at: Option<Timestamp>,
    /// When the last entry of its journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub finished_at: Option<Timestamp>,
    /// Seconds from the creation of this object until every database took writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_after_seconds: Option<f64>,
    /// Seconds from the creation of this object until every service answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_after_seconds: Option<f64>,
    /// Whether every probe of the isolation went as it must. Left out until they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Every probe of the isolation.
    #[serde(default)]
    pub isolation: Vec<IsolationProbe>,
    /// Whether everything that it made is gone.
    #[serde(default)]
    pub cleaned_up: bool,
    /// Hash of the plan as it is rehearsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// Hash of the runbook that belonged to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook_hash: Option<String>,
    /// Name of the Vault object whose bucket holds journal and report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Where journal and report are in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// The databases.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub databases: Vec<DatabaseResult>,
    /// The services.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub services: Vec<ServiceResult>,
    /// Every step, in the order of the plan.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub steps: Vec<Step>,
    /// Complete, Failed.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// One attempt to reach something from inside the drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IsolationProbe {
    /// What it is, e.g. `database registration of production`.
    pub name: String,
    /// Host and port.
    pub target: String,
    /// Whether it must be reachable (the control) or must not.
    pub must_reach: bool,
    /// Whether it was reached.
    pub reached: bool,
    /// What the attempt ended with.
    pub outcome: String,
    /// How long after the pod's start it could still be reached although it must not be, in milliseconds.
    #[serde(default)]
    pub settled_after_ms: i64,
}
