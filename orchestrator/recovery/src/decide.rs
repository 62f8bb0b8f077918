//! What may happen next: a pure function of the graph, the journal and what runs here.

use crate::executor::Remedy;
use crate::graph::{Graph, Step, StepId};
use crate::journal::Outcome;
use crate::state::{Phase, RunState};

/// What the runner does next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Steps whose intent is to be written now, and which then start.
    pub start: Vec<StepId>,
    /// The run is over once nothing runs any more: stop what runs, write this, and end.
    pub finish: Option<(Outcome, String)>,
    /// Stop what runs of the ordinary steps: the run has failed or was cancelled.
    pub stop_running: bool,
}

/// Decides from the journal (`state`), from what runs in this process (`running`) and from which
/// failed steps have waited long enough (`may_retry`).
///
/// `max_attempts` bounds the attempts of steps that fail retryably; `None` is for ever. Beyond the
/// point of no return every step is tried for ever.
pub fn decide(
    graph: &Graph,
    state: &RunState,
    running: impl Fn(&StepId) -> bool,
    may_retry: impl Fn(&StepId) -> bool,
    max_attempts: Option<u32>,
) -> Decision {
    let startable = |step: &&Step| {
        !running(&step.id)
            && step.after.iter().all(|a| state.phase(a) == Phase::Done)
            && state.phase(&step.id) != Phase::Done
            && may_retry(&step.id)
    };
    let ending = ending(graph, state, max_attempts);
    let ordinary_over = ending.is_some() || all_done(graph.steps().filter(|s| !s.always), state);
    if !ordinary_over {
        let ordinary = graph.steps().filter(|s| !s.always);
        return Decision { start: ordinary.filter(startable).map(|s| s.id.clone()).collect(), ..Decision::default() };
    }
    let always = graph.steps().filter(|s| s.always);
    let start: Vec<StepId> = always.filter(startable).map(|s| s.id.clone()).collect();
    let finish = all_done(graph.steps().filter(|s| s.always), state)
        .then(|| ending.clone().unwrap_or((Outcome::Succeeded, String::new())));
    Decision { start, finish, stop_running: ending.is_some() }
}

fn all_done<'a>(mut steps: impl Iterator<Item = &'a Step>, state: &RunState) -> bool {
    steps.all(|s| state.phase(&s.id) == Phase::Done)
}

/// How the run ends early, if it does. Never past the point of no return.
fn ending(graph: &Graph, state: &RunState, max_attempts: Option<u32>) -> Option<(Outcome, String)> {
    if state.past_no_return(graph) {
        return None;
    }
    if let Some(failure) = failure(graph, state, max_attempts) {
        return Some((Outcome::Failed, failure));
    }
    // Cancelled once everything was done: it is done.
    let over = all_done(graph.steps().filter(|s| !s.always), state);
    let reason = state.cancelled.as_ref().filter(|_| !over)?;
    Some((Outcome::Aborted, reason.clone()))
}

