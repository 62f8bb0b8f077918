//! Moves one database's bytes between PostgreSQL and the vault.
//!
//! | role | reads | writes |
//! | --- | --- | --- |
//! | [`agent`] | PostgreSQL (replication protocol) | the log and the base backups in the vault |
//! | [`relay`] | the log in the vault | PostgreSQL standbys (replication protocol) |
//! | [`archiver`] | the log in the vault | its segments and indexes in the vault |
//! | [`restore`] | a base backup in the vault | a standby's data directory |
//! | [`instance`] | a PostgreSQL server (SQL) | its promotion |
//!
//! A role takes its [`config`] and a cancellation token, and serves `/healthz`, `/status` (see [`status`]) and `/metrics`.
//! None of them ends because of a bad configuration or something that is away: it says so in its status and tries again.

pub mod agent;
mod archive;
pub mod archiver;
mod backoff;
mod board;
pub mod config;
#[doc(hidden)]
pub mod fuzzing;
mod http;
pub mod instance;
mod lag;
pub mod problem;
pub mod relay;
pub mod restore;
mod secret;
mod sql;
pub mod status;
mod store_metrics;
