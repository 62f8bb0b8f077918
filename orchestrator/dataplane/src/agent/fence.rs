//! What happens to the database of a site that lost the log: it must not take writes that nobody will have.
//!
//! Synchronous commits hang already, because nothing is reported any more. This stops asynchronous ones, and ends the
//! sessions that wait, so that their clients see a broken connection instead of an answer.

use std::time::Duration;

use holdfast_wal::TimelineId;

use crate::board::Board;
use crate::config::ConnectionConfig;
use crate::problem::code;
use crate::sql::{self, Sql, SqlError};
use crate::status::{AgentStatus, Problem};

const TRY_AGAIN: Duration = Duration::from_secs(5);
const READ_ONLY_SQL: &str = "ALTER SYSTEM SET default_transaction_read_only = on";
const END_SESSIONS_SQL: &str = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS ended FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
const PLACE_SQL: &str = "SELECT pg_is_in_recovery() AS in_recovery, \
    (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline";

/// What one try did.
struct Closed {
    actions: Vec<String>,
    read_only: bool,
}

/// Tries until the database refuses writes, or until it turns out that it is not to be touched.
///
/// `winner` is the timeline that the log goes on with: a server on that one is the new primary, reached by an address
/// that moved, and is left alone.
pub(crate) async fn close_database(
    connection: &ConnectionConfig,
    winner: Option<TimelineId>,
    board: &Board<AgentStatus>,
) {
    loop {
        match close_once(connection, winner).await {
            Ok(closed) => {
                tracing::warn!(actions = ?closed.actions, "the log was lost; the database was dealt with");
                board.update(|status| report(status, closed));
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the log was lost and the database still takes writes");
                board.update(|status| status.set_problem(Some(still_open(&error))));
            }
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

fn report(status: &mut AgentStatus, closed: Closed) {
    let by = status.fence.as_ref().map_or_else(String::new, |fence| fence.by.clone());
    if let Some(fence) = &mut status.fence {
        fence.database_read_only = closed.read_only;
        fence.actions.extend(closed.actions);
    }
    status.set_problem(Some(Problem::new(
        code::FENCED,
        format!("the log belongs to another site: {by}"),
        "this database's part is over. To go on with it as a standby, rebuild it from the vault",
    )));
}

fn still_open(error: &SqlError) -> Problem {
    Problem::new(
        code::FENCED,
        format!("the log belongs to another site, and this database could not be made read-only: {error}"),
        format!(
            "make sure that it takes no writes: stop it, or run as a superuser: {READ_ONLY_SQL}; SELECT pg_reload_conf();"
        ),
    )
}

async fn close_once(connection: &ConnectionConfig, winner: Option<TimelineId>) -> Result<Closed, SqlError> {
    let sql = Sql::connect(&sql::target(connection)?).await?;
    let row = sql.row(PLACE_SQL, &[]).await?;
    let timeline = TimelineId(sql.column::<i32>(&row, "timeline")?.unsigned_abs());
    if sql.column(&row, "in_recovery")? {
        return Ok(Closed {
            actions: vec!["the server is in recovery and takes no writes; left alone".to_owned()],
            read_only: true,
        });
    }
    if winner == Some(timeline) {
        return Ok(Closed {
            actions: vec![format!(
                "the server is on timeline {timeline}, the one that the log goes on with; left alone"
            )],
            read_only: false,
        });
    }
    sql.command(READ_ONLY_SQL).await?;
    sql.command("SELECT pg_reload_conf()").await?;
    let mut actions = vec!["default_transaction_read_only = on, configuration reloaded".to_owned()];
    // A session reads the new setting when it is idle; the rest is ended below, after all have been told.
    tokio::time::sleep(Duration::from_millis(200)).await;
    actions.push(match sql.row(END_SESSIONS_SQL, &[]).await {
        Ok(row) => format!("{} client sessions ended", sql.column::<i64>(&row, "ended")?),
        Err(error) => format!("client sessions could not be ended: {error}"),
    });
    Ok(Closed { actions, read_only: true })
}
