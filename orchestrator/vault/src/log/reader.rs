//! Reads the log from the vault: follows the chain, opens the chunks, fetches ahead.

mod replay;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_wal::Lsn;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::VaultError;
use crate::fetch::{Backoff, damaged, retrying};
use crate::keys::Position;
use crate::log::access::{LogAccess, newer};
use crate::log::errors::ReadError;
use crate::log::index::StoredIndex;
use crate::log::open::just_before;
use crate::log::types::{ReadEvent, ReadOptions, Tampering};
use crate::log::walk::{Cursor, Met};
use crate::object::{Decoded, ObjectError, decode_stored};
use crate::seal::{Identities, open};
use crate::store::{Object, StoreError};

/// Bodies above this are opened off the async threads.
const OPEN_INLINE_BYTES: usize = 256 * 1024;
/// A seal is smaller than this.
const SEAL_BYTES: u64 = 4096;
/// Objects read one after another without finding the end, before a listing is worth its request...
const STREAK: u32 = 3;
/// ... and the most of them, when the listings before showed little: this close behind a busy writer a listing for every
/// object would cost more than the objects.
const LONGEST_STREAK: u32 = 48;
/// So few that a listing did not pay.
const FEW: usize = 4;

/// Reads a log in order, from a position on, for ever. Dropping it stops it.
pub struct LogReader {
    events: mpsc::Receiver<Result<Given, ReadError>>,
    place: Option<Cursor>,
    stored: Option<Timestamp>,
    task: JoinHandle<()>,
}

/// An event, the place after the object that it came from, and when the store made that object, where these are known.
type Given = (ReadEvent, Option<Cursor>, Option<Timestamp>);

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
        LogReader::start(access, identities, (from, None), options)
    }

    /// Reads on from a place of the chain, whatever the age of the objects.
    pub(crate) fn archiving(
        access: LogAccess,
        identities: Identities,
        from: Cursor,
        options: ReadOptions,
    ) -> LogReader {
        LogReader::start(access, identities, (from.position().start, Some(from)), options)
    }

    fn start(
        access: LogAccess,
        identities: Identities,
        (position, archiving): (Lsn, Option<Cursor>),
        options: ReadOptions,
    ) -> LogReader {
        // Few, because each may hold a whole chunk.
        let (sender, events) = mpsc::channel(4);
        let follower = Follower {
            access,
            identities,
            gate: Arc::new(Semaphore::new(options.prefetch.max(1))),
            options,
            events: sender,
            position,
            archiving: archiving.is_some(),
            cursor: archiving,
            index: Seen::default(),
            replayed: replay::Replayed::default(),
            checked: None,
            stored: None,
            ahead: VecDeque::new(),
            more: false,
            patience: STREAK,
        };
        LogReader { events, place: None, stored: None, task: tokio::spawn(follower.run()) }
    }

    /// The next event; waits for it. May be cancelled and asked again at any time. After an error the same place is
    /// tried again.
    pub async fn next(&mut self) -> Result<ReadEvent, ReadError> {
        match self.events.recv().await {
            Some(Ok((event, place, stored))) => {
                self.place = place.or(self.place.take());
                self.stored = stored;
                Ok(event)
            }
            Some(Err(error)) => Err(error),
            // The task ends only with the reader; a panic in it must not look like the end of the log.
            None => Err(ReadError::Stopped),
        }
    }

    /// The place of the chain after the object that the last event came from; none before the first event.
    pub fn place(&self) -> Option<&Cursor> {
        self.place.as_ref()
    }

    /// When the store made the object that the last WAL or seal came from; none where that is not known.
    pub fn stored(&self) -> Option<Timestamp> {
        self.stored
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
    events: mpsc::Sender<Result<Given, ReadError>>,
    /// The next byte that the consumer expects.
    position: Lsn,
    /// Reads everything, however old: what it reads is indexed by what it does.
    archiving: bool,
    cursor: Option<Cursor>,
    /// The newest index, when it was last looked for.
    index: Seen,
    /// Whether anything was given to the consumer yet, and how far segments were.
    replayed: replay::Replayed,
    /// When the store made the last object that was read.
    stored: Option<Timestamp>,
    /// When absence at the end was last made sure of.
    checked: Option<Instant>,
    /// What is fetched ahead, in order.
    ahead: VecDeque<Ahead>,
    /// The last listing showed more than is fetched ahead.
    more: bool,
    /// Objects to be read one by one before the next listing.
    patience: u32,
    /// How many are fetched at the same time.
    gate: Arc<Semaphore>,
}

