//! Makes the database wait for the vault, and says whether it does.
//!
//! The entry in `synchronous_standby_names` is set only after the writer has caught up, so that no commit hangs on an
//! agent that is not there yet. It is never taken away by the agent: that would acknowledge commits that can be lost.

use std::time::Duration;

use tokio::sync::watch;

use crate::board::Board;
use crate::config::{ConnectionConfig, Durability};
use crate::problem::code;
use crate::sql::{self, Sql, SqlError};
use crate::status::{AgentStatus, Problem};

const LOOK_AGAIN: Duration = Duration::from_secs(10);
const LOOK_SOON: Duration = Duration::from_secs(1);

const SETTINGS_SQL: &str = "SELECT current_setting('synchronous_standby_names') AS names, \
    current_setting('synchronous_commit') AS commit_level";

/// What `synchronous_standby_names` means for us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// A commit cannot be acknowledged without us.
    Required,
    /// No commit waits for anybody.
    Empty,
    /// Somebody else's setting; the value that would add us.
    Others { with_us: String },
}

/// Looks now and then, and sets what is missing. Runs as long as the agent streams.
pub(crate) async fn keep(
    connection: &ConnectionConfig,
    durability: Durability,
    slot: &str,
    caught_up: watch::Receiver<bool>,
    board: &Board<AgentStatus>,
) {
    loop {
        let mut wait = LOOK_AGAIN;
        let ready = *caught_up.borrow();
        match round(connection, durability, slot, ready).await {
            Ok(Round { synchronous, problem }) => {
                if !synchronous && durability == Durability::Synchronous {
                    wait = LOOK_SOON;
                }
                board.update(|status| {
                    if status.synchronous != synchronous {
                        tracing::info!(synchronous, "commits wait for the vault");
                    }
                    status.synchronous = synchronous;
                    status.set_synchronous_problem(problem);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look at synchronous_standby_names");
                wait = LOOK_SOON;
            }
        }
        tokio::time::sleep(wait).await;
    }
}

struct Round {
    synchronous: bool,
    problem: Option<Problem>,
}

async fn round(
    connection: &ConnectionConfig,
    durability: Durability,
    slot: &str,
    caught_up: bool,
) -> Result<Round, SqlError> {
    let sql = Sql::connect(&sql::target(connection)?).await?;
    let (names, commit_level) = settings(&sql).await?;
    let mut names = names_for(&names, slot);
    let wanted = durability == Durability::Synchronous;
    if wanted && caught_up && names == Names::Empty {
        if let Some(problem) = set(&sql, slot).await? {
            return Ok(Round { synchronous: false, problem: Some(problem) });
        }
        names = names_for(&settings(&sql).await?.0, slot);
    }
    let problem = match &names {
        Names::Others { with_us } if wanted => Some(taken(with_us)),
        _ if wanted => unsuitable(&commit_level),
        _ => None,
    };
    let waits = !matches!(commit_level.as_str(), "off" | "local");
    Ok(Round { synchronous: names == Names::Required && waits, problem })
}

async fn settings(sql: &Sql) -> Result<(String, String), SqlError> {
    let row = sql.row(SETTINGS_SQL, &[]).await?;
    Ok((sql.column(&row, "names")?, sql.column(&row, "commit_level")?))
}

/// Sets the entry; a problem when the role may not.
async fn set(sql: &Sql, slot: &str) -> Result<Option<Problem>, SqlError> {
    let statement = format!("ALTER SYSTEM SET synchronous_standby_names = '{slot}'");
    let outcome = match sql.command(&statement).await {
        Ok(()) => sql.command("SELECT pg_reload_conf()").await,
        failed => failed,
    };
    match outcome {
        Ok(()) => {
            tracing::info!(slot, "synchronous_standby_names set");
            // The server reads it at its next opportunity; look again after that.
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(None)
        }
        Err(SqlError::Denied { message, username, .. }) => Ok(Some(Problem::new(
            code::SYNCHRONOUS_NOT_PERMITTED,
            format!(
                "commits do not wait for the vault: role {username} may not change synchronous_standby_names ({message})"
            ),
            format!("run as a superuser: {statement}; SELECT pg_reload_conf();"),
        ))),
        Err(error) => Err(error),
    }
}

fn taken(with_us: &str) -> Problem {
    Problem::new(
        code::SYNCHRONOUS_NAMES_TAKEN,
        "commits do not wait for the vault: synchronous_standby_names names other standbys and is left as it is",
        format!(
            "run as a superuser: ALTER SYSTEM SET synchronous_standby_names = '{with_us}'; SELECT pg_reload_conf();"
        ),
    )
}

fn unsuitable(commit_level: &str) -> Option<Problem> {
    let why = match commit_level {
        "off" | "local" => "commits do not wait for any standby",
        "remote_apply" => "commits wait for a standby that applies, and the vault never does: they hang",
        _ => return None,
    };
    Some(Problem::new(
        code::SYNCHRONOUS_COMMIT_UNSUITABLE,
        format!("synchronous_commit is {commit_level}: {why}"),
        "run as a superuser: ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf(); and look for ALTER ROLE or ALTER DATABASE settings",
    ))
}

/// Reads the setting: `a, b` | `N (a, b)` | `FIRST N (a, b)` | `ANY N (a, b)`.
///
/// We are required only when all that are named are: with a choice, a commit can be acknowledged without us.
pub(crate) fn names_for(value: &str, ours: &str) -> Names {
    let (count, members) = parse(value);
    if members.is_empty() {
        return Names::Empty;
    }
    if members.iter().any(|name| name.eq_ignore_ascii_case(ours)) && count >= members.len() {
        return Names::Required;
    }
    let mut all: Vec<&String> = members.iter().filter(|name| !name.eq_ignore_ascii_case(ours)).collect();
    let ours = ours.to_owned();
    all.push(&ours);
    let quoted: Vec<String> = all.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    Names::Others { with_us: format!("FIRST {} ({})", quoted.len(), quoted.join(", ")) }
}

fn parse(value: &str) -> (usize, Vec<String>) {
    let value = value.trim();
    let Some((head, rest)) = value.split_once('(') else {
        return (1, members(value));
    };
    let count = head.split_whitespace().last().and_then(|count| count.parse().ok()).unwrap_or(1);
    (count, members(rest.trim_end().trim_end_matches(')')))
}

fn members(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_only_when_nobody_can_stand_in() {
        let required = [
            "holdfast_a",
            "\"holdfast_a\"",
            "FIRST 1 (holdfast_a)",
            "ANY 1 (Holdfast_A)",
            "1 (holdfast_a)",
            "FIRST 2 (x, holdfast_a)",
        ];
        for value in required {
            assert_eq!(names_for(value, "holdfast_a"), Names::Required, "{value}");
        }
        for value in ["", "  "] {
            assert_eq!(names_for(value, "holdfast_a"), Names::Empty, "{value}");
        }
        for value in ["*", "holdfast_a, x", "FIRST 1 (holdfast_a, x)", "ANY 1 (x, holdfast_a)", "x"] {
            assert!(matches!(names_for(value, "holdfast_a"), Names::Others { .. }), "{value}");
        }
    }

    #[test]
    fn the_value_that_adds_us_keeps_the_others() {
        let Names::Others { with_us } = names_for("ANY 1 (x, holdfast_a)", "holdfast_a") else {
            panic!("a choice of two");
        };
        assert_eq!(with_us, "FIRST 2 (\"x\", \"holdfast_a\")");
        assert_eq!(names_for(&with_us, "holdfast_a"), Names::Required);
    }

    #[test]
    fn a_commit_level_that_cannot_work_is_a_problem() {
        assert!(unsuitable("remote_apply").is_some());
        assert!(unsuitable("local").is_some());
        assert!(unsuitable("on").is_none());
    }
}
