//! Carries a claim to the store, and takes the WAL that a writer's task stores.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, PAGE_SIZE, TimelineId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::error::VaultError;
use crate::fetch::damaged;
use crate::log::access::{LogAccess, Sure};
use crate::log::claim::{ClaimCore, ClaimWish, SealAnswer};
use crate::log::errors::{AppendError, ClaimError};
use crate::log::incarnation::Incarnation;
use crate::log::open::Near;
use crate::log::storing::Task;
use crate::log::types::{Attached, ClaimOptions, StoredStretch, WriterLimits, WriterState};
use crate::log::walk::Cursor;
use crate::log::writer::WriterCore;
use crate::object::{Lineage, MAX_PLAIN_LEN, ObjectError};
use crate::seal::{Recipients, Sealer};

/// Overlap to be checked: a page, and room for a record.
const OVERLAP_BYTES: u64 = 2 * PAGE_SIZE;

/// A won claim: the right to write the log on from [`LogWriter::start`], once the overlap is checked.
pub struct LogWriter {
    access: LogAccess,
    me: Incarnation,
    won: Cursor,
    overlap: Vec<StoredStretch>,
    recipients: Recipients,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("at", &self.won.position()).finish_non_exhaustive()
    }
}

impl LogAccess {
    /// Claims the log: walks to its end, checks that the server may write on, and puts a claim there.
    pub(crate) async fn claim(
        &self,
        me: Incarnation,
        attached: &Attached,
        recipients: &Recipients,
        options: ClaimOptions,
    ) -> Result<LogWriter, ClaimError> {
        let Near { cursor, mut known, listed } = self.near_end().await?;
        let mut core = ClaimCore::new(me.clone(), attached.clone(), options, cursor);
        let won = loop {
            let at = core.cursor().position();
            match core.wish().map_err(damaged(&self.key(at)))? {
                ClaimWish::Walk => {
                    core.walked(self.walk_on(&mut known, core.cursor().clone(), Sure::Beyond(listed), u32::MAX).await?);
                }
                ClaimWish::Put(object) => {
                    let answer: SealAnswer = self.put_seal(at, &object).await?;
                    core.answered(answer).map_err(damaged(&self.key(at)))?;
                }
                ClaimWish::Look(after) => core.looked(self.look(&mut known, *after).await?),
                ClaimWish::Won(cursor) => break *cursor,
                ClaimWish::Refused(error) => return Err(error),
            }
        };
        let overlap = self.stretches(&won, OVERLAP_BYTES).await?;
        Ok(LogWriter { access: self.clone(), me, won, overlap, recipients: recipients.clone() })
    }
}

impl LogWriter {
    /// The first byte to send: the end of what is stored.
    pub fn start(&self) -> Lsn {
        self.won.position().start
    }

    /// The epoch that this writer owns.
    pub fn epoch(&self) -> u64 {
        self.won.position().epoch
    }

    /// The timeline of the first byte to send.
    pub fn timeline(&self) -> TimelineId {
        self.won.timeline()
    }

    /// The lineage that the claim names.
    pub fn lineage(&self) -> &Lineage {
        self.won.lineage()
    }

    /// The timeline history that the log follows.
    pub fn history(&self) -> &TimelineHistory {
        &self.won.lineage().history
    }

    /// The timeline of the byte at `lsn`: after a local timeline switch the first bytes may be on the old one.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.history().timeline_at(lsn)
    }

    /// The last stored WAL below the start, oldest first: the server must still have these bytes (rule 12). Empty
    /// when nothing is stored, or when all that is stored was cut by a promotion.
    pub fn overlap(&self) -> &[StoredStretch] {
        &self.overlap
    }

    /// Where the last WAL record begins that begins below the start: what the first new record must name as the one before
    /// it (rule 12). None: nobody wrote it down.
    pub fn last_record(&self) -> Option<Lsn> {
        self.overlap.last().filter(|last| last.end == self.start())?.last_record
    }

    /// Starts to write. The task ends when the writer is fenced, closed or dropped.
    pub fn into_running(self, limits: WriterLimits) -> Result<RunningWriter, VaultError> {
        let key = self.access.key(self.won.position());
        let not_owner = || ObjectError::Misplaced { reason: "the claim does not open an epoch".into() };
        let core = WriterCore::new(&self.won, limits.max_in_flight).ok_or_else(|| damaged(&key)(not_owner()))?;
        let last_record = self.last_record();
        let sealer = Sealer::new(self.recipients).map_err(damaged(&key))?;
        let start = core.next();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { next: start, ..Queue::default() }),
            limit: limits.max_buffered_bytes.max(1),
            filled: Notify::new(),
            drained: Notify::new(),
        });
        let initial = WriterState { received: start, durable: start, ..WriterState::default() };
        let (state, receiver) = watch::channel(initial);
        let renew_at = self.won.opener_stored().map(|opened| self.won.facts().renew_at(opened));
        let task = Task::new(self.access, self.me, core, sealer, shared.clone(), state, limits);
        let task = tokio::spawn(task.renewed_at(renew_at).after_record(last_record).run());
        Ok(RunningWriter { shared, state: receiver, task })
    }
}

