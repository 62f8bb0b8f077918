//! Where WAL records end.
//!
//! A standby that is promoted goes on from the end of the last complete record that it has. The
//! scanner finds that position in a run of WAL bytes as PostgreSQL's reader does (`EndRecPtr` of
//! `XLogDecodeNextRecord`), byte by byte, in constant memory.

#[cfg(test)]
mod tests;

use crate::page::{self, LONG_BYTES, PageHeader};
use crate::{Lsn, PAGE_SIZE, TimelineId};

/// Bytes of a record's header (`XLogRecord`).
const HEADER_BYTES: usize = 24;
/// The checksum covers the header up to here.
const CRC_OFFSET: usize = 20;
/// Records start at multiples of this (`MAXALIGN`).
const ALIGNMENT: u64 = 8;
/// PostgreSQL cannot allocate more for one record (`MaxAllocSize`).
const LONGEST_RECORD: u32 = 0x3FFF_FFFF;
/// `RM_XLOG_ID` and its record that ends a segment early.
const RESOURCE_MANAGER_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;

/// Why the bytes are not WAL, or not the WAL that was announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No record can start at the position that was given to [`RecordScanner::new`].
    #[error("no record can start at {at}: it is not aligned or lies in a page header")]
    BadStart {
        /// The position.
        at: Lsn,
    },
    /// A page header is wrong.
    #[error("the WAL page at {at} is not what it should be: {fault}")]
    BadPage {
        /// Start of the page.
        at: Lsn,
        /// What is wrong.
        fault: String,
    },
    /// Zeros where a record should start: a segment file that is not written that far.
    #[error("no record at {at}: zeros")]
    Zeros {
        /// Where the record should start.
        at: Lsn,
    },
    /// A record's length is impossible.
    #[error("the record at {at} says that it is {length} bytes long")]
    BadLength {
        /// Start of the record.
        at: Lsn,
        /// What it says.
        length: u32,
    },
    /// A record does not name the record before it.
    #[error("the record at {at} follows {found}, and {expected} was expected")]
    BadPrevious {
        /// Start of the record.
        at: Lsn,
        /// What it names.
        found: Lsn,
        /// What it should name.
        expected: Lsn,
    },
    /// A record's checksum is wrong.
    #[error("the checksum of the record at {at} is wrong")]
    BadChecksum {
        /// Start of the record.
        at: Lsn,
    },
}

/// A record that a scanner met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstRecord {
    /// Where it starts.
    pub start: Lsn,
    /// Where the record before it starts, as it says (`xl_prev`).
    pub previous: Lsn,
}

/// A segment switch whose segment is not complete yet.
///
/// PostgreSQL takes the record to end at the segment's end as soon as it has seen its 24 bytes, so a
/// standby that was sent these is past everything that comes before the segment's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingSwitch {
    /// Where the switch record starts.
    pub start: Lsn,
    /// Where it ends: at the end of its segment.
    pub end: Lsn,
}

/// Finds the ends of records in consecutive WAL bytes.
///
/// Bytes may come in pieces of any size. After an error the scanner stays where it is, and every
/// further push repeats the error.
#[derive(Clone, Debug)]
pub struct RecordScanner {
    segment_size: u64,
    verify_crc: bool,
    /// Of the next byte to be pushed.
    position: Lsn,
    complete_end: Lsn,
    state: State,
    page_header: [u8; LONG_BYTES],
    /// Bytes of `page_header` that have come; 0 outside of a header.
    page_header_bytes: usize,
    /// Magic number and timeline of the last page.
    last_page: Option<(u16, u32)>,
    last_record: Option<Lsn>,
    first_record: Option<FirstRecord>,
    watched_from: Option<Lsn>,
    watched: Option<FirstRecord>,
    overwrote: bool,
    failed: Option<RecordError>,
}

