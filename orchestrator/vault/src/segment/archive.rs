//! The archiver: reads the log, writes segments and indexes. Killed at any point, it begins again at the newest index
//! and finds what it had written.

use std::time::{Duration, Instant};

use holdfast_wal::Lsn;
use jiff::Timestamp;

use super::SegmentLink;
use super::compact::{Compactor, Ready};
use super::write::Written;
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::damaged;
use crate::log::LogAccess;
use crate::log::errors::ReadError;
use crate::log::incarnation::Incarnation;
use crate::log::index::{Archived, IndexWritten, StoredIndex};
use crate::log::reader::LogReader;
use crate::log::types::{ReadEvent, ReadOptions, SealSummary, Tampering};
use crate::log::walk::Cursor;
use crate::seal::{Identities, Recipients};

/// How often an archiver writes what.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveOptions {
    /// An index after so many segments,
    pub index_segments: u32,
    /// or after so long, if the log has moved on. Well below half the lifetime of a chunk.
    pub index_every: Duration,
    /// A segment that is not complete is written after so long, so that its chunks need not be kept.
    pub segment_after: Duration,
    /// WAL read ahead, in bytes.
    pub prefetch_bytes: u64,
    /// The longest wait between two looks at the end of the log. Nobody waits for an archiver, and each look costs.
    pub look_every: Duration,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        let hour = Duration::from_secs(60 * 60);
        ArchiveOptions {
            index_segments: 64,
            index_every: hour,
            segment_after: 24 * hour,
            prefetch_bytes: 4 * 1024 * 1024,
            look_every: Duration::from_secs(10),
        }
    }
}

/// What an archiver has just done or met.
#[derive(Clone, Debug)]
pub enum ArchiveStep {
    /// It read WAL up to here.
    Read(Lsn),
    /// A segment stands.
    Segment {
        /// Its end.
        end: Lsn,
        /// WAL in it, in bytes.
        plain_bytes: u64,
        /// Bytes that this archiver stored; 0 when the segment stood there already.
        stored_bytes: u64,
    },
    /// An index stands.
    Index(Box<StoredIndex>),
    /// An epoch ended.
    Seal(Box<SealSummary>),
    /// Somebody touched the vault; the oldest version was read.
    Tampering(Tampering),
    /// It has read everything that is stored.
    AtEnd(Lsn),
    /// Another archiver is at work on this log: it began again where that one is.
    BeganAgain,
}

/// Why archiving failed. Asking again tries again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl ArchiveError {
    /// Whether asking again is no use before a person changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Read(error) => error.is_permanent(),
            Self::Vault(error) => error.is_permanent(),
        }
    }

    /// A word for conditions, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(error) => error.reason(),
            Self::Vault(error) => error.reason(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read(error) => error.hint(),
            Self::Vault(error) => error.hint(),
        }
    }
}

/// Archives one log. Needs an identity that opens chunks, and the right to create objects.
///
/// Memory: one WAL segment of at most 16 MiB that is read or sealed, its sealed copy, and what is read ahead.
pub struct Archiver {
    database: DatabaseVault,
    access: LogAccess,
    identities: Identities,
    recipients: Recipients,
    me: Incarnation,
    options: ArchiveOptions,
    reader: LogReader,
    compactor: Compactor,
    /// Segments that wait to be written: two at most, where a line of history ends at a boundary.
    ready: std::collections::VecDeque<Ready>,
    /// When the open segment was begun.
    opened: Option<Instant>,
    index: Option<StoredIndex>,
    indexed: Instant,
    segments_since: u32,
    /// The place after the last segment, and that segment.
    archived: Option<(Cursor, SegmentLink)>,
    /// The place after the last object read.
    place: Option<Cursor>,
    /// The oldest object read that no index covers: when the store made it, if that is known, and when it was read.
    unindexed: Option<(Option<Timestamp>, Instant)>,
}

impl std::fmt::Debug for Archiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archiver").field("database", &self.database).finish_non_exhaustive()
    }
}

impl DatabaseVault {
    /// Begins to archive at the newest index.
    ///
    /// # Errors
    /// [`VaultError::UnknownDatabase`] when nothing was registered yet, and whatever the store says.
    pub async fn archiver(
        &self,
        identities: Identities,
        recipients: Recipients,
        options: ArchiveOptions,
    ) -> Result<Archiver, VaultError> {
        let access = self.access().await?;
        let index = access.newest_index().await?;
        let archived = archived(&access, index.as_ref())?;
        let me = self.vault.incarnation().await?;
        let (reader, compactor) = start(&access, &identities, archived.as_ref(), None, options);
        Ok(Archiver {
            database: self.clone(),
            access,
            identities,
            recipients,
            me,
            options,
            reader,
            compactor,
            ready: std::collections::VecDeque::new(),
            opened: None,
            index,
            indexed: Instant::now(),
            segments_since: 0,
            archived,
            place: None,
            unindexed: None,
        })
    }
}

