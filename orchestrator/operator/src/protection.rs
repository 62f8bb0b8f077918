//! What an agent says of itself, as a status and as conditions. Pure; shared by the two kinds of databases.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{Backup, ConditionStatus, Conditions, Durability, Problem, Protection};
use holdfast_dataplane::status::{AgentState, AgentStatus, BackupSummary};
use jiff::Timestamp;

use crate::role::RoleError;

/// What decides about protection.
#[derive(Debug)]
pub struct Wanted {
    /// When commits should be acknowledged.
    pub durability: Durability,
    /// Hours between base backups.
    pub backup_interval_hours: u32,
}

/// The agent's words as the status of its database.
pub fn protection(agent: &AgentStatus) -> Protection {
    Protection {
        state: format!("{:?}", agent.state),
        system_id: agent.system_id.map(|id| id.to_string()),
        timeline: agent.timeline.map(|t| i64::from(t.0)),
        epoch: agent.epoch.map(signed),
        written_lsn: agent.written.map(|l| l.to_string()),
        durable_lsn: agent.durable.map(|l| l.to_string()),
        lag_bytes: Some(signed(agent.lag_bytes)),
        lag_seconds: Some((agent.lag_seconds * 10.0).round() / 10.0),
        synchronous: agent.synchronous,
        overlap_check: Some(agent.overlap_check.clone()).filter(|c| !c.is_empty()),
        last_backup: agent.backups.last().map(backup),
        backups: i64::try_from(agent.backups.len()).ok(),
        problem: agent.problem.as_ref().map(problem),
    }
}

/// A role's problem in the words of the API.
pub fn problem(problem: &holdfast_dataplane::status::Problem) -> Problem {
    Problem {
        code: problem.code.clone(),
        message: problem.message.clone(),
        hint: Some(problem.hint.clone()).filter(|h| !h.is_empty()),
    }
}

/// A number that cannot be negative, for JSON integers.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn backup(summary: &BackupSummary) -> Backup {
    Backup {
        id: summary.id.clone(),
        started: Some(summary.started),
        finished: Some(summary.finished),
        start_lsn: summary.start.to_string(),
        end_lsn: summary.end.to_string(),
        bytes: signed(summary.bytes),
    }
}

/// Why an agent does not do its work: the reason and the message of a condition.
pub type Obstacle = (String, String);

/// What keeps the database from being protected; none when WAL flows.
pub fn obstacle(agent: &AgentStatus) -> Option<Obstacle> {
    let said = agent.problem.as_ref().map(problem);
    let said = |reason: &str, message: &str| match &said {
        Some(p) => (p.code.clone(), p.text()),
        None => (reason.to_owned(), message.to_owned()),
    };
    match agent.state {
        AgentState::Streaming => None,
        AgentState::Starting | AgentState::Claiming => {
            Some(said(reasons::STARTING, "the agent looks at the database and at the vault"))
        }
        AgentState::Standby => Some((
            reasons::IN_RECOVERY.to_owned(),
            "the database is in recovery; the agent waits for its promotion".to_owned(),
        )),
        AgentState::Retrying => Some(said(reasons::RETRYING, "the agent tries again")),
        AgentState::Refused => Some(said(reasons::REFUSED, "the agent refuses to write")),
        AgentState::TakeoverPending => Some((
            reasons::TAKEOVER_PENDING.to_owned(),
            said(
                "",
                "another site has sealed the log and has not promoted yet; nothing is stored until it does or gives up",
            )
            .1,
        )),
        AgentState::Fenced => Some((reasons::FENCED.to_owned(), fence_message(agent))),
    }
}

fn fence_message(agent: &AgentStatus) -> String {
    let said = agent.problem.as_ref().map(|p| problem(p).text());
    let mut message = said.unwrap_or_else(|| {
        "another site owns the log now; this agent has stopped for good. Do not write to this database: \
         send its users to the other site"
            .to_owned()
    });
    if let Some(fence) = &agent.fence {
        let refuses = if fence.database_read_only {
            "The database refuses writes."
        } else {
            "The database could not be made to refuse writes."
        };
        message = format!("{} {refuses}", holdfast_api::common::sentence(&message));
    }
    message
}

