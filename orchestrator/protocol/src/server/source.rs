//! What a walsender serves from.

use std::future::Future;

use bytes::Bytes;
use futures::Stream;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};

use crate::config::IdentifySystem;

/// Something that has the WAL of one system.
///
/// Clones share it; each connection has one.
pub trait WalSource: Clone + Send + Sync + 'static {
    /// WAL in order; see [`WalSource::stream`].
    type Stream: Stream<Item = Result<WalPiece, SourceError>> + Send + Unpin;

    /// The system, the newest timeline that may be served, and the end of what may be served of it.
    fn identify(&self) -> impl Future<Output = Result<IdentifySystem, SourceError>> + Send;

    /// The history of a timeline; asked for every timeline above 1 up to the newest.
    fn timeline_history(
        &self,
        timeline: TimelineId,
    ) -> impl Future<Output = Result<TimelineHistory, SourceError>> + Send;

    /// WAL of `timeline` from exactly `start` on.
    ///
    /// Pieces are contiguous. At the end of what there is the stream waits for more; when it ends, the
    /// connection stays and signs of life go on. What was yielded must never be taken back.
    fn stream(
        &self,
        start: Lsn,
        timeline: TimelineId,
    ) -> impl Future<Output = Result<Self::Stream, SourceError>> + Send;
}

/// What a source yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalPiece {
    /// Bytes that follow those of the piece before; of any length.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// There is WAL up to here, soon to be yielded: tells a standby how far behind it is.
    Tip(Lsn),
    /// The timeline ends at the end of the piece before.
    EndOfTimeline {
        /// The timeline that follows.
        timeline: TimelineId,
        /// The first position that belongs to it.
        switch: Lsn,
    },
}

/// Why a source cannot serve. The standby is told, and tries again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The source knows nothing of that timeline.
    #[error("timeline {timeline} is not known here")]
    UnknownTimeline {
        /// What was asked for.
        timeline: TimelineId,
    },
    /// The position lies before or beyond everything that the source has of that timeline.
    #[error("WAL of timeline {timeline} at {start} is not stored here")]
    NotStored {
        /// What was asked for.
        timeline: TimelineId,
        /// What was asked for.
        start: Lsn,
    },
    /// Anything else: the vault cannot be reached, an object is damaged.
    #[error("{message}")]
    Failed {
        /// For the standby's log: what, where, what to do.
        message: String,
    },
}

impl SourceError {
    /// The SQLSTATE that a walsender would give.
    pub(super) fn sqlstate(&self) -> &'static str {
        match self {
            SourceError::UnknownTimeline { .. } | SourceError::NotStored { .. } => "58P01",
            SourceError::Failed { .. } => "58030",
        }
    }
}
