//! The messages of streaming replication that both ends build or read.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_wal::Lsn;

use crate::frame::{Cursor, put_frame};

/// Seconds from 1970 to 2000, where PostgreSQL's clock starts.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// Now, in PostgreSQL's microseconds. Only shown in views of the peer, never decided by.
pub(crate) fn postgres_now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_sub(POSTGRES_EPOCH_SECONDS * 1_000_000)
}

/// What a walsender says inside `CopyData`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SenderMessage {
    Wal { start: Lsn, server_end: Lsn, data: Bytes },
    Keepalive { server_end: Lsn, reply_requested: bool },
}

impl SenderMessage {
    pub(crate) fn read(body: Bytes) -> Option<SenderMessage> {
        let mut cursor = Cursor(body);
        match cursor.u8()? {
            b'w' => {
                let (start, server_end, _time) = (Lsn(cursor.u64()?), Lsn(cursor.u64()?), cursor.u64()?);
                Some(SenderMessage::Wal { start, server_end, data: cursor.rest() })
            }
            b'k' => {
                let (server_end, _time) = (Lsn(cursor.u64()?), cursor.u64()?);
                Some(SenderMessage::Keepalive { server_end, reply_requested: cursor.u8()? != 0 })
            }
            _ => None,
        }
    }
}

/// Bytes of the header of a WAL message, the `CopyData` header included.
const WAL_HEADER_BYTES: usize = 1 + 4 + 1 + 8 + 8 + 8;

/// The header of a `CopyData` that carries `length` bytes of WAL, which follow it on the wire.
pub(crate) fn wal_header(start: Lsn, server_end: Lsn, length: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(WAL_HEADER_BYTES);
    out.put_u8(b'd');
    let announced = u32::try_from(WAL_HEADER_BYTES - 1 + length).unwrap_or(u32::MAX);
    out.put_u32(announced);
    out.put_u8(b'w');
    out.put_u64(start.0);
    out.put_u64(server_end.0);
    out.put_i64(postgres_now());
    out
}

pub(crate) fn put_keepalive(out: &mut BytesMut, server_end: Lsn, reply_requested: bool) {
    put_frame(out, b'd', |out| {
        out.put_u8(b'k');
        out.put_u64(server_end.0);
        out.put_i64(postgres_now());
        out.put_u8(u8::from(reply_requested));
    });
}

/// A standby's account of itself. 0 is "nothing to say".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) written: Lsn,
    pub(crate) flushed: Lsn,
    pub(crate) applied: Lsn,
    pub(crate) reply_requested: bool,
}

/// What a walreceiver says inside `CopyData`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReceiverMessage {
    Status(Status),
    /// Hot standby feedback: the oldest transactions that queries there still need.
    Feedback,
}

impl ReceiverMessage {
    pub(crate) fn read(body: Bytes) -> Option<ReceiverMessage> {
        let mut cursor = Cursor(body);
        match cursor.u8()? {
            b'r' => {
                let (written, flushed, applied) = (Lsn(cursor.u64()?), Lsn(cursor.u64()?), Lsn(cursor.u64()?));
                cursor.u64()?;
                let reply_requested = cursor.u8()? != 0;
                Some(ReceiverMessage::Status(Status { written, flushed, applied, reply_requested }))
            }
            b'h' => {
                cursor.bytes(8 + 4 * 4)?;
                Some(ReceiverMessage::Feedback)
            }
            _ => None,
        }
    }
}

pub(crate) fn put_status(out: &mut BytesMut, status: Status) {
    put_frame(out, b'd', |out| {
        out.put_u8(b'r');
        out.put_u64(status.written.0);
        out.put_u64(status.flushed.0);
        out.put_u64(status.applied.0);
        out.put_i64(postgres_now());
        out.put_u8(u8::from(status.reply_requested));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of the one `CopyData` in `out`.
    fn body(out: &BytesMut) -> Bytes {
        assert_eq!(out[0], b'd');
        assert_eq!(u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize, out.len() - 1);
        Bytes::copy_from_slice(&out[5..])
    }

    #[test]
    fn each_end_reads_what_the_other_writes() {
        let status = Status { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1), reply_requested: true };
        let mut out = BytesMut::new();
        put_status(&mut out, status);
        assert_eq!(ReceiverMessage::read(body(&out)), Some(ReceiverMessage::Status(status)));

        let mut out = wal_header(Lsn(8), Lsn(16), 3);
        out.put_slice(b"wal");
        let wal = SenderMessage::Wal { start: Lsn(8), server_end: Lsn(16), data: Bytes::from_static(b"wal") };
        assert_eq!(SenderMessage::read(body(&out)), Some(wal));

        let mut out = BytesMut::new();
        put_keepalive(&mut out, Lsn(7), true);
        let keepalive = SenderMessage::Keepalive { server_end: Lsn(7), reply_requested: true };
        assert_eq!(SenderMessage::read(body(&out)), Some(keepalive));
    }

    #[test]
    fn cut_messages_are_refused_at_every_length() {
        let mut out = BytesMut::new();
        put_status(&mut out, Status::default());
        let status = body(&out);
        let mut out = BytesMut::new();
        put_keepalive(&mut out, Lsn(7), true);
        let keepalive = body(&out);
        for length in 0..status.len() {
            assert_eq!(ReceiverMessage::read(status.slice(..length)), None);
        }
        for length in 0..keepalive.len() {
            assert_eq!(SenderMessage::read(keepalive.slice(..length)), None);
        }
    }

    #[test]
    fn the_clock_starts_in_2000() {
        let year = 365.25 * 24.0 * 3600.0 * 1e6;
        let years = postgres_now() as f64 / year;
        assert!((25.0..100.0).contains(&years), "{years}");
    }
}
