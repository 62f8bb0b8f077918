//! What the operator writes for each role: one JSON file a process.
//!
//! Nothing in here is a secret: secrets are named by the directory or file they are mounted at, and read when they are
//! needed, so that a rotated password is picked up at the next connection.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_vault::VaultConfig;
use holdfast_wal::Lsn;
use serde::{Deserialize, Serialize};

/// The instance id of the database that was protected first: its lineage is the log's first.
pub const ORIGIN_INSTANCE: &str = "origin";

/// Where a standby's socket goes when the configuration does not say.
pub const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// When a commit counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// A commit waits until it is in the vault.
    Synchronous,
    /// A commit does not wait; the newest ones can be lost with the site.
    Asynchronous,
}

/// Where a PostgreSQL server is, and where its credentials are mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
    /// The database for SQL; replication needs none.
    #[serde(default = "default_database")]
    pub database: String,
    /// A directory with the files `username` and `password` (a mounted Secret).
    pub credentials_dir: PathBuf,
}

/// The agent: writes one database's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    pub vault: VaultConfig,
    /// age recipients; the agent cannot read what it wrote.
    pub recipients: Vec<String>,
    /// The database's name in the vault.
    pub name: String,
    /// Which server this is: [`ORIGIN_INSTANCE`], or the uid of a standby's volume.
    pub instance_id: String,
    pub connection: ConnectionConfig,
    pub durability: Durability,
    #[serde(default = "default_backup_interval_hours")]
    pub base_backup_interval_hours: u64,
    /// HTTP: `/healthz`, `/status`, `/metrics`.
    pub listen: SocketAddr,
    /// Take the log back from a takeover that was given up. A person's decision; never the agent's.
    #[serde(default)]
    pub reclaim: bool,
}

/// The relay: serves a log to PostgreSQL standbys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    pub vault: VaultConfig,
    /// A file of age identities (`AGE-SECRET-KEY-1…`).
    pub identity_file: PathBuf,
    pub name: String,
    /// HTTP: `/healthz`, `/status`, `/metrics`.
    pub listen: SocketAddr,
    /// PostgreSQL's replication protocol.
    pub serve: SocketAddr,
    /// A file with the password that standbys must know; without one, whoever reaches the port may follow.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Serve up to here and no further (a drill).
    #[serde(default)]
    pub until: Option<Until>,
}

/// A fixed end of what a relay serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    pub epoch: u64,
    pub lsn: Lsn,
}

/// The archiver: puts the log of one database together to segments, at a site that can decrypt it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiverConfig {
    pub vault: VaultConfig,
    /// A file of age identities (`AGE-SECRET-KEY-1…`): opens what the agent wrote.
    pub identity_file: PathBuf,
    /// age recipients of the segments.
    pub recipients: Vec<String>,
    /// The database's name in the vault.
    pub name: String,
    /// HTTP: `/healthz`, `/status`, `/metrics`.
    pub listen: SocketAddr,
    /// An index after so many segments.
    #[serde(default = "default_index_segments")]
    pub index_segments: u32,
    /// Extend the locks of the newest base backup and of the segments that it needs.
    #[serde(default = "default_rolling")]
    pub rolling: bool,
}

/// Restore: turns the newest base backup into a standby's data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    pub vault: VaultConfig,
    pub identity_file: PathBuf,
    pub name: String,
    /// The volume: the data directory is `<target>/pgdata`, the marker of a finished restore `<target>/holdfast-restore.json`.
    pub target: PathBuf,
    /// A backup's id; the newest complete one when absent.
    #[serde(default)]
    pub backup: Option<String>,
    /// Only a backup that ends here or before: a standby that is served no further than this would never be consistent with
    /// a later one.
    #[serde(default)]
    pub until: Option<Lsn>,
    /// The relay that the standby follows.
    pub primary: PrimaryAddress,
    pub instance_id: String,
    /// The `synchronous_standby_names` entry that is on from the first client after a promotion; none in a drill.
    #[serde(default)]
    pub synchronous_standby: Option<String>,
    #[serde(default = "default_socket_directory")]
    pub socket_directory: PathBuf,
}

/// A host and port of the replication protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryAddress {
    pub host: String,
    pub port: u16,
    /// A file with the password that the relay asks for.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// The name of the agent's replication slot, its `application_name` and its entry in `synchronous_standby_names`.
///
/// Slot names take lower-case letters, digits and underscores alone, 63 of them.
pub fn slot_name(name: &str) -> String {
    let tail: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    format!("holdfast_{tail}").chars().take(63).collect()
}

fn default_port() -> u16 {
    5432
}

fn default_database() -> String {
    "postgres".to_owned()
}

fn default_backup_interval_hours() -> u64 {
    24
}

fn default_index_segments() -> u32 {
    64
}

fn default_rolling() -> bool {
    true
}

fn default_socket_directory() -> PathBuf {
    PathBuf::from(DEFAULT_SOCKET_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_are_what_postgresql_accepts() {
        assert_eq!(slot_name("registration"), "holdfast_registration");
        assert_eq!(slot_name("Lab-1.eu"), "holdfast_lab_1_eu");
        assert_eq!(slot_name(&"x".repeat(100)).len(), 63);
    }
}
