//! What the orchestrator asks of a running PostgreSQL and does to it: its role, how far it has replayed, its promotion.

use std::time::Duration;

use holdfast_protocol::ConnectConfig;
use holdfast_protocol::client::{ClientError, ReplicationClient};
use holdfast_wal::{Lsn, SystemId, TimelineId};
use serde::{Deserialize, Serialize};

use crate::sql::Sql;
pub use crate::sql::{SqlError, Target};

const PROMOTE_WAIT_SECONDS: u64 = 60;

const STATE_SQL: &str = "SELECT pg_is_in_recovery() AS in_recovery, \
    pg_last_wal_receive_lsn()::text AS receive_lsn, \
    pg_last_wal_replay_lsn()::text AS replay_lsn, \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS walfile, \
    CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END AS pause_state, \
    (SELECT received_tli FROM pg_stat_wal_receiver) AS received_timeline, \
    (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint_timeline, \
    (SELECT system_identifier::text FROM pg_control_system()) AS system_id";

/// A server's role and position, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryState {
    pub system_id: SystemId,
    /// False once promoted.
    pub in_recovery: bool,
    /// The end of what the standby has received and flushed; may lie inside a record.
    pub receive_lsn: Option<Lsn>,
    /// The end of the last replayed record.
    pub replay_lsn: Option<Lsn>,
    /// A primary: the timeline it writes. A standby: the one it receives, or that of its last restart point.
    pub timeline: TimelineId,
    /// Replay has stopped by itself or by a person (a setting lower than the source's stops it).
    pub replay_paused: bool,
}

/// Why an instance does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(
        "PostgreSQL did not end recovery within {PROMOTE_WAIT_SECONDS} s of the promotion; look at its log, the promotion goes on by itself"
    )]
    PromotionSlow,
    #[error("timeline {timeline} does not branch off another one, so it is not the one of a promotion")]
    NoSwitchPoint { timeline: TimelineId },
    #[error("the timeline history cannot be read: {reason}")]
    History { reason: String },
}

/// A connection to one server.
#[derive(Debug)]
pub struct Instance {
    sql: Sql,
    target: Target,
}

impl Instance {
    pub async fn connect(target: &Target) -> Result<Self, InstanceError> {
        Ok(Self { sql: Sql::connect(target).await?, target: target.clone() })
    }

    pub async fn recovery_state(&self) -> Result<RecoveryState, InstanceError> {
        let row = self.sql.row(STATE_SQL, &[]).await?;
        let walfile: Option<String> = self.sql.column(&row, "walfile")?;
        let received: Option<i32> = self.sql.column(&row, "received_timeline")?;
        let checkpoint: i32 = self.sql.column(&row, "checkpoint_timeline")?;
        let timeline = match walfile {
            Some(name) => self.timeline_of(&name)?,
            None => TimelineId(received.unwrap_or(checkpoint).unsigned_abs()),
        };
        let pause: Option<String> = self.sql.column(&row, "pause_state")?;
        let system_id: String = self.sql.column(&row, "system_id")?;
        Ok(RecoveryState {
            system_id: system_id
                .parse::<i64>()
                .map(|id| SystemId(id.cast_unsigned()))
                .map_err(|_| self.sql.unexpected(format!("system identifier {system_id}")))?,
            in_recovery: self.sql.column(&row, "in_recovery")?,
            receive_lsn: self.lsn(self.sql.column(&row, "receive_lsn")?)?,
            replay_lsn: self.lsn(self.sql.column(&row, "replay_lsn")?)?,
            timeline,
            replay_paused: pause.is_some_and(|state| state != "not paused"),
        })
    }

    /// Ends recovery and waits until the server takes writes. Does nothing when it already does.
    ///
    /// Only the holder of a stored promote seal may call this (invariant 5).
    pub async fn promote(&self) -> Result<RecoveryState, InstanceError> {
        let state = self.recovery_state().await?;
        if !state.in_recovery {
            return Ok(state);
        }
        let statement = format!("SELECT pg_promote(true, {PROMOTE_WAIT_SECONDS}) AS promoted");
        let limit = Duration::from_secs(PROMOTE_WAIT_SECONDS + 5);
        let row = self.sql.slow_row(&statement, limit).await?;
        if !self.sql.column::<bool>(&row, "promoted")? {
            return Err(InstanceError::PromotionSlow);
        }
        self.recovery_state().await
    }

    /// Where the server's timeline branched off its parent. After a promotion this equals the promote seal's start.
    pub async fn switch_point(&self, timeline: TimelineId) -> Result<Lsn, InstanceError> {
        let failed = |error: ClientError| InstanceError::History { reason: error.to_string() };
        let mut client = ReplicationClient::connect(&replication(&self.target, "holdfast")).await.map_err(failed)?;
        let history = client.timeline_history(timeline).await.map_err(failed)?;
        history.entries.last().map(|entry| entry.switch).ok_or(InstanceError::NoSwitchPoint { timeline })
    }

    /// Stops replay where it is, at once: a drill's or a takeover's last look before promotion.
    pub async fn pause_replay(&self) -> Result<(), InstanceError> {
        Ok(self.sql.command("SELECT pg_wal_replay_pause()").await?)
    }

    fn lsn(&self, text: Option<String>) -> Result<Option<Lsn>, InstanceError> {
        text.map(|text| text.parse::<Lsn>().map_err(|_| self.sql.unexpected(format!("position {text}")).into()))
            .transpose()
    }

    fn timeline_of(&self, walfile: &str) -> Result<TimelineId, InstanceError> {
        walfile
            .get(..8)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .map(TimelineId)
            .ok_or_else(|| self.sql.unexpected(format!("WAL file name {walfile}")).into())
    }
}

/// How to open a replication connection to the same server with the same role.
pub(crate) fn replication(target: &Target, application_name: &str) -> ConnectConfig {
    ConnectConfig {
        host: target.host.clone(),
        port: target.port,
        user: target.username.clone(),
        password: Some(target.password.clone()),
        database: None,
        application_name: application_name.to_owned(),
        connect_timeout: Duration::from_secs(5),
    }
}
