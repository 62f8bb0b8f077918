//! Names of WAL segment files.

use std::fmt;
use std::str::FromStr;

use crate::{Lsn, TimelineId};

/// The name of a WAL segment file: 24 upper-case hexadecimal digits, as in `pg_wal`.
///
/// The name alone does not tell the segment size, so a position needs it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The segment of `timeline` that holds the byte at `lsn`.
    pub fn new(timeline: TimelineId, lsn: Lsn, segment_size: u64) -> SegmentName {
        // A "log" is 4 GiB; the quotient of the low half fits 32 bits for any segment size.
        let (log, offset) = (lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
        SegmentName { timeline, log: log as u32, segment: (offset / segment_size) as u32 }
    }

    /// The timeline that the name tells.
    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The first position in the segment.
    pub fn start(self, segment_size: u64) -> Lsn {
        let offset = u64::from(self.segment).saturating_mul(segment_size);
        Lsn((u64::from(self.log) << 32).saturating_add(offset))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

/// The text is no name of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the name of a WAL segment: expected 24 upper-case hexadecimal digits")]
pub struct ParseSegmentNameError {
    /// What was read.
    pub text: String,
}

impl FromStr for SegmentName {
    type Err = ParseSegmentNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        let error = || ParseSegmentNameError { text: text.into() };
        if text.len() != 24 || !text.bytes().all(digit) {
            return Err(error());
        }
        let part = |from: usize| u32::from_str_radix(&text[from..from + 8], 16).map_err(|_| error());
        Ok(SegmentName { timeline: TimelineId(part(0)?), log: part(8)?, segment: part(16)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SEGMENT_SIZE_DEFAULT;

    #[test]
    fn names_are_those_of_postgresql() {
        // select pg_walfile_name('16/B374D848') on timeline 1
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        let name = SegmentName::new(TimelineId(1), lsn, SEGMENT_SIZE_DEFAULT);
        assert_eq!(name.to_string(), "0000000100000016000000B3");
        assert_eq!(name.start(SEGMENT_SIZE_DEFAULT), lsn.segment_start(SEGMENT_SIZE_DEFAULT));
        assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn other_segment_sizes() {
        for size in [1 << 20, 1 << 26, 1 << 30] {
            let lsn = Lsn(0x16_B374_D848);
            let name = SegmentName::new(TimelineId(0xAB), lsn, size);
            assert_eq!(name.start(size), lsn.segment_start(size));
            assert_eq!(name.timeline(), TimelineId(0xAB));
        }
    }

    #[test]
    fn refuses_what_is_no_segment() {
        for text in ["", "00000002.history", "0000000100000016000000b3", "0000000100000016000000B3.partial"] {
            assert!(text.parse::<SegmentName>().is_err(), "{text:?}");
        }
    }
}
