//! WAL as it comes, and the standby's answers.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_wal::{Lsn, TimelineId};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Mutex;

use super::connect::{Connection, Incoming, unexpected, within};
use super::error::ClientError;
use super::query::{parsed, read_row};
use crate::frame::{Frame, put_frame};
use crate::message::{SenderMessage, Status, put_status};

/// What a walsender sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationEvent {
    /// WAL that follows what came before, without a gap.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// How far the server has WAL.
        server_end: Lsn,
        /// At most 128 KiB; ends at a page's or a record's end.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has WAL.
        server_end: Lsn,
        /// The server will hang up unless a status is sent soon.
        reply_requested: bool,
    },
    /// The timeline ends here; the stream is over.
    EndOfTimeline {
        /// The timeline that follows in the server's history.
        next_timeline: TimelineId,
        /// The first position that belongs to it.
        next_start: Lsn,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Behind the copy stream: waiting for the row that names the next timeline.
    Ending(Option<(TimelineId, Lsn)>),
    Done,
}

/// The receiving half.
#[derive(Debug)]
pub struct ReplicationReader {
    incoming: Incoming,
    writer: ReplicationWriter,
    phase: Phase,
    position: Lsn,
}

/// The answering half. Clones write to the same connection.
#[derive(Debug, Clone)]
pub struct ReplicationWriter {
    shared: Arc<Mutex<WriteHalf>>,
}

#[derive(Debug)]
struct WriteHalf {
    io: OwnedWriteHalf,
    /// Bytes that a dropped call could not send; they go first.
    pending: BytesMut,
}

impl WriteHalf {
    async fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            if self.io.write_buf(&mut self.pending).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

pub(super) async fn start(
    mut connection: Connection,
    command: &str,
    start: Lsn,
) -> Result<(ReplicationReader, ReplicationWriter), ClientError> {
    let answer = within(connection.limit(), "starting replication", async {
        connection.send_query(command).await?;
        connection.incoming.receive().await
    });
    let phase = match answer.await?.tag {
        b'W' => Phase::Streaming,
        // The timeline ends where the stream was to start.
        b'T' => Phase::Ending(None),
        tag => return Err(unexpected(tag, "starting replication")),
    };
    let write_half = WriteHalf { io: connection.writer, pending: BytesMut::new() };
    let writer = ReplicationWriter { shared: Arc::new(Mutex::new(write_half)) };
    let incoming = connection.incoming;
    let reader = ReplicationReader { incoming, writer: writer.clone(), phase, position: start };
    Ok((reader, writer))
}

impl ReplicationReader {
    /// What comes next. May be dropped and called again.
    ///
    /// WAL is contiguous from the position that was asked for; a server that leaves a gap is an error.
    /// Behind [`ReplicationEvent::EndOfTimeline`] and behind an error there is nothing more.
    pub async fn next(&mut self) -> Result<ReplicationEvent, ClientError> {
        loop {
            if self.phase == Phase::Done {
                return Err(ClientError::closed());
            }
            let frame = self.incoming.receive().await?;
            if let Some(event) = self.take(frame).await? {
                return Ok(event);
            }
        }
    }

    /// The position of the next WAL byte.
    pub fn position(&self) -> Lsn {
        self.position
    }

    async fn take(&mut self, frame: Frame) -> Result<Option<ReplicationEvent>, ClientError> {
        match (&self.phase, frame.tag) {
            (Phase::Streaming, b'd') => self.take_copy_data(frame.body).map(Some),
            (Phase::Streaming, b'c') => {
                self.phase = Phase::Ending(None);
                self.writer.send(|out| put_frame(out, b'c', |_| ())).await?;
                Ok(None)
            }
            (Phase::Ending(_), b'D') => {
                let row = read_row(frame.body)?;
                let next_timeline = TimelineId(parsed(&row, 0, "the next timeline")?);
                let next_start = parsed(&row, 1, "the start of the next timeline")?;
                self.phase = Phase::Ending(Some((next_timeline, next_start)));
                Ok(None)
            }
            (Phase::Ending(next), b'Z') => {
                let next = *next;
                self.phase = Phase::Done;
                let (next_timeline, next_start) = next.ok_or_else(ClientError::closed)?;
                Ok(Some(ReplicationEvent::EndOfTimeline { next_timeline, next_start }))
            }
            // While streaming, CommandComplete says that the server shuts down; it closes next.
            (_, b'C') | (Phase::Ending(_), b'T') => Ok(None),
            (_, tag) => Err(unexpected(tag, "streaming WAL")),
        }
    }

    fn take_copy_data(&mut self, body: Bytes) -> Result<ReplicationEvent, ClientError> {
        match SenderMessage::read(body) {
            Some(SenderMessage::Wal { start, server_end, data }) => {
                let end = start.checked_add(data.len() as u64);
                let Some(end) = end.filter(|_| start == self.position) else {
                    let position = self.position;
                    return Err(ClientError::protocol(format!("WAL from {start} where {position} should follow")));
                };
                self.position = end;
                Ok(ReplicationEvent::Wal { start, server_end, data })
            }
            Some(SenderMessage::Keepalive { server_end, reply_requested }) => {
                Ok(ReplicationEvent::Keepalive { server_end, reply_requested })
            }
            None => Err(ClientError::protocol("a message of the stream that cannot be read")),
        }
    }
}

impl ReplicationWriter {
    /// Tells the server how far this standby is; [`Lsn::INVALID`] says nothing about that position.
    ///
    /// A synchronous commit on the server waits for `flushed` (or `applied`, by its settings). With
    /// `reply_requested` the server answers at once with a keepalive. A call that is dropped
    /// half-way does not harm the stream: what is left of its message is sent by the next one.
    pub async fn send_status(
        &self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply_requested: bool,
    ) -> Result<(), ClientError> {
        self.send(|out| put_status(out, Status { written, flushed, applied, reply_requested })).await
    }

    async fn send(&self, put: impl FnOnce(&mut BytesMut)) -> Result<(), ClientError> {
        let mut half = self.shared.lock().await;
        put(&mut half.pending);
        Ok(half.flush().await?)
    }
}
