//! A run's journal as it appears in status: pure.

use holdfast_api::run::{DatabaseResult, RunPhase, ServiceResult, Step as StepStatus, StepPhase};
use holdfast_recovery::executor::Remedy;
use holdfast_recovery::graph::{StepKind, Subject};
use holdfast_recovery::{Graph, Outcome, Phase, Plan, RunState, StepId, StepState};
use jiff::Timestamp;

/// Where the run stands.
pub fn phase(state: &RunState) -> RunPhase {
    match &state.finished {
        Some((Outcome::Succeeded, _)) => RunPhase::Succeeded,
        Some((Outcome::Failed, _)) => RunPhase::Failed,
        Some((Outcome::Aborted, _)) => RunPhase::Aborted,
        None if state.opening.is_some() => RunPhase::Running,
        None => RunPhase::Pending,
    }
}

/// When the first step began.
pub fn started_at(state: &RunState) -> Option<Timestamp> {
    state.steps.values().filter_map(|s| s.started_at).min()
}

/// Every step, in the order of the plan.
pub fn steps(graph: &Graph, state: &RunState) -> Vec<StepStatus> {
    let over = state.finished.is_some();
    graph
        .steps()
        .map(|step| {
            let at = state.step(&step.id).cloned().unwrap_or_default();
            StepStatus {
                name: step.id.to_string(),
                step: step.kind.name().to_owned(),
                database: step.subject.database().map(str::to_owned),
                service: step.subject.service().map(str::to_owned),
                state: step_phase(&at, over),
                started_at: at.started_at,
                finished_at: at.finished_at,
                duration_ms: duration_ms(&at),
                attempts: i32::try_from(at.attempts).unwrap_or(i32::MAX),
                message: message(&at),
            }
        })
        .collect()
}

fn step_phase(step: &StepState, over: bool) -> StepPhase {
    match step.phase {
        Phase::Pending => StepPhase::Pending,
        Phase::Begun => StepPhase::Running,
        Phase::Failed if over => StepPhase::Failed,
        Phase::Failed => StepPhase::Retrying,
        Phase::Done => StepPhase::Done,
    }
}

fn duration_ms(step: &StepState) -> Option<i64> {
    let took = step.finished_at?.duration_since(step.started_at?);
    i64::try_from(took.as_millis()).ok()
}

/// What a step says: its error and what to do, what it is doing, or what it found (`summary` of its result).
fn message(step: &StepState) -> Option<String> {
    let found = step.result.as_ref().and_then(|r| r.get("summary")).and_then(|s| s.as_str());
    let text = match (step.phase, found) {
        (Phase::Done, Some(found)) => found.to_owned(),
        _ if step.hint.is_empty() => step.message.clone(),
        _ => format!("{}; {}", step.message, step.hint),
    };
    (!text.is_empty()).then_some(text)
}

/// The result of a step's field, as text.
fn field(state: &RunState, id: &StepId, name: &str) -> Option<String> {
    let value = state.step(id)?.result.as_ref()?.get(name)?;
    value.as_str().map(str::to_owned)
}

/// What became of the databases; `writable` is the step after which one takes writes.
pub fn databases(plan: &Plan, state: &RunState, writable: StepKind) -> Vec<DatabaseResult> {
    plan.databases
        .iter()
        .map(|name| {
            let subject = Subject::Database(name.clone());
            let (takeover, replay) = (subject.step(StepKind::Takeover), subject.step(StepKind::Replay));
            let last = subject.step(writable);
            let writable_at = done_at(state, &last);
            DatabaseResult {
                name: name.clone(),
                sealed_lsn: field(state, &takeover, "sealedLsn").or_else(|| field(state, &replay, "sealedLsn")),
                promoted_lsn: field(state, &subject.step(StepKind::Promote), "promotedLsn")
                    .or_else(|| field(state, &last, "promotedLsn")),
                epoch: state.step(&last).and_then(|s| s.result.as_ref()?.get("epoch")?.as_i64()),
                writable_at,
                writable_after_seconds: after(state, writable_at),
            }
        })
        .collect()
}

/// What became of the services; `serving` is the step after which one serves.
pub fn services(plan: &Plan, state: &RunState, serving: StepKind) -> Vec<ServiceResult> {
    plan.services
        .iter()
        .map(|service| {
            let last = Subject::Service(service.name.clone()).step(serving);
            let serving_at = done_at(state, &last);
            ServiceResult { name: service.name.clone(), serving_at, serving_after_seconds: after(state, serving_at) }
        })
        .collect()
}

