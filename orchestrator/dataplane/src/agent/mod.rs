//! The agent: one database's writer.
//!
//! ```text
//! vault reachable -> database fit (preflight) -> out of recovery -> registered -> claimed -> same WAL (overlap)
//!   -> streaming, with base backups and the setting that makes commits wait beside it
//! ```
//!
//! Whatever fails on the way is shown on `/status` and tried again; the process never ends by itself. A position is
//! reported to PostgreSQL only when everything before it is stored. An agent that meets somebody else's object writes
//! and reports nothing more: the chain tells it whether another site was promoted (for good; the database is made
//! read-only), a takeover is pending (it waits for the outcome), or a newer agent of the same database has started.
//! `kill -9` at any moment loses nothing: the next start is a new incarnation that claims and goes on at the tail.

mod backup;
mod fence;
mod intake;
mod metrics;
mod overlap;
mod preflight;
mod receive;
mod stop;
mod sync;
mod tail;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_vault::{
    Attached, ClaimOptions, DatabaseVault, Identity, LogWriter, Recipients, SealSummary, Vault, WriterLimits,
    WriterState,
};
use holdfast_wal::Lsn;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use self::backup::Backups;
use self::metrics::AgentMetrics;
use self::preflight::Primary;
use self::receive::Flow;
use self::stop::{Loss, Stop, describe, meaning};
use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::{AgentConfig, slot_name};
use crate::http::{self, ListenError};
use crate::lag::Lag;
use crate::problem::{code, vault_problem};
use crate::sql::{self, Target};
use crate::status::{AgentState, AgentStatus, FenceReport, Problem};

/// Together with a base backup's parts in flight this keeps the process below 64 MiB.
const LIMITS: WriterLimits = WriterLimits {
    max_in_flight: 4,
    max_chunk_bytes: 1024 * 1024,
    max_buffered_bytes: 4 * 1024 * 1024,
    idle_check: Duration::from_secs(1),
};
/// How long a renewal of the claim waits for a base backup at most.
const RENEW_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
const RENEW_LOOK: Duration = Duration::from_secs(5);
/// So many looks in a row must find the replication slot unused before an agent that lost to another one claims again.
const UNATTENDED_LOOKS: u32 = 3;
const UNATTENDED_LOOK: Duration = Duration::from_secs(2);
const LOOK_AT_CHAIN: Duration = Duration::from_secs(1);

/// How long a renewal of the claim waits for a base backup. A claim counts for half the lifetime of a chunk and is to be
/// renewed after an eighth of it at the latest, so another eighth is never too long.
fn renew_patience(chunk_life: Duration) -> Duration {
    RENEW_PATIENCE.min(chunk_life / 8)
}

/// How a writer ended that the receiver did not end; none: its task is gone.
fn ended_by(state: Option<watch::Ref<'_, WriterState>>) -> Stop {
    match state.and_then(|state| state.failed.clone()) {
        Some(failed) => Stop::Retry(Problem::new(&failed.reason, &failed.message, &failed.hint)),
        None => Stop::Lost,
    }
}

/// Why the agent cannot even say what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs until `shutdown`.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let listener = http::bind(config.listen).await?;
    let board = Board::new(AgentStatus { incarnation: uuid::Uuid::new_v4().to_string(), ..AgentStatus::default() });
    let metrics = Arc::new(AgentMetrics::new());
    let agent = Agent {
        slot: slot_name(&config.name),
        config,
        board: board.clone(),
        metrics: Arc::clone(&metrics),
        vault: OnceCell::new(),
    };
    let serving = http::serve(listener, board, metrics, shutdown.clone());
    let working = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = agent.work() => {}
        }
    };
    let (served, ()) = tokio::join!(serving, working);
    Ok(served?)
}

struct Agent {
    config: AgentConfig,
    slot: String,
    board: Board<AgentStatus>,
    metrics: Arc<AgentMetrics>,
    /// Opened and checked once.
    vault: OnceCell<DatabaseVault>,
}

impl Agent {
    async fn work(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        loop {
            let stop = match self.attempt(&mut backoff).await {
                Stop::Lost => self.ask_the_chain().await,
                stop => stop,
            };
            match stop {
                Stop::Retry(problem) => {
                    self.show(AgentState::Retrying, Some(problem));
                    tokio::time::sleep(backoff.delay()).await;
                }
                Stop::Refused { problem, look_again } => {
                    self.show(AgentState::Refused, Some(problem));
                    tokio::time::sleep(look_again).await;
                }
                Stop::TakeoverPending(seal) => {
                    if let Some(loss) = self.wait_for_outcome(&seal).await {
                        return self.fenced(loss).await;
                    }
                }
                Stop::Fenced(loss @ Loss::AnotherWriter { .. }) => {
                    self.report_fence(&loss);
                    self.wait_for_the_other_to_end().await;
                }
                Stop::Fenced(loss) => return self.fenced(loss).await,
                Stop::ServerChanged | Stop::Lost => tokio::time::sleep(backoff.delay()).await,
            }
        }
    }

