//! What comes from the database, on its way to the writer: compared where it was seen before, and held back where the
//! log must not end.
//!
//! A segment switch (`pg_switch_wal`, every base backup) is a short record that PostgreSQL takes to reach to the end of
//! its segment as soon as it has seen it. Were the log sealed behind that record and before the segment's end, a standby
//! would have replayed beyond the seal. So the record and the rest of its segment are handed over as one piece.

use bytes::{Bytes, BytesMut};
use holdfast_wal::record::RecordScanner;
use holdfast_wal::{Lsn, PAGE_SIZE};

use super::tail::{Differs, Tail};

/// Bytes to hand to the writer, at their position.
pub(crate) type Piece = (Lsn, Bytes);

/// The state between two connections, too.
#[derive(Debug)]
pub(crate) struct Intake {
    tail: Tail,
    segment_size: u64,
    scanner: Option<RecordScanner>,
    /// What the first record that begins at or after the start must name as the one before it.
    expected: Option<Lsn>,
    start: Lsn,
    held: BytesMut,
    held_from: Lsn,
}

/// What was received does not go with what is stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unlike {
    #[error(transparent)]
    Differs(#[from] Differs),
    /// Rule 12, where the stored bytes themselves are gone from the server.
    #[error("the WAL record at {at} follows one at {previous}, and the last one that is stored begins at {expected}")]
    Follows { at: Lsn, previous: Lsn, expected: Lsn },
}

impl Intake {
    /// `start` is the first byte that the writer wants; it may lie inside a record. `last_record` is where the last record
    /// begins that begins before it, if that is known.
    pub(crate) fn new(start: Lsn, segment_size: u64, last_record: Option<Lsn>) -> Self {
        let (held, expected) = (BytesMut::new(), last_record);
        Self { tail: Tail::new(start), segment_size, scanner: None, expected, start, held, held_from: start }
    }

    /// Where to ask the server to begin: at a page, where records can be found, and before what is to be compared.
    pub(crate) fn ask_from(&self) -> Lsn {
        Lsn(self.tail.start().0 - self.tail.start().0 % PAGE_SIZE)
    }

    /// The end of what was received, held back or not.
    pub(crate) fn end(&self) -> Lsn {
        self.tail.end()
    }

    /// Gives up comparing: the server no longer has those bytes. False when there was nothing to give up.
    pub(crate) fn forget_tail(&mut self) -> bool {
        let before = self.ask_from();
        self.tail = Tail::new(self.tail.end());
        self.ask_from() != before
    }

    /// Takes what was received and returns what may be stored.
    pub(crate) fn accept(&mut self, start: Lsn, data: &Bytes) -> Result<Option<Piece>, Unlike> {
        let (new_from, new) = self.tail.accept(start, data)?;
        self.scan(start, data);
        self.check_previous()?;
        if self.held.is_empty() {
            self.held_from = new_from;
        }
        let Some(switch) = self.scanner.as_ref().and_then(RecordScanner::pending_switch) else {
            return Ok(self.release(new));
        };
        // What lies before the switch record goes on; the rest waits for the segment's end.
        let before = usize::try_from(switch.start.saturating_sub(new_from)).unwrap_or(usize::MAX).min(new.len());
        if !self.held.is_empty() || before == 0 {
            self.held.extend_from_slice(&new);
            return Ok(None);
        }
        self.held_from = Lsn(new_from.0 + before as u64);
        self.held.extend_from_slice(&new[before..]);
        Ok(Some((new_from, new.slice(..before))))
    }

    /// The first new record follows the last one that is stored.
    fn check_previous(&mut self) -> Result<(), Unlike> {
        let Some((first, scanner)) = self.scanner.as_ref().and_then(|scanner| Some((scanner.watched()?, scanner)))
        else {
            return Ok(());
        };
        match self.expected.take() {
            // A server that crashed inside a record goes on without it, and names the one before.
            Some(expected) if first.previous != expected && !scanner.overwrote() => {
                Err(Unlike::Follows { at: first.start, previous: first.previous, expected })
            }
            _ => Ok(()),
        }
    }

    fn release(&mut self, new: Bytes) -> Option<Piece> {
        if self.held.is_empty() {
            return (!new.is_empty()).then_some((self.held_from, new));
        }
        self.held.extend_from_slice(&new);
        Some((self.held_from, self.held.split().freeze()))
    }

    fn scan(&mut self, start: Lsn, data: &Bytes) {
        if self.scanner.is_none() && start.0.is_multiple_of(PAGE_SIZE) {
            if start > self.start {
                // What came first was not understood.
                self.expected = None;
            }
            self.scanner = Some(RecordScanner::new(start, self.segment_size, false).watching(self.start));
        }
        let Some(scanner) = &mut self.scanner else { return };
        let known = usize::try_from(scanner.position().saturating_sub(start)).unwrap_or(usize::MAX).min(data.len());
        if let Err(error) = scanner.push(&data[known..])
            && known < data.len()
        {
            // Storing goes before understanding: what PostgreSQL has sent is its WAL.
            tracing::warn!(%error, %start, "received WAL is not understood; it is stored as it came");
            self.scanner = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    /// The first page of a segment, with a record that begins behind its header and names `previous`.
    fn page(at: u64, previous: u64) -> Bytes {
        let mut bytes = Vec::new();
        bytes.extend(0xD110_u16.to_le_bytes());
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend((SEGMENT as u32).to_le_bytes());
        bytes.extend((PAGE_SIZE as u32).to_le_bytes());
        bytes.extend(32_u32.to_le_bytes());
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(previous.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.into()
    }

    #[test]
    fn the_first_new_record_must_follow_the_last_one_that_is_stored() {
        let start = Lsn(5 * SEGMENT);
        let last = Lsn(5 * SEGMENT - 64);
        for (known, previous, fits) in
            [(Some(last), last.0, true), (None, last.0 - 8, true), (Some(last), last.0 - 8, false)]
        {
            let mut intake = Intake::new(start, SEGMENT, known);
            let page = page(start.0, previous);
            // However the server cuts it.
            let (front, rest) = (page.slice(..50), page.slice(50..));
            assert_eq!(intake.accept(start, &front), Ok(Some((start, front.clone()))), "its header is not there yet");
            let taken = intake.accept(Lsn(start.0 + 50), &rest);
            let expected = Unlike::Follows { at: Lsn(start.0 + 40), previous: Lsn(previous), expected: last };
            assert_eq!(taken, if fits { Ok(Some((Lsn(start.0 + 50), rest))) } else { Err(expected) });
        }
    }
}