/// Seconds until the last of all, or nothing while one is missing.
pub fn last_of<'a>(seconds: impl Iterator<Item = &'a Option<f64>>) -> Option<f64> {
    seconds.copied().try_fold(None, |last: Option<f64>, next| {
        let next = next?;
        Some(Some(last.map_or(next, |l| l.max(next))))
    })?
}

fn done_at(state: &RunState, id: &StepId) -> Option<Timestamp> {
    state.step(id).filter(|s| s.phase == Phase::Done)?.finished_at
}

/// Seconds from the request to `at`, to the millisecond.
fn after(state: &RunState, at: Option<Timestamp>) -> Option<f64> {
    let requested = state.opening.as_ref()?.requested_at;
    let millis = at?.duration_since(requested).as_millis();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a recovery")]
    let seconds = millis.max(0) as f64 / 1000.0;
    Some(seconds)
}

/// What stands in the way of a run that goes on all the same, if it needs a person.
pub fn needs_a_person(graph: &Graph, state: &RunState) -> Option<String> {
    if let Some(problem) = &state.journal_problem {
        return Some(format!("the journal cannot be written, so nothing goes on: {problem}"));
    }
    let failed = |id: &StepId| state.step(id).filter(|s| s.phase == Phase::Failed);
    graph.steps().find_map(|step| {
        let at = failed(&step.id)?;
        (at.remedy == Some(Remedy::Person)).then(|| format!("{}: {}", step.id, message(at).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_recovery::journal::{Entry, Line, Opening, Record};
    use holdfast_recovery::{Service, StepError};
    use serde_json::json;

    fn plan() -> Plan {
        let service = Service { name: "lab".into(), databases: vec!["lab-db".into()], depends_on: vec![] };
        Plan { databases: vec!["lab-db".into()], services: vec![service] }
    }

    fn record(entries: Vec<(i64, Entry)>) -> Record {
        let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
        let lines = entries.into_iter().map(|(ms, entry)| Line { at: at(ms), entry }).collect();
        Record { runner: "r".into(), lines }
    }

    fn opening() -> Opening {
        Opening {
            kind: "failover".into(),
            requested_by: "hospital/f".into(),
            requested_at: Timestamp::from_millisecond(1000).unwrap(),
            plan_name: "p".into(),
            plan_hash: "h".into(),
            runbook_hash: "r".into(),
            plan: json!({}),
            reason: "test".into(),
        }
    }

    fn id(subject: &Subject, kind: StepKind) -> StepId {
        subject.step(kind)
    }

    #[test]
    fn status_shows_times_from_the_request_and_what_a_step_found() {
        let graph = Graph::failover(&plan()).unwrap();
        let db = Subject::Database("lab-db".into());
        let done = |kind, result| Entry::Done { step: id(&db, kind), result };
        let intent = |kind| Entry::Intent { step: id(&db, kind), attempt: 1, data: json!({}) };
        let state = RunState::from_records(&[record(vec![
            (1200, Entry::Started(Box::new(opening()))),
            (1200, intent(StepKind::Takeover)),
            (1300, done(StepKind::Takeover, json!({"sealedLsn": "0/3000060", "summary": "sealed"}))),
            (1900, done(StepKind::Protect, json!({"epoch": 4}))),
        ])]);
        let steps = steps(&graph, &state);
        assert_eq!(steps[0].name, "lab-db/takeover");
        assert_eq!((steps[0].state, steps[0].duration_ms), (StepPhase::Done, Some(100)));
        assert_eq!(steps[0].message.as_deref(), Some("sealed"));
        let databases = databases(&plan(), &state, StepKind::Protect);
        assert_eq!(databases[0].sealed_lsn.as_deref(), Some("0/3000060"));
        assert_eq!(databases[0].writable_after_seconds, Some(0.9));
        assert_eq!(databases[0].epoch, Some(4));
        let services = services(&plan(), &state, StepKind::Traffic);
        assert_eq!(services[0].serving_after_seconds, None);
        assert_eq!(phase(&state), RunPhase::Running);
    }

    #[test]
    fn the_last_of_all_counts_and_only_when_all_are_there() {
        assert_eq!(last_of([Some(1.0), Some(3.0), Some(2.0)].iter()), Some(3.0));
        assert_eq!(last_of([Some(1.0), None].iter()), None);
        assert_eq!(last_of([].iter()), None);
    }

    #[test]
    fn a_step_that_needs_a_person_is_named() {
        let graph = Graph::failover(&plan()).unwrap();
        let step = Subject::Service("lab".into()).step(StepKind::Start);
        let error = StepError::person("no Deployment lab", "apply it");
        let state = RunState::from_records(&[record(vec![(0, Entry::Failed { step, attempt: 1, error })])]);
        assert_eq!(needs_a_person(&graph, &state).as_deref(), Some("lab/start: no Deployment lab; apply it"));
    }
}
