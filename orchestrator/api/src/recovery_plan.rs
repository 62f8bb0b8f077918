//! RecoveryPlan: what is recovered, in what order, and how it is seen to work.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::date_time;
use crate::condition::Condition;
use crate::run::RunPhase;

/// How a group of databases and the services on top of them are brought up at this site.
///
/// A plan does nothing by itself: a Failover carries it out, a Drill rehearses it. It is checked all the time,
/// so that its fault is known before it is needed, and stored in the vault together with its runbook.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "RecoveryPlan",
    plural = "recoveryplans",
    namespaced,
    status = "RecoveryPlanStatus",
    shortname = "plan",
    category = "holdfast",
    derive = "PartialEq",
    doc = "Databases and services of this namespace, the order in which they are recovered, and how each is seen to work.",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a RecoveryPlan has at most 52 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "LastDrill", type_ = "date", json_path = ".status.lastDrill.finishedAt"),
    printcolumn(name = "Drilled", type_ = "string", description = "How the last drill ended", json_path = ".status.lastDrill.outcome"),
    printcolumn(name = "RTO", type_ = "number", description = "Seconds that the last drill took until every service answered", json_path = ".status.lastDrill.servingAfterSeconds"),
    printcolumn(name = "Hash", type_ = "string", priority = 1, json_path = ".status.hash"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message")
)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPlanSpec {
    /// The databases; all of one vault. They go over together: none is promoted before each of them
    /// is sealed and replayed.
    #[schemars(length(min = 1, max = 64))]
    pub databases: Vec<PlanDatabase>,
    /// The services on top of them.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub services: Vec<PlanService>,
    /// What a recovery may cost. Measured and reported against, never used to skip a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Objectives>,
}

/// A database of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanDatabase {
    /// Name within the plan.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Name of the StandbyDatabase in this namespace that is promoted.
    #[schemars(length(min = 1, max = 52))]
    pub standby: String,
}

/// A service of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanService {
    /// Name within the plan.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Databases of the plan that accept protected writes before it starts.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub databases: Vec<String>,
    /// Services of the plan that answer their probe before it starts.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub depends_on: Vec<String>,
    /// What is scaled up to start it.
    #[schemars(length(min = 1, max = 32))]
    pub workloads: Vec<Workload>,
    /// How it is seen to work. Left out: every replica is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// How this site's traffic is sent to it, once its probe has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// A workload in this namespace. It stands by with 0 replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Kind of the workload.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// How many replicas it runs with after a recovery.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
}

fn one() -> i32 {
    1
}

/// Kinds of workloads that a plan can start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    /// A Deployment of apps/v1.
    #[default]
    Deployment,
}

/// How a service is seen to work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// An HTTP request to every pod of the workloads.
    pub http: HttpProbe,
    /// How long one attempt of the step waits for the answers, in seconds; then it counts as failed and is repeated.
    #[serde(default = "probe_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
}

fn probe_timeout_seconds() -> i32 {
    60
}

/// An HTTP request that must be answered with a status from 200 to 299.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// Port of the pods.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Path of the request.
    #[serde(default = "slash")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/"))]
    pub path: String,
}

fn slash() -> String {
    "/".to_owned()
}

/// A Service whose selector is switched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Name of the Service that the outside world reaches this site by.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// Its whole selector from then on.
    pub selector: BTreeMap<String, String>,
}

/// What a recovery may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Objectives {
    /// Recovery point objective: how much of the newest data may be lost, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub rpo_seconds: Option<i64>,
    /// Recovery time objective: how long until every service answers, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub rto_seconds: Option<i64>,
}

/// What is true of the plan now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPlanStatus {
    /// `metadata.generation` of the spec that was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The services in waves: all of a wave start side by side, each wave after the one before it.
    #[serde(default)]
    pub order: Vec<Vec<String>>,
    /// SHA-256 of the spec in canonical JSON. Failovers, drills and the runbook carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// SHA-256 of the runbook that is stored in the vault for this spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook_hash: Option<String>,
    /// Where plan and runbook are stored in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
    /// The last drill of this plan that came to an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<LastDrill>,
    /// Ready, Valid.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// A drill that came to an end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastDrill {
    /// Name of the Drill.
    pub name: String,
    /// How it ended.
    pub outcome: RunPhase,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub finished_at: Option<Timestamp>,
    /// How long it took until every service answered, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_after_seconds: Option<f64>,
    /// Hash of the plan that was rehearsed; another one than the plan's means that the plan has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
}