fn archived(access: &LogAccess, index: Option<&StoredIndex>) -> Result<Option<(Cursor, SegmentLink)>, VaultError> {
    let Some(stored) = index else { return Ok(None) };
    let Some((place, segment)) = stored.index.archived.as_ref().zip(stored.index.segment) else { return Ok(None) };
    let key = access.keys.index(stored.index.n);
    let cursor = Cursor::from_place(access.facts.clone(), place).map_err(damaged(&key))?;
    Ok(Some((cursor, segment)))
}

fn start(
    access: &LogAccess,
    identities: &Identities,
    archived: Option<&(Cursor, SegmentLink)>,
    cut_at: Option<Lsn>,
    options: ArchiveOptions,
) -> (LogReader, Compactor) {
    let place = archived.map_or_else(|| access.genesis(), |(place, _)| place.clone());
    let compactor = Compactor::new(&place, archived.map(|(_, segment)| segment), cut_at);
    let options = ReadOptions {
        prefetch_bytes: options.prefetch_bytes,
        poll: (options.look_every / 16, options.look_every),
        idle_check: options.look_every * 6,
        ..ReadOptions::default()
    };
    (LogReader::archiving(access.clone(), identities.clone(), place, options), compactor)
}

impl Archiver {
    /// The newest index that this archiver knows.
    pub fn index(&self) -> Option<&StoredIndex> {
        self.index.as_ref()
    }

    /// The last segment and its log position's end: all WAL before it is in segments.
    pub fn archived(&self) -> Option<(Lsn, SegmentLink)> {
        self.archived.as_ref().map(|(place, segment)| (place.position().start, *segment))
    }

    /// WAL that was read and is in no segment yet, in bytes.
    pub fn waiting_bytes(&self) -> u64 {
        self.compactor.waiting()
    }

    /// The age of the oldest object that was read and that no index covers, by the store's clock; zero without one. More
    /// than half the lifetime of a chunk is an alarm. (The age of the index says nothing: the log may have been idle.)
    pub fn index_behind(&self) -> Duration {
        let Some((stored, met)) = self.unindexed else { return Duration::ZERO };
        match stored.zip(self.access.store.now()) {
            Some((stored, now)) => Duration::try_from(now.duration_since(stored)).unwrap_or_default(),
            None => met.elapsed(),
        }
    }

    /// Does the next thing. When it fails, nothing is lost: ask again.
    ///
    /// # Errors
    /// [`ArchiveError`]; a damaged object is named in it, and nothing behind it is archived.
    pub async fn step(&mut self) -> Result<ArchiveStep, ArchiveError> {
        if let Some(ready) = self.ready.pop_front() {
            return self.write(ready).await;
        }
        let segments = self.segments_since >= self.options.index_segments;
        if segments || self.indexed.elapsed() >= self.options.index_every {
            if let Some(step) = self.write_index().await? {
                return Ok(step);
            }
            self.indexed = Instant::now();
        }
        let due = self.opened.is_some_and(|at| at.elapsed() >= self.options.segment_after);
        if due && !self.compactor.is_bound() && self.flush() {
            return Box::pin(self.step()).await;
        }
        let event = self.reader.next().await?;
        Ok(self.take(event))
    }

    /// Writes down where it stands: the segment that is not complete and an index. What an archiver does that is told to
    /// stop for long.
    ///
    /// # Errors
    /// As [`Archiver::step`].
    pub async fn finish(&mut self) -> Result<(), ArchiveError> {
        self.flush();
        while let Some(ready) = self.ready.pop_front() {
            self.write(ready).await?;
        }
        self.write_index().await?;
        Ok(())
    }

    /// Cuts the open segment short.
    fn flush(&mut self) -> bool {
        let ready = self.compactor.flush();
        let flushed = ready.is_some();
        self.ready.extend(ready);
        self.opened = None;
        flushed
    }

