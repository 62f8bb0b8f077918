//! The task of a running writer: cuts chunks, seals them, carries them to the store, counts what is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_wal::record::RecordScanner;
use holdfast_wal::{Lsn, PAGE_SIZE};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::VaultError;
use crate::fetch::{self, Backoff};
use crate::keys::Position;
use crate::log::access::{LogAccess, is_same};
use crate::log::incarnation::Incarnation;
use crate::log::mutant::{Mutant, on};
use crate::log::pace::Pace;
use crate::log::types::{SealSummary, StoreProblem, WriterLimits, WriterState};
use crate::log::writer::{ChunkAnswer, Cut, WriterCore};
use crate::log::writing::Shared;
use crate::object::{Hash, Header, ObjectError, Subject, decode_header, encode_header};
use crate::seal::Sealer;
use crate::store::{Created, Lock, StoreError};

/// Chunks above this are sealed off the async threads.
const SEAL_INLINE_BYTES: u64 = 256 * 1024;

/// What a PUT task ends with.
struct PutEnd {
    start: Lsn,
    len: u64,
    took: Duration,
    result: Result<ChunkAnswer, StoreError>,
    again: Option<Again>,
}

/// What a PUT whose outcome is unknown keeps, to be sent again.
struct Again {
    key: String,
    object: Bytes,
    backoff: Backoff,
}

/// The task of a running writer: cuts, seals, sends, counts.
pub(super) struct Task {
    access: LogAccess,
    me: Incarnation,
    core: WriterCore,
    pace: Pace,
    /// Always there but while a big chunk is sealed on another thread.
    sealing: Option<(Sealer, Records)>,
    shared: Arc<Shared>,
    state: watch::Sender<WriterState>,
    puts: JoinSet<PutEnd>,
    looks: JoinSet<(Position, Result<Option<Bytes>, StoreError>)>,
    limits: WriterLimits,
    /// When, by the store's clock, the claim is to be renewed.
    renew_at: Option<Timestamp>,
}

/// Where the last WAL record begins of what was sealed.
struct Records {
    segment_size: u64,
    /// None: it begins at the next page.
    scanner: Option<RecordScanner>,
    last: Option<Lsn>,
}

impl Records {
    /// The same after the next WAL, which is at `start`. None where it is not known: the bytes are no WAL, or records may have
    /// begun in the rest of a page whose beginning was not seen. Then the one that was the last before may not be any more.
    fn after(&mut self, start: Lsn, plain: &[u8]) -> Option<Lsn> {
        let page = Lsn(start.0.next_multiple_of(PAGE_SIZE));
        let (scanner, bytes) = match &mut self.scanner {
            Some(scanner) => (scanner, plain),
            none => {
                self.last = self.last.filter(|_| page == start || plain.is_empty());
                let skip = usize::try_from(page.0 - start.0).unwrap_or(usize::MAX);
                let Some(bytes) = plain.get(skip..).filter(|bytes| !bytes.is_empty()) else { return self.last };
                (none.insert(RecordScanner::new(page, self.segment_size, false)), bytes)
            }
        };
        match scanner.push(bytes) {
            Ok(()) => self.last = scanner.last_begun().or(self.last),
            Err(_) => (self.scanner, self.last) = (None, None),
        }
        self.last
    }
}

impl Task {
    pub(super) fn new(
        access: LogAccess,
        me: Incarnation,
        core: WriterCore,
        sealer: Sealer,
        shared: Arc<Shared>,
        state: watch::Sender<WriterState>,
        limits: WriterLimits,
    ) -> Task {
        let (puts, looks) = (JoinSet::new(), JoinSet::new());
        let records = Records { segment_size: access.facts.segment_size, scanner: None, last: None };
        let (sealing, renew_at) = (Some((sealer, records)), None);
        let pace = Pace::new(limits.max_in_flight, Instant::now());
        Task { access, me, core, pace, sealing, shared, state, puts, looks, limits, renew_at }
    }

    /// The same, whose first bytes come after the record that begins there.
    pub(super) fn after_record(mut self, last: Option<Lsn>) -> Task {
        if let Some((_, records)) = &mut self.sealing {
            records.last = last;
        }
        self
    }

    /// The same, whose claim is to be renewed at this time of the store.
    pub(super) fn renewed_at(mut self, renew_at: Option<Timestamp>) -> Task {
        self.renew_at = renew_at;
        self
    }

    pub(super) async fn run(mut self) {
        let reason = match self.work().await {
            Ok(()) if self.core.expired() => "its claim is too old, and has to be made anew".to_owned(),
            Ok(()) => "it was closed or fenced".to_owned(),
            Err(failure) => {
                tracing::error!(%failure, "the writer stops");
                self.failed(&failure.to_string());
                failure.to_string()
            }
        };
        self.shared.queue().ended = Some(reason);
        self.shared.drained.notify_waiters();
        // Nothing more goes out.
        self.puts.abort_all();
    }

