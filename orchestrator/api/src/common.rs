//! Types that several kinds share.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The name of another object in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// Name of the object, in the namespace of the object that refers to it.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// When a commit is acknowledged to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// After its WAL is stored in the vault: a failover loses nothing that was acknowledged, and
    /// commits wait while the vault cannot be reached.
    #[default]
    Synchronous,
    /// At once: commits never wait for the vault, and a failover loses what was not stored yet.
    Asynchronous,
}

/// How to reach a PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseConnection {
    /// Host name or IP address, as seen from the pods of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Database that the agent connects to for its SQL. The whole server is protected, whatever it is.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Secret with the keys `username` and `password` of a role that has REPLICATION.
    pub credentials: SecretReference,
}

fn default_port() -> u16 {
    5432
}

fn default_database() -> String {
    "postgres".to_owned()
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A word for programs, in PascalCase, e.g. `WrongPassword`.
    pub code: String,
    /// What is wrong and where.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// The message and the hint as one text, for a condition.
    pub fn text(&self) -> String {
        match &self.hint {
            Some(hint) if !hint.is_empty() => format!("{} {hint}", sentence(&self.message)),
            _ => self.message.clone(),
        }
    }
}

/// Ends `text` with a full stop unless it ends with a mark of its own.
pub fn sentence(text: &str) -> String {
    let text = text.trim_end();
    match text.chars().last() {
        Some('.' | '!' | '?' | ':' | ';') | None => text.to_owned(),
        Some(_) => format!("{text}."),
    }
}

/// A complete base backup in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Id of the backup in the vault.
    pub id: String,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub started: Option<Timestamp>,
    /// When its last part was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub finished: Option<Timestamp>,
    /// First WAL position that a restore needs.
    pub start_lsn: String,
    /// WAL position at which a restored copy is consistent.
    pub end_lsn: String,
    /// Size before compression, in bytes.
    pub bytes: i64,
}

/// How far a database is in the vault, as its agent reports it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// What the agent does: Starting, Standby, Claiming, Streaming, Retrying, TakeoverPending, Refused or Fenced.
    pub state: String,
    /// PostgreSQL's system identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_id: Option<String>,
    /// Timeline of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    /// Epoch of the log that this agent writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// End of the WAL that PostgreSQL has sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_lsn: Option<String>,
    /// End of the WAL that is stored without a hole: everything before it survives the loss of the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_lsn: Option<String>,
    /// WAL that is written and not stored yet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// Age of the oldest WAL that is not stored yet, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Whether the server waits for the vault before it acknowledges a commit, as seen on the server.
    #[serde(default)]
    pub synchronous: bool,
    /// Which check showed that server and vault hold the same WAL where they meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_check: Option<String>,
    /// The newest complete base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Backup>,
    /// How many complete base backups are in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<i64>,
    /// What stands in the agent's way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Schema of an RFC 3339 time; nullable because every time in a status may be unknown.
pub fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "nullable": true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_text_joins_message_and_hint() {
        let mut problem = Problem {
            code: "WrongPassword".into(),
            message: "the password is wrong".into(),
            hint: Some("Put the right one into the Secret.".into()),
        };
        assert_eq!(problem.text(), "the password is wrong. Put the right one into the Secret.");
        problem.hint = None;
        assert_eq!(problem.text(), "the password is wrong");
    }
}
