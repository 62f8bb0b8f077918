//! PostgreSQL's write-ahead log, without any I/O: positions, timelines, segment names, history
//! files, and where the records in a run of WAL bytes end.
//!
//! The formats are those of PostgreSQL 15 (`access/xlogdefs.h`, `access/xlog_internal.h`,
//! `access/xlogrecord.h`); the record and page layout has been the same since 9.5.

pub mod history;
mod page;
mod position;
pub mod record;
mod segment;

pub use position::{Lsn, ParseLsnError, ParseSystemIdError, SystemId, TimelineId};
pub use segment::{ParseSegmentNameError, SegmentName};

/// Bytes of a WAL segment file unless `initdb --wal-segsize` said otherwise.
pub const SEGMENT_SIZE_DEFAULT: u64 = 16 * 1024 * 1024;

/// Bytes of a WAL page (`XLOG_BLCKSZ` of every packaged PostgreSQL).
pub const PAGE_SIZE: u64 = 8192;

/// Whether PostgreSQL would accept this as the size of a WAL segment: a power of two from 1 MiB to 1 GiB.
pub fn is_valid_segment_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}
