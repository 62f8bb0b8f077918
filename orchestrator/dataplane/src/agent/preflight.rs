//! Looks at the database before anything is written: can it be protected, and is it a primary?

use std::time::Duration;

use holdfast_protocol::IdentifySystem;
use holdfast_protocol::client::{ClientError, ReplicationClient};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId};

use crate::config::ConnectionConfig;
use crate::instance::replication;
use crate::problem::code;
use crate::sql::{self, Sql, SqlError, Target};
use crate::status::Problem;

/// A promotion is noticed this fast: until then nobody's commit is acknowledged.
const PROMOTION_POLL: Duration = Duration::from_millis(100);
const OLDEST_VERSION: i32 = 150_000;

const FACTS_SQL: &str = "SELECT current_setting('server_version_num')::int AS version, \
    current_setting('wal_level') AS wal_level, \
    current_setting('fsync')::bool AS fsync, \
    current_setting('full_page_writes')::bool AS full_page_writes, \
    current_setting('max_wal_senders')::int AS max_wal_senders, \
    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS segment_size, \
    (SELECT system_identifier FROM pg_control_system()) AS system_id, \
    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS replication, \
    pg_is_in_recovery() AS in_recovery";

const MAKE_SLOT_SQL: &str = "SELECT pg_create_physical_replication_slot($1::name, true) \
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::name)";

/// What SQL says of the server.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) version: i32,
    pub(crate) wal_level: String,
    pub(crate) fsync: bool,
    pub(crate) full_page_writes: bool,
    pub(crate) max_wal_senders: i32,
    pub(crate) segment_size: u64,
    pub(crate) system_id: SystemId,
    pub(crate) replication: bool,
    pub(crate) in_recovery: bool,
}

/// What the replication protocol says of a primary.
#[derive(Clone, Debug)]
pub(crate) struct Primary {
    pub(crate) facts: Facts,
    pub(crate) identity: IdentifySystem,
    pub(crate) history: TimelineHistory,
}

/// Reads the facts by SQL and judges them.
pub(crate) async fn look(target: &Target) -> Result<(Sql, Facts), Problem> {
    let sql = Sql::connect(target).await.map_err(|error| error.problem())?;
    let facts = read(&sql).await.map_err(|error| error.problem())?;
    judge(target, &facts)?;
    Ok((sql, facts))
}

/// Returns when the server has left recovery; an error when the connection is lost.
pub(crate) async fn promoted(sql: &Sql) -> Result<(), SqlError> {
    loop {
        let row = sql.row("SELECT pg_is_in_recovery() AS in_recovery", &[]).await?;
        if !sql.column::<bool>(&row, "in_recovery")? {
            return Ok(());
        }
        tokio::time::sleep(PROMOTION_POLL).await;
    }
}

/// Whether anybody streams from this slot.
pub(crate) async fn is_attended(connection: &ConnectionConfig, slot: &str) -> Result<bool, Problem> {
    let target = sql::target(connection).map_err(|error| error.problem())?;
    let sql = Sql::connect(&target).await.map_err(|error| error.problem())?;
    let statement = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::name AND active) AS active";
    let row = sql.row(statement, &[&slot]).await.map_err(|error| error.problem())?;
    sql.column(&row, "active").map_err(|error| error.problem())
}

/// Asks the server who it is, and makes it keep its WAL from here on.
pub(crate) async fn identify(target: &Target, sql: &Sql, slot: &str, facts: Facts) -> Result<Primary, Problem> {
    let failed = |error: ClientError| replication_problem(target, &error);
    let mut client = ReplicationClient::connect(&replication(target, slot)).await.map_err(failed)?;
    let identity = client.identify_system().await.map_err(failed)?;
    let history = client.timeline_history(identity.timeline).await.map_err(failed)?;
    make_slot(sql, slot).await.map_err(|error| error.problem())?;
    Ok(Primary { facts, identity, history })
}

/// From here on the server keeps what the vault does not have. By SQL, because asking for a slot that exists by the
/// replication protocol leaves an error in the server's log.
pub(crate) async fn make_slot(sql: &Sql, slot: &str) -> Result<(), SqlError> {
    sql.rows(MAKE_SLOT_SQL, &[&slot]).await?;
    Ok(())
}

async fn read(sql: &Sql) -> Result<Facts, SqlError> {
    let row = sql.row(FACTS_SQL, &[]).await?;
    let segment_size: i64 = sql.column(&row, "segment_size")?;
    Ok(Facts {
        version: sql.column(&row, "version")?,
        wal_level: sql.column(&row, "wal_level")?,
        fsync: sql.column(&row, "fsync")?,
        full_page_writes: sql.column(&row, "full_page_writes")?,
        max_wal_senders: sql.column(&row, "max_wal_senders")?,
        segment_size: segment_size.unsigned_abs(),
        system_id: SystemId(sql.column::<i64>(&row, "system_id")?.cast_unsigned()),
        replication: sql.column::<Option<bool>>(&row, "replication")?.unwrap_or(false),
        in_recovery: sql.column(&row, "in_recovery")?,
    })
}