/// The newest index, when it was last looked for.
#[derive(Default)]
struct Seen {
    index: Option<StoredIndex>,
    /// Where its segments end: no chunk from here on was ever deleted.
    kept: Option<Cursor>,
    /// The store's time then.
    at: Option<Timestamp>,
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
        loop {
            let mut cursor = match self.cursor.take() {
                Some(cursor) => cursor,
                None => self.begin().await?,
            };
            let followed = self.follow_from(&mut cursor).await;
            let at = cursor.position();
            self.cursor = Some(cursor);
            match followed {
                // Where the chunks are gone, segments hold their WAL.
                Err(ReadError::Archived { .. }) => match self.replay(at).await? {
                    Ok(kept) => self.cursor = Some(kept),
                    Err(Gone) => return Ok(()),
                },
                followed => return followed,
            }
        }
    }

    async fn begin(&mut self) -> Result<Cursor, ReadError> {
        let origin = self.access.facts.origin;
        if self.position < origin {
            let database = self.access.facts.database.clone();
            return Err(ReadError::BeforeOrigin { database, origin, from: self.position });
        }
        let (cursor, index) = self.access.at_or_before(self.position).await?;
        self.index = self.seen(index)?;
        Ok(cursor)
    }

    fn seen(&self, index: Option<StoredIndex>) -> Result<Seen, VaultError> {
        let archived = index.as_ref().and_then(|index| index.index.archived.as_ref());
        let kept = archived.map(|place| Cursor::from_place(self.access.facts.clone(), place)).transpose();
        let kept = kept.map_err(damaged(&self.access.keys.indexes()))?;
        Ok(Seen { index, kept, at: self.access.store.now() })
    }

    /// Looks for a newer index.
    async fn look(&mut self) -> Result<(), ReadError> {
        let newest = self.access.newest_index_after(self.index.index.clone()).await?;
        self.index = self.seen(newest)?;
        Ok(())
    }

    /// Rule 17: a reader that slept looks for the newest index before it goes on, because keys may have come free.
    async fn look_again(&mut self) -> Result<(), ReadError> {
        let age = self.index.at.zip(self.access.store.now()).map(|(at, now)| now.duration_since(at));
        let limit = self.access.facts.look_again_after();
        let old = age.is_some_and(|age| age.unsigned_abs() >= limit);
        if old && !self.archiving { self.look().await } else { Ok(()) }
    }

    async fn follow_from(&mut self, cursor: &mut Cursor) -> Result<(), ReadError> {
        let mut streak = 0;
        loop {
            match self.next_object(cursor, false).await? {
                Some((met, plain, tampering)) => {
                    streak += 1;
                    if self.deliver(cursor, met, plain, tampering).await.is_err() {
                        return Ok(());
                    }
                    if streak >= self.patience && !self.fetch_ahead(cursor).await? {
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
                return Ok(self.deliver(cursor, met, plain, tampering).await);
            }
            if sure {
                self.checked = Some(Instant::now());
            }
            if sure || !said {
                said = true;
                let at = cursor.position();
                let event = ReadEvent::AtEnd { tip: at.start, epoch: at.epoch };
                if self.event(cursor, event).await.is_err() {
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
        self.look_again().await?;
        let at = cursor.position();
        let mut tried = cursor.clone();
        let found = self.object_at(&mut tried, sure).await?;
        let Some((opened, met, tampering)) = found else {
            return if self.archived(at) { Err(self.gone(at)) } else { Ok(None) };
        };
        if !self.archiving {
            self.check_fresh(at, &opened.decoded).await?;
            if let (Met::Seal(_), true, Some(kept)) = (&met, self.archived(at), &self.index.kept)
                && !self.access.goes_on(&tried, kept).await?
            {
                return Err(self.gone(at));
            }
        }
        *cursor = tried;
        self.stored = opened.decoded.stored;
        Ok(Some((met, opened.plain, tampering)))
    }

    async fn object_at(
        &mut self,
        cursor: &mut Cursor,
        sure: bool,
    ) -> Result<Option<(Opened, Met, Option<Tampering>)>, ReadError> {
        let at = cursor.position();
        let key = self.access.key(at);
        let error = match self.fetched(at).await.map_err(VaultError::from)? {
            Some(Ok(opened)) => {
                let mut tried = cursor.clone();
                match tried.apply(&opened.decoded) {
                    Ok(met) if self.access.counts(&key, &met, &opened.decoded).await? => {
                        *cursor = tried;
                        return Ok(Some((opened, met, None)));
                    }
                    Ok(_) => Some(newer()),
                    Err(error) => Some(error),
                }
            }
            Some(Err(error)) => Some(error),
            None if sure => None,
            None => return Ok(None),
        };
        let Some((object, tampering)) = self.access.oldest(&key, error).await? else { return Ok(None) };
        let opened = open_object(object, self.identities.clone()).await.map_err(damaged(&key))?;
        let met = cursor.apply(&opened.decoded).map_err(damaged(&key))?;
        Ok(Some((opened, met, tampering)))
    }

    /// Whether chunks may have been deleted at a place: segments hold their WAL.
    fn archived(&self, at: Position) -> bool {
        !self.archiving && self.index.kept.as_ref().is_some_and(|kept| at < kept.position())
    }

    fn gone(&self, at: Position) -> ReadError {
        let upto = self.index.kept.as_ref().map_or(at.start, |kept| kept.position().start);
        ReadError::Archived { from: self.position, upto }
    }

    /// Beyond the newest index nothing is served that may be gone soon.
    async fn check_fresh(&mut self, at: Position, decoded: &Decoded) -> Result<(), ReadError> {
        for look in [true, false] {
            let covered = self.index.index.as_ref().is_some_and(|index| at < index.index.place.at);
            let fresh = self.access.check_fresh(&self.access.key(at), decoded);
            match fresh {
                Err(_) if covered => return Ok(()),
                Err(_) if look => self.look().await?,
                fresh => return Ok(fresh?),
            }
        }
        Ok(())
    }

    /// From what was fetched ahead, or by a request now.
    async fn fetched(&mut self, at: Position) -> Fetched {
        while self.ahead.front().is_some_and(|ahead| ahead.at < at) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_some_and(|ahead| ahead.at > at) {
            // The listing had a hole here, or it ended with a seal put ahead of the tail: what came since is before it.
            self.ahead.clear();
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
    /// chain says. Returns whether it paid: if not, some are read one by one before the next listing.
    async fn fetch_ahead(&mut self, cursor: &Cursor) -> Result<bool, ReadError> {
        let mut busy = self.ahead.iter().map(|ahead| ahead.bytes).sum::<u64>();
        let enough = self.ahead.len() > self.options.prefetch || busy > self.options.prefetch_bytes / 2;
        if !self.ahead.is_empty() && (enough || !self.more) {
            return Ok(true);
        }
        let after = self.ahead.back().map_or(just_before(cursor.position()), |last| last.at);
        let limit = self.options.prefetch.max(1) * 8;
        let mut found = self.access.ahead(after, limit).await?;
        self.more = found.len() == limit;
        let paid = self.more || found.len() >= FEW;
        self.patience = if paid { STREAK } else { (self.patience * 2).min(LONGEST_STREAK) };
        // The last ones may be seals put ahead of the tail: what comes before them is not listed yet.
        let stride = self.access.facts.stride();
        while found.pop_if(|(at, len)| *len < SEAL_BYTES && at.start.segment_offset(stride) == 0).is_some() {}
        for (at, size) in found {
            // What is held is the opened chunk; WAL shrinks about so much.
            let bytes = (size * 4).min(self.access.facts.segment_size);
            if !self.ahead.is_empty() && busy + bytes > self.options.prefetch_bytes {
                self.more = true;
                break;
            }
            busy += bytes;
            let (access, identities, gate) = (self.access.clone(), self.identities.clone(), self.gate.clone());
            let task = tokio::spawn(async move {
                let key = access.key(at);
                let object = {
                    // Never closed. What is opened is bounded by its bytes; the link need not rest for it.
                    let _permit = gate.acquire().await;
                    retrying(|| access.store.get(&key)).await?
                };
                match object {
                    Some(object) => Ok(Some(open_object(object, identities).await)),
                    None => Ok(None),
                }
            });
            self.ahead.push_back(Ahead { at, bytes, task });
        }
        Ok(paid)
    }

    async fn deliver(
        &mut self,
        cursor: &Cursor,
        met: Met,
        plain: Bytes,
        tampering: Option<Tampering>,
    ) -> Result<(), Gone> {
        if let Some(tampering) = tampering {
            self.event(cursor, ReadEvent::Tampering(tampering)).await?;
        }
        match met {
            Met::Chunk { start, end, timeline } => {
                // Before the position that was asked for: on the way to it.
                let skip = self.position.saturating_sub(start);
                if end <= self.position {
                    return Ok(());
                }
                self.position = end;
                self.replayed.given = true;
                let data = plain.slice((skip as usize).min(plain.len())..);
                let start = Lsn(start.0 + skip);
                self.event(cursor, ReadEvent::Wal { timeline, start, data }).await
            }
            Met::Seal(seal) => {
                let (at, to, from) = (seal.at.start, seal.next_start, self.position);
                if at < from {
                    return Ok(());
                }
                self.event(cursor, ReadEvent::Seal(*seal)).await?;
                if to < from {
                    self.position = to;
                    self.event(cursor, ReadEvent::Cut { from, to }).await?;
                }
                Ok(())
            }
        }
    }

    async fn event(&self, cursor: &Cursor, event: ReadEvent) -> Result<(), Gone> {
        self.events.send(Ok((event, Some(cursor.clone()), self.stored))).await.map_err(|_| Gone)
    }
}

async fn fetch_and_open(access: &LogAccess, key: &str, identities: &Identities) -> Fetched {
    let Some(object) = retrying(|| access.store.get(key)).await? else { return Ok(None) };
    Ok(Some(open_object(object, identities.clone()).await))
}

/// Decodes, verifies and opens an object; big ones off the async threads.
async fn open_object(object: Object, identities: Identities) -> Result<Opened, ObjectError> {
    let inline = object.bytes.len() <= OPEN_INLINE_BYTES;
    let job = move || {
        let (decoded, body) = decode_stored(&object)?;
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