/// A writer at work. Dropping it stops it at once; what was not reported as durable may or may not be stored.
pub struct RunningWriter {
    shared: Arc<Shared>,
    state: watch::Receiver<WriterState>,
    task: JoinHandle<()>,
}

/// WAL that waits to be stored.
#[derive(Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    pub(super) bytes: usize,
    /// Where the next byte appended belongs.
    pub(super) next: Lsn,
    /// Nothing more will be appended.
    pub(super) closed: bool,
    /// Nothing more will be taken, and why.
    pub(super) ended: Option<String>,
}

/// What a writer and its task share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    limit: usize,
    pub(super) filled: Notify,
    pub(super) drained: Notify,
}

impl Shared {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// How many bytes to make a chunk of: whole pieces, at least one. A piece that was appended as one is cut only at
    /// a segment boundary or the end of a stride, so that a tail seldom falls inside it.
    pub(super) fn offer(&self, max_chunk: usize) -> u64 {
        let mut offered = 0;
        for piece in &self.pieces {
            if offered > 0 && offered + piece.len() > max_chunk {
                break;
            }
            offered += piece.len();
        }
        (offered as u64).min(MAX_PLAIN_LEN)
    }

    /// Takes bytes off the front; `want` is no more than there are.
    pub(super) fn take(&mut self, want: usize) -> Bytes {
        self.bytes = self.bytes.saturating_sub(want);
        if let Some(first) = self.pieces.front_mut()
            && first.len() > want
        {
            return first.split_to(want);
        }
        let first = self.pieces.pop_front().unwrap_or_default();
        if first.len() == want {
            return first;
        }
        let mut taken = BytesMut::with_capacity(want);
        taken.extend_from_slice(&first);
        while let Some(piece) = self.pieces.front_mut().filter(|_| taken.len() < want) {
            let part = piece.split_to(piece.len().min(want - taken.len()));
            taken.extend_from_slice(&part);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        taken.freeze()
    }
}

impl std::fmt::Debug for RunningWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningWriter").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl RunningWriter {
    /// Hands WAL over; it must follow what came before. What is handed over at once is stored as one, but for a
    /// segment boundary in it, or the end of the stride that it begins in. Waits while too much is waiting for the store. Cancelling the
    /// wait leaves nothing appended.
    pub async fn append(&self, start: Lsn, data: Bytes) -> Result<(), AppendError> {
        loop {
            // Made before the look, so that a wake-up in between is not lost.
            let drained = self.shared.drained.notified();
            if let Some(fence) = self.state.borrow().fenced.clone() {
                return Err(fence.into());
            }
            if self.push(start, &data)? {
                self.shared.filled.notify_one();
                return Ok(());
            }
            drained.await;
        }
    }

    fn push(&self, start: Lsn, data: &Bytes) -> Result<bool, AppendError> {
        let mut queue = self.shared.queue();
        if let Some(reason) = &queue.ended {
            return Err(AppendError::Stopped { reason: reason.clone() });
        }
        if start != queue.next {
            return Err(AppendError::Gap { expected: queue.next, given: start });
        }
        let end = start.checked_add(data.len() as u64);
        let end = end.ok_or_else(|| AppendError::Stopped { reason: "the end of all WAL positions".into() })?;
        if queue.bytes > 0 && queue.bytes + data.len() > self.shared.limit {
            return Ok(false);
        }
        if !data.is_empty() {
            queue.bytes += data.len();
            queue.next = end;
            queue.pieces.push_back(data.clone());
        }
        Ok(true)
    }

    /// Where it stands; changes are seen as they happen.
    pub fn state(&self) -> watch::Receiver<WriterState> {
        self.state.clone()
    }

    /// Waits until all that was appended is stored, or the writer is fenced, and ends it.
    pub async fn close(mut self) -> WriterState {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
        // It ends by itself; a panic in it shows in the durable position that stays behind.
        let _ = (&mut self.task).await;
        self.state.borrow().clone()
    }
}

impl Drop for RunningWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
