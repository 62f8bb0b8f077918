//! What the status of a Failover and of a Drill have in common: steps, databases and services with
//! their times.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::date_time;

/// Where an execution stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// It has not begun.
    #[default]
    Pending,
    /// It was not begun, and never will be: the conditions say why.
    Refused,
    /// Steps are being carried out.
    Running,
    /// Every step is done.
    Succeeded,
    /// A step failed for good; nothing was promoted.
    Failed,
    /// A person stopped it before anything was promoted.
    Aborted,
}

impl RunPhase {
    /// Whether nothing will happen any more.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// The word, as in status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Refused => "Refused",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Aborted => "Aborted",
        }
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepPhase {
    /// It waits for other steps.
    #[default]
    Pending,
    /// Its intent is in the vault and it is being carried out.
    Running,
    /// The last attempt failed; another one follows.
    Retrying,
    /// It failed for good.
    Failed,
    /// Its result is in the vault.
    Done,
}

/// One step of an execution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the step, unique within the execution, e.g. `billing/takeover`.
    pub name: String,
    /// What it does: takeover, replay, promote-seal, promote, protect, start, probe, traffic; in a drill
    /// also prepare, restore, open, isolation, report, clean-up.
    pub step: String,
    /// The database that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where it stands.
    pub state: StepPhase,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub started_at: Option<Timestamp>,
    /// When it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub finished_at: Option<Timestamp>,
    /// From its start to its end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: i32,
    /// What it is doing, what it found, or what is wrong and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What became of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseResult {
    /// Name of the database in the plan.
    pub name: String,
    /// Where the log was sealed (failover), or where it ended when the drill began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_lsn: Option<String>,
    /// Where the database was opened: the end of the last complete record at or below the seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_lsn: Option<String>,
    /// Epoch that the new primary writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// When it took writes and each acknowledged one was in the vault (failover), or when it took writes (drill).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub writable_at: Option<Timestamp>,
    /// The same, in seconds from the creation of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_after_seconds: Option<f64>,
}

/// What became of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceResult {
    /// Name of the service in the plan.
    pub name: String,
    /// When its probe had passed and, in a failover, its traffic was switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub serving_at: Option<Timestamp>,
    /// The same, in seconds from the creation of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_after_seconds: Option<f64>,
}
