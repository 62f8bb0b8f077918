//! Why the log's operations fail, and what to do.

use holdfast_wal::{Lsn, TimelineId};

use crate::error::VaultError;
use crate::log::types::{Fence, SealSummary};
use crate::object::Lineage;

/// Why a claim was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    /// The log belongs to another instance: this one stops for good.
    #[error("fenced: the log went to `{}` by the {} at {}", by.lineage.id, by.kind, by.at)]
    Fenced {
        /// The seal that says so.
        by: Box<SealSummary>,
        /// Another instance was promoted (always so today).
        promoted: bool,
    },
    /// A standby site is about to promote.
    #[error("a takeover by `{}` is pending since {}", by.by, by.at)]
    TakeoverPending {
        /// The takeover.
        by: Box<SealSummary>,
    },
    /// The timeline of the log is not in this server's history: a rolled-back or diverged database.
    #[error("the log is on timeline {} of `{}`, which is not in the history of this server's timeline {timeline}", lineage.history.timeline, lineage.id)]
    LineageNotOurs {
        /// The lineage of the log.
        lineage: Box<Lineage>,
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// The server left the log's timeline below what is stored: commits acknowledged in between would be lost.
    #[error("this server left timeline {timeline} at {branch}, and the log holds it up to {tail}")]
    BranchBelowTail {
        /// The timeline that it left.
        timeline: TimelineId,
        /// Where.
        branch: Lsn,
        /// The end of the log.
        tail: Lsn,
    },
    /// The server has less than the log: a restored snapshot or a lost disk.
    #[error("this server has WAL up to {flushed}, and the log holds it up to {tail}")]
    BehindTail {
        /// The server's flushed position.
        flushed: Lsn,
        /// The end of the log.
        tail: Lsn,
    },
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl ClaimError {
    /// Whether asking again is no use before a person (or a takeover's end) changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Vault(error) => error.is_permanent(),
            _ => true,
        }
    }

    /// A word for conditions, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "Fenced",
            Self::TakeoverPending { .. } => "TakeoverPending",
            Self::LineageNotOurs { .. } => "LineageNotOurs",
            Self::BranchBelowTail { .. } => "BranchBelowTail",
            Self::BehindTail { .. } => "BehindTail",
            Self::Vault(error) => error.reason(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "stop this database: another one is the primary now; rebuild it as a standby",
            Self::TakeoverPending { .. } => {
                "wait for the takeover's end, or, when it is given up, let this writer take the log back"
            }
            Self::LineageNotOurs { .. } | Self::BehindTail { .. } => {
                "do not let clients write here: restore this database from the vault; nothing in the vault was changed"
            }
            Self::BranchBelowTail { .. } => {
                "prove the old primary dead before a branch below the tail is accepted; nothing in the vault was changed"
            }
            Self::Vault(error) => error.hint(),
        }
    }
}

/// Why nothing can be appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The writer is fenced.
    #[error(transparent)]
    Fenced(#[from] Fence),
    /// The bytes do not follow those before: a mistake of the caller.
    #[error("WAL at {given} does not follow the {expected} received so far")]
    Gap {
        /// What should have come.
        expected: Lsn,
        /// What came.
        given: Lsn,
    },
    /// The writer was closed or could not go on.
    #[error("the writer has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a takeover or a promote did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TakeoverError {
    /// The pending epoch went to somebody else: the standby must not open.
    #[error("lost: the {} of `{}` stands at {}", by.kind, by.by, by.at)]
    Lost {
        /// Who won.
        by: Box<SealSummary>,
    },
    /// The promotion does not fit the takeover: a mistake of the caller.
    #[error("cannot promote: {reason}")]
    BadPromotion {
        /// Why.
        reason: String,
    },
    /// Not won in the time given: the writer lives and was faster each time. Repeat with the same state.
    #[error("not won yet: the log's tail moved {attempts} times")]
    NotYet {
        /// How often the tail was lost.
        attempts: u32,
    },
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl TakeoverError {
    /// Whether repeating it with the same state is no use.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::BadPromotion { .. } => true,
            Self::NotYet { .. } => false,
            Self::Vault(error) => error.is_permanent(),
        }
    }

    /// A word for conditions, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "TakeoverLost",
            Self::BadPromotion { .. } => "BadPromotion",
            Self::NotYet { .. } => "TailMoving",
            Self::Vault(error) => error.reason(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "do not open this standby; look at who holds the log and decide afresh",
            Self::BadPromotion { .. } => "keep the log of this operator: this is a mistake in it",
            Self::NotYet { .. } => "nothing: it is tried again; the writer at the other site is alive and busy",
            Self::Vault(error) => error.hint(),
        }
    }
}

/// Why reading failed. Asking again tries again from the same place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The log does not hold that position: it begins later.
    #[error("the log of `{database}` begins at {origin}, after {from}")]
    BeforeOrigin {
        /// The database's name in the vault.
        database: String,
        /// Where the log begins.
        origin: Lsn,
        /// What was asked for.
        from: Lsn,
    },
    /// The log ends before what was said to be its end.
    #[error("the log ends at {tip}, before {upto}")]
    EndsBefore {
        /// Its end.
        tip: Lsn,
        /// What was asked for.
        upto: Lsn,
    },
    /// The chunks there were deleted, because segments hold their WAL.
    #[error("the WAL at {from} is in segments: the log's chunks begin at {upto}")]
    Archived {
        /// What was asked for.
        from: Lsn,
        /// From here on the chunks are kept.
        upto: Lsn,
    },
    /// The reader's task is gone: make a new reader.
    #[error("the reader has stopped")]
    Stopped,
    /// The vault: a damaged object is named here.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl ReadError {
    /// Whether asking again is no use before a person changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Vault(error) => error.is_permanent(),
            Self::BeforeOrigin { .. } | Self::EndsBefore { .. } | Self::Archived { .. } | Self::Stopped => true,
        }
    }

    /// A word for conditions, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BeforeOrigin { .. } => "BeforeOrigin",
            Self::EndsBefore { .. } => "LogEndsBefore",
            Self::Archived { .. } => "Archived",
            Self::Stopped => "ReaderStopped",
            Self::Vault(error) => error.reason(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BeforeOrigin { .. } => "begin with a base backup that is in the vault",
            Self::EndsBefore { .. } => "look who touched the vault: what was stored cannot vanish",
            Self::Archived { .. } => "read the WAL up to there from the segments",
            Self::Stopped => "look into the log of this process: its reader has ended unexpectedly",
            Self::Vault(error) => error.hint(),
        }
    }
}
