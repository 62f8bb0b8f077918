//! What carrying out a Failover and a Drill have in common: the journal in the vault, the steps that both
//! take, and the mirror of a run in the object's status.

pub mod databases;
pub mod drive;
pub mod finalizer;
pub mod journal;
pub mod metrics;
pub mod mirror;
pub mod opening;
pub mod remedy;
pub mod services;

use holdfast_api::RecoveryPlanSpec;
use holdfast_api::condition::reasons;
use holdfast_recovery::journal::JournalError;
use holdfast_recovery::{Plan, PlanProblem, RunError, Service};

use crate::apply::{Applicable, describe};

use drive::DriveError;

/// Finalizer of Failovers and Drills: the object stays until its execution is stopped or through.
pub const FINALIZER: &str = "holdfast.dev/run";

/// The plan as the runner sees it.
pub fn plan_of(spec: &RecoveryPlanSpec) -> Plan {
    Plan {
        databases: spec.databases.iter().map(|d| d.name.clone()).collect(),
        services: spec.services.iter().map(service_of).collect(),
    }
}

fn service_of(service: &holdfast_api::recovery_plan::PlanService) -> Service {
    Service { name: service.name.clone(), databases: service.databases.clone(), depends_on: service.depends_on.clone() }
}

/// The condition reason of a problem of the plan itself.
pub fn reason_of(problem: &PlanProblem) -> &'static str {
    match problem {
        PlanProblem::Cycle { .. } => reasons::PLAN_CYCLE,
        PlanProblem::UnknownDatabase { .. } | PlanProblem::NoDatabase => reasons::UNKNOWN_DATABASE,
        PlanProblem::UnknownService { .. } => reasons::UNKNOWN_SERVICE,
        PlanProblem::Duplicate { .. } => reasons::DUPLICATE_NAME,
    }
}

/// The journal of this object cannot be used.
pub fn faulty_journal<K: Applicable>(object: &K, reason: &impl std::fmt::Display) -> DriveError {
    let source = RunError::Journal(JournalError::Damaged(reason.to_string()));
    DriveError::Journal { object: describe(object), source }
}
