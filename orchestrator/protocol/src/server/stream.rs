//! The copy stream of one standby: WAL out, statuses in, at the same time.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use holdfast_wal::{Lsn, TimelineId};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::session::{Session, SessionError};
use super::source::{SourceError, WalPiece, WalSource};
use super::{ClientProgress, ServeOptions};
use crate::frame::{FrameReader, put_frame};
use crate::message::{ReceiverMessage, put_keepalive, wal_header};

/// As much WAL as PostgreSQL puts in one message.
const LONGEST_WAL: usize = 128 * 1024;

/// How a copy stream ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The source has no more of this timeline.
    OfTimeline { next: TimelineId, switch: Lsn },
    /// The standby wants no more, and stays for commands.
    ByStandby,
    /// The standby went away.
    Closed,
}

/// Streams `wal` from `start` until either end has had enough.
pub(super) async fn run<S: WalSource, O: Fn(ClientProgress)>(
    session: &mut Session<S, O>,
    start: Lsn,
    wal: S::Stream,
) -> Result<Ended, SessionError> {
    let (replies, reply_wanted) = mpsc::channel(1);
    let (sent, sent_so_far) = watch::channel(start);
    let sender = Sender {
        writer: &mut session.writer,
        options: &session.options,
        reply_wanted,
        sent,
        position: start,
        tip: start,
        last_request: Instant::now(),
    };
    let receiver = Receiver {
        frames: &mut session.frames,
        observer: session.observer.as_ref(),
        progress: &mut session.progress,
        silence_limit: session.options.silence_limit,
        sent_so_far,
    };
    let (mut sending, mut receiving) = (pin!(sender.run(wal)), pin!(receiver.run(replies)));
    let (mut sent, mut received) = (None, false);
    loop {
        tokio::select! {
            ended = &mut sending, if sent.is_none() => sent = Some(ended?),
            copy_done = &mut receiving, if !received => match copy_done? {
                true => received = true,
                false => return Ok(Ended::Closed),
            },
        }
        // The stream is over when both ends have said so.
        if let (Some(ended), true) = (sent, received) {
            return Ok(ended);
        }
    }
}

struct Sender<'a> {
    writer: &'a mut OwnedWriteHalf,
    options: &'a ServeOptions,
    /// The standby wants a keepalive now; closed when it wants no more WAL.
    reply_wanted: mpsc::Receiver<()>,
    sent: watch::Sender<Lsn>,
    position: Lsn,
    tip: Lsn,
    last_request: Instant,
}

impl Sender<'_> {
    async fn run<W>(mut self, mut wal: W) -> Result<Ended, SessionError>
    where
        W: Stream<Item = Result<WalPiece, SourceError>> + Unpin,
    {
        let mut ticks = interval(self.options.keepalive_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut exhausted = false;
        let ended = loop {
            tokio::select! {
                biased;
                wanted = self.reply_wanted.recv() => match wanted {
                    Some(()) => self.keepalive().await?,
                    None => break Ended::ByStandby,
                },
                _ = ticks.tick() => self.keepalive().await?,
                piece = wal.next(), if !exhausted => match piece.transpose()? {
                    Some(WalPiece::Wal { start, data }) => self.wal(start, data).await?,
                    Some(WalPiece::Tip(tip)) => self.tip = self.tip.max(tip),
                    Some(WalPiece::EndOfTimeline { timeline, switch }) => {
                        break Ended::OfTimeline { next: timeline, switch };
                    }
                    None => exhausted = true,
                },
            }
        };
        let mut out = BytesMut::new();
        put_frame(&mut out, b'c', |_| ());
        self.writer.write_all(&out).await?;
        Ok(ended)
    }

    async fn wal(&mut self, start: Lsn, mut data: Bytes) -> Result<(), SessionError> {
        if start != self.position || start.checked_add(data.len() as u64).is_none() {
            let message = format!("WAL from {start} where {} should follow", self.position);
            return Err(SourceError::Failed { message }.into());
        }
        while !data.is_empty() {
            let part = data.split_to(data.len().min(LONGEST_WAL));
            let end = Lsn(self.position.0 + part.len() as u64);
            self.tip = self.tip.max(end);
            let mut message = wal_header(self.position, self.tip, part.len()).chain(part);
            self.writer.write_all_buf(&mut message).await?;
            self.position = end;
            self.sent.send_replace(end);
        }
        Ok(())
    }

    async fn keepalive(&mut self) -> Result<(), SessionError> {
        // Asked several times within the limit, so that one slow answer is no silence.
        let ask = self.last_request.elapsed() >= self.options.silence_limit / 6;
        if ask {
            self.last_request = Instant::now();
        }
        let mut out = BytesMut::new();
        put_keepalive(&mut out, self.tip, ask);
        Ok(self.writer.write_all(&out).await?)
    }
}

struct Receiver<'a, R, O> {
    frames: &'a mut FrameReader<R>,
    observer: &'a O,
    progress: &'a mut ClientProgress,
    silence_limit: Duration,
    sent_so_far: watch::Receiver<Lsn>,
}

impl<R: AsyncRead + Unpin, O: Fn(ClientProgress)> Receiver<'_, R, O> {
    /// True when the standby ended the copy stream, false when it went away. Drops `replies` then.
    async fn run(self, replies: mpsc::Sender<()>) -> Result<bool, SessionError> {
        loop {
            let frame = timeout(self.silence_limit, self.frames.next())
                .await
                .map_err(|_| SessionError::Silent(self.silence_limit))??;
            let Some(frame) = frame else { return Ok(false) };
            match frame.tag {
                b'd' => match ReceiverMessage::read(frame.body) {
                    Some(ReceiverMessage::Status(status)) => {
                        self.progress.sent = *self.sent_so_far.borrow();
                        self.progress.written = status.written;
                        self.progress.flushed = status.flushed;
                        self.progress.applied = status.applied;
                        (self.observer)(self.progress.clone());
                        if status.reply_requested {
                            // A full channel has a reply under way already.
                            let _ = replies.try_send(());
                        }
                    }
                    Some(ReceiverMessage::Feedback) => {}
                    None => return Err(SessionError::Protocol("a status that cannot be read".into())),
                },
                b'c' => return Ok(true),
                b'X' => return Ok(false),
                tag => {
                    let what = format!("a message of type `{}` in the stream", tag.escape_ascii());
                    return Err(SessionError::Protocol(what));
                }
            }
        }
    }
}
