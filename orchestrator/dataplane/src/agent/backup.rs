//! Base backups: when one is due, and how one is taken while WAL flows.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_protocol::client::{BaseBackupEvent, BaseBackupOptions, ClientError, ReplicationClient};
use holdfast_vault::{
    BACKUP_PART_BYTES, BackupManifest, BackupMeta, BackupWriter, DatabaseVault, Recipients, VaultError,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};
use jiff::{SignedDuration, Timestamp};

use crate::agent::metrics::AgentMetrics;
use crate::agent::preflight::replication_problem;
use crate::archive;
use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::ConnectionConfig;
use crate::instance::replication;
use crate::problem::{code, vault_problem};
use crate::restore::settings;
use crate::sql::{self, Sql, SqlError, Target};
use crate::status::{AgentStatus, BackupSummary, Problem};

const LABEL: &str = "holdfast";
/// A promoted server can be restored from the backup before it; its first own one waits until clients are served.
const AFTER_PROMOTION: Duration = Duration::from_secs(20);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(3600);

const SETTINGS_SQL: &str = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)";
const TABLESPACES_SQL: &str = "SELECT coalesce(string_agg(spcname, ', '), '') AS names FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";

/// What backups need to know of the epoch.
pub(crate) struct Backups<'a> {
    pub(crate) connection: &'a ConnectionConfig,
    pub(crate) slot: &'a str,
    pub(crate) database: &'a DatabaseVault,
    pub(crate) recipients: &'a Recipients,
    pub(crate) history: &'a TimelineHistory,
    pub(crate) interval_hours: u64,
    pub(crate) board: &'a Board<AgentStatus>,
    pub(crate) metrics: &'a AgentMetrics,
}

/// When the next one is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    /// None of this timeline yet, but one that leads to it.
    AfterPromotion,
    In(Duration),
}