    /// Seen by whoever waits for something to be stored, and appends nothing meanwhile.
    fn failed(&self, message: &str) {
        let hint = "it is begun again with a new claim; if this comes back, report it with the log of this process";
        let (reason, message) = ("WriterFailed".to_owned(), message.to_owned());
        self.state.send_modify(|state| state.failed = Some(StoreProblem { reason, message, hint: hint.to_owned() }));
    }

    async fn work(&mut self) -> Result<(), Failure> {
        loop {
            self.cut().await?;
            self.publish();
            let closed = {
                let queue = self.shared.queue();
                queue.closed && queue.bytes == 0 && self.puts.is_empty()
            };
            if closed || self.core.fence().is_some() || self.core.expired() {
                return Ok(());
            }
            let shared = self.shared.clone();
            tokio::select! {
                // A PUT that ends without saying how would leave its chunk without an end, and what waits for it.
                Some(end) = self.puts.join_next() => self.ended(end.map_err(|_| Failure::PutPanicked)?),
                Some(look) = self.looks.join_next() => if let Ok((at, found)) = look { self.looked(at, found) },
                () = shared.filled.notified() => {}
                () = tokio::time::sleep(self.limits.idle_check), if self.looks.is_empty() => self.look(),
            }
        }
    }

    /// Cuts, seals and sends as long as there are bytes and a slot. What does not fill a chunk waits for those on their way when
    /// the store is busy with them: its end wakes us.
    async fn cut(&mut self) -> Result<(), Failure> {
        loop {
            let offered = self.shared.queue().offer(self.limits.max_chunk_bytes);
            if offered < self.limits.max_chunk_bytes as u64 / 2 && self.puts.len() >= self.pace.allowed() {
                return Ok(());
            }
            let Some(cut) = self.core.plan(offered) else { return Ok(()) };
            let plain = self.shared.queue().take((cut.end.0 - cut.start.0) as usize);
            self.shared.drained.notify_waiters();
            let (object, hash) = self.seal(cut, plain).await?;
            let at = self.core.sent(cut, hash);
            let key = self.access.key(at);
            let again = Again { key, object, backoff: Backoff::store() };
            self.state.send_if_modified(|state| {
                state.requests += 1;
                false
            });
            self.send(cut.start, again, None);
        }
    }

    async fn seal(&mut self, cut: Cut, plain: Bytes) -> Result<(Bytes, Hash), ObjectError> {
        let gone = || ObjectError::Open { reason: "the sealing thread ended".into() };
        let (mut sealer, mut records) = self.sealing.take().ok_or_else(gone)?;
        let mut header = self.me.header(self.core.subject(cut));
        let me = self.me.clone();
        let job = move || {
            if let Subject::Chunk(chunk) = &mut header.subject {
                chunk.last_record = records.after(cut.start, &plain);
            }
            let sealed = seal_chunk(&mut sealer, &me, header, &plain);
            ((sealer, records), sealed)
        };
        let inline = cut.end.0 - cut.start.0 <= SEAL_INLINE_BYTES;
        let (sealing, sealed) =
            if inline { job() } else { tokio::task::spawn_blocking(job).await.map_err(|_| gone())? };
        self.sealing = Some(sealing);
        sealed
    }

    fn send(&mut self, start: Lsn, mut again: Again, wait: Option<Duration>) {
        let access = self.access.clone();
        self.puts.spawn(async move {
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
            let began = Instant::now();
            let result = put_chunk(&access, &again.key, &again.object).await;
            let (len, took) = (again.object.len() as u64, began.elapsed());
            if result.is_ok() {
                again.object = Bytes::new();
            }
            PutEnd { start, len, took, again: result.is_err().then_some(again), result }
        });
    }

    fn ended(&mut self, end: PutEnd) {
        match (end.result, end.again) {
            (Ok(answer), _) => {
                let stored = matches!(answer, ChunkAnswer::Stored { .. });
                self.core.answered(end.start, answer);
                self.pace.answered(Instant::now(), end.len, end.took);
                self.state.send_if_modified(|state| {
                    state.chunks += u64::from(stored);
                    state.stored_bytes += if stored { end.len } else { 0 };
                    state.store_problem = None;
                    false
                });
            }
            (Err(error), Some(mut again)) => {
                // Unknown: the same bytes again, for ever. Even what looks permanent may be put right by a person.
                let problem = problem(&error);
                if self.state.borrow().store_problem.as_ref() != Some(&problem) {
                    tracing::warn!(%error, "the store does not take a chunk; trying again");
                }
                let wait = again.backoff.after(&error);
                self.state.send_if_modified(|state| {
                    state.requests += 1;
                    state.store_problem = Some(problem);
                    false
                });
                self.send(end.start, again, Some(wait));
            }
            (Err(_), None) => {}
        }
    }

