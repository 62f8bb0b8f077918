//! Reads WAL from segments where the chunks are gone. Which segments there are is known for sure before a byte is given:
//! the index names the last one, and each names the one before it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::StreamExt;
use holdfast_wal::Lsn;

use super::{Segment, SegmentLink, check_made, check_segment};
use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::janitor::decide::Needs;
use crate::keys::{Position, SegmentKey, SegmentLine};
use crate::log::LogAccess;
use crate::log::types::SealSummary;
use crate::object::{Decoded, Hash, Link, ObjectError, decode_stored, decode_stored_header};
use crate::seal::{Identities, open};
use crate::store::{ListRequest, Object};

/// Headers read at the same time.
const HEADERS_IN_FLIGHT: usize = 16;
/// Keys of one page.
const PAGE: usize = 1000;

/// From where on segments are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// The one that holds this byte, on the newest line of history that does.
    Byte(Lsn),
    /// The first one that goes on beyond this place of the log.
    Place(Position),
}

/// What a header says, as far as the plan needs it.
#[derive(Clone, Copy, Debug)]
struct Known {
    at: SegmentKey,
    through: Position,
    prev: Option<SegmentLink>,
}

impl Known {
    fn of(at: SegmentKey, segment: &Segment) -> Known {
        Known { at, through: segment.through.at, prev: segment.prev }
    }
}

/// A segment, opened.
pub(crate) struct Opened {
    /// What it says.
    pub(crate) segment: Segment,
    /// Its WAL.
    pub(crate) plain: Bytes,
}

impl LogAccess {
    /// The segments from `from` to `last`, in order, each named by the one after it.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] names the first one (from the end) that is not there or is not what the one after it names.
    pub(crate) async fn segments(&self, last: SegmentLink, from: From) -> Result<Vec<SegmentLink>, VaultError> {
        // A hint: headers that are fetched one after another by their links alone would take too long.
        let known = self.listed_segments(last, from).await?;
        let (mut found, mut next) = (Vec::new(), Some(last));
        while let Some(link) = next {
            let segment = match known.get(&link.hash) {
                Some(known) if known.at == link.at => *known,
                _ => {
                    let (_, decoded) = self.segment_object(link).await?;
                    let key = self.keys.segment(link.at);
                    Known::of(link.at, check_made(&self.facts, link.at, &decoded).map_err(damaged(&key))?)
                }
            };
            if matches!(from, From::Place(at) if segment.through <= at) {
                break;
            }
            found.push(link);
            if matches!(from, From::Byte(byte) if link.at.start <= byte) {
                break;
            }
            next = segment.prev;
        }
        found.reverse();
        Ok(found)
    }

    /// The headers that listings show from about `from` to `last`, by digest. What does not hold is left out.
    async fn listed_segments(&self, last: SegmentLink, from: From) -> Result<HashMap<Hash, Known>, VaultError> {
        let mut lines = self.segment_lines().await?;
        lines.retain(|line| *line <= last.at.line);
        let mut keys: Vec<SegmentKey> = Vec::new();
        for line in lines.into_iter().rev() {
            let (start, complete) = match from {
                From::Byte(byte) => (byte.segment_start(self.facts.segment_size), false),
                From::Place(at) if line.branch <= at.epoch => (at.start.segment_start(self.facts.segment_size), true),
                From::Place(_) => (Lsn(0), false),
            };
            let found: Vec<SegmentKey> = self.list_segments(line, start).await?;
            // A line that begins after the byte hangs on one before it.
            let holds = found.first().is_some_and(|first| matches!(from, From::Byte(byte) if first.start <= byte));
            keys.extend(found.into_iter().filter(|at| (at.line, at.start) <= (last.at.line, last.at.start)));
            if holds || complete {
                break;
            }
        }
        let fetch = |at: SegmentKey| async move {
            let header = self.header(&self.keys.segment(at)).await?;
            let known = header.and_then(|decoded| {
                let known = Known::of(at, check_made(&self.facts, at, &decoded).ok()?);
                Some((decoded.hash, known))
            });
            Ok::<_, VaultError>(known)
        };
        let mut headers = std::pin::pin!(futures::stream::iter(keys).map(fetch).buffer_unordered(HEADERS_IN_FLIGHT));
        let mut known = HashMap::new();
        while let Some(header) = headers.next().await {
            known.extend(header?);
        }
        Ok(known)
    }

    /// The newest version's header at a key, if it holds.
    async fn header(&self, key: &str) -> Result<Option<Decoded>, VaultError> {
        let object = self.front(key).await?;
        Ok(object.and_then(|object| decode_stored_header(&object).ok()))
    }

