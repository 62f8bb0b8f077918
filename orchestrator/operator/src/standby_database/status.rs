//! The status of a StandbyDatabase. Pure.

use holdfast_api::condition::{is_true, reasons, types};
use holdfast_api::standby_database::{Phase, Role};
use holdfast_api::{Conditions, Problem, StandbyDatabase, StandbyDatabaseStatus};
use holdfast_dataplane::instance::RecoveryState;
use holdfast_dataplane::status::{AgentStatus, RelayState, RelayStatus};
use jiff::Timestamp;

use super::archive;
use super::observe::{Observed, PodState};
use crate::protected_database::Fault;
use crate::protection::{self, Wanted, signed};
use crate::role::RoleError;

/// The interval of the base backups of a promoted standby.
const BACKUP_INTERVAL_HOURS: u32 = 24;

/// Whether this very copy takes writes, or did when it was seen last: there is no way back.
pub(crate) fn is_promoted(standby: &StandbyDatabase, observed: &Observed) -> bool {
    if let Ok(server) = &observed.server {
        return !server.in_recovery;
    }
    standby.status.as_ref().is_some_and(|old| {
        let same = observed.instance_id.is_none() || observed.instance_id == old.instance_id;
        same && is_true(&old.conditions, types::PROMOTED)
    })
}

/// The status that follows from the verdict on the spec and from what the parts say.
pub(crate) fn derive(
    standby: &StandbyDatabase,
    fault: Option<&Fault>,
    observed: &Observed,
    now: Timestamp,
) -> StandbyDatabaseStatus {
    let old = standby.status.clone().unwrap_or_default();
    let generation = standby.metadata.generation;
    let mut conditions = Conditions::of(&old.conditions, generation, now);
    let promoted = is_promoted(standby, observed);
    let finding = judge(fault, observed, promoted);
    set_conditions(&mut conditions, standby, &finding, observed, now);
    archive::set(&mut conditions, observed);
    let server = observed.server.as_ref().ok();
    let relay = observed.relay.as_ref().ok();
    let agent = observed.agent.as_ref().and_then(|a| a.as_ref().ok());
    let text = |lsn: Option<holdfast_wal::Lsn>| lsn.map(|l| l.to_string());
    let epoch = match (promoted, agent.and_then(|a| a.epoch)) {
        (true, Some(epoch)) => Some(epoch),
        _ => relay.and_then(|r| r.tip_epoch),
    };
    StandbyDatabaseStatus {
        observed_generation: generation,
        phase: finding.phase,
        instance_id: observed.instance_id.clone().or(old.instance_id),
        role: server.map(role),
        received_lsn: server.map_or(old.received_lsn, |s| text(s.receive_lsn)),
        replayed_lsn: server.map_or(old.replayed_lsn, |s| text(s.replay_lsn)),
        tip_lsn: relay.map_or(old.tip_lsn, |r| text(r.tip)),
        lag_bytes: if promoted { None } else { lag_bytes(server, relay) },
        lag_seconds: match observed.behind {
            Some(behind) if !promoted => Some((behind.as_secs_f64() * 10.0).round() / 10.0),
            _ => None,
        },
        timeline: server.map_or(old.timeline, |s| Some(i64::from(s.timeline.0))),
        epoch: epoch.map(signed).or(old.epoch),
        sealed_lsn: relay.map_or(old.sealed_lsn, |r| text(r.sealed)),
        problem: finding.problem,
        protection: agent.filter(|_| promoted).map(protection::protection),
        archive: match &observed.archiver {
            Some(Ok(archiver)) => Some(archive::archive(archiver)),
            // What is in segments stays there while nobody answers.
            Some(Err(_)) => old.archive,
            None => None,
        },
        conditions: conditions.into_vec(),
    }
}

fn role(server: &RecoveryState) -> Role {
    if server.in_recovery { Role::Standby } else { Role::Primary }
}