/// What stands in the way of protecting this server; pure.
pub(crate) fn judge(target: &Target, facts: &Facts) -> Result<(), Problem> {
    let at = format!("{}:{}", target.host, target.port);
    if facts.version < OLDEST_VERSION {
        return Err(Problem::new(
            code::UNSUPPORTED_VERSION,
            format!("PostgreSQL at {at} is version {}; 15 is the oldest that is supported", facts.version / 10_000),
            "upgrade the server",
        ));
    }
    if facts.wal_level == "minimal" {
        return Err(Problem::new(
            code::WAL_LEVEL_MINIMAL,
            format!("PostgreSQL at {at} has wal_level=minimal, which leaves out what recovery needs"),
            "run ALTER SYSTEM SET wal_level = 'replica'; ALTER SYSTEM SET max_wal_senders = 10; and restart PostgreSQL",
        ));
    }
    if !facts.replication {
        return Err(Problem::new(
            code::ROLE_WITHOUT_REPLICATION,
            format!("role {} at {at} has no REPLICATION attribute", target.username),
            format!("run ALTER ROLE \"{}\" REPLICATION as a superuser", target.username),
        ));
    }
    if facts.max_wal_senders < 2 && !facts.in_recovery {
        return Err(Problem::new(
            code::UNSAFE_SETTINGS,
            format!(
                "PostgreSQL at {at} has max_wal_senders={}; the log and a base backup take 2",
                facts.max_wal_senders
            ),
            "run ALTER SYSTEM SET max_wal_senders = 10 and restart PostgreSQL",
        ));
    }
    unsafe_settings(&at, facts)
}

fn unsafe_settings(at: &str, facts: &Facts) -> Result<(), Problem> {
    let off = match (facts.fsync, facts.full_page_writes) {
        (true, true) => return Ok(()),
        (false, _) => "fsync",
        (true, false) => "full_page_writes",
    };
    Err(Problem::new(
        code::UNSAFE_SETTINGS,
        format!(
            "PostgreSQL at {at} runs with {off}=off: after a crash its files can differ from its log, and a base backup can be torn"
        ),
        format!("run ALTER SYSTEM SET {off} = on; SELECT pg_reload_conf()"),
    ))
}

/// A failed replication command, for a person.
pub(crate) fn replication_problem(target: &Target, error: &ClientError) -> Problem {
    let at = format!("{}:{}", target.host, target.port);
    let message = format!("replication from PostgreSQL at {at} failed: {error}");
    if wal_gone(error) {
        return Problem::new(
            code::WAL_GONE,
            message,
            "the server has removed WAL that the vault does not have: the log cannot go on from here. Protect the database under a new name \
             (it starts with a new base backup), and set max_slot_wal_keep_size = -1 so that the slot keeps what is missing",
        );
    }
    match error {
        // SQL has let the role in already, so it is not the password.
        ClientError::AuthenticationFailed { .. } | ClientError::UnsupportedAuthentication { .. } => Problem::new(
            code::ACCESS_REFUSED,
            message,
            format!(
                "let the role in: a line `host replication {} ... scram-sha-256` in pg_hba.conf, and reload",
                target.username
            ),
        ),
        ClientError::NoReplicationRole { .. } => Problem::new(
            code::ROLE_WITHOUT_REPLICATION,
            message,
            format!("run ALTER ROLE \"{}\" REPLICATION as a superuser", target.username),
        ),
        ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Io(_) => Problem::new(
            code::DATABASE_UNREACHABLE,
            message,
            "check host and port, that PostgreSQL runs, and that the network lets the agent through",
        ),
        _ => Problem::new(code::REPLICATION_FAILED, message, "look at PostgreSQL's log; it is tried again"),
    }
}

/// PostgreSQL says so with undefined_file and these words.
pub(crate) fn wal_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::Server(server)
        if server.sqlstate == "58P01" || server.message.contains("has already been removed"))
}

/// PostgreSQL refuses to stream from a point that it has not reached.
pub(crate) fn beyond_the_server(identity: &IdentifySystem, received: Lsn) -> Option<Problem> {
    (identity.flush_lsn < received).then(|| {
        Problem::new(
            code::DIVERGED,
            format!("PostgreSQL is at {}, behind {received}, which it has sent before: it was rolled back or restored from an older copy", identity.flush_lsn),
            "nothing was written. If this copy is meant to go on, protect it under a new name in the vault; if not, attach the agent to the right server",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: 150_008,
            wal_level: "replica".to_owned(),
            fsync: true,
            full_page_writes: true,
            max_wal_senders: 10,
            segment_size: 16 << 20,
            system_id: SystemId(7),
            replication: true,
            in_recovery: false,
        }
    }

    fn target() -> Target {
        Target {
            host: "db".to_owned(),
            port: 5432,
            database: "postgres".to_owned(),
            username: "holdfast".to_owned(),
            password: "x".to_owned(),
        }
    }

    #[test]
    fn each_unfit_setting_is_named() {
        assert_eq!(judge(&target(), &good()), Ok(()));
        type Spoil = fn(&mut Facts);
        let cases: [(Spoil, &str); 6] = [
            (|f| f.version = 140_010, code::UNSUPPORTED_VERSION),
            (|f| f.wal_level = "minimal".to_owned(), code::WAL_LEVEL_MINIMAL),
            (|f| f.replication = false, code::ROLE_WITHOUT_REPLICATION),
            (|f| f.max_wal_senders = 1, code::UNSAFE_SETTINGS),
            (|f| f.fsync = false, code::UNSAFE_SETTINGS),
            (|f| f.full_page_writes = false, code::UNSAFE_SETTINGS),
        ];
        for (spoil, expected) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let problem = judge(&target(), &facts).expect_err(expected);
            assert_eq!(problem.code, expected);
            assert!(!problem.hint.is_empty());
        }
    }
}
