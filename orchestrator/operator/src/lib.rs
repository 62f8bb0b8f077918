//! The controllers: one folder a kind, whose files are its steps (observe, validate, build, apply, status).
//!
//! Validate, build and status are pure functions of what was observed. Everything that is written to
//! the cluster goes through [`apply`] by server-side apply as field manager `holdfast`.

pub mod apply;
pub mod claims;
pub mod context;
mod database_metrics;
pub mod drill;
pub mod error;
pub mod events;
pub mod execution;
pub mod failover;
pub mod http;
pub mod metrics;
pub mod pod;
pub mod protected_database;
pub mod protection;
pub mod recovery_plan;
pub mod restricted;
pub mod role;
pub mod roles;
pub mod run;
pub mod runbook;
pub mod standby_database;
pub mod vault;
pub mod vault_access;
pub mod verification;

pub use context::Context;
pub use error::{Error, ReconcileError};
pub use run::{OperatorConfig, RunError, run};