/// Pure. `backups` are complete ones, newest last.
pub(crate) fn due(backups: &[BackupSummary], history: &TimelineHistory, interval_hours: u64, now: Timestamp) -> Due {
    let usable = |backup: &&BackupSummary| history.contains(backup.timeline, backup.end);
    let Some(newest) = backups.iter().rev().find(usable) else {
        return Due::Now;
    };
    if newest.timeline != history.timeline {
        return Due::AfterPromotion;
    }
    let hours = i64::try_from(interval_hours).unwrap_or(i64::MAX / 3600).min(i64::MAX / 3600);
    let left = SignedDuration::from_hours(hours) - now.duration_since(newest.started);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Due::In(left.min(LOOK_AGAIN_AT_MOST)),
        _ => Due::Now,
    }
}

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("tablespaces outside the data directory are not backed up: {names}")]
    Tablespaces { names: String },
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("PostgreSQL's base backup failed: {0}")]
    Protocol(#[from] ClientError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the backup's manifest cannot be framed: {0}")]
    Frame(#[from] std::io::Error),
    #[error("PostgreSQL ended the base backup early: {what}")]
    Incomplete { what: &'static str },
}

impl Backups<'_> {
    /// Takes backups as they fall due. Runs as long as the agent streams.
    pub(crate) async fn keep(&self) {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
        loop {
            let wait = match self.round().await {
                Ok(wait) => {
                    backoff.reset();
                    wait
                }
                Err(problem) => {
                    self.metrics.backup_failures.inc();
                    tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message);
                    self.board.update(|status| {
                        status.backup_running = false;
                        status.backup_problem = Some(problem);
                    });
                    backoff.delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn round(&self) -> Result<Duration, Problem> {
        let backups = self.database.backups().await.map_err(|error| vault_problem(&error))?;
        let backups: Vec<BackupSummary> = backups.iter().map(summary).collect();
        self.board.update(|status| status.backups.clone_from(&backups));
        match due(&backups, self.history, self.interval_hours, Timestamp::now()) {
            Due::In(left) => return Ok(left),
            Due::AfterPromotion => tokio::time::sleep(AFTER_PROMOTION).await,
            Due::Now => {}
        }
        let target = sql::target(self.connection).map_err(|error| error.problem())?;
        self.board.update(|status| status.backup_running = true);
        let manifest = self.take(&target).await.map_err(|error| problem(&target, error))?;
        self.metrics.backups.inc();
        tracing::info!(id = manifest.meta.id, start = %manifest.meta.start, end = %manifest.end, bytes = manifest.plain_bytes, "base backup complete");
        self.board.update(|status| {
            status.backup_running = false;
            status.backup_problem = None;
            status.backups.push(summary(&manifest));
        });
        Ok(Duration::ZERO)
    }

    async fn take(&self, target: &Target) -> Result<BackupManifest, BackupError> {
        let sql = Sql::connect(target).await?;
        refuse_tablespaces(&sql).await?;
        let settings = source_settings(&sql).await?;
        drop(sql);
        let client = ReplicationClient::connect(&replication(target, &format!("{}_backup", self.slot))).await?;
        let options = BaseBackupOptions { label: LABEL.to_owned(), fast_checkpoint: true, max_rate_kb: None };
        let mut stream = client.base_backup(&options).await?;
        let Some(BaseBackupEvent::Start { lsn, timeline }) = stream.next().await? else {
            return Err(BackupError::Incomplete { what: "it did not say where it starts" });
        };
        let writer = self.database.begin_backup(meta(lsn, timeline, settings), self.recipients.clone()).await?;
        let mut parts = Parts { writer, pieces: Vec::new(), buffer: BytesMut::new() };
        let mut manifest = ManifestPieces::default();
        loop {
            match stream.next().await? {
                Some(BaseBackupEvent::Archive { name, location }) => {
                    if let Some(location) = location {
                        return Err(BackupError::Tablespaces { names: format!("{name} at {location}") });
                    }
                }
                Some(BaseBackupEvent::Manifest) => manifest.begun = true,
                Some(BaseBackupEvent::Data(data)) if manifest.begun => manifest.take(&data, &mut parts).await?,
                Some(BaseBackupEvent::Data(data)) => parts.add(&data).await?,
                Some(BaseBackupEvent::End { lsn, .. }) => {
                    manifest.flush(&mut parts).await?;
                    return parts.finish(lsn).await;
                }
                Some(BaseBackupEvent::Start { .. } | BaseBackupEvent::Progress(_)) => {}
                None => return Err(BackupError::Incomplete { what: "it did not say where it ends" }),
            }
        }
    }
}

/// Of so many bytes are the pieces in which a part is sealed: bigger than what the allocator keeps for later.
const PIECE_BYTES: usize = 1024 * 1024;
const _: () = assert!(BACKUP_PART_BYTES.is_multiple_of(PIECE_BYTES));

/// Cuts the stream into parts; holds one part in memory, in pieces that go one by one when it is sealed.
struct Parts {
    writer: BackupWriter,
    pieces: Vec<Bytes>,
    /// The piece that is being filled.
    buffer: BytesMut,
}

impl Parts {
    async fn add(&mut self, mut data: &[u8]) -> Result<(), BackupError> {
        while !data.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(PIECE_BYTES);
            }
            let take = data.len().min(PIECE_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(&data[..take]);
            data = &data[take..];
            if self.buffer.len() == PIECE_BYTES {
                self.pieces.push(std::mem::take(&mut self.buffer).freeze());
            }
            if self.pieces.len() * PIECE_BYTES == BACKUP_PART_BYTES {
                self.store().await?;
            }
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<(), BackupError> {
        Ok(self.writer.part(std::mem::take(&mut self.pieces)).await?)
    }

    async fn finish(mut self, end: Lsn) -> Result<BackupManifest, BackupError> {
        if !self.buffer.is_empty() {
            self.pieces.push(self.buffer.split().freeze());
        }
        if !self.pieces.is_empty() {
            self.store().await?;
        }
        Ok(self.writer.finish(end, Timestamp::now()).await?)
    }
}

/// PostgreSQL's manifest, piece by piece.
#[derive(Default)]
struct ManifestPieces {
    begun: bool,
    count: u32,
    buffer: BytesMut,
}

const MANIFEST_PIECE_BYTES: usize = 1024 * 1024;

impl ManifestPieces {
    async fn take(&mut self, data: &[u8], parts: &mut Parts) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= MANIFEST_PIECE_BYTES { self.flush(parts).await } else { Ok(()) }
    }

    async fn flush(&mut self, parts: &mut Parts) -> Result<(), BackupError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let entry = archive::manifest_entry(self.count, &self.buffer.split())?;
        self.count += 1;
        parts.add(&entry).await
    }
}

fn meta(start: Lsn, timeline: TimelineId, settings: BTreeMap<String, String>) -> BackupMeta {
    let started = Timestamp::now();
    BackupMeta {
        // Sorts by time, and no two are the same.
        id: format!("{}-{}", started.strftime("%Y%m%dt%H%M%Sz"), &uuid::Uuid::new_v4().simple().to_string()[..8]),
        start,
        timeline,
        server_version: settings.get("server_version").cloned().unwrap_or_default(),
        label: LABEL.to_owned(),
        started,
        settings,
        tablespaces: Vec::new(),
    }
}

async fn refuse_tablespaces(sql: &Sql) -> Result<(), BackupError> {
    let row = sql.row(TABLESPACES_SQL, &[]).await?;
    let names: String = sql.column(&row, "names")?;
    if names.is_empty() { Ok(()) } else { Err(BackupError::Tablespaces { names }) }
}

async fn source_settings(sql: &Sql) -> Result<BTreeMap<String, String>, BackupError> {
    let names: Vec<&str> = settings::recorded().collect();
    let rows = sql.rows(SETTINGS_SQL, &[&names]).await?;
    let mut found = BTreeMap::new();
    for row in rows {
        found.insert(sql.column(&row, "name")?, sql.column(&row, "setting")?);
    }
    Ok(found)
}

fn summary(manifest: &BackupManifest) -> BackupSummary {
    BackupSummary {
        id: manifest.meta.id.clone(),
        started: manifest.meta.started,
        finished: manifest.finished,
        start: manifest.meta.start,
        end: manifest.end,
        timeline: manifest.meta.timeline,
        bytes: manifest.plain_bytes,
    }
}

fn problem(target: &Target, error: BackupError) -> Problem {
    match error {
        BackupError::Tablespaces { .. } => Problem::new(
            code::TABLESPACES_UNSUPPORTED,
            error.to_string(),
            "move what lies in them: ALTER TABLE ... SET TABLESPACE pg_default, then DROP TABLESPACE",
        ),
        BackupError::Sql(error) => error.problem(),
        BackupError::Vault(error) => vault_problem(&error),
        BackupError::Protocol(error) => {
            Problem { code: code::BACKUP_FAILED.to_owned(), ..replication_problem(target, &error) }
        }
        BackupError::Frame(_) | BackupError::Incomplete { .. } => {
            Problem::new(code::BACKUP_FAILED, error.to_string(), "look at PostgreSQL's log; it is tried again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(timeline: u32, started: &str) -> BackupSummary {
        let started: Timestamp = started.parse().expect("a time");
        let (id, timeline) = ("x".to_owned(), TimelineId(timeline));
        BackupSummary { id, started, finished: started, start: Lsn(100), end: Lsn(200), timeline, bytes: 1 }
    }

    #[test]
    fn a_backup_is_due_when_none_leads_here_or_the_newest_is_old() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
        let first = TimelineHistory::initial(TimelineId(1));
        let second = first.branch(TimelineId(2), Lsn(300), "");
        let old = backup(1, "2026-01-01T00:00:00Z");
        let new = backup(1, "2026-01-01T23:30:00Z");
        assert_eq!(due(&[], &first, 24, now), Due::Now);
        assert_eq!(due(std::slice::from_ref(&old), &first, 24, now), Due::Now);
        assert_eq!(due(&[old, new.clone()], &first, 1, now), Due::In(Duration::from_secs(1800)));
        assert_eq!(due(std::slice::from_ref(&new), &second, 24, now), Due::AfterPromotion);
        // A backup whose end lies beyond the branch does not lead here.
        let earlier = first.branch(TimelineId(2), Lsn(150), "");
        assert_eq!(due(&[new], &earlier, 24, now), Due::Now);
    }
}
