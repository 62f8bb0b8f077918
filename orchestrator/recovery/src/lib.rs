//! Recovery plans, their steps and the runner that journals each of them.
//!
//! Pure: this crate knows neither Kubernetes nor S3. A [`plan::Plan`] is checked and becomes a
//! [`graph::Graph`] of steps; [`decide::decide`] says, from the journal alone, what may happen next;
//! [`runner::Runner`] does it through an [`executor::Executor`] and writes every intent and every
//! result to a [`journal::Journal`] first. Who restarts anywhere reads the journal and goes on.

pub mod canonical;
pub mod decide;
pub mod executor;
pub mod graph;
pub mod journal;
pub mod plan;
pub mod runner;
pub mod state;

pub use decide::{Decision, decide};
pub use executor::{Executor, Progress, StepContext, StepError};
pub use graph::{Graph, Step, StepId, StepKind, Subject};
pub use journal::{Entry, Journal, JournalError, Line, Opening, Outcome, Record};
pub use plan::{Plan, PlanProblem, Service};
pub use runner::{Retry, RunEnd, RunError, Runner};
pub use state::{Phase, RunState, StepState};
