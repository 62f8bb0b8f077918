//! The archiver: puts the chunks of a log together to whole WAL segments and writes an index now and then, so that
//! chunks may expire and a log of any age is opened quickly.
//!
//! It runs where the log can be decrypted, beside the relay. Killed at any point it goes on at the newest index; two of
//! them at two sites make the same segments.

mod metrics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_vault::{
    ArchiveError, ArchiveOptions, ArchiveStep, Archiver, DatabaseVault, Identities, ReadError, Recipients, Vault,
    VaultError,
};
use tokio_util::sync::CancellationToken;

use self::metrics::ArchiverMetrics;
use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::ArchiverConfig;
use crate::http::{self, ListenError};
use crate::problem::{code, vault_problem};
use crate::status::{ArchiverState, ArchiverStatus, Problem};

/// The longest time without an index, where chunks live long enough.
const INDEX_EVERY: Duration = Duration::from_secs(60 * 60);
/// The longest time that WAL stays in chunks alone, where chunks live long enough.
const SEGMENT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How often the locks of what the newest base backup needs are looked at.
const HOLD_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// Why the archiver cannot even say what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ArchiverError {
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs until `shutdown`.
pub async fn run(config: ArchiverConfig, shutdown: CancellationToken) -> Result<(), ArchiverError> {
    let listener = http::bind(config.listen).await?;
    let metrics = Arc::new(ArchiverMetrics::new());
    let role = Role { board: Board::new(ArchiverStatus::default()), metrics: Arc::clone(&metrics) };
    let http = http::serve(listener, role.board.clone(), metrics, shutdown.clone());
    let working = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = role.work(&config) => {}
        }
    };
    let (served, ()) = tokio::join!(http, working);
    Ok(served?)
}

/// How often what is written, for chunks that live so long.
fn options(config: &ArchiverConfig) -> ArchiveOptions {
    let life = config.vault.chunk_retention();
    ArchiveOptions {
        index_segments: config.index_segments.max(1),
        index_every: INDEX_EVERY.min(life / 16),
        segment_after: SEGMENT_AFTER.min(life / 8),
        ..ArchiveOptions::default()
    }
}

/// When locks are extended.
struct Rolling {
    database: DatabaseVault,
    /// For how long.
    keep: Duration,
    /// None: never.
    next: Option<Instant>,
}

impl Rolling {
    fn is_due(&self) -> bool {
        self.next.is_some_and(|next| Instant::now() >= next)
    }
}

struct Role {
    board: Board<ArchiverStatus>,
    metrics: Arc<ArchiverMetrics>,
}

impl Role {
    async fn work(&self, config: &ArchiverConfig) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match self.open(config).await {
                Ok((mut archiver, hold)) => self.archive(&mut archiver, hold, &mut backoff).await,
                Err(error) => self.failed(&ArchiveError::Vault(error)),
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Reads keys anew each time, so that a rotated one is picked up.
    async fn open(&self, config: &ArchiverConfig) -> Result<(Archiver, Rolling), VaultError> {
        let identities = Identities::from_file(&config.identity_file)?;
        let recipients = Recipients::parse(&config.recipients)?;
        let vault = Vault::open(config.vault.clone())?;
        self.metrics.store.opened(&vault);
        let database = vault.database(&config.name)?;
        let archiver = database.archiver(identities, recipients, options(config)).await?;
        self.progress(&archiver);
        let keep = config.vault.retention();
        let rolling = Rolling { database, keep, next: config.rolling.then(Instant::now) };
        Ok((archiver, rolling))
    }

    /// Until something fails.
    async fn archive(&self, archiver: &mut Archiver, mut rolling: Rolling, backoff: &mut Backoff) {
        loop {
            if rolling.is_due() {
                self.extend(&mut rolling).await;
            }
            match archiver.step().await {
                Ok(step) => {
                    self.step(&step);
                    self.progress(archiver);
                    backoff.reset();
                }
                Err(error) => return self.failed(&error),
            }
        }
    }

    /// What the newest base backup needs stays locked, however old it gets. Archiving goes on when that fails.
    async fn extend(&self, rolling: &mut Rolling) {
        rolling.next = Some(Instant::now() + HOLD_EVERY.min(rolling.keep / 16));
        let held = rolling.database.hold_recovery(rolling.keep).await;
        self.metrics.extended.inc_by(held.as_ref().map_or(0, |held| held.extended));
        let problem = match &held {
            Ok(held) => held.failures.first().map(|failure| {
                let hint = "grant these credentials s3:PutObjectRetention on the vault's prefix";
                Problem::new("LockNotExtended", format!("{} locks were not extended: {failure}", held.failed), hint)
            }),
            Err(error) => Some(vault_problem(error)),
        };
        if let Some(problem) = &problem {
            tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message);
        }
        self.board.update(|status| {
            if let (Ok(held), None) = (&held, &problem) {
                status.held_until = held.until;
            }
            status.hold_problem = problem;
        });
    }

