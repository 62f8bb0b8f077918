//! ProtectedDatabase: a PostgreSQL server whose every commit goes into the vault.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{DatabaseConnection, Durability, ObjectName, Protection};
use crate::condition::{Condition, Conditioned};

/// A PostgreSQL server that is streamed into the vault.
///
/// Deleting a ProtectedDatabase stops its agent; nothing in the vault is deleted. A server in
/// Synchronous durability then waits on its next commit until its `synchronous_standby_names` is
/// emptied or the object is created again.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ProtectedDatabase",
    plural = "protecteddatabases",
    namespaced,
    status = "ProtectedDatabaseStatus",
    shortname = "protected",
    category = "holdfast",
    derive = "PartialEq",
    doc = "A PostgreSQL server (of any host) that is streamed into the vault by an agent in this namespace.",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a ProtectedDatabase has at most 52 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Protected", type_ = "string", description = "Whether acknowledged commits are in the vault", json_path = ".status.conditions[?(@.type==\"Protected\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Protected\")].reason"),
    printcolumn(name = "Fenced", type_ = "string", description = "True: another site owns the log now", json_path = ".status.conditions[?(@.type==\"Fenced\")].status"),
    printcolumn(name = "Backup", type_ = "string", description = "Whether the newest base backup is fresh", json_path = ".status.conditions[?(@.type==\"BackupFresh\")].status"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.protection.epoch"),
    printcolumn(name = "Durable", type_ = "string", description = "Everything before this WAL position is in the vault", json_path = ".status.protection.durableLsn"),
    printcolumn(name = "Lag", type_ = "number", description = "Seconds", json_path = ".status.protection.lagSeconds"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message")
)]
#[x_kube(
    validation = Rule::new("self.vault == oldSelf.vault").message("vault cannot change; create another ProtectedDatabase").field_path(".vault"),
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message("name cannot change; create another ProtectedDatabase")
)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedDatabaseSpec {
    /// The Vault that it is stored in.
    pub vault: ObjectName,
    /// Its name in the vault; the object's own name when left out. A StandbyDatabase names it as its `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// How to reach it.
    pub connection: DatabaseConnection,
    /// When its commits are acknowledged.
    #[serde(default)]
    pub durability: Durability,
    /// When base backups are taken.
    #[serde(default)]
    pub base_backup: BaseBackup,
}

impl ProtectedDatabase {
    /// Its name in the vault.
    pub fn vault_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.name.as_deref().unwrap_or(own)
    }
}

/// When base backups are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseBackup {
    /// Hours between two base backups. The first one is taken at once.
    #[serde(default = "default_interval_hours")]
    #[schemars(range(min = 1, max = 8760))]
    pub interval_hours: u32,
}

impl Default for BaseBackup {
    fn default() -> Self {
        Self { interval_hours: default_interval_hours() }
    }
}

fn default_interval_hours() -> u32 {
    24
}

/// What is true of the database now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedDatabaseStatus {
    /// `metadata.generation` of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the agent reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// Ready, Protected, Fenced, BackupFresh.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

impl Conditioned for ProtectedDatabaseStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn set_conditions(&mut self, conditions: Vec<Condition>) {
        self.conditions = conditions;
    }
}