fn lag_bytes(server: Option<&RecoveryState>, relay: Option<&RelayStatus>) -> Option<i64> {
    let tip = relay?.tip?;
    let replayed = server?.replay_lsn?;
    Some(signed(tip.0.saturating_sub(replayed.0)))
}

/// Where the standby is, and what stands in its way.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    phase: Phase,
    problem: Option<Problem>,
}

impl Finding {
    fn well(phase: Phase) -> Self {
        Self { phase, problem: None }
    }

    fn wrong(phase: Phase, problem: Problem) -> Self {
        Self { phase, problem: Some(problem) }
    }
}

fn judge(fault: Option<&Fault>, observed: &Observed, promoted: bool) -> Finding {
    let fault = fault.map(|f| Problem { code: f.reason.clone(), message: f.message.clone(), hint: None });
    match (&observed.server, fault) {
        (Ok(_), fault) if promoted => {
            Finding { phase: Phase::Promoted, problem: fault.or_else(|| promoted_problem(observed.agent.as_ref())) }
        }
        (Err(error), fault) if promoted => {
            Finding { phase: Phase::Promoted, problem: fault.or_else(|| Some(down(error, &observed.pod))) }
        }
        (Ok(server), fault) => match following_problem(server, &observed.relay) {
            Some(problem) => Finding::wrong(Phase::Problem, problem),
            None => Finding {
                phase: if is_sealed(&observed.relay) { Phase::Sealed } else { Phase::Following },
                problem: fault,
            },
        },
        (Err(_), Some(fault)) => Finding::wrong(Phase::Pending, fault),
        (Err(error), None) => not_up(error, &observed.pod),
    }
}

/// Why a promoted server does not answer.
fn down(error: &RoleError, pod: &PodState) -> Problem {
    not_up(error, pod).problem.unwrap_or_else(|| Problem {
        code: reasons::STARTING.to_owned(),
        message: "the promoted server is starting".to_owned(),
        hint: None,
    })
}

fn is_sealed(relay: &Result<RelayStatus, RoleError>) -> bool {
    relay.as_ref().is_ok_and(|r| r.sealed.is_some())
}

fn not_up(error: &RoleError, pod: &PodState) -> Finding {
    match pod {
        PodState::Restoring => Finding::well(Phase::Restoring),
        PodState::RestoreFailed(problem) => Finding::wrong(Phase::Problem, problem.clone()),
        PodState::Stuck(message) => Finding::wrong(
            Phase::Problem,
            Problem { code: reasons::POD_NOT_RUNNING.to_owned(), message: message.clone(), hint: None },
        ),
        PodState::Starting if is_on_its_way(error) => Finding::well(Phase::Pending),
        PodState::Starting => Finding::wrong(Phase::Problem, error.problem(reasons::DATABASE_UNREACHABLE)),
    }
}

/// A server that starts says so, or nothing listens yet.
fn is_on_its_way(error: &RoleError) -> bool {
    use holdfast_dataplane::instance::{InstanceError, SqlError};
    match error {
        RoleError::Instance(InstanceError::Sql(sql)) => {
            matches!(sql, SqlError::Starting { .. } | SqlError::Unreachable { .. })
        }
        other => other.is_starting(),
    }
}

fn following_problem(server: &RecoveryState, relay: &Result<RelayStatus, RoleError>) -> Option<Problem> {
    if server.replay_paused {
        return Some(Problem {
            code: reasons::NOT_FOLLOWING.to_owned(),
            message: "replay is paused on the server".to_owned(),
            hint: Some(
                "Look at its log: PostgreSQL pauses when one of its limits is below the source's. \
                 SELECT pg_wal_replay_resume() goes on"
                    .to_owned(),
            ),
        });
    }
    match relay {
        Err(error) if error.is_starting() => None,
        Err(error) => Some(error.problem(reasons::RELAY_UNREACHABLE)),
        Ok(relay) => match relay.state {
            RelayState::Starting | RelayState::Serving | RelayState::Finished => None,
            RelayState::Retrying | RelayState::Damaged | RelayState::Refused => Some(match &relay.problem {
                Some(p) => protection::problem(p),
                None => Problem {
                    code: reasons::NOT_FOLLOWING.to_owned(),
                    message: format!("the relay is in state {:?}", relay.state),
                    hint: None,
                },
            }),
        },
    }
}

