//! A failover's run in the status of its object.

use std::sync::Arc;

use holdfast_api::condition::{reasons, types};
use holdfast_api::run::{RunPhase, Step};
use holdfast_api::{Condition, Conditions, Failover, FailoverStatus};
use holdfast_recovery::graph::StepKind;
use holdfast_recovery::{Graph, Plan, RunState};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::Context;
use crate::execution::drive::Mirror;
use crate::execution::mirror::{databases, last_of, needs_a_person, phase, services, started_at, steps};

/// The mirror of one Failover.
pub struct FailoverMirror {
    pub(super) ctx: Arc<Context>,
    pub(super) failover: Arc<Failover>,
    pub(super) graph: Graph,
    pub(super) plan: Plan,
    /// The status before, with its conditions and what does not come from the journal.
    pub(super) last: FailoverStatus,
}

impl Mirror for FailoverMirror {
    type Status = FailoverStatus;

    fn status(&mut self, state: &RunState) -> FailoverStatus {
        let generation = self.failover.metadata.generation;
        self.last = render(&self.graph, &self.plan, state, &self.last, generation);
        self.last.clone()
    }

    fn steps(&self) -> &[Step] {
        &self.last.steps
    }

    fn conditions(status: &FailoverStatus) -> Vec<Condition> {
        status.conditions.clone()
    }

    fn cancelled(&self) -> Option<String> {
        let newest = self.ctx.stores.failovers.get(&ObjectRef::from_obj(self.failover.as_ref()));
        let object = newest.filter(|f| f.uid() == self.failover.uid()).unwrap_or_else(|| self.failover.clone());
        let deleted = object.metadata.deletion_timestamp.is_some();
        deleted.then(|| "the Failover was deleted before the point of no return".to_owned())
    }
}

/// The whole status of a run: pure but for the transition times.
pub fn render(
    graph: &Graph,
    plan: &Plan,
    state: &RunState,
    last: &FailoverStatus,
    generation: Option<i64>,
) -> FailoverStatus {
    // Before the journal is loaded nothing is known that status does not have.
    let Some(opening) = &state.opening else {
        let conditions = match &state.journal_problem {
            Some(_) => conditions(graph, state, last, generation),
            None => last.conditions.clone(),
        };
        return FailoverStatus { conditions, ..last.clone() };
    };
    let databases = databases(plan, state, StepKind::Protect);
    let services = services(plan, state, StepKind::Traffic);
    FailoverStatus {
        observed_generation: generation,
        phase: phase(state),
        started_at: started_at(state),
        finished_at: state.finished_at,
        past_no_return: state.past_no_return(graph),
        writable_after_seconds: last_of(databases.iter().map(|d| &d.writable_after_seconds)),
        serving_after_seconds: last_of(services.iter().map(|s| &s.serving_after_seconds)),
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

fn conditions(graph: &Graph, state: &RunState, last: &FailoverStatus, generation: Option<i64>) -> Vec<Condition> {
    let mut conditions = Conditions::of(&last.conditions, generation, Timestamp::now());
    let why = state.finished.as_ref().map(|(_, message)| message.clone()).unwrap_or_default();
    let done = steps(graph, state).iter().filter(|s| s.finished_at.is_some()).count();
    let progress = format!("{done} of {} steps are done", graph.len());
    match phase(state) {
        RunPhase::Succeeded => {
            conditions.set(types::COMPLETE, true, reasons::SUCCEEDED, format!("all {} steps are done", graph.len()));
            conditions.set(types::FAILED, false, reasons::SUCCEEDED, "no step failed for good");
        }
        RunPhase::Failed => {
            let advice = "nothing was promoted: mend it and create another Failover";
            conditions.set(types::COMPLETE, false, reasons::STEP_FAILED, format!("{why}; {advice}"));
            conditions.set(types::FAILED, true, reasons::STEP_FAILED, format!("{why}; {advice}"));
        }
        RunPhase::Aborted => {
            let advice = "nothing was promoted; the old primary takes its log back with the annotation holdfast.dev/reclaim=true on its ProtectedDatabase";
            conditions.set(types::COMPLETE, false, reasons::ABORTED, format!("{why}; {advice}"));
            conditions.set(types::FAILED, true, reasons::ABORTED, format!("{why}; {advice}"));
        }
        _ => {
            let (reason, message) = match needs_a_person(graph, state) {
                Some(what) => (reasons::NEEDS_A_PERSON, format!("{progress}; {what}")),
                None => (reasons::RUNNING, progress),
            };
            conditions.set(types::COMPLETE, false, reason, message);
            conditions.set(types::FAILED, false, reasons::RUNNING, "it goes on");
        }
    }
    conditions.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::{find, is_true};
    use holdfast_recovery::journal::{Entry, Line, Opening, Outcome, Record};
    use serde_json::json;

    fn plan() -> Plan {
        Plan { databases: vec!["lab-db".into()], services: vec![] }
    }

    fn rendered(end: Option<(Outcome, &str)>) -> FailoverStatus {
        let graph = Graph::failover(&plan()).unwrap();
        let opening = Opening {
            kind: "failover".into(),
            requested_by: "hospital/f".into(),
            requested_at: Timestamp::UNIX_EPOCH,
            plan_name: "p".into(),
            plan_hash: "h".into(),
            runbook_hash: "r".into(),
            plan: json!({}),
            reason: "test".into(),
        };
        let mut entries = vec![Entry::Started(Box::new(opening))];
        entries.extend(end.map(|(outcome, message)| Entry::Finished { outcome, message: message.into() }));
        let lines = entries.into_iter().map(|entry| Line { at: Timestamp::UNIX_EPOCH, entry }).collect();
        let state = RunState::from_records(&[Record { runner: "r".into(), lines }]);
        let last = FailoverStatus { evidence: Some("run/u".into()), ..FailoverStatus::default() };
        render(&graph, &plan(), &state, &last, Some(1))
    }

    #[test]
    fn each_end_has_its_conditions_and_says_what_to_do() {
        let running = rendered(None);
        assert_eq!((running.phase, running.evidence.as_deref()), (RunPhase::Running, Some("run/u")));
        assert!(!is_true(&running.conditions, types::COMPLETE) && !is_true(&running.conditions, types::FAILED));
        let done = rendered(Some((Outcome::Succeeded, "")));
        assert!(is_true(&done.conditions, types::COMPLETE) && !is_true(&done.conditions, types::FAILED));
        let failed = rendered(Some((Outcome::Failed, "lab-db/takeover: no bucket")));
        assert!(!is_true(&failed.conditions, types::COMPLETE) && is_true(&failed.conditions, types::FAILED));
        let message = &find(&failed.conditions, types::FAILED).unwrap().message;
        assert!(message.contains("no bucket") && message.contains("nothing was promoted"), "{message}");
        let aborted = rendered(Some((Outcome::Aborted, "deleted")));
        assert!(find(&aborted.conditions, types::COMPLETE).unwrap().message.contains("reclaim"));
    }

    #[test]
    fn a_vault_that_is_away_is_said_before_the_run_has_begun() {
        let graph = Graph::failover(&plan()).unwrap();
        let state = RunState { journal_problem: Some("no route".into()), ..RunState::default() };
        let status = render(&graph, &plan(), &state, &FailoverStatus::default(), Some(1));
        assert!(find(&status.conditions, types::COMPLETE).unwrap().message.contains("no route"));
    }
}
