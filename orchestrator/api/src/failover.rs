//! Failover: one execution of a plan.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ObjectName, date_time};
use crate::condition::Condition;
use crate::run::{DatabaseResult, RunPhase, ServiceResult, Step};

/// One execution of a RecoveryPlan at this site. It begins when the object is created, and is never repeated:
/// another execution is another object.
///
/// Deleting it before anything is promoted stops it; the old primary can then take its log back. After that
/// the object stays until the execution is through.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Failover",
    plural = "failovers",
    namespaced,
    status = "FailoverStatus",
    category = "holdfast",
    derive = "PartialEq",
    doc = "One execution of a RecoveryPlan at this site: it seals the old primary's log, promotes the standbys and starts the services.",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a Failover has at most 52 characters"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Writable", type_ = "number", description = "Seconds from its creation until every database took protected writes", json_path = ".status.writableAfterSeconds"),
    printcolumn(name = "Serving", type_ = "number", description = "Seconds from its creation until every service answered with its traffic switched", json_path = ".status.servingAfterSeconds"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Complete\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Complete\")].message"),
    printcolumn(name = "Evidence", type_ = "string", priority = 1, json_path = ".status.evidence")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Failover cannot change; create another Failover"))]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// The RecoveryPlan that is carried out.
    pub plan: ObjectName,
    /// What kind of execution this is.
    #[serde(rename = "type", default)]
    pub kind: FailoverType,
    /// Why, in the words of the person who asks for it. It goes into the evidence: no patient data.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// Kinds of executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverType {
    /// The primary site is lost or given up: seal its log where it ends and take over.
    #[default]
    Failover,
}

/// What has happened so far. The vault's journal, named by `evidence`, has it first and has it all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// `metadata.generation` of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default)]
    pub phase: RunPhase,
    /// When the first entry of its journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub started_at: Option<Timestamp>,
    /// When the last entry of its journal was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub finished_at: Option<Timestamp>,
    /// Whether a database may have been promoted: from then on there is only forward.
    #[serde(default)]
    pub past_no_return: bool,
    /// Seconds from the creation of this object until every database took writes that are acknowledged from the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_after_seconds: Option<f64>,
    /// Seconds from the creation of this object until every service answered and had its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_after_seconds: Option<f64>,
    /// Hash of the plan as it is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// Hash of the runbook that belonged to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook_hash: Option<String>,
    /// Name of the Vault object whose bucket holds the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Where the journal is in the vault.
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