    /// One way through, from the vault to the end of the stream.
    async fn attempt(&self, backoff: &mut Backoff) -> Stop {
        match self.prepare().await {
            Ok((recipients, primary, writer)) => {
                backoff.reset();
                self.stream(&recipients, &primary, writer).await
            }
            Err(stop) => stop,
        }
    }

    async fn prepare(&self) -> Result<(Recipients, Primary, LogWriter), Stop> {
        let database = self.vault.get_or_try_init(|| self.open_vault()).await?;
        let recipients = self.recipients()?;
        let (target, primary) = self.primary().await?;
        self.show(AgentState::Claiming, None);
        let writer = self.claim(database, &recipients, &primary).await?;
        let compared = overlap::check(&target, &self.slot, writer.overlap(), writer.last_record()).await?;
        tracing::info!(epoch = writer.epoch(), start = %writer.start(), overlap = compared, "log claimed");
        self.board.update(|status| {
            status.epoch = Some(writer.epoch());
            status.overlap_check = compared;
        });
        Ok((recipients, primary, writer))
    }

    async fn open_vault(&self) -> Result<DatabaseVault, Stop> {
        let vault = Vault::open(self.config.vault.clone())?;
        self.metrics.store.opened(&vault);
        let database = vault.database(&self.config.name)?;
        vault.check().await?;
        Ok(database)
    }

    fn recipients(&self) -> Result<Recipients, Stop> {
        Recipients::parse(&self.config.recipients).map_err(|error| {
            Stop::Retry(Problem { code: code::RECIPIENTS_INVALID.to_owned(), ..vault_problem(&error) })
        })
    }

    /// Waits until the server can be protected and has left recovery.
    async fn primary(&self) -> Result<(Target, Primary), Stop> {
        let target = sql::target(&self.config.connection).map_err(|error| Stop::Retry(error.problem()))?;
        let (connection, facts) = preflight::look(&target).await.map_err(Stop::Retry)?;
        self.board.update(|status| status.system_id = Some(facts.system_id));
        if facts.in_recovery {
            self.show(AgentState::Standby, None);
            preflight::promoted(&connection).await.map_err(|error| Stop::Retry(error.problem()))?;
            tracing::info!("the database has left recovery");
        }
        let primary = preflight::identify(&target, &connection, &self.slot, facts).await.map_err(Stop::Retry)?;
        self.board.update(|status| status.timeline = Some(primary.identity.timeline));
        Ok((target, primary))
    }

    async fn claim(
        &self,
        database: &DatabaseVault,
        recipients: &Recipients,
        primary: &Primary,
    ) -> Result<LogWriter, Stop> {
        let identity = &primary.identity;
        database
            .register(Identity {
                system_id: identity.system_id,
                history: primary.history.clone(),
                segment_size: primary.facts.segment_size,
                origin: identity.flush_lsn.segment_start(primary.facts.segment_size),
                created: jiff::Timestamp::now(),
            })
            .await?;
        let attached = Attached {
            instance_id: self.config.instance_id.clone(),
            system_id: identity.system_id,
            history: primary.history.clone(),
            flushed: identity.flush_lsn,
            by: std::env::var("HOSTNAME").unwrap_or_else(|_| self.board.read().incarnation),
        };
        let options = ClaimOptions { reclaim_pending: self.config.reclaim };
        Ok(database.claim(&attached, recipients, options).await?)
    }

    /// Streams until something ends the epoch or its connection for good.
    async fn stream(&self, recipients: &Recipients, primary: &Primary, writer: LogWriter) -> Stop {
        let Some(database) = self.vault.get() else { return Stop::ServerChanged };
        let (start, last_record): (Lsn, Option<Lsn>) = (writer.start(), writer.last_record());
        let writer = match writer.into_running(LIMITS) {
            Ok(writer) => writer,
            Err(error) => return error.into(),
        };
        let (caught_up, sees_caught_up) = watch::channel(false);
        let connection = &self.config.connection;
        let flow = Flow {
            connection,
            slot: &self.slot,
            writer: &writer,
            system_id: primary.identity.system_id,
            history: &primary.history,
            segment_size: primary.facts.segment_size,
            last_record,
            caught_up,
            board: &self.board,
            metrics: &self.metrics,
            lag: Mutex::new(Lag::default()),
        };
        let backups = Backups {
            connection,
            slot: &self.slot,
            database,
            recipients,
            history: &primary.history,
            interval_hours: self.config.base_backup_interval_hours,
            board: &self.board,
            metrics: &self.metrics,
        };
        let mut state = writer.state();
        let stop = tokio::select! {
            stop = flow.run(start) => stop,
            // Sees the fence also while the receiver waits for the database.
            ended = state.wait_for(|state| state.fenced.is_some() || state.failed.is_some()) => ended_by(ended.ok()),
            // A claim is made anew each day, as a restart would: what it does not have yet, the server sends again.
            () = self.renewal(writer.state(), renew_patience(self.config.vault.chunk_retention())) => Stop::ServerChanged,
            () = sync::keep(connection, self.config.durability, &self.slot, sees_caught_up, &self.board) => Stop::ServerChanged,
            () = backups.keep() => Stop::ServerChanged,
        };
        self.board.update(|status| {
            status.backup_running = false;
            status.set_synchronous_problem(None);
        });
        stop
    }