    fn take(&mut self, event: ReadEvent) -> ArchiveStep {
        let Some(place) = self.reader.place().cloned() else { return ArchiveStep::BeganAgain };
        let covered = self.index.as_ref().is_some_and(|stored| stored.index.place.at >= place.position());
        if matches!(event, ReadEvent::Wal { .. } | ReadEvent::Seal(_)) && !covered {
            self.unindexed.get_or_insert_with(|| (self.reader.stored(), Instant::now()));
        }
        let step = match event {
            ReadEvent::Wal { timeline, start, data } => {
                let end = Lsn(start.0 + data.len() as u64);
                self.ready.extend(self.compactor.wal(timeline, (start, data), self.reader.stored(), &place));
                ArchiveStep::Read(end)
            }
            ReadEvent::Seal(seal) => {
                self.ready.extend(self.compactor.seal(&seal, &place));
                ArchiveStep::Seal(Box::new(seal))
            }
            // The seal before it said so.
            ReadEvent::Cut { to, .. } => ArchiveStep::Read(to),
            ReadEvent::AtEnd { tip, .. } => ArchiveStep::AtEnd(tip),
            ReadEvent::Tampering(tampering) => ArchiveStep::Tampering(tampering),
        };
        self.place = Some(place);
        match self.compactor.waiting() {
            0 => self.opened = None,
            _ => self.opened = self.opened.or_else(|| Some(Instant::now())),
        }
        step
    }

    /// Writes one segment. One that fails is read again: the archiver goes back to the segment before it.
    async fn write(&mut self, ready: Ready) -> Result<ArchiveStep, ArchiveError> {
        let (after, end) = (ready.after.clone(), ready.segment.end);
        let plain_bytes = end.0 - ready.segment.start.0;
        let prev = self.archived.as_ref().map(|(_, link)| *link);
        let written = self.access.write_segment(&self.me, &self.recipients, ready, prev).await;
        match written {
            Ok(Written::Stands { link, stored_bytes }) => {
                self.archived = Some((after, link));
                self.segments_since += 1;
                Ok(ArchiveStep::Segment { end, plain_bytes, stored_bytes })
            }
            Ok(Written::EndsAt(end)) => {
                tracing::info!(%end, "another archiver has cut this segment elsewhere");
                self.begin_again(Some(end));
                Ok(ArchiveStep::BeganAgain)
            }
            Err(error) => {
                self.begin_again(None);
                Err(error.into())
            }
        }
    }

    fn begin_again(&mut self, cut_at: Option<Lsn>) {
        (self.reader, self.compactor) =
            start(&self.access, &self.identities, self.archived.as_ref(), cut_at, self.options);
        self.ready.clear();
        (self.opened, self.place) = (None, None);
    }

    /// Writes an index if the log has moved on since the last one.
    async fn write_index(&mut self) -> Result<Option<ArchiveStep>, ArchiveError> {
        let Some(place) = self.place.clone() else { return Ok(None) };
        let at =
            |stored: &StoredIndex| (stored.index.place.at, stored.index.archived.as_ref().map(|archived| archived.at));
        let ours = (place.position(), self.archived.as_ref().map(|(place, _)| place.position()));
        if self.index.as_ref().is_some_and(|index| at(index) >= ours) {
            return Ok(None);
        }
        let archived = self.archived.as_ref().map(|(place, segment)| Archived { place, segment: *segment });
        let written = self.database.write_index(self.index.as_ref(), &place, archived).await?;
        self.indexed = Instant::now();
        self.segments_since = 0;
        self.unindexed = None;
        match written {
            IndexWritten::Stored(index) => {
                self.index = Some(index.clone());
                Ok(Some(ArchiveStep::Index(Box::new(index))))
            }
            IndexWritten::Lost(index) => {
                let newest = self.access.newest_index_after(Some(index)).await?;
                self.archived = archived_of(&self.access, newest.as_ref(), self.archived.take())?;
                self.index = newest;
                self.begin_again(None);
                Ok(Some(ArchiveStep::BeganAgain))
            }
        }
    }
}

/// Where to go on after another archiver has written an index: where it is, unless we are further.
fn archived_of(
    access: &LogAccess,
    index: Option<&StoredIndex>,
    ours: Option<(Cursor, SegmentLink)>,
) -> Result<Option<(Cursor, SegmentLink)>, VaultError> {
    let theirs = archived(access, index)?;
    let at = |archived: &Option<(Cursor, SegmentLink)>| archived.as_ref().map(|(place, _)| place.position());
    Ok(if at(&theirs) >= at(&ours) { theirs } else { ours })
}
