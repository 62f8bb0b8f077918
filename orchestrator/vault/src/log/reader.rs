//! Reads the log from the vault: follows the chain, opens the chunks, fetches ahead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_wal::Lsn;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::VaultError;
use crate::fetch::{Backoff, damaged, retrying};
use crate::keys::Position;
use crate::log::access::{LogAccess, newer};
use crate::log::errors::ReadError;
use crate::log::types::{ReadEvent, ReadOptions, Tampering};
use crate::log::walk::{Cursor, Met};
use crate::object::{Decoded, ObjectError, decode};
use crate::seal::{Identities, open};
use crate::store::StoreError;

/// Bodies above this are opened off the async threads.
const OPEN_INLINE_BYTES: usize = 256 * 1024;
/// Objects read one after another without finding the end, before a listing is worth its request.
const STREAK: u32 = 3;

/// Reads a log in order, from a position on, for ever. Dropping it stops it.
pub struct LogReader {
    events: mpsc::Receiver<Result<ReadEvent, ReadError>>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").finish_non_exhaustive()
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LogReader {
    pub(crate) fn new(access: LogAccess, identities: Identities, from: Lsn, options: ReadOptions) -> LogReader {
        // Few, because each may hold a whole chunk.
        let (sender, events) = mpsc::channel(4);
        let follower = Follower {
            access,
            identities,
            gate: Arc::new(Semaphore::new(options.prefetch.max(1))),
            options,
            events: sender,
            position: from,
            cursor: None,
            checked: None,
            ahead: VecDeque::new(),
        };
        LogReader { events, task: tokio::spawn(follower.run()) }
    }

    /// The next event; waits for it. May be cancelled and asked again at any time. After an error the same place is
    /// tried again.
    pub async fn next(&mut self) -> Result<ReadEvent, ReadError> {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only with the reader; a panic in it must not look like the end of the log.
            None => Err(ReadError::Stopped),
        }
    }
}

/// An object, opened.
struct Opened {
    decoded: Decoded,
    plain: Bytes,
}

/// What was fetched from a key: nothing there, rubbish, or an object.
type Fetched = Result<Option<Result<Opened, ObjectError>>, StoreError>;

struct Ahead {
    at: Position,
    /// Bytes that it may hold.
    bytes: u64,
    task: JoinHandle<Fetched>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn error_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}

struct Follower {
    access: LogAccess,
    identities: Identities,
    options: ReadOptions,
    events: mpsc::Sender<Result<ReadEvent, ReadError>>,
    /// The next byte that the consumer expects.
    position: Lsn,
    cursor: Option<Cursor>,
    /// When absence at the end was last made sure of.
    checked: Option<Instant>,
    /// What is fetched ahead, in order.
    ahead: VecDeque<Ahead>,
    /// How many are fetched at the same time.
    gate: Arc<Semaphore>,
}

/// The consumer is gone.
struct Gone;

