//! A drill's run in the status of its object.

use std::sync::Arc;

use holdfast_api::condition::{reasons, types};
use holdfast_api::drill::IsolationProbe;
use holdfast_api::run::{RunPhase, Step};
use holdfast_api::{Condition, Conditions, Drill, DrillStatus};
use holdfast_recovery::graph::{StepKind, Subject};
use holdfast_recovery::{Graph, Phase, Plan, RunState};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::Context;
use crate::execution::drive::Mirror;
use crate::execution::mirror::{databases, last_of, needs_a_person, phase, services, started_at, steps};

/// The mirror of one Drill.
pub struct DrillMirror {
    pub(super) ctx: Arc<Context>,
    pub(super) drill: Arc<Drill>,
    pub(super) graph: Graph,
    pub(super) plan: Plan,
    /// The status before, with its conditions and what does not come from the journal.
    pub(super) last: DrillStatus,
}

impl Mirror for DrillMirror {
    type Status = DrillStatus;

    fn status(&mut self, state: &RunState) -> DrillStatus {
        self.last = render(&self.graph, &self.plan, state, &self.last, self.drill.metadata.generation);
        self.last.clone()
    }

    fn steps(&self) -> &[Step] {
        &self.last.steps
    }

    fn conditions(status: &DrillStatus) -> Vec<Condition> {
        status.conditions.clone()
    }

    fn cancelled(&self) -> Option<String> {
        let newest = self.ctx.stores.drills.get(&ObjectRef::from_obj(self.drill.as_ref()));
        let object = newest.filter(|d| d.uid() == self.drill.uid()).unwrap_or_else(|| self.drill.clone());
        let deleted = object.metadata.deletion_timestamp.is_some();
        deleted.then(|| "the Drill was deleted before its end".to_owned())
    }
}

fn render(graph: &Graph, plan: &Plan, state: &RunState, last: &DrillStatus, generation: Option<i64>) -> DrillStatus {
    let Some(opening) = &state.opening else {
        let conditions = match &state.journal_problem {
            Some(_) => conditions(graph, state, last, generation),
            None => last.conditions.clone(),
        };
        return DrillStatus { conditions, ..last.clone() };
    };
    let databases = databases(plan, state, StepKind::Open);
    let services = services(plan, state, StepKind::Probe);
    let isolation = isolation(state);
    let clean_up = Subject::Run.step(StepKind::CleanUp);
    DrillStatus {
        observed_generation: generation,
        phase: phase(state),
        namespace: last.namespace.clone(),
        started_at: started_at(state),
        finished_at: state.finished_at,
        writable_after_seconds: last_of(databases.iter().map(|d| &d.writable_after_seconds)),
        serving_after_seconds: last_of(services.iter().map(|s| &s.serving_after_seconds)),
        isolated: (!isolation.is_empty()).then(|| isolation.iter().all(|p| p.reached == p.must_reach)),
        isolation,
        cleaned_up: state.phase(&clean_up) == Phase::Done,
        plan_hash: Some(opening.plan_hash.clone()),
        runbook_hash: Some(opening.runbook_hash.clone()),
        vault: last.vault.clone(),
        evidence: last.evidence.clone(),
        databases,
        services,
        steps: steps(graph, state),
        conditions: conditions(graph, state, last, generation),
    }
}

fn isolation(state: &RunState) -> Vec<IsolationProbe> {
    let step = state.step(&Subject::Run.step(StepKind::Isolation));
    let probes = step.and_then(|s| s.result.as_ref()?.get("probes").cloned());
    probes.and_then(|p| serde_json::from_value(p).ok()).unwrap_or_default()
}

fn conditions(graph: &Graph, state: &RunState, last: &DrillStatus, generation: Option<i64>) -> Vec<Condition> {
    let mut conditions = Conditions::of(&last.conditions, generation, Timestamp::now());
    let why = state.finished.as_ref().map(|(_, message)| message.clone()).unwrap_or_default();
    let cleaned = "everything that it made is gone; production was not touched";
    match phase(state) {
        RunPhase::Succeeded => {
            conditions.set(types::COMPLETE, true, reasons::SUCCEEDED, format!("the plan works; {cleaned}"));
            conditions.set(types::FAILED, false, reasons::SUCCEEDED, "no step failed for good");
        }
        RunPhase::Failed | RunPhase::Aborted => {
            let failed = phase(state) == RunPhase::Failed;
            let reason = if failed { reasons::STEP_FAILED } else { reasons::ABORTED };
            conditions.set(types::COMPLETE, false, reason, format!("{why}; {cleaned}"));
            conditions.set(types::FAILED, true, reason, format!("{why}; {cleaned}"));
        }
        _ => {
            let done = steps(graph, state).iter().filter(|s| s.finished_at.is_some()).count();
            let progress = format!("{done} of {} steps are done", graph.len());
            let message = match needs_a_person(graph, state) {
                Some(what) => format!("{progress}; {what}; what it made is being removed"),
                None => progress,
            };
            conditions.set(types::COMPLETE, false, reasons::RUNNING, message);
            conditions.set(types::FAILED, false, reasons::RUNNING, "it goes on");
        }
    }
    conditions.into_vec()
}
