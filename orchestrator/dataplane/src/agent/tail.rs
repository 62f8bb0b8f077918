//! The last bytes that were received, kept so that a reconnected server can be asked for them again.
//!
//! A server that was restored from an older copy while the connection was down has the same system identifier and
//! timeline; its WAL differs. It is found out before one byte of it is stored.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_wal::Lsn;

/// At least a WAL page, and more than most records.
const KEEP_BYTES: usize = 64 * 1024;

/// The end of the received stream.
#[derive(Debug)]
pub(crate) struct Tail {
    start: Lsn,
    bytes: VecDeque<u8>,
}

/// A piece of WAL differs from what was received at the same place before.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the WAL at {at} differs from what the same server sent before")]
pub(crate) struct Differs {
    pub(crate) at: Lsn,
}

impl Tail {
    pub(crate) fn new(start: Lsn) -> Self {
        Self { start, bytes: VecDeque::with_capacity(KEEP_BYTES) }
    }

    /// Where to ask the server to begin.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// Compares what is known, keeps what is new, and returns the new part. `data` must not begin after the end.
    pub(crate) fn accept(&mut self, start: Lsn, data: &Bytes) -> Result<(Lsn, Bytes), Differs> {
        let end = self.end();
        if start > end {
            return Err(Differs { at: end });
        }
        let known = usize::try_from(end.0 - start.0).unwrap_or(usize::MAX).min(data.len());
        self.compare(start, &data[..known])?;
        let new = data.slice(known..);
        self.keep(&new);
        Ok((Lsn(start.0 + known as u64), new))
    }

    fn compare(&self, start: Lsn, known: &[u8]) -> Result<(), Differs> {
        let skip = self.start.0.saturating_sub(start.0) as usize;
        let from = start.0.saturating_sub(self.start.0) as usize;
        let stored = self.bytes.range(from.min(self.bytes.len())..);
        for (index, (seen, kept)) in known.iter().skip(skip).zip(stored).enumerate() {
            if seen != kept {
                return Err(Differs { at: Lsn(start.0.max(self.start.0) + index as u64) });
            }
        }
        Ok(())
    }

    fn keep(&mut self, new: &[u8]) {
        let surplus = (self.bytes.len() + new.len()).saturating_sub(KEEP_BYTES);
        let drop = surplus.min(self.bytes.len());
        self.bytes.drain(..drop);
        let skip = surplus - drop;
        self.bytes.extend(&new[skip..]);
        self.start = Lsn(self.start.0 + surplus as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    #[test]
    fn what_was_seen_is_compared_and_only_new_bytes_come_out() {
        let mut tail = Tail::new(Lsn(100));
        assert_eq!(tail.accept(Lsn(100), &piece(b"abcdef")), Ok((Lsn(100), piece(b"abcdef"))));
        assert_eq!(tail.accept(Lsn(102), &piece(b"cdefGH")), Ok((Lsn(106), piece(b"GH"))));
        assert_eq!(tail.accept(Lsn(102), &piece(b"cd")), Ok((Lsn(104), piece(b""))));
        assert_eq!(tail.accept(Lsn(102), &piece(b"cX")), Err(Differs { at: Lsn(103) }));
        assert_eq!(tail.accept(Lsn(109), &piece(b"z")), Err(Differs { at: Lsn(108) }));
    }

    #[test]
    fn the_tail_is_bounded_and_its_start_moves() {
        let mut tail = Tail::new(Lsn(0));
        for index in 0..20_u64 {
            tail.accept(Lsn(index * 10_000), &piece(&[index as u8; 10_000])).expect("contiguous");
        }
        assert_eq!(tail.end(), Lsn(200_000));
        assert_eq!(tail.start(), Lsn(200_000 - KEEP_BYTES as u64));
        let mut again = vec![18_u8; 10_000];
        again.extend([19_u8; 10_000]);
        assert_eq!(tail.accept(Lsn(180_000), &piece(&again)), Ok((Lsn(200_000), piece(b""))));
        again[15_000] = 0;
        assert_eq!(tail.accept(Lsn(180_000), &piece(&again)), Err(Differs { at: Lsn(195_000) }));
        let mut large = Tail::new(Lsn(0));
        large.accept(Lsn(0), &piece(&[1; 100_000])).expect("first");
        assert_eq!((large.start(), large.end()), (Lsn(100_000 - KEEP_BYTES as u64), Lsn(100_000)));
    }
}