fn failure(graph: &Graph, state: &RunState, max_attempts: Option<u32>) -> Option<String> {
    let ordinary = graph.steps().filter(|s| !s.always);
    ordinary.into_iter().find_map(|step| {
        let at = state.step(&step.id).filter(|s| s.phase == Phase::Failed)?;
        let exhausted = max_attempts.is_some_and(|max| at.attempts >= max);
        let hint = if at.hint.is_empty() { String::new() } else { format!("; {}", at.hint) };
        (at.remedy == Some(Remedy::Person) || exhausted).then(|| format!("{}: {}{hint}", step.id, at.message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::StepError;
    use crate::graph::tests::hospital;
    use crate::journal::{Entry, Line};
    use jiff::Timestamp;
    use serde_json::Value;

    fn id(graph: &Graph, name: &str) -> StepId {
        let step = graph.steps().find(|s| s.id.as_str() == name);
        step.unwrap_or_else(|| panic!("no step {name}")).id.clone()
    }

    fn line(entry: Entry) -> Line {
        Line { at: Timestamp::UNIX_EPOCH, entry }
    }

    fn begin(state: &mut RunState, graph: &Graph, name: &str) {
        state.apply(&line(Entry::Intent { step: id(graph, name), attempt: 1, data: Value::Null }));
    }

    fn done(state: &mut RunState, graph: &Graph, name: &str) {
        state.apply(&line(Entry::Done { step: id(graph, name), result: Value::Null }));
    }

    fn fail(state: &mut RunState, graph: &Graph, name: &str, error: StepError) {
        state.apply(&line(Entry::Failed { step: id(graph, name), attempt: 1, error }));
    }

    fn next(graph: &Graph, state: &RunState) -> Decision {
        decide(graph, state, |_| false, |_| true, None)
    }

    fn starts(decision: &Decision) -> Vec<&str> {
        decision.start.iter().map(StepId::as_str).collect()
    }

    const DATABASES: [&str; 3] = ["registration", "billing", "lab"];

    fn replayed(graph: &Graph) -> RunState {
        let mut state = RunState::default();
        for db in DATABASES {
            done(&mut state, graph, &format!("{db}/takeover"));
            done(&mut state, graph, &format!("{db}/replay"));
        }
        state
    }

    #[test]
    fn all_databases_start_at_once() {
        let graph = Graph::failover(&hospital()).unwrap();
        assert_eq!(
            starts(&next(&graph, &RunState::default())),
            ["registration/takeover", "billing/takeover", "lab/takeover"]
        );
    }

    #[test]
    fn what_was_begun_before_a_crash_is_repeated() {
        let graph = Graph::failover(&hospital()).unwrap();
        let mut state = RunState::default();
        begin(&mut state, &graph, "lab/takeover");
        assert!(starts(&next(&graph, &state)).contains(&"lab/takeover"));
        let here = decide(&graph, &state, |s| s.as_str() == "lab/takeover", |_| true, None);
        assert!(!starts(&here).contains(&"lab/takeover"));
    }

    #[test]
    fn a_failure_that_needs_a_person_ends_the_run_before_the_point_of_no_return() {
        let graph = Graph::failover(&hospital()).unwrap();
        let mut state = RunState::default();
        fail(&mut state, &graph, "lab/takeover", StepError::person("bucket gone", "make it"));
        let decision = next(&graph, &state);
        assert!(decision.stop_running && decision.start.is_empty());
        assert_eq!(decision.finish, Some((Outcome::Failed, "lab/takeover: bucket gone; make it".to_owned())));
    }

    #[test]
    fn past_the_point_of_no_return_there_is_only_forward() {
        let graph = Graph::failover(&hospital()).unwrap();
        let mut state = replayed(&graph);
        begin(&mut state, &graph, "billing/promote-seal");
        state.apply(&line(Entry::Cancelled { reason: "stop".into() }));
        fail(&mut state, &graph, "lab/promote-seal", StepError::person("denied", ""));
        let decision = next(&graph, &state);
        assert_eq!(decision.finish, None);
        assert!(!decision.stop_running);
        assert!(starts(&decision).contains(&"lab/promote-seal"));
    }

    #[test]
    fn a_cancelled_run_stops_before_it() {
        let graph = Graph::failover(&hospital()).unwrap();
        let mut state = replayed(&graph);
        state.apply(&line(Entry::Cancelled { reason: "stop".into() }));
        assert_eq!(next(&graph, &state).finish, Some((Outcome::Aborted, "stop".into())));
    }

    #[test]
    fn a_failed_drill_reports_and_cleans_up_before_it_ends() {
        let graph = Graph::drill(&hospital()).unwrap();
        let mut state = RunState::default();
        done(&mut state, &graph, "prepare");
        fail(&mut state, &graph, "lab/restore", StepError::retry("slow"));
        assert_eq!(starts(&next(&graph, &state)), ["registration/restore", "billing/restore", "lab/restore"]);
        let bounded = |state: &RunState| decide(&graph, state, |_| false, |_| true, Some(1));
        let decision = bounded(&state);
        assert_eq!(starts(&decision), ["report"]);
        assert_eq!(decision.finish, None);
        done(&mut state, &graph, "report");
        assert_eq!(starts(&bounded(&state)), ["clean-up"]);
        // Clean-up is tried for ever, whatever the bound.
        fail(&mut state, &graph, "clean-up", StepError::retry("busy"));
        assert_eq!(starts(&bounded(&state)), ["clean-up"]);
        done(&mut state, &graph, "clean-up");
        assert_eq!(bounded(&state).finish, Some((Outcome::Failed, "lab/restore: slow".into())));
    }

    #[test]
    fn a_rewound_seal_is_before_the_point_of_no_return_again() {
        let graph = Graph::failover(&hospital()).unwrap();
        let mut state = replayed(&graph);
        begin(&mut state, &graph, "lab/promote-seal");
        assert!(state.past_no_return(&graph));
        state.apply(&line(Entry::Rewound {
            steps: graph.from_the_start_of_subject(&id(&graph, "lab/promote-seal")),
            reason: "lost".into(),
        }));
        assert!(!state.past_no_return(&graph));
        assert_eq!(starts(&next(&graph, &state)), ["lab/takeover"]);
    }
}
