//! The status of a ProtectedDatabase. Pure.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{Conditions, ProtectedDatabase, ProtectedDatabaseStatus};
use holdfast_dataplane::status::AgentStatus;
use jiff::Timestamp;

use super::validate::Fault;
use crate::protection::{self, Wanted};
use crate::role::RoleError;

/// The status that follows from the verdict on the spec and from what the agent says.
pub(crate) fn derive(
    database: &ProtectedDatabase,
    fault: Option<&Fault>,
    agent: &Result<AgentStatus, RoleError>,
    now: Timestamp,
) -> ProtectedDatabaseStatus {
    let old = database.status.clone().unwrap_or_default();
    let generation = database.metadata.generation;
    let mut conditions = Conditions::of(&old.conditions, generation, now);
    let (ready, reason, message) = ready(fault, agent);
    conditions.set(types::READY, ready, &reason, message);
    let wanted = Wanted {
        durability: database.spec.durability,
        backup_interval_hours: database.spec.base_backup.interval_hours,
    };
    // Where nothing was ever started, "the agent does not answer" would only hide what is wrong.
    match (agent, fault) {
        (Err(_), Some(fault)) => {
            conditions.set(types::PROTECTED, false, &fault.reason, fault.message.clone());
        }
        _ => protection::set_conditions(&mut conditions, &wanted, agent.as_ref(), now),
    }
    ProtectedDatabaseStatus {
        observed_generation: generation,
        // An agent that does not answer has not unstored anything: what it said last stays.
        protection: agent.as_ref().ok().map(protection::protection).or(old.protection),
        conditions: conditions.into_vec(),
    }
}

fn ready(fault: Option<&Fault>, agent: &Result<AgentStatus, RoleError>) -> (bool, String, String) {
    if let Some(fault) = fault {
        return (false, fault.reason.clone(), fault.message.clone());
    }
    match agent {
        Err(error) => {
            let problem = error.problem(reasons::AGENT_UNREACHABLE);
            (false, problem.code.clone(), problem.text())
        }
        Ok(agent) => match protection::obstacle(agent) {
            Some((reason, message)) => (false, reason, message),
            None => match &agent.problem {
                Some(p) => (false, p.code.clone(), protection::problem(p).text()),
                None => (true, reasons::AVAILABLE.to_owned(), "WAL flows into the vault".to_owned()),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::{ConditionStatus, find};
    use holdfast_dataplane::status::{AgentState, Problem};
    use serde_json::json;

    fn database() -> ProtectedDatabase {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ProtectedDatabase",
            "metadata": {"name": "lab", "namespace": "hospital", "uid": "u", "generation": 4},
            "spec": {"vault": {"name": "v"},
                "connection": {"host": "lab", "credentials": {"secretName": "lab-db"}}}
        }))
        .unwrap()
    }

    fn streaming(problem: Option<Problem>) -> Result<AgentStatus, RoleError> {
        Ok(AgentStatus { state: AgentState::Streaming, synchronous: true, problem, ..AgentStatus::default() })
    }

    fn silent(is_stuck: bool) -> Result<AgentStatus, RoleError> {
        Err(RoleError::NotRunning { message: "pod lab-agent cannot be scheduled".into(), is_stuck })
    }

    #[test]
    fn ready_is_the_fault_then_the_agent() {
        let fault = Fault::new(reasons::NAME_TAKEN, "taken");
        let store_away = Problem::new("VaultUnreachable", "no answer", "wait");
        let cases = [
            (None, streaming(None), true, reasons::AVAILABLE),
            (None, streaming(Some(store_away)), false, "VaultUnreachable"),
            (None, silent(false), false, reasons::STARTING),
            (None, silent(true), false, reasons::POD_NOT_RUNNING),
            (Some(&fault), streaming(None), false, reasons::NAME_TAKEN),
        ];
        for (fault, agent, ready, reason) in cases {
            let status = derive(&database(), fault, &agent, Timestamp::UNIX_EPOCH);
            let found = find(&status.conditions, types::READY).unwrap();
            assert_eq!(found.status, ConditionStatus::from(ready), "{reason}");
            assert_eq!(found.reason, reason);
            assert_eq!(found.observed_generation, Some(4));
        }
    }

    #[test]
    fn a_bad_spec_does_not_hide_that_the_agent_still_protects() {
        let fault = Fault::new(reasons::CREDENTIALS_MISSING, "gone");
        let status = derive(&database(), Some(&fault), &streaming(None), Timestamp::UNIX_EPOCH);
        let protected = find(&status.conditions, types::PROTECTED).unwrap();
        assert_eq!(protected.status, ConditionStatus::True);

        let status = derive(&database(), Some(&fault), &silent(false), Timestamp::UNIX_EPOCH);
        let protected = find(&status.conditions, types::PROTECTED).unwrap();
        assert_eq!(protected.reason, reasons::CREDENTIALS_MISSING);
    }
}
