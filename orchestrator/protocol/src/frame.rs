//! Messages as they lie on the wire: a tag, a length, a body.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that is reserved ahead of bytes that came.
const READ_BYTES: usize = 64 * 1024;
/// A block is used up to here before the next one is reserved: small messages share one, so that
/// whoever keeps many of them does not keep a block for each.
const ROOM_BYTES: usize = 4 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a message of type `{}` announces {length} bytes", tag.escape_ascii())]
    Length { tag: u8, length: u32 },
}

/// Reads messages. A call that is dropped half-way loses nothing: the next one goes on.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that refuses bodies of more than `limit` bytes.
    pub(crate) fn new(io: R, limit: usize) -> Self {
        FrameReader { io, buffer: BytesMut::new(), limit }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next message, or `None` when the peer closed the connection between messages.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = split_frame(&mut self.buffer, self.limit)? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(broken_off().into()) };
            }
        }
    }

    /// The next bytes without a tag in front: what a client's first packets are.
    pub(crate) async fn next_untagged(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>().map(|head| u32::from_be_bytes(*head)) {
                let body = checked_length(0, length, self.limit)?;
                if self.buffer.len() >= 4 + body {
                    self.buffer.advance(4);
                    return Ok(Some(self.buffer.split_to(body).freeze()));
                }
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(broken_off().into()) };
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < ROOM_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed inside a message")
}

fn checked_length(tag: u8, length: u32, limit: usize) -> Result<usize, FrameError> {
    // The length counts itself.
    let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    body.filter(|body| *body <= limit).ok_or(FrameError::Length { tag, length })
}

fn split_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some([tag, length @ ..]) = buffer.first_chunk::<5>().copied() else { return Ok(None) };
    let body = checked_length(tag, u32::from_be_bytes(length), limit)?;
    if buffer.len() < 5 + body {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(Frame { tag, body: buffer.split_to(body).freeze() }))
}

/// Appends a message whose body `fill` writes.
pub(crate) fn put_frame(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    put_untagged(out, fill);
}

/// Appends a packet without a tag: a client's first.
pub(crate) fn put_untagged(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    fill(out);
    // What is sent is bounded by the callers, far below 2^31.
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends text and the zero that ends it. Zeros inside the text end it early.
pub(crate) fn put_cstr(out: &mut BytesMut, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// Takes a message apart. Every read is `None` when the message is too short.
#[derive(Debug)]
pub(crate) struct Cursor(pub(crate) Bytes);

impl Cursor {
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.0.try_get_i32().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.0.len()).then(|| self.0.split_to(count))
    }

    /// Text up to the next zero. What is not UTF-8 is replaced.
    pub(crate) fn cstr(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&self.0.split_to(end)).into_owned();
        self.0.advance(1);
        Some(text)
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(mut input: &[u8], limit: usize) -> (Vec<Frame>, Option<FrameError>) {
        let mut reader = FrameReader::new(&mut input, limit);
        let mut frames = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn writes_what_it_reads() {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'Q', |out| put_cstr(out, "IDENTIFY_SYSTEM"));
        put_frame(&mut out, b'c', |_| ());
        let (frames, error) = frames(&out, 16).await;
        assert!(error.is_none());
        assert_eq!(frames[0], Frame { tag: b'Q', body: Bytes::from_static(b"IDENTIFY_SYSTEM\0") });
        assert_eq!(frames[1], Frame { tag: b'c', body: Bytes::new() });
    }

    #[tokio::test]
    async fn refuses_lengths_without_reserving_them() {
        for length in [0u32, 3, 21, 0x7FFF_FFFF, u32::MAX] {
            let mut input = vec![b'd'];
            input.extend(length.to_be_bytes());
            let mut reader = FrameReader::new(input.as_slice(), 16);
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, FrameError::Length { tag: b'd', .. }), "{length}");
            assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
        }
    }

    #[tokio::test]
    async fn a_connection_closed_inside_a_message_is_an_error() {
        let (_, error) = frames(&[b'd', 0, 0, 0, 9, 1], 16).await;
        assert!(matches!(error, Some(FrameError::Io(_))));
    }

    /// Hands out a few bytes at a time, as a network does.
    struct Trickle(std::io::Cursor<Vec<u8>>);

    impl AsyncRead for Trickle {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let mut piece = [0; 105];
            let read = std::io::Read::read(&mut self.0, &mut piece)?;
            buffer.put_slice(&piece[..read]);
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_messages_that_are_kept_share_their_memory() {
        let mut out = BytesMut::new();
        for _ in 0..5000 {
            put_frame(&mut out, b'd', |out| out.put_bytes(1, 100));
        }
        let mut reader = FrameReader::new(Trickle(std::io::Cursor::new(out.to_vec())), 1000);
        let mut kept = Vec::new();
        let mut blocks = 0;
        let mut next_in_block = std::ptr::null();
        while let Some(frame) = reader.next().await.unwrap() {
            if frame.body.as_ptr() != next_in_block {
                blocks += 1;
            }
            // The next body lies behind this one and a header of 5 bytes, as long as the block lasts.
            next_in_block = frame.body.as_ptr().wrapping_add(105);
            kept.push(frame.body);
        }
        assert_eq!(kept.len(), 5000);
        assert!(blocks <= 5000 * 105 / (READ_BYTES - ROOM_BYTES) + 1, "{blocks} blocks");
    }

    #[test]
    fn short_messages_read_as_none() {
        let mut cursor = Cursor(Bytes::from_static(b"ab"));
        assert_eq!(cursor.u32(), None);
        assert_eq!(cursor.cstr(), None);
        assert_eq!(cursor.bytes(3), None);
        assert_eq!(cursor.u16(), Some(0x6162));
        assert_eq!(cursor.u8(), None);
    }
}