    /// Waits until the claim has to be renewed, and then, for a while, until no base backup is cut off by it.
    async fn renewal(&self, mut state: watch::Receiver<WriterState>, patience: Duration) {
        if state.wait_for(|state| state.renew).await.is_err() {
            return std::future::pending().await;
        }
        let backup = async {
            while self.board.read().backup_running {
                tokio::time::sleep(RENEW_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(patience, backup).await;
        tracing::info!("the claim of the log is renewed");
    }

    /// The writer met a foreign object: what does the chain say? Asked until it answers.
    async fn ask_the_chain(&self) -> Stop {
        let Some(database) = self.vault.get() else { return Stop::ServerChanged };
        loop {
            match database.tip().await {
                Ok(tip) => return meaning(&tip, &self.config.instance_id),
                Err(error) => self.show(AgentState::Retrying, Some(vault_problem(&error))),
            }
            tokio::time::sleep(LOOK_AT_CHAIN).await;
        }
    }

    /// Waits for what follows a takeover. None: the log may be claimed again.
    async fn wait_for_outcome(&self, seal: &SealSummary) -> Option<Loss> {
        let problem = Problem::new(
            code::TAKEOVER_PENDING,
            format!(
                "{} has sealed the log: a standby site is about to take over. Commits are not acknowledged",
                describe(seal)
            ),
            "wait for the failover to end. If it was given up for good, set reclaim so that this database takes its log back",
        );
        self.show(AgentState::TakeoverPending, Some(problem));
        if self.config.reclaim {
            tokio::time::sleep(LOOK_AT_CHAIN).await;
            return None;
        }
        loop {
            tokio::time::sleep(LOOK_AT_CHAIN).await;
            match self.ask_the_chain_once().await {
                Some(Stop::Fenced(loss)) => return Some(loss),
                Some(Stop::TakeoverPending(_)) | None => {}
                Some(_) => return None,
            }
        }
    }

    async fn ask_the_chain_once(&self) -> Option<Stop> {
        match self.vault.get()?.tip().await {
            Ok(tip) => Some(meaning(&tip, &self.config.instance_id)),
            Err(error) => {
                tracing::warn!(%error, "cannot see the outcome of the takeover");
                None
            }
        }
    }

    /// For good. Says so until the process is stopped.
    async fn fenced(&self, loss: Loss) {
        self.report_fence(&loss);
        if let Loss::Promoted { winner, .. } = loss {
            fence::close_database(&self.config.connection, Some(winner), &self.board).await;
        }
        std::future::pending().await
    }

    /// The other one may be about to end: of two that overlap when a pod is replaced, the last to claim is not always the
    /// one that stays. As long as it streams it holds the replication slot; once nobody does, this one claims anew.
    async fn wait_for_the_other_to_end(&self) {
        let mut unattended = 0;
        while unattended < UNATTENDED_LOOKS {
            tokio::time::sleep(UNATTENDED_LOOK).await;
            match preflight::is_attended(&self.config.connection, &self.slot).await {
                Ok(false) => unattended += 1,
                Ok(true) => unattended = 0,
                Err(problem) => tracing::debug!(?problem, "cannot see whether another agent streams"),
            }
        }
        tracing::info!(slot = self.slot, "no other agent streams any more: claiming the log again");
        self.board.update(|status| status.fence = None);
    }

    fn report_fence(&self, loss: &Loss) {
        let (by, problem) = match loss {
            Loss::Promoted { by, .. } => (
                by,
                Problem::new(
                    code::FENCED,
                    format!("the log belongs to another site: {by}"),
                    "nothing is written any more. Make sure that no client uses this database",
                ),
            ),
            Loss::AnotherWriter { by } => (
                by,
                Problem::new(
                    code::ANOTHER_WRITER,
                    format!("another agent of the same database writes the log now: {by}"),
                    "run one agent for each database. If the other one is not meant to be, stop it: this one then goes on by itself",
                ),
            ),
        };
        let tail = self.board.read().durable;
        self.board.update(|status| {
            status.set_state(AgentState::Fenced);
            status.set_problem(Some(problem));
            status.fence = Some(FenceReport {
                by: by.clone(),
                tail,
                database_read_only: false,
                actions: vec!["stopped writing and reporting, replication connection closed".to_owned()],
            });
        });
    }

    fn show(&self, state: AgentState, problem: Option<Problem>) {
        self.board.update(|status| {
            status.set_state(state);
            status.set_problem(problem);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_never_waits_until_the_claim_counts_no_more() {
        let day = Duration::from_secs(24 * 60 * 60);
        for (life, patience) in [(day, day / 8), (7 * day, day * 7 / 8), (8 * day, day), (30 * day, day)] {
            assert_eq!(renew_patience(life), patience);
            // It is asked for after an eighth at the latest.
            assert!(life / 8 + patience < life / 2);
        }
    }
}