fn promoted_problem(agent: Option<&Result<AgentStatus, RoleError>>) -> Option<Problem> {
    match agent? {
        Err(error) => Some(error.problem(reasons::AGENT_UNREACHABLE)),
        Ok(agent) => match protection::obstacle(agent) {
            Some((code, message)) => Some(Problem { code, message, hint: None }),
            None => agent.problem.as_ref().map(protection::problem),
        },
    }
}

fn set_conditions(
    conditions: &mut Conditions,
    standby: &StandbyDatabase,
    finding: &Finding,
    observed: &Observed,
    now: Timestamp,
) {
    set_ready(conditions, finding);
    set_following(conditions, finding, observed);
    if finding.phase != Phase::Promoted {
        let message = "it is in recovery, or not up";
        conditions.set(types::PROMOTED, false, reasons::NOT_PROMOTED, message);
        return;
    }
    conditions.set(types::PROMOTED, true, reasons::PROMOTED, "it was promoted: this copy is the primary");
    if let Some(agent) = &observed.agent {
        let wanted = Wanted { durability: standby.spec.durability, backup_interval_hours: BACKUP_INTERVAL_HOURS };
        protection::set_conditions(conditions, &wanted, agent.as_ref(), now);
    }
}

fn set_ready(conditions: &mut Conditions, finding: &Finding) {
    if let Some(problem) = &finding.problem {
        conditions.set(types::READY, false, &problem.code, problem.text());
        return;
    }
    let (ready, reason, message) = match finding.phase {
        Phase::Following => (true, reasons::REPLAYING, "it replays what arrives in the vault"),
        Phase::Sealed => (true, reasons::SEALED, "the log is sealed; it replays up to the seal and can be promoted"),
        Phase::Promoted => (true, reasons::PROMOTED, "it takes writes and is in the vault"),
        Phase::Restoring => (false, reasons::RESTORING, "the base backup is being unpacked"),
        Phase::Pending | Phase::Problem => (false, reasons::STARTING, "its pods are starting"),
    };
    conditions.set(types::READY, ready, reason, message);
}

fn set_following(conditions: &mut Conditions, finding: &Finding, observed: &Observed) {
    match (finding.phase, &finding.problem) {
        (Phase::Following | Phase::Sealed, _) => {
            let receives = observed.relay.as_ref().is_ok_and(|r| !r.clients.is_empty());
            if receives {
                let message = "it receives and replays the log";
                conditions.set(types::FOLLOWING, true, reasons::REPLAYING, message)
            } else {
                let message = "the server has not connected to its relay yet";
                conditions.set(types::FOLLOWING, false, reasons::STARTING, message)
            }
        }
        (Phase::Promoted, _) => {
            let message = "it was promoted and has a log of its own";
            conditions.set(types::FOLLOWING, false, reasons::PROMOTED, message)
        }
        (Phase::Problem, Some(problem)) => conditions.set(types::FOLLOWING, false, &problem.code, problem.text()),
        (phase, problem) => {
            let (reason, message) = match problem {
                Some(problem) => (problem.code.as_str(), problem.text()),
                None if phase == Phase::Restoring => {
                    (reasons::RESTORING, "the base backup is being unpacked".to_owned())
                }
                None => (reasons::STARTING, "its pods are starting".to_owned()),
            };
            conditions.set(types::FOLLOWING, false, reason, message)
        }
    };
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(crate) mod tests;