    /// An idle writer would notice a seal only with its next chunk.
    fn look(&mut self) {
        let Some(at) = self.core.idle_position() else { return };
        let access = self.access.clone();
        self.looks.spawn(async move {
            let found = access.store.get_front(&access.key(at), 64 * 1024).await;
            (at, found.map(|object| object.map(|object| object.bytes)))
        });
    }

    fn looked(&mut self, at: Position, found: Result<Option<Bytes>, StoreError>) {
        match found {
            // Still idle there: nothing of ours was ever sent to that key.
            Ok(Some(bytes)) if self.core.idle_position() == Some(at) => {
                self.core.answered(at.start, ChunkAnswer::Foreign(summary(&bytes)));
            }
            Ok(_) => self.problem(None),
            Err(error) => self.problem(Some(problem(&error))),
        }
    }

    fn problem(&self, problem: Option<StoreProblem>) {
        self.state.send_if_modified(|state| {
            state.store_problem = problem;
            false
        });
    }

    fn publish(&self) {
        let received = self.shared.queue().next;
        let now = self.access.store.now();
        let renew = self.core.expired() || self.renew_at.zip(now).is_some_and(|(at, now)| now >= at);
        self.state.send_modify(|state| {
            state.received = received;
            state.durable = self.core.durable();
            state.in_flight = self.core.in_flight();
            state.traffic = self.access.store.traffic();
            state.fenced = self.core.fence().cloned();
            state.renew = renew;
        });
    }
}

impl Drop for Task {
    /// It ended in whatever way, by a panic too: nobody waits for room that never comes.
    fn drop(&mut self) {
        self.shared.queue().ended.get_or_insert_with(|| "its task ended unexpectedly".to_owned());
        self.shared.drained.notify_waiters();
    }
}

/// Why a writer ends that is neither closed nor fenced.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a chunk cannot be sealed: {0}")]
    Seal(#[from] ObjectError),
    #[error("the task that stores a chunk panicked: whether it is stored is not known")]
    PutPanicked,
}

fn problem(error: &StoreError) -> StoreProblem {
    let hint = error.hint().to_owned();
    StoreProblem { reason: VaultError::from(error.clone()).reason().to_owned(), message: error.to_string(), hint }
}

/// Seals one chunk: body, header, signature.
pub(crate) fn seal_chunk(
    sealer: &mut Sealer,
    me: &Incarnation,
    mut header: Header,
    plain: &[u8],
) -> Result<(Bytes, Hash), ObjectError> {
    let mut body = Vec::new();
    let info = sealer.seal(plain, &mut body)?;
    header.body = Some(info);
    let (mut object, hash) = encode_header(&header, me.key())?;
    object.reserve_exact(body.len());
    object.extend_from_slice(&body);
    Ok((object.into(), hash))
}

/// One PUT, and for a refused one the look at what stands there.
async fn put_chunk(access: &LogAccess, key: &str, object: &Bytes) -> Result<ChunkAnswer, StoreError> {
    if let Created::Stored { at } = access.store.create(key, object.clone(), Lock::Short).await? {
        return Ok(ChunkAnswer::Stored { at: at.or_else(|| access.store.now()) });
    }
    what_stands(access, key, object).await
}

/// What stands at a key whose creation was refused. Rule 1: 412 alone says nothing.
pub(crate) async fn what_stands(access: &LogAccess, key: &str, object: &Bytes) -> Result<ChunkAnswer, StoreError> {
    let there = access.store.get(key).await?;
    // Of this answer or a later one: a later time only makes it count less.
    let at = access.store.now();
    if on(Mutant::FlushOnExists) || there.is_some_and(|there| is_same(&there.bytes, object)) {
        return Ok(ChunkAnswer::Stored { at });
    }
    // Refused and now hidden, or overwritten: the oldest version is what stands there.
    let oldest = fetch::oldest(&*access.store, key).await?;
    Ok(match oldest {
        Some(oldest) if is_same(&oldest.bytes, object) => ChunkAnswer::Stored { at },
        Some(oldest) => ChunkAnswer::Foreign(summary(&oldest.bytes)),
        None => ChunkAnswer::Foreign(None),
    })
}

/// Who sealed the log there, if it is a seal.
fn summary(bytes: &[u8]) -> Option<Box<SealSummary>> {
    let decoded = decode_header(bytes).ok()?;
    SealSummary::of_object(&decoded).map(Box::new)
}