#[derive(Clone, Debug)]
enum State {
    /// The next byte, page headers apart, starts a record.
    Between,
    /// Inside a record.
    Record(Partial),
    /// Inside a record that began before the start: so many bytes are left of it.
    Tail(u64),
    /// Behind a record or a tail, in the bytes that align the next one.
    Padding(Option<Partial>),
    /// Behind a segment switch: nothing counts until the segment's end.
    Switched(Partial),
}

/// A record of which not all bytes have come.
#[derive(Clone, Debug)]
struct Partial {
    start: Lsn,
    header: [u8; HEADER_BYTES],
    seen: u64,
    crc: u32,
}

impl Partial {
    fn new(start: Lsn) -> Partial {
        Partial { start, header: [0; HEADER_BYTES], seen: 0, crc: 0 }
    }

    fn length(&self) -> u32 {
        page::read_u32(&self.header, 0)
    }

    fn previous(&self) -> Lsn {
        Lsn(page::read_u64(&self.header, 8))
    }

    fn is_switch(&self) -> bool {
        self.header[17] == RESOURCE_MANAGER_XLOG && self.header[16] & 0xF0 == XLOG_SWITCH
    }

    fn checksum_holds(&self) -> bool {
        let crc = crc32c::crc32c_append(self.crc, &self.header[..CRC_OFFSET]);
        crc == page::read_u32(&self.header, CRC_OFFSET)
    }

    /// Bytes still to come. The length is known once 4 bytes are, and these are never split.
    fn remaining(&self) -> u64 {
        let known = if self.seen < 4 { HEADER_BYTES as u64 } else { u64::from(self.length()) };
        known.saturating_sub(self.seen)
    }

    fn is_whole(&self) -> bool {
        self.seen >= HEADER_BYTES as u64 && self.remaining() == 0
    }

    /// Takes what `bytes` hold of the part that is being read: length, header or data.
    fn take(&mut self, bytes: &[u8], verify_crc: bool) -> usize {
        let seen = self.seen as usize;
        let upto = match self.seen {
            0..4 => 4 - seen,
            4..24 => HEADER_BYTES - seen,
            _ => usize::try_from(self.remaining()).unwrap_or(usize::MAX),
        };
        let bytes = &bytes[..upto.min(bytes.len())];
        if seen < HEADER_BYTES {
            self.header[seen..seen + bytes.len()].copy_from_slice(bytes);
        } else if verify_crc {
            self.crc = crc32c::crc32c_append(self.crc, bytes);
        }
        self.seen += bytes.len() as u64;
        bytes.len()
    }
}

impl RecordScanner {
    /// A scanner for the bytes from `start` on.
    ///
    /// `start` is where a record starts or ends, or any page start: there the rest of a record that
    /// began earlier is passed over. Without `verify_crc` the scanner trusts lengths and links alone.
    pub fn new(start: Lsn, segment_size: u64, verify_crc: bool) -> RecordScanner {
        let mut scanner = RecordScanner {
            segment_size,
            verify_crc,
            position: start,
            complete_end: start,
            state: State::Between,
            page_header: [0; LONG_BYTES],
            page_header_bytes: 0,
            last_page: None,
            last_record: None,
            first_record: None,
            watched_from: None,
            watched: None,
            overwrote: false,
            failed: None,
        };
        let offset = start.0 % PAGE_SIZE;
        let in_header = offset > 0 && offset < scanner.header_bytes() as u64;
        if in_header || !start.0.is_multiple_of(ALIGNMENT) {
            scanner.failed = Some(RecordError::BadStart { at: start });
        }
        scanner
    }

    /// The same, which remembers the first record that begins at or after `from`: see [`watched`](Self::watched).
    pub fn watching(self, from: Lsn) -> RecordScanner {
        RecordScanner { watched_from: Some(from), ..self }
    }

    /// The first record that begins where [`watching`](Self::watching) says or behind; known as soon as its header has come.
    pub fn watched(&self) -> Option<FirstRecord> {
        self.watched
    }

    /// Whether a page said that the server had crashed inside a record and went on without it: the next record then does
    /// not name the one that was begun last.
    pub fn overwrote(&self) -> bool {
        self.overwrote
    }

