//! The custom resources of `holdfast.dev/v1alpha1`: what people write and what the operator answers.
//!
//! A resource's `spec` is what a person asks for; its `status` is what Holdfast has seen to be true.
//! The schema refuses what can be refused without looking at the world (CEL rules and patterns);
//! everything else becomes a condition. The texts on the fields are the reference that
//! `kubectl explain` prints.

#![expect(unreachable_pub, reason = "the schema derives put a public copy of each type into a function")]

pub mod common;
pub mod condition;
pub mod crds;
pub mod drill;
pub mod failover;
pub mod protected_database;
pub mod recovery_plan;
pub mod run;
pub mod standby_database;
pub mod vault;

pub use common::{Backup, DatabaseConnection, Durability, ObjectName, Problem, Protection, SecretReference};
pub use condition::{Condition, ConditionStatus, Conditioned, Conditions};
pub use crds::crds;
pub use drill::{Drill, DrillSpec, DrillStatus};
pub use failover::{Failover, FailoverSpec, FailoverStatus};
pub use protected_database::{ProtectedDatabase, ProtectedDatabaseSpec, ProtectedDatabaseStatus};
pub use recovery_plan::{RecoveryPlan, RecoveryPlanSpec, RecoveryPlanStatus};
pub use standby_database::{StandbyDatabase, StandbyDatabaseSpec, StandbyDatabaseStatus};
pub use vault::{CHECK_NOW_ANNOTATION, VERIFY_NOW_ANNOTATION, Vault, VaultSpec, VaultStatus};

/// The API group of every kind here.
pub const GROUP: &str = "holdfast.dev";
/// The one version of the API.
pub const VERSION: &str = "v1alpha1";
