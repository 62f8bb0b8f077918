//! What the log's operations take and give.

use std::time::Duration;

use bytes::Bytes;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keys::Position;
use crate::log::walk::Cursor;
use crate::object::{Decoded, Hash, Lineage, Nonce, Seal, SealKind, Subject};
use crate::store::Traffic;
use crate::trust::{Voucher, WriterPublic};

/// The lineage of the database that was protected first.
pub const ORIGIN: &str = "origin";

/// Which database a name in the vault stands for, and where its log begins. Written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// PostgreSQL's system identifier.
    pub system_id: SystemId,
    /// Its timeline when it was registered, and how it came to be.
    pub history: TimelineHistory,
    /// Bytes of a WAL segment; no chunk crosses a boundary.
    pub segment_size: u64,
    /// Where the log begins: the start of a segment.
    pub origin: Lsn,
    /// When, by the registrar's clock.
    pub created: Timestamp,
}

/// The PostgreSQL that a writer is attached to.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Which instance: [`ORIGIN`], or the id of the standby instance that was promoted.
    pub instance_id: String,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its timeline and how it came to be.
    pub history: TimelineHistory,
    /// Its flushed position.
    pub flushed: Lsn,
    /// Who claims, for people (a pod's name).
    pub by: String,
}

/// How to claim.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClaimOptions {
    /// Take the log back from a takeover that has not promoted. Doing so always would defeat every takeover of a
    /// primary that lives.
    pub reclaim_pending: bool,
}

/// What a seal says, for people and decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealSummary {
    /// What for.
    pub kind: SealKind,
    /// Where it stands: the epoch that it ends and its tail.
    pub at: Position,
    /// Where the next epoch starts.
    pub next_start: Lsn,
    /// The lineage that it names.
    pub lineage: Lineage,
    /// Whose.
    pub nonce: Nonce,
    /// Who, for people.
    pub by: String,
    /// The writer key that vouches for it; none when its site has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterPublic>,
    /// Put ahead of the tail.
    pub ahead: bool,
    /// When, by its maker's clock.
    pub created: Timestamp,
}

impl SealSummary {
    pub(crate) fn of(seal: &Seal, decoded: &Decoded) -> SealSummary {
        SealSummary {
            kind: seal.seal,
            at: Position { epoch: seal.epoch, start: seal.start },
            next_start: seal.next_start,
            lineage: seal.lineage.clone(),
            nonce: decoded.header.nonce,
            by: seal.by.clone(),
            writer: decoded.writer(),
            ahead: seal.ahead,
            created: decoded.header.created,
        }
    }

    pub(crate) fn of_object(decoded: &Decoded) -> Option<SealSummary> {
        match &decoded.header.subject {
            Subject::Seal(seal) => Some(SealSummary::of(seal, decoded)),
            _ => None,
        }
    }
}

/// A stretch of the log that a server must still have, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStretch {
    /// Its first byte.
    pub start: Lsn,
    /// The first byte after it.
    pub end: Lsn,
    /// The timeline of its bytes.
    pub timeline: TimelineId,
    /// The SHA-256 of its bytes.
    pub plain_sha256: Hash,
    /// Where the last WAL record begins that begins before its end, if its writer knew.
    pub last_record: Option<Lsn>,
}

/// Bounds of a running writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    /// PUTs at the same time; small ones go out one by one when the store is busy.
    pub max_in_flight: usize,
    /// The longest chunk, in bytes, that is made of several appended pieces.
    pub max_chunk_bytes: usize,
    /// WAL that waits for a free slot, in bytes; `append` waits when it is full.
    pub max_buffered_bytes: usize,
    /// An idle writer looks this often whether a seal stands at its next key.
    pub idle_check: Duration,
}

impl Default for WriterLimits {
    fn default() -> Self {
        WriterLimits {
            max_in_flight: 4,
            max_chunk_bytes: 2 * 1024 * 1024,
            max_buffered_bytes: 8 * 1024 * 1024,
            idle_check: Duration::from_secs(2),
        }
    }
}

/// Where a running writer stands.
#[derive(Clone, Debug, Default)]
pub struct WriterState {
    /// The end of what was appended.
    pub received: Lsn,
    /// The end of the contiguous stored chunks: the only position that may be reported as flushed.
    pub durable: Lsn,
    /// PUTs sent so far.
    pub requests: u64,
    /// Chunks stored so far.
    pub chunks: u64,
    /// Bytes stored so far (compressed and encrypted).
    pub stored_bytes: u64,
    /// PUTs without an answer.
    pub in_flight: usize,
    /// What was sent to the store by this process, and how it fared.
    pub traffic: Traffic,
    /// The claim is old: close the writer and claim anew, as soon as it suits. One that is never renewed counts nothing
    /// any more after half the lifetime of a chunk.
    pub renew: bool,
    /// Set once, and then nothing changes any more.
    pub fenced: Option<Fence>,
    /// Why the store does not take chunks at the moment; `None` again when it does.
    pub store_problem: Option<StoreProblem>,
    /// The writer ended by a fault of its own: nothing more is stored before a new claim.
    pub failed: Option<StoreProblem>,
}