/// Sets Protected, Fenced and BackupFresh.
pub fn set_conditions(
    conditions: &mut Conditions,
    wanted: &Wanted,
    agent: Result<&AgentStatus, &RoleError>,
    now: Timestamp,
) {
    match agent {
        Ok(agent) => {
            set_protected(conditions, wanted, agent);
            set_fenced(conditions, agent);
            set_backup_fresh(conditions, wanted, agent, now);
        }
        Err(error) => {
            // What was known of the fence and the backups stays: neither changes because nobody answers.
            let problem = error.problem(reasons::AGENT_UNREACHABLE);
            let unknown = ConditionStatus::Unknown;
            conditions.set(types::PROTECTED, unknown, &problem.code, problem.text());
        }
    }
}

fn set_protected(conditions: &mut Conditions, wanted: &Wanted, agent: &AgentStatus) {
    if let Some((reason, message)) = obstacle(agent) {
        conditions.set(types::PROTECTED, false, &reason, message);
        return;
    }
    match wanted.durability {
        Durability::Asynchronous => conditions.set(
            types::PROTECTED,
            true,
            reasons::ASYNCHRONOUS,
            "commits are acknowledged at once and stored soon after; a failover loses what the lag shows",
        ),
        Durability::Synchronous if agent.synchronous => conditions.set(
            types::PROTECTED,
            true,
            reasons::SYNCHRONOUS,
            "a commit is acknowledged when it is in the vault",
        ),
        Durability::Synchronous => {
            let message = match &agent.problem {
                Some(p) => problem(p).text(),
                None => "the server does not wait for the vault yet".to_owned(),
            };
            conditions.set(types::PROTECTED, false, reasons::NOT_SYNCHRONOUS, message)
        }
    };
}

fn set_fenced(conditions: &mut Conditions, agent: &AgentStatus) {
    match agent.state {
        AgentState::Fenced => conditions.set(types::FENCED, true, reasons::FENCED, fence_message(agent)),
        AgentState::TakeoverPending => conditions.set(
            types::FENCED,
            false,
            reasons::TAKEOVER_PENDING,
            "another site has sealed the log and has not promoted yet",
        ),
        AgentState::Streaming => conditions.set(types::FENCED, false, reasons::OWNS_THE_LOG, "this site owns the log"),
        _ => return,
    };
}

