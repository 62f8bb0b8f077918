//! Segments: WAL that chunks held, put together to whole WAL segments and kept for the vault's retention.
//!
//! The archiver ([`Archiver`]) reads the log, verifies it, and writes a segment for each WAL segment of each line of
//! history, and an index now and then. [`compact`] decides where segments begin and end; without I/O. A reader whose
//! chunks are gone takes their WAL from here ([`read`]).
//!
//! Segments name each other by digest in the order of the log, and an index names the last one, so that a reader knows
//! before it serves a byte that none is missing and none was exchanged.

mod archive;
mod compact;
pub(crate) mod read;
mod write;

use holdfast_wal::{Lsn, SystemId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use archive::{ArchiveError, ArchiveOptions, ArchiveStep, Archiver};

use crate::keys::{Position, SegmentKey, SegmentLine};
use crate::log::walk::LogFacts;
use crate::object::{Decoded, Encoding, Hash, Link, ObjectError, Subject};
use crate::trust::WriterPublic;

/// Seals that one segment names at most.
const MAX_TURNS: usize = 128;
/// Writers that one segment names at most.
const MAX_WRITTEN: usize = 64;

/// WAL of one line of history: a whole WAL segment, or what there is of it.
///
/// A segment is never longer than a WAL segment and never crosses the boundary of one. It is shorter where its line of
/// history begins or ends, where a WAL segment is bigger than [`compact::MAX_SEGMENT_BYTES`], and where the archiver
/// would not wait longer for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The database's name in the vault.
    pub database: String,
    /// The database's system identifier.
    pub system_id: SystemId,
    /// Its line of history; with `start` its key.
    #[serde(flatten)]
    pub line: SegmentLine,
    /// The id of the lineage.
    pub lineage: String,
    /// Its first byte.
    pub start: Lsn,
    /// The first byte after it.
    pub end: Lsn,
    /// The segment before it in the order of the log; none in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<SegmentLink>,
    /// The seals between the segment before it and this one that changed the line of history, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Link>,
    /// Where the log goes on after the last chunk that it is made of.
    pub through: Through,
    /// Whose chunks it is made of, in the order of their first ones: a key that was stolen is revoked after the chunks are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<WrittenBy>,
}

/// A writer whose chunks a segment is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenBy {
    /// The writer key that vouched for their epochs.
    pub writer: WriterPublic,
    /// When the store made the last of them, by the store's clock; none where it did not tell of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Timestamp>,
}

impl WrittenBy {
    /// Takes a chunk to those of a segment.
    fn add(all: &mut Vec<WrittenBy>, writer: WriterPublic, stored: Option<Timestamp>) {
        match all.iter_mut().find(|written| written.writer == writer) {
            Some(written) => written.stored = written.stored.zip(stored).map(|(a, b)| a.max(b)),
            None => all.push(WrittenBy { writer, stored }),
        }
    }
}

/// A place of the log, and what an object there names as standing before it: the digest of the last chunk that a segment
/// is made of, through which all chunks before that hang together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The open epoch, and the end of the last chunk.
    pub at: Position,
    /// One link, or two after a seal that was put ahead.
    pub prev: Vec<Link>,
}

/// What names a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentLink {
    /// Where it stands.
    pub at: SegmentKey,
    /// The SHA-256 of its header block.
    pub hash: Hash,
}

/// Whether an object that was found at the key of a segment is one of this log, made of chunks that are believed.
pub(crate) fn check_segment<'a>(
    facts: &LogFacts,
    at: SegmentKey,
    decoded: &'a Decoded,
) -> Result<&'a Segment, ObjectError> {
    let segment = check_made(facts, at, decoded)?;
    for written in &segment.written {
        facts.trust.admits(Some(written.writer), written.stored).map_err(ObjectError::Untrusted)?;
    }
    Ok(segment)
}

/// The same, whoever wrote the chunks: what it names as standing before it may be believed though its WAL is not.
pub(crate) fn check_made<'a>(
    facts: &LogFacts,
    at: SegmentKey,
    decoded: &'a Decoded,
) -> Result<&'a Segment, ObjectError> {
    let misplaced = |reason: String| Err(ObjectError::Misplaced { reason });
    let Subject::Segment(segment) = &decoded.header.subject else {
        return misplaced("not a segment".into());
    };
    if segment.database != facts.database || segment.system_id != facts.system_id {
        return misplaced(format!("a segment of `{}` with system identifier {}", segment.database, segment.system_id));
    }
    if segment.line != at.line || segment.start != at.start {
        return misplaced(format!("the segment at {} of another place", segment.start));
    }
    facts.trust.check(decoded)?;
    let boundary = segment.start.segment_end(facts.segment_size);
    let Some(body) = decoded.header.body.filter(|body| body.encoding == Encoding::AgeZstd) else {
        return misplaced("a segment without WAL".into());
    };
    let holds = segment.start < segment.end
        && segment.end <= boundary
        && segment.start >= facts.origin
        && body.plain_len == segment.end.0 - segment.start.0
        && segment.through.at.start >= segment.end
        && matches!(segment.through.prev.len(), 1 | 2)
        && segment.turns.len() <= MAX_TURNS
        && segment.written.len() <= MAX_WRITTEN
        && segment.prev.is_none_or(|prev| (prev.at.line, prev.at.start) < (segment.line, segment.start));
    if holds { Ok(segment) } else { misplaced("it cannot be a segment of any log".into()) }
}