/// Why the store does not take chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreProblem {
    /// A word for conditions.
    pub reason: String,
    /// What the store says.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Somebody else's object stands where the writer was to write. It stops for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fenced at {at}{}", by.as_ref().map(|s| format!(" by the {} of `{}`", s.kind, s.by)).unwrap_or_default())]
pub struct Fence {
    /// Where.
    pub at: Position,
    /// The seal that stands there; `None` when it is no seal.
    pub by: Option<Box<SealSummary>>,
}

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// The epoch that is open.
    pub epoch: u64,
    /// The end of the contiguous stored chunks.
    pub tip: Lsn,
    /// The timeline of the byte before.
    pub timeline: TimelineId,
    /// The lineage of the log.
    pub lineage: Lineage,
    /// The seal that opened the epoch; none in epoch 0.
    pub last_seal: Option<SealSummary>,
}

impl Tip {
    /// That of a log that ends there.
    pub(crate) fn of(end: &Cursor) -> Tip {
        let at = end.position();
        Tip {
            epoch: at.epoch,
            tip: at.start,
            timeline: end.lineage().history.timeline_at(Lsn(at.start.0.saturating_sub(1))),
            lineage: end.lineage().clone(),
            last_seal: end.opened_by().cloned(),
        }
    }

    /// The takeover that has not promoted, if the log is in such a state.
    pub fn pending(&self) -> Option<&SealSummary> {
        self.last_seal.as_ref().filter(|seal| seal.kind == SealKind::Takeover)
    }
}

/// What a taker is. Journal it before the takeover: repeated with the same state, a takeover and a promote find
/// their own seals again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakerState {
    /// Tells this taker from every other.
    pub nonce: Nonce,
    /// The seed of the key that signs its seals. Secret only until the promote is stored and the next claim made;
    /// good for nothing but this takeover.
    #[serde(with = "hex::serde")]
    pub key_seed: [u8; 32],
    /// Who, for people (the run's id).
    pub by: String,
    /// When, by the taker's clock.
    pub created: Timestamp,
    /// By the writer key that the site has now.
    #[serde(skip)]
    pub(crate) voucher: Option<Voucher>,
}

impl std::fmt::Debug for TakerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TakerState").field("nonce", &self.nonce).field("by", &self.by).finish_non_exhaustive()
    }
}

/// A takeover that was won: the log ends at `sealed` and waits for a promote or a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The pending epoch.
    pub epoch: u64,
    /// T: the end of the log. The standby replays to here and no further.
    pub sealed: Lsn,
    /// The lineage of the log.
    pub lineage: Lineage,
    /// PUTs that it took.
    pub requests: u32,
}

/// What is promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The end of the last complete record at or below T ([`crate::DatabaseVault::floor`]).
    pub start: Lsn,
    /// The id of the instance that will open: its lineage from here on.
    pub instance_id: String,
    /// The timeline that it will open.
    pub new_timeline: TimelineId,
}

/// A promote that is stored: the standby may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The epoch that is open now.
    pub epoch: u64,
    /// Where it starts.
    pub start: Lsn,
    /// The new lineage.
    pub lineage: Lineage,
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// The shortest and the longest wait between two looks for the next chunk.
    pub poll: (Duration, Duration),
    /// Objects fetched ahead at the same time.
    pub prefetch: usize,
    /// Bytes fetched ahead and not yet taken.
    pub prefetch_bytes: u64,
    /// How often an idle reader makes sure that no delete marker hides the next object, and says that it is at
    /// the end.
    pub idle_check: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            poll: (Duration::from_millis(25), Duration::from_millis(250)),
            prefetch: 8,
            prefetch_bytes: 16 * 1024 * 1024,
            idle_check: Duration::from_secs(2),
        }
    }
}

/// What a reader meets.
#[derive(Clone, Debug)]
pub enum ReadEvent {
    /// WAL that is on the chain.
    Wal {
        /// Its timeline.
        timeline: TimelineId,
        /// Its first byte.
        start: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// An epoch ended.
    Seal(SealSummary),
    /// What was served from `to` up to `from` is cut: the log goes on from `to`. Comes after the seal that says so.
    /// A standby that replayed beyond `to` is out until it is rebuilt.
    Cut {
        /// The end of what was served.
        from: Lsn,
        /// Where the log goes on.
        to: Lsn,
    },
    /// Nothing more for now. Said at once when the end is reached and again at each idle check.
    AtEnd {
        /// The end.
        tip: Lsn,
        /// The open epoch.
        epoch: u64,
    },
    /// Somebody hid or overwrote an object; the oldest version was read instead.
    Tampering(Tampering),
}

/// A sign that somebody touched the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// The object.
    pub key: String,
    /// What was found.
    pub what: TamperingKind,
}

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TamperingKind {
    /// A delete marker hides it.
    DeleteMarker,
    /// A newer version was put over it.
    NewerVersion,
}

impl std::fmt::Display for Tampering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            TamperingKind::DeleteMarker => "a delete marker hides",
            TamperingKind::NewerVersion => "a newer version was put over",
        };
        write!(f, "{what} object `{}`", self.key)
    }
}