fn set_backup_fresh(conditions: &mut Conditions, wanted: &Wanted, agent: &AgentStatus, now: Timestamp) {
    let failed = agent.backup_problem.as_ref().map(problem);
    let Some(newest) = agent.backups.last() else {
        match failed {
            Some(p) => conditions.set(types::BACKUP_FRESH, false, &p.code, p.text()),
            None => conditions.set(
                types::BACKUP_FRESH,
                false,
                reasons::BACKUP_RUNNING,
                "the first base backup is not complete yet",
            ),
        };
        return;
    };
    let age_hours = now.duration_since(newest.finished).as_secs() / 3600;
    let limit_hours = i64::from(wanted.backup_interval_hours) * 2;
    if age_hours <= limit_hours {
        conditions.set(types::BACKUP_FRESH, true, reasons::RECENT_BACKUP, format!("backup {} is complete", newest.id));
        return;
    }
    let why = failed.map_or_else(|| "no newer one is complete".to_owned(), |p| p.text());
    conditions.set(
        types::BACKUP_FRESH,
        false,
        reasons::BACKUP_TOO_OLD,
        format!("the newest base backup is older than {limit_hours} h: {why}"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Condition;
    use holdfast_api::condition::find;
    use holdfast_dataplane::status::{FenceReport, Problem as RoleProblem};
    use holdfast_wal::{Lsn, TimelineId};

    fn set(agent: Result<&AgentStatus, &RoleError>, durability: Durability) -> Vec<Condition> {
        let mut conditions = Conditions::of(&[], Some(1), at(0));
        let wanted = Wanted { durability, backup_interval_hours: 24 };
        set_conditions(&mut conditions, &wanted, agent, at(100 * 3600));
        conditions.into_vec()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn agent(state: AgentState, synchronous: bool) -> AgentStatus {
        AgentStatus { state, synchronous, ..AgentStatus::default() }
    }

    fn backup_finished(hour: i64) -> BackupSummary {
        BackupSummary {
            id: "b".into(),
            started: at(hour * 3600),
            finished: at(hour * 3600),
            start: Lsn(0),
            end: Lsn(1),
            timeline: TimelineId(1),
            bytes: 1,
        }
    }

    #[test]
    fn protected_follows_the_agent() {
        use AgentState::{Claiming, Fenced, Refused, Standby, Streaming, TakeoverPending};
        use Durability::{Asynchronous, Synchronous};
        let cases = [
            (Streaming, true, Synchronous, true, reasons::SYNCHRONOUS),
            (Streaming, false, Synchronous, false, reasons::NOT_SYNCHRONOUS),
            (Streaming, false, Asynchronous, true, reasons::ASYNCHRONOUS),
            (Claiming, true, Synchronous, false, reasons::STARTING),
            (Standby, true, Synchronous, false, reasons::IN_RECOVERY),
            (TakeoverPending, true, Synchronous, false, reasons::TAKEOVER_PENDING),
            (Refused, true, Synchronous, false, reasons::REFUSED),
            (Fenced, true, Synchronous, false, reasons::FENCED),
        ];
        for (state, synchronous, durability, protected, reason) in cases {
            let conditions = set(Ok(&agent(state, synchronous)), durability);
            let found = find(&conditions, types::PROTECTED).unwrap();
            assert_eq!(found.status, ConditionStatus::from(protected), "{state:?}");
            assert_eq!(found.reason, reason, "{state:?}");
        }
    }

    #[test]
    fn a_fenced_agent_says_what_became_of_the_database() {
        let mut status = agent(AgentState::Fenced, true);
        status.fence =
            Some(FenceReport { by: "a promote seal".into(), tail: None, database_read_only: true, actions: vec![] });
        let conditions = set(Ok(&status), Durability::Synchronous);
        let fenced = find(&conditions, types::FENCED).unwrap();
        assert_eq!(fenced.status, ConditionStatus::True);
        assert!(fenced.message.ends_with("The database refuses writes."), "{}", fenced.message);
        assert!(fenced.is_warning());
    }

    #[test]
    fn an_agent_that_does_not_answer_leaves_the_fence_as_it_was() {
        let mut conditions = Conditions::of(&[], Some(1), at(0));
        conditions.set(types::FENCED, true, reasons::FENCED, "");
        let silent = RoleError::NotRunning { message: "no pod has been created yet".into(), is_stuck: false };
        let wanted = Wanted { durability: Durability::Synchronous, backup_interval_hours: 24 };
        set_conditions(&mut conditions, &wanted, Err(&silent), at(0));
        let conditions = conditions.into_vec();
        assert_eq!(find(&conditions, types::FENCED).unwrap().status, ConditionStatus::True);
        let protected = find(&conditions, types::PROTECTED).unwrap();
        assert_eq!(protected.status, ConditionStatus::Unknown);
        assert_eq!(protected.reason, reasons::STARTING);
    }

    #[test]
    fn a_backup_is_fresh_for_twice_its_interval() {
        let failed = Some(RoleProblem::new("BaseBackupFailed", "no", "mend it"));
        let cases = [
            (vec![], None, ConditionStatus::False, reasons::BACKUP_RUNNING),
            (vec![], failed.clone(), ConditionStatus::False, "BaseBackupFailed"),
            (vec![backup_finished(60)], failed.clone(), ConditionStatus::True, reasons::RECENT_BACKUP),
            (vec![backup_finished(51)], failed, ConditionStatus::False, reasons::BACKUP_TOO_OLD),
        ];
        for (backups, backup_problem, status, reason) in cases {
            let agent = AgentStatus { backups, backup_problem, ..agent(AgentState::Streaming, true) };
            let conditions = set(Ok(&agent), Durability::Synchronous);
            let fresh = find(&conditions, types::BACKUP_FRESH).unwrap();
            assert_eq!((fresh.status, fresh.reason.as_str()), (status, reason));
        }
    }
}