    /// Takes the bytes that follow those of the last call.
    ///
    /// An error says where the bytes stop being WAL; [`complete_end`](Self::complete_end) still holds.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.failed.is_none() {
            match self.step(rest) {
                Ok(used) => {
                    self.position.0 += used as u64;
                    rest = &rest[used..];
                    self.settle();
                }
                Err(error) => self.failed = Some(error),
            }
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The end of the last record of which every byte has come, its alignment included; the start as
    /// long as there is none.
    ///
    /// This is PostgreSQL's `EndRecPtr`: it may be a page start, where the next record comes behind
    /// the page's header, and a segment switch ends where its segment ends.
    pub fn complete_end(&self) -> Lsn {
        self.complete_end
    }

    /// The position of the next byte to be pushed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The first complete record, with the position of the one before it.
    pub fn first_record(&self) -> Option<FirstRecord> {
        self.first_record
    }

    /// `xl_prev` of the first complete record: where the record before it starts.
    pub fn first_previous(&self) -> Option<Lsn> {
        self.first_record.map(|record| record.previous)
    }

    /// Where the last complete record starts: what the next one must name as `xl_prev`.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last_record
    }

    /// Where the last record starts of which any byte has come: what the next one must name as `xl_prev`, wherever the
    /// bytes were cut.
    pub fn last_begun(&self) -> Option<Lsn> {
        match &self.state {
            State::Record(record) | State::Padding(Some(record)) | State::Switched(record) => Some(record.start),
            State::Between | State::Tail(_) | State::Padding(None) => self.last_record,
        }
    }

    /// The timeline that the last page header named.
    pub fn page_timeline(&self) -> Option<TimelineId> {
        self.last_page.map(|(_, timeline)| TimelineId(timeline))
    }

    /// The segment switch that waits for the rest of its segment.
    pub fn pending_switch(&self) -> Option<PendingSwitch> {
        match &self.state {
            State::Switched(record) => Some(PendingSwitch { start: record.start, end: self.switch_end() }),
            _ => None,
        }
    }

    fn header_bytes(&self) -> usize {
        let page_start = self.position.0 - self.position.0 % PAGE_SIZE;
        page::header_bytes(page_start, self.segment_size)
    }

    /// The segment boundary at or above the position.
    fn switch_end(&self) -> Lsn {
        Lsn(self.position.0.next_multiple_of(self.segment_size))
    }

    /// Takes one stretch of `bytes` (not empty) and says how long it was.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, RecordError> {
        if let State::Switched(_) = self.state {
            let left = self.switch_end().0 - self.position.0;
            return Ok(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        }
        let offset = self.position.0 % PAGE_SIZE;
        if offset == 0 || self.page_header_bytes > 0 {
            return self.step_page_header(bytes);
        }
        let on_page = usize::try_from(PAGE_SIZE - offset).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(on_page)];
        match &mut self.state {
            State::Between => {
                self.state = State::Record(Partial::new(self.position));
                self.step_record(bytes)
            }
            State::Record(_) => self.step_record(bytes),
            State::Tail(left) => {
                let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= used as u64;
                Ok(used)
            }
            State::Padding(_) | State::Switched(_) => {
                let left = self.position.0.next_multiple_of(ALIGNMENT) - self.position.0;
                Ok(bytes.len().min(left as usize))
            }
        }
    }

    fn step_page_header(&mut self, bytes: &[u8]) -> Result<usize, RecordError> {
        let whole = self.header_bytes();
        let have = self.page_header_bytes;
        let used = bytes.len().min(whole - have);
        self.page_header[have..have + used].copy_from_slice(&bytes[..used]);
        self.page_header_bytes += used;
        if self.page_header_bytes == whole {
            self.page_header_bytes = 0;
            let page_start = Lsn(self.position.0 - have as u64);
            self.enter_page(page_start, PageHeader::read(&self.page_header[..whole]))?;
        }
        Ok(used)
    }

    fn enter_page(&mut self, at: Lsn, header: PageHeader) -> Result<(), RecordError> {
        let bad = |fault: &str| Err(RecordError::BadPage { at, fault: fault.into() });
        self.overwrote |= header.overwrites_record();
        if let Some(fault) = header.fault(at.0, self.segment_size) {
            return bad(&fault);
        }
        match self.last_page.replace((header.magic, header.timeline)) {
            Some((magic, _)) if magic != header.magic => return bad("it is of another version"),
            Some((_, timeline)) if timeline > header.timeline => return bad("its timeline goes back"),
            _ => {}
        }
        let expected = match &self.state {
            State::Record(record) => record.remaining(),
            State::Tail(left) => *left,
            State::Between if !header.continues_record() => return Ok(()),
            State::Between if self.position_is_start(at) => {
                self.state = State::Tail(u64::from(header.remaining));
                return Ok(());
            }
            _ => return bad("it continues a record, and none is open"),
        };
        if header.overwrites_record() {
            // The server crashed inside the record and went on at this page without it.
            self.state = State::Between;
            return Ok(());
        }
        if !header.continues_record() || u64::from(header.remaining) != expected {
            return bad("it does not continue the record of the page before");
        }
        Ok(())
    }

    /// Whether the page at `at` is the first thing that was pushed.
    fn position_is_start(&self, at: Lsn) -> bool {
        self.complete_end == at && self.last_record.is_none()
    }

    fn step_record(&mut self, bytes: &[u8]) -> Result<usize, RecordError> {
        let (verify_crc, last_record) = (self.verify_crc, self.last_record);
        let State::Record(record) = &mut self.state else { return Ok(0) };
        let before = record.seen;
        let used = record.take(bytes, verify_crc);
        if before < 4 && record.seen >= 4 {
            check_length(record)?;
        }
        let known = before < HEADER_BYTES as u64 && record.seen >= HEADER_BYTES as u64;
        if known {
            check_previous(record, last_record)?;
        }
        if record.is_whole() && verify_crc && !record.checksum_holds() {
            return Err(RecordError::BadChecksum { at: record.start });
        }
        let begun = FirstRecord { start: record.start, previous: record.previous() };
        if known && self.watched_from.is_some_and(|from| begun.start >= from) {
            self.watched.get_or_insert(begun);
        }
        Ok(used)
    }

    /// Moves on when what was being read has come to its end.
    fn settle(&mut self) {
        match &self.state {
            State::Record(record) if record.is_whole() && record.is_switch() => {
                self.state = State::Switched(record.clone());
            }
            State::Record(record) if record.is_whole() => self.state = State::Padding(Some(record.clone())),
            State::Tail(0) => self.state = State::Padding(None),
            _ => {}
        }
        let ended = match &self.state {
            State::Padding(record) if self.position.0.is_multiple_of(ALIGNMENT) => record.clone(),
            State::Switched(record) if self.position == self.switch_end() => Some(record.clone()),
            _ => return,
        };
        self.state = State::Between;
        self.complete_end = self.position;
        if let Some(record) = ended {
            self.last_record = Some(record.start);
            self.first_record.get_or_insert(FirstRecord { start: record.start, previous: record.previous() });
        }
    }
}

fn check_length(record: &Partial) -> Result<(), RecordError> {
    match record.length() {
        0 => Err(RecordError::Zeros { at: record.start }),
        length if length < HEADER_BYTES as u32 || length > LONGEST_RECORD => {
            Err(RecordError::BadLength { at: record.start, length })
        }
        _ => Ok(()),
    }
}

fn check_previous(record: &Partial, last: Option<Lsn>) -> Result<(), RecordError> {
    let (at, found) = (record.start, record.previous());
    match last {
        Some(expected) if found != expected => Err(RecordError::BadPrevious { at, found, expected }),
        None if found >= at => Err(RecordError::BadPrevious { at, found, expected: Lsn::INVALID }),
        _ => Ok(()),
    }
}