impl Follower {
    async fn run(mut self) {
        let mut backoff = error_backoff();
        loop {
            let started = Instant::now();
            let Err(error) = self.follow().await else { return };
            if started.elapsed() > Duration::from_secs(60) {
                backoff = error_backoff();
            }
            self.ahead.clear();
            if self.events.send(Err(error)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }

    /// `Ok`: the consumer is gone.
    async fn follow(&mut self) -> Result<(), ReadError> {
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => self.begin().await?,
        };
        let followed = self.follow_from(&mut cursor).await;
        self.cursor = Some(cursor);
        followed
    }

    async fn begin(&self) -> Result<Cursor, ReadError> {
        let origin = self.access.facts.origin;
        if self.position < origin {
            let database = self.access.facts.database.clone();
            return Err(ReadError::BeforeOrigin { database, origin, from: self.position });
        }
        Ok(self.access.at_or_before(self.position).await?)
    }

    async fn follow_from(&mut self, cursor: &mut Cursor) -> Result<(), ReadError> {
        let mut streak = 0;
        loop {
            match self.next_object(cursor, false).await? {
                Some((met, plain, tampering)) => {
                    streak += 1;
                    if self.deliver(met, plain, tampering).await.is_err() {
                        return Ok(());
                    }
                    if streak >= STREAK && !self.fetch_ahead(cursor).await? {
                        streak = 0;
                    }
                }
                None => {
                    streak = 0;
                    self.ahead.clear();
                    if self.wait_at_end(cursor).await?.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// At the end: looks again and again, and now and then makes sure that no delete marker hides the next object.
    /// Returns when the cursor has moved.
    async fn wait_at_end(&mut self, cursor: &mut Cursor) -> Result<Result<(), Gone>, ReadError> {
        let (mut wait, longest) = self.options.poll;
        let mut said = false;
        loop {
            let sure = self.checked.is_none_or(|at| at.elapsed() >= self.options.idle_check);
            if let Some((met, plain, tampering)) = self.next_object(cursor, sure).await? {
                return Ok(self.deliver(met, plain, tampering).await);
            }
            if sure {
                self.checked = Some(Instant::now());
            }
            if sure || !said {
                said = true;
                let at = cursor.position();
                if self.event(ReadEvent::AtEnd { tip: at.start, epoch: at.epoch }).await.is_err() {
                    return Ok(Err(Gone));
                }
            }
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.3).min(longest);
        }
    }

    /// The object at the cursor, checked against the chain and opened; the cursor steps over it.
    async fn next_object(
        &mut self,
        cursor: &mut Cursor,
        sure: bool,
    ) -> Result<Option<(Met, Bytes, Option<Tampering>)>, ReadError> {
        let at = cursor.position();
        let key = self.access.key(at);
        let error = match self.fetched(at).await.map_err(VaultError::from)? {
            Some(Ok(opened)) => {
                let mut tried = cursor.clone();
                match tried.apply(&opened.decoded) {
                    Ok(met) if self.access.counts(&key, &met, &opened.decoded).await? => {
                        *cursor = tried;
                        return Ok(Some((met, opened.plain, None)));
                    }
                    Ok(_) => Some(newer()),
                    Err(error) => Some(error),
                }
            }
            Some(Err(error)) => Some(error),
            None if sure => None,
            None => return Ok(None),
        };
        let Some((bytes, tampering)) = self.access.oldest(&key, error).await? else { return Ok(None) };
        let opened = open_object(bytes, self.identities.clone()).await.map_err(damaged(&key))?;
        let met = cursor.apply(&opened.decoded).map_err(damaged(&key))?;
        Ok(Some((met, opened.plain, tampering)))
    }

    /// From what was fetched ahead, or by a request now.
    async fn fetched(&mut self, at: Position) -> Fetched {
        while self.ahead.front().is_some_and(|ahead| ahead.at < at) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_some_and(|ahead| ahead.at == at)
            && let Some(mut ahead) = self.ahead.pop_front()
            && let Ok(Ok(Some(found))) = (&mut ahead.task).await
        {
            return Ok(Some(found));
        }
        fetch_and_open(&self.access, &self.access.key(at), &self.identities).await
    }

    /// Behind: what a listing shows after the cursor is fetched in parallel. Whether any of it is on the chain, the
    /// chain says. Returns whether anything is under way.
    async fn fetch_ahead(&mut self, cursor: &Cursor) -> Result<bool, ReadError> {
        let mut busy = self.ahead.iter().map(|ahead| ahead.bytes).sum::<u64>();
        if self.ahead.len() > self.options.prefetch || busy > self.options.prefetch_bytes / 2 {
            return Ok(true);
        }
        // The object at the cursor itself may be there too; a listing begins after a key.
        let at = cursor.position();
        let before = Position { start: Lsn(at.start.0.saturating_sub(1)), ..at };
        let after = self.ahead.back().map_or(before, |last| last.at);
        let found = self.access.ahead(after, self.options.prefetch.max(1) * 8).await?;
        for (at, size) in found {
            // What is held is the opened chunk; WAL shrinks about so much.
            let bytes = (size * 4).min(self.access.facts.segment_size);
            if !self.ahead.is_empty() && busy + bytes > self.options.prefetch_bytes {
                break;
            }
            busy += bytes;
            let (access, identities, gate) = (self.access.clone(), self.identities.clone(), self.gate.clone());
            let task = tokio::spawn(async move {
                // Never closed.
                let _permit = gate.acquire().await;
                fetch_and_open(&access, &access.key(at), &identities).await
            });
            self.ahead.push_back(Ahead { at, bytes, task });
        }
        Ok(!self.ahead.is_empty())
    }

    async fn deliver(&mut self, met: Met, plain: Bytes, tampering: Option<Tampering>) -> Result<(), Gone> {
        if let Some(tampering) = tampering {
            self.event(ReadEvent::Tampering(tampering)).await?;
        }
        match met {
            Met::Chunk { start, end, timeline } => {
                // Before the position that was asked for: on the way to it.
                let skip = self.position.saturating_sub(start);
                if end <= self.position {
                    return Ok(());
                }
                self.position = end;
                let data = plain.slice((skip as usize).min(plain.len())..);
                let start = Lsn(start.0 + skip);
                self.event(ReadEvent::Wal { timeline, start, data }).await
            }
            Met::Seal(seal) => {
                let (at, to, from) = (seal.at.start, seal.next_start, self.position);
                if at < from {
                    return Ok(());
                }
                self.event(ReadEvent::Seal(*seal)).await?;
                if to < from {
                    self.position = to;
                    self.event(ReadEvent::Cut { from, to }).await?;
                }
                Ok(())
            }
        }
    }

    async fn event(&self, event: ReadEvent) -> Result<(), Gone> {
        self.events.send(Ok(event)).await.map_err(|_| Gone)
    }
}

async fn fetch_and_open(access: &LogAccess, key: &str, identities: &Identities) -> Fetched {
    let Some(object) = retrying(|| access.store.get(key)).await? else { return Ok(None) };
    Ok(Some(open_object(object.bytes, identities.clone()).await))
}

/// Decodes, verifies and opens an object; big ones off the async threads.
async fn open_object(bytes: Bytes, identities: Identities) -> Result<Opened, ObjectError> {
    let inline = bytes.len() <= OPEN_INLINE_BYTES;
    let job = move || {
        let (decoded, body) = decode(&bytes)?;
        let plain = match &decoded.header.body {
            Some(info) => open(info, &body, &identities)?,
            None => Vec::new(),
        };
        Ok(Opened { decoded, plain: plain.into() })
    };
    if inline {
        return job();
    }
    let failed = |_| ObjectError::Open { reason: "the opening thread ended".into() };
    tokio::task::spawn_blocking(job).await.map_err(failed)?
}
