//! What each role says of itself on `/status`; the operator turns it into conditions.

use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that a person has to know or do. The codes are constants in [`crate::problem`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// PascalCase; fit to be the reason of a Kubernetes condition.
    pub code: String,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AgentState {
    /// Looks at the vault and the database.
    #[default]
    Starting,
    /// The database is in recovery: waits for its promotion.
    Standby,
    /// Opens an epoch and compares what is stored with what the database has.
    Claiming,
    /// WAL flows into the vault.
    Streaming,
    /// Another writer owns the log. For good: this process writes nothing again.
    Fenced,
    /// A standby site has sealed the log and not promoted yet. Nothing is written; the next seal decides.
    TakeoverPending,
    /// Not this database, or not this log: a person has to decide. Looked at again now and then.
    Refused,
    /// Something is away or wrong that may mend; tried again with backoff.
    Retrying,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgentStatus {
    pub state: AgentState,
    pub problem: Option<Problem>,
    pub system_id: Option<SystemId>,
    pub timeline: Option<TimelineId>,
    pub epoch: Option<u64>,
    /// The end of what was received from PostgreSQL.
    pub written: Option<Lsn>,
    /// The end of what is stored without a hole: what PostgreSQL was told is flushed.
    pub durable: Option<Lsn>,
    /// Bytes that the database has written and the vault has not.
    pub lag_bytes: u64,
    /// Age of the oldest byte that the vault does not have. 0 when it has all that is known of.
    pub lag_seconds: f64,
    /// A commit waits for the vault: the server's settings were read and say so.
    pub synchronous: bool,
    /// Why commits do not wait although they should; also shown as `problem` when nothing else is wrong.
    pub synchronous_problem: Option<Problem>,
    /// Which check was made that the database is the one that the log came from.
    pub overlap_check: String,
    /// Complete base backups of this database, newest last.
    pub backups: Vec<BackupSummary>,
    /// Why the last base backup failed, until one succeeds.
    pub backup_problem: Option<Problem>,
    /// A base backup is being taken.
    pub backup_running: bool,
    /// What was done to the database when the log was lost to another writer.
    pub fence: Option<FenceReport>,
    /// This process's own id; another one means that the agent was started again.
    pub incarnation: String,
}

impl AgentState {
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Standby,
        Self::Claiming,
        Self::Streaming,
        Self::Fenced,
        Self::TakeoverPending,
        Self::Refused,
        Self::Retrying,
    ];
}

impl AgentStatus {
    /// What is wrong with the flow into the vault, or nothing. It hides a problem of synchronous replication.
    pub(crate) fn set_problem(&mut self, problem: Option<Problem>) {
        let shown = problem.or_else(|| self.synchronous_problem.clone());
        if shown != self.problem {
            log_problem(shown.as_ref());
        }
        self.problem = shown;
    }

    pub(crate) fn set_synchronous_problem(&mut self, problem: Option<Problem>) {
        let hidden = self.problem.is_some() && self.problem != self.synchronous_problem;
        self.synchronous_problem = problem;
        if !hidden {
            self.set_problem(None);
        }
    }

    pub(crate) fn set_state(&mut self, state: AgentState) {
        if state != self.state {
            tracing::info!(from = ?self.state, to = ?state, "agent");
        }
        self.state = state;
    }
}

fn log_problem(problem: Option<&Problem>) {
    match problem {
        Some(problem) => tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message),
        None => tracing::info!("the problem is gone"),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    pub id: String,
    pub started: Timestamp,
    pub finished: Timestamp,
    pub start: Lsn,
    pub end: Lsn,
    pub timeline: TimelineId,
    /// Before compression.
    pub bytes: u64,
}

/// How the log was lost and what was done about the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReport {
    /// The seal that took the log, in words.
    pub by: String,
    /// Where the own epoch ended.
    pub tail: Option<Lsn>,
    /// The database now refuses writes (`default_transaction_read_only`).
    pub database_read_only: bool,
    /// Each step, in order, in words.
    pub actions: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RelayState {
    #[default]
    Starting,
    /// Follows the log and serves it.
    Serving,
    /// The fixed end is reached (a drill).
    Finished,
    /// The store is away; tried again with backoff. What was read is still served.
    Retrying,
    /// An object does not verify: nothing beyond it is served.
    Damaged,
    /// Nothing to serve, or not with these keys.
    Refused,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RelayStatus {
    pub state: RelayState,
    pub problem: Option<Problem>,
    pub system_id: Option<SystemId>,
    pub timeline: Option<TimelineId>,
    /// The highest byte sent to any client.
    pub served: Option<Lsn>,
    /// The end of the stored log as last read.
    pub tip: Option<Lsn>,
    pub tip_epoch: Option<u64>,
    /// All that is stored was read (up to `until`, when that is given).
    pub at_end: bool,
    /// The tail of a takeover that no promote or claim has followed yet.
    pub sealed: Option<Lsn>,
    /// The last sign that somebody hid or overwrote an object; the right version was read all the same.
    pub tampering: Option<String>,
    pub clients: Vec<RelayClient>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayClient {
    pub address: String,
    pub application_name: String,
    pub sent: Option<Lsn>,
    pub flushed: Option<Lsn>,
    pub applied: Option<Lsn>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ArchiverState {
    #[default]
    Starting,
    /// Reads the log and writes segments and indexes.
    Archiving,
    /// The store is away; tried again with backoff.
    Retrying,
    /// An object does not verify: nothing beyond it is archived, and no chunk beyond it is deleted.
    Damaged,
    /// Nothing to archive, or not with these keys.
    Refused,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ArchiverStatus {
    pub state: ArchiverState,
    pub problem: Option<Problem>,
    /// The end of the log as last read.
    pub read: Option<Lsn>,
    /// All WAL below is in segments.
    pub archived: Option<Lsn>,
    /// The newest index: its number and the end of the log in it.
    pub index: Option<u64>,
    pub indexed: Option<Lsn>,
    /// When the store made it.
    pub index_stored: Option<Timestamp>,
    /// How long the log has run on beyond the newest index, in seconds. More than half a chunk's lifetime is an alarm:
    /// nobody builds on chunks that old that no index covers.
    pub index_behind_seconds: f64,
    /// WAL that was read and is in no segment yet.
    pub waiting_bytes: u64,
    /// All that is stored was read.
    pub at_end: bool,
    /// The last sign that somebody hid or overwrote an object; the right version was read all the same.
    pub tampering: Option<String>,
    /// Up to when what the newest base backup needs is locked, at least.
    pub held_until: Option<Timestamp>,
    /// Why those locks could not be extended the last time.
    pub hold_problem: Option<Problem>,
}