    /// The lines of history that have segments, in the order of the log.
    pub(crate) async fn segment_lines(&self) -> Result<Vec<SegmentLine>, VaultError> {
        let prefix = self.keys.segments();
        let (mut lines, mut after) = (Vec::new(), String::new());
        loop {
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: true };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            lines.extend(listing.folders.iter().filter_map(|folder| self.keys.parse_segment_line(folder)));
            match listing.folders.last() {
                Some(last) if listing.more => after = format!("{}0", last.trim_end_matches('/')),
                _ => return Ok(lines),
            }
        }
    }

    /// The segments of a line of history that begin at or after `start`.
    pub(crate) async fn list_segments(&self, line: SegmentLine, start: Lsn) -> Result<Vec<SegmentKey>, VaultError> {
        let prefix = self.keys.segment_line(line);
        // A listing begins after a key.
        let before = SegmentKey { line, start: Lsn(start.0.saturating_sub(1)), copy: u32::MAX };
        let (mut found, mut after) = (Vec::new(), self.keys.segment(before));
        loop {
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: false };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            let keys = listing.entries.iter().filter_map(|entry| self.keys.parse_segment(&entry.key));
            found.extend(keys.filter(|at| at.start >= start));
            match listing.entries.last() {
                Some(last) if listing.more => after = last.key.clone(),
                _ => return Ok(found),
            }
        }
    }

    /// The first segment, in the order of the log, that base backups need; none when it cannot be told.
    pub(crate) async fn first_needed_segment(&self, needs: &Needs) -> Result<Option<SegmentKey>, VaultError> {
        let mut segments = Vec::new();
        for line in self.segment_lines().await? {
            segments.extend(self.list_segments(line, Lsn(0)).await?);
        }
        Ok(needs.first_segment(&segments, self.facts.segment_size))
    }

    /// The copies that a listing shows where a segment is to stand: what may be none of this log.
    pub(crate) async fn listed_copies(&self, first: SegmentKey) -> Result<HashSet<u32>, VaultError> {
        let prefix = self.keys.segment(SegmentKey { copy: 0, ..first });
        let (mut copies, mut after) = (HashSet::new(), String::new());
        loop {
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: false };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            let keys = listing.entries.iter().filter_map(|entry| self.keys.parse_segment(&entry.key));
            copies.extend(keys.filter(|at| (at.line, at.start) == (first.line, first.start)).map(|at| at.copy));
            match listing.entries.last() {
                Some(last) if listing.more => after = last.key.clone(),
                _ => return Ok(copies),
            }
        }
    }

    /// The object that a link names, whichever version it is.
    async fn segment_object(&self, link: SegmentLink) -> Result<(Object, Decoded), VaultError> {
        let key = self.keys.segment(link.at);
        let named = |object: Object| {
            let decoded = decode_stored_header(&object).ok().filter(|decoded| decoded.hash == link.hash)?;
            Some((object, decoded))
        };
        if let Some(found) = retrying(|| self.store.get(&key)).await?.and_then(named) {
            return Ok(found);
        }
        for version in fetch::real_versions(&*self.store, &key).await? {
            let object = retrying(|| self.store.get_version(&key, &version.id)).await?;
            if let Some(found) = object.and_then(named) {
                tracing::warn!(key, "tampering: an older version of a segment is read");
                return Ok(found);
            }
        }
        let reason = format!("the segment that the one after it names ({}) is not there", link.hash);
        Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } })
    }

    /// Reads, verifies and opens one segment.
    pub(crate) async fn open_segment(&self, link: SegmentLink, identities: &Identities) -> Result<Opened, VaultError> {
        let key = self.keys.segment(link.at);
        let (object, decoded) = self.segment_object(link).await?;
        let segment = check_segment(&self.facts, link.at, &decoded).map_err(damaged(&key))?.clone();
        let identities = identities.clone();
        let job = move || {
            let (decoded, body) = decode_stored(&object)?;
            let info = decoded.header.body.ok_or(ObjectError::Body)?;
            open(&info, &body, &identities)
        };
        let gone = |_| ObjectError::Open { reason: "the opening thread ended".into() };
        let plain = tokio::task::spawn_blocking(job).await.map_err(gone).flatten().map_err(damaged(&key))?;
        Ok(Opened { segment, plain: plain.into() })
    }

    /// The seals that a segment names. The segment vouches for them.
    pub(crate) async fn turns(&self, segment: &Segment) -> Result<Vec<SealSummary>, VaultError> {
        let mut seals = Vec::with_capacity(segment.turns.len());
        for link in &segment.turns {
            seals.push(self.turn(*link).await?);
        }
        Ok(seals)
    }

    /// Where the seals stand that segments name.
    pub(crate) async fn turn_places(&self, links: &[SegmentLink]) -> Result<Vec<Position>, VaultError> {
        let places = |link: SegmentLink| async move {
            let header = self.header(&self.keys.segment(link.at)).await?.filter(|found| found.hash == link.hash);
            let turns = header.and_then(|decoded| {
                let segment = check_made(&self.facts, link.at, &decoded).ok()?;
                Some(segment.turns.iter().map(|turn| turn.at).collect::<Vec<_>>())
            });
            Ok::<_, VaultError>(turns.unwrap_or_default())
        };
        let links = links.to_vec();
        let mut stream = std::pin::pin!(futures::stream::iter(links).map(places).buffer_unordered(HEADERS_IN_FLIGHT));
        let mut found = Vec::new();
        while let Some(turns) = stream.next().await {
            found.extend(turns?);
        }
        Ok(found)
    }

    async fn turn(&self, link: Link) -> Result<SealSummary, VaultError> {
        let key = self.key(link.at);
        let named = |object: Object| {
            let decoded = decode_stored_header(&object).ok().filter(|decoded| decoded.hash == link.hash)?;
            SealSummary::of_object(&decoded)
        };
        if let Some(seal) = self.front(&key).await?.and_then(named) {
            return Ok(seal);
        }
        if let Some(seal) = fetch::oldest(&*self.store, &key).await?.and_then(named) {
            return Ok(seal);
        }
        let reason = format!("the seal that a segment names ({}) is not there", link.hash);
        Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } })
    }
}
