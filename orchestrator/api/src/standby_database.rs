//! StandbyDatabase: a hot standby that has nothing but the vault.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Durability, ObjectName, Problem, Protection, SecretReference, date_time};
use crate::condition::{Condition, Conditioned};

/// A hot standby, restored from the vault and following it.
///
/// The operator makes: the claim `data-<name>-0`, the StatefulSet `<name>`, the Service `<name>` (port 5432),
/// the Deployment and Service `<name>-relay`, and the Deployment `<name>-agent`, which waits until the
/// database is promoted and then protects it. Deleting a StandbyDatabase removes them all but the claim:
/// a promoted database's data survives. Delete the claim by hand to be rid of it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "StandbyDatabase",
    plural = "standbydatabases",
    namespaced,
    status = "StandbyDatabaseStatus",
    shortname = "standby",
    category = "holdfast",
    derive = "PartialEq",
    doc = "A hot standby PostgreSQL in this namespace, restored from the vault and following it.",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a StandbyDatabase has at most 52 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Replayed", type_ = "string", json_path = ".status.replayedLsn"),
    printcolumn(name = "Lag", type_ = "number", description = "Seconds", json_path = ".status.lagSeconds"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch"),
    printcolumn(name = "Protected", type_ = "string", description = "After promotion: whether acknowledged commits are in the vault", json_path = ".status.conditions[?(@.type==\"Protected\")].status"),
    printcolumn(name = "Archiving", type_ = "string", description = "Whether its archiver puts the log into segments in time", json_path = ".status.conditions[?(@.type==\"Archiving\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Archived", type_ = "string", priority = 1, description = "All WAL below is in segments", json_path = ".status.archive.archivedLsn"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message")
)]
#[x_kube(
    validation = Rule::new("self.vault == oldSelf.vault").message("vault cannot change; create another StandbyDatabase").field_path(".vault"),
    validation = Rule::new("self.source == oldSelf.source").message("source cannot change; create another StandbyDatabase").field_path(".source"),
    validation = Rule::new("self.purpose == oldSelf.purpose").message("purpose cannot change; create another StandbyDatabase").field_path(".purpose"),
    validation = Rule::new("self.storage == oldSelf.storage").message("storage cannot change; create another StandbyDatabase").field_path(".storage"),
    validation = Rule::new("has(self.until) == has(oldSelf.until) && (!has(self.until) || self.until == oldSelf.until)").message("until cannot change; create another StandbyDatabase")
)]
#[serde(rename_all = "camelCase")]
pub struct StandbyDatabaseSpec {
    /// The Vault that it is restored from and follows.
    pub vault: ObjectName,
    /// Name of the database in the vault.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub source: String,
    /// Image with `postgres` of the source's major version on its PATH.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The volume that it is restored into.
    pub storage: Storage,
    /// Secret with the keys `username` and `password` of a role of the source that is superuser, or has
    /// REPLICATION and may call `pg_promote`. Roles are restored with the data: use the source's.
    pub credentials: SecretReference,
    /// When its commits are acknowledged once it is promoted.
    #[serde(default)]
    pub durability: Durability,
    /// What it is for. A drill's copy has no agent: it never writes into the vault.
    #[serde(default)]
    pub purpose: Purpose,
    /// Follow no further than this position. Left out: follow as far as the log goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Position>,
}

fn default_image() -> String {
    "postgres:15".to_owned()
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size, e.g. `100Gi`. Room for the database, its WAL, and growth.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("size is a positive quantity such as 100Gi"))]
    pub size: String,
    /// StorageClass; the cluster's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// What a StandbyDatabase is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Purpose {
    /// To take over.
    #[default]
    Standby,
    /// To rehearse: it reads the vault and writes nothing there.
    Drill,
}

/// A position in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Epoch of the log.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub epoch: i64,
    /// WAL position in PostgreSQL's notation, e.g. `16/B374D848`.
    #[schemars(regex(pattern = r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"))]
    pub lsn: String,
}

/// Where a StandbyDatabase is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Its objects are being made, or it waits for what it needs.
    #[default]
    Pending,
    /// The base backup is being unpacked.
    Restoring,
    /// It replays what arrives in the vault.
    Following,
    /// The log is sealed; it replays to the seal and waits to be promoted.
    Sealed,
    /// It takes writes.
    Promoted,
    /// Something is wrong; the conditions say what.
    Problem,
}

/// Role of a PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// In recovery, read-only.
    Standby,
    /// Takes writes.
    Primary,
}

/// What is true of the standby now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StandbyDatabaseStatus {
    /// `metadata.generation` of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is on its way.
    #[serde(default)]
    pub phase: Phase,
    /// Uid of the claim that holds its data. It names this copy in the vault; a copy is promoted at most once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Role, as the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// End of the WAL that it has received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_lsn: Option<String>,
    /// End of the WAL that it has replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<String>,
    /// End of the log in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tip_lsn: Option<String>,
    /// WAL that is in the vault and not replayed yet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// For how long it has been behind the vault, in seconds; 0 when it has replayed everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Timeline of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    /// Epoch of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Where the log is sealed, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_lsn: Option<String>,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// What its agent reports; it protects the database once it is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// What its archiver reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Ready, Following, Archiving, Promoted, and after promotion Protected, Fenced, BackupFresh.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// How far the log is in segments and indexes, as the archiver reports it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// State of the archiver: Starting, Archiving, Retrying, Damaged or Refused.
    pub state: String,
    /// All WAL below this position is in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_lsn: Option<String>,
    /// End of the log in the newest index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexed_lsn: Option<String>,
    /// Number of the newest index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,
    /// For how long the log has run on beyond the newest index, in whole minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_behind_minutes: Option<i64>,
    /// Up to when what the newest base backup needs is locked, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub held_until: Option<Timestamp>,
}

impl Conditioned for StandbyDatabaseStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn set_conditions(&mut self, conditions: Vec<Condition>) {
        self.conditions = conditions;
    }
}
