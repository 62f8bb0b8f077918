//! The three numbers that say which WAL and where in it.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A position in the WAL: a count of bytes since the system was initialised.
///
/// Shown and serialised as PostgreSQL's `pg_lsn` is, `16/B374D848`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `InvalidXLogRecPtr`: no position. WAL never starts there.
    pub const INVALID: Lsn = Lsn(0);

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on, or `None` past the end of the 64-bit space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(position) => Some(Lsn(position)),
            None => None,
        }
    }

    /// The bytes from `earlier` to here, or `None` when `earlier` is later.
    pub const fn checked_sub(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The bytes from `earlier` to here, 0 when `earlier` is later. For lags.
    pub const fn saturating_sub(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Bytes between the start of the segment and this position.
    pub const fn segment_offset(self, segment_size: u64) -> u64 {
        self.0 % segment_size
    }

    /// The first position of the segment that holds this position.
    pub const fn segment_start(self, segment_size: u64) -> Lsn {
        Lsn(self.0 - self.0 % segment_size)
    }

    /// The next segment boundary strictly above this position.
    ///
    /// Saturates in the last segment of the 64-bit space, which no server reaches.
    pub const fn segment_end(self, segment_size: u64) -> Lsn {
        Lsn(self.segment_start(segment_size).0.saturating_add(segment_size))
    }

    /// 16 upper-case hexadecimal digits, so that names sort as positions do.
    pub fn hex16(self) -> String {
        format!("{:016X}", self.0)
    }

    /// Reads what [`Lsn::hex16`] wrote, and nothing else.
    pub fn from_hex16(text: &str) -> Result<Lsn, ParseLsnError> {
        let digits = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if text.len() != 16 || !text.bytes().all(digits) {
            return Err(ParseLsnError { text: text.into() });
        }
        u64::from_str_radix(text, 16).map(Lsn).map_err(|_| ParseLsnError { text: text.into() })
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a WAL position: expected two hexadecimal numbers as in 16/B374D848")]
pub struct ParseLsnError {
    /// What was read.
    pub text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError { text: text.into() })
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A timeline: one line of history of a system. Counted from 1; 0 is no timeline.
///
/// Not unique across sites: two standbys of one primary may both pick 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline that `initdb` makes.
    pub const FIRST: TimelineId = TimelineId(1);
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL's system identifier: made by `initdb`, kept by every copy.
///
/// Serialised as a decimal string, because JSON numbers lose digits above 2^53.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no system identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a system identifier: {reason}")]
pub struct ParseSystemIdError {
    /// What was read.
    pub text: String,
    /// Why it is not a 64-bit decimal number.
    pub reason: ParseIntError,
}

impl FromStr for SystemId {
    type Err = ParseSystemIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().map(SystemId);
        number.map_err(|reason| ParseSystemIdError { text: text.into(), reason })
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SEGMENT_SIZE_DEFAULT;

    #[test]
    fn lsn_reads_what_postgresql_prints() {
        for (text, value) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)] {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        assert_eq!("0/1a".parse(), Ok(Lsn(0x1A)));
    }

    #[test]
    fn lsn_refuses_everything_else() {
        for text in ["", "/", "0", "1/", "/1", "1/2/3", "+1/2", "1/-2", "123456789/0", "0/123456789", "g/0", " 0/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn segment_end_is_strictly_above() {
        let size = SEGMENT_SIZE_DEFAULT;
        assert_eq!(Lsn(size).segment_end(size), Lsn(2 * size));
        assert_eq!(Lsn(size - 1).segment_end(size), Lsn(size));
        assert_eq!(Lsn(size + 5).segment_start(size), Lsn(size));
        assert_eq!(Lsn(u64::MAX).segment_end(size), Lsn(u64::MAX));
    }

    #[test]
    fn hex16_sorts_and_reads_back() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.hex16(), "00000016B374D848");
        assert_eq!(Lsn::from_hex16(&lsn.hex16()), Ok(lsn));
        for text in ["", "16B374D848", "00000016b374d848", "+0000016B374D848", "00000016B374D8480"] {
            assert!(Lsn::from_hex16(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn arithmetic_never_wraps() {
        assert_eq!(Lsn(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn(1).checked_sub(Lsn(2)), None);
        assert_eq!(Lsn(1).saturating_sub(Lsn(2)), 0);
    }

    #[test]
    fn system_id_keeps_all_digits() {
        assert_eq!("7357812345678901234".parse(), Ok(SystemId(7_357_812_345_678_901_234)));
        assert!("-1".parse::<SystemId>().is_err());
    }
}
