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
    held: BytesMut,
    held_from: Lsn,
}

impl Intake {
    /// `start` is the first byte that the writer wants; it may lie inside a record.
    pub(crate) fn new(start: Lsn, segment_size: u64) -> Self {
        Self { tail: Tail::new(start), segment_size, scanner: None, held: BytesMut::new(), held_from: start }
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
    pub(crate) fn accept(&mut self, start: Lsn, data: &Bytes) -> Result<Option<Piece>, Differs> {
        let (new_from, new) = self.tail.accept(start, data)?;
        self.scan(start, data);
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

    fn release(&mut self, new: Bytes) -> Option<Piece> {
        if self.held.is_empty() {
            return (!new.is_empty()).then_some((self.held_from, new));
        }
        self.held.extend_from_slice(&new);
        Some((self.held_from, self.held.split().freeze()))
    }

    fn scan(&mut self, start: Lsn, data: &Bytes) {
        if self.scanner.is_none() && start.0.is_multiple_of(PAGE_SIZE) {
            self.scanner = Some(RecordScanner::new(start, self.segment_size, false));
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
