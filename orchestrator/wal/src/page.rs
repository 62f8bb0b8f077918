//! The header of a WAL page.

use crate::PAGE_SIZE;

/// The page starts with the rest of a record that began on an earlier page.
const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The page is the first of its segment and has the long header.
const LONG_HEADER: u16 = 0x0002;
/// A record was broken off by a crash on an earlier page; its rest will never come.
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;

/// Bytes of a page header, padding included.
const SHORT_BYTES: usize = 24;
/// Bytes of the header of a segment's first page.
pub(crate) const LONG_BYTES: usize = 40;

/// High byte of the magic number since PostgreSQL 9.3; the low byte tells the major version.
const MAGIC_FAMILY: u16 = 0xD1;

/// Bytes of the header of the page that starts at `page_start`.
pub(crate) fn header_bytes(page_start: u64, segment_size: u64) -> usize {
    if page_start.is_multiple_of(segment_size) { LONG_BYTES } else { SHORT_BYTES }
}

/// What a page header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageHeader {
    pub(crate) magic: u16,
    pub(crate) timeline: u32,
    pub(crate) address: u64,
    /// Bytes of the record that began earlier and are still to come, from this page on.
    pub(crate) remaining: u32,
    info: u16,
    long: Option<LongPart>,
}

#[derive(Clone, Copy, Debug)]
struct LongPart {
    segment_size: u32,
    page_size: u32,
}

impl PageHeader {
    /// Reads a header of 24 or 40 bytes in the byte order of the machines that PostgreSQL is packaged for.
    pub(crate) fn read(bytes: &[u8]) -> PageHeader {
        let long = (bytes.len() >= LONG_BYTES)
            .then(|| LongPart { segment_size: read_u32(bytes, 32), page_size: read_u32(bytes, 36) });
        PageHeader {
            magic: read_u16(bytes, 0),
            info: read_u16(bytes, 2),
            timeline: read_u32(bytes, 4),
            address: read_u64(bytes, 8),
            remaining: read_u32(bytes, 16),
            long,
        }
    }

    pub(crate) fn continues_record(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    pub(crate) fn overwrites_record(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// What is wrong with this header at `page_start`, if anything.
    pub(crate) fn fault(&self, page_start: u64, segment_size: u64) -> Option<String> {
        if self.magic >> 8 != MAGIC_FAMILY {
            return Some(format!("magic number {:04X} is no WAL page's", self.magic));
        }
        if self.address != page_start {
            let (high, low) = (self.address >> 32, self.address & 0xFFFF_FFFF);
            return Some(format!("the page says that it belongs at {high:X}/{low:X}"));
        }
        if (self.info & LONG_HEADER != 0) != self.long.is_some() {
            return Some("a long header is expected at a segment start and nowhere else".into());
        }
        let long = self.long?;
        if u64::from(long.segment_size) != segment_size {
            return Some(format!("segments are {} bytes, not {segment_size}", long.segment_size));
        }
        (u64::from(long.page_size) != PAGE_SIZE).then(|| format!("pages are {} bytes, not {PAGE_SIZE}", long.page_size))
    }
}

// The callers hand over whole headers; a short slice reads as zeros, which no check accepts.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