    fn step(&self, step: &ArchiveStep) {
        self.board.update(|status| {
            status.at_end = matches!(step, ArchiveStep::AtEnd(_));
            (status.state, status.problem) = (ArchiverState::Archiving, None);
            if let ArchiveStep::Read(end) | ArchiveStep::AtEnd(end) = step {
                status.read = Some(*end);
            }
            if let ArchiveStep::Tampering(tampering) = step {
                status.tampering = Some(tampering.to_string());
            }
        });
        match step {
            ArchiveStep::Segment { end, plain_bytes, stored_bytes } => {
                self.metrics.segments.inc();
                self.metrics.archived_bytes.inc_by(*plain_bytes);
                self.metrics.stored_bytes.inc_by(*stored_bytes);
                tracing::info!(%end, plain_bytes, stored_bytes, "segment");
            }
            ArchiveStep::Index(index) => {
                self.metrics.indexes.inc();
                tracing::info!(n = index.index.n, at = %index.index.place.at, "index");
            }
            ArchiveStep::Seal(seal) => tracing::info!(kind = %seal.kind, at = %seal.at, by = seal.by, "seal"),
            ArchiveStep::Tampering(tampering) => {
                self.metrics.tampering.inc();
                tracing::warn!(%tampering, "the vault was tampered with; the oldest version was read");
            }
            ArchiveStep::BeganAgain => tracing::info!("another archiver is at work on this log"),
            ArchiveStep::Read(_) | ArchiveStep::AtEnd(_) => {}
        }
    }

    fn progress(&self, archiver: &Archiver) {
        let (index, archived) = (archiver.index(), archiver.archived());
        self.board.update(|status| {
            status.archived = archived.map(|(end, _)| end);
            status.index = index.map(|stored| stored.index.n);
            status.indexed = index.map(|stored| stored.index.place.at.start);
            status.index_stored = index.and_then(|stored| stored.stored);
            status.index_behind_seconds = archiver.index_behind().as_secs_f64();
            status.waiting_bytes = archiver.waiting_bytes();
        });
    }

    fn failed(&self, error: &ArchiveError) {
        self.metrics.failures.inc();
        let (state, problem) = explained(error);
        self.board.update(|status| {
            if status.problem.as_ref() != Some(&problem) {
                tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message);
            }
            (status.state, status.problem, status.at_end) = (state, Some(problem), false);
        });
    }
}

fn explained(error: &ArchiveError) -> (ArchiverState, Problem) {
    let vault = match error {
        ArchiveError::Vault(error) | ArchiveError::Read(ReadError::Vault(error)) => Some(error),
        ArchiveError::Read(_) => None,
    };
    match vault {
        Some(VaultError::UnknownDatabase { .. }) => {
            let hint = "check the name, and that the ProtectedDatabase at the other site has started";
            (ArchiverState::Retrying, Problem::new(code::NOTHING_TO_RESTORE, error.to_string(), hint))
        }
        Some(error @ VaultError::Damaged { .. }) => (ArchiverState::Damaged, vault_problem(error)),
        Some(error) if error.is_permanent() => (ArchiverState::Refused, vault_problem(error)),
        Some(error) => (ArchiverState::Retrying, vault_problem(error)),
        None if error.is_permanent() => {
            (ArchiverState::Refused, Problem::new(error.reason(), error.to_string(), error.hint()))
        }
        None => (ArchiverState::Retrying, Problem::new(error.reason(), error.to_string(), error.hint())),
    }
}
