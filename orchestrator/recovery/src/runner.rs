//! Carries a run out: intent, step, result, for every step, from wherever the journal stands.
//!
//! Lines that are ready at the same time (the result of one step and the intents of those that
//! waited for it) are stored as one record, so that the journal costs a step one round trip.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::decide::{Decision, decide};
use crate::executor::{Executor, Progress, Remedy, StepContext, StepError};
use crate::graph::{Graph, Step, StepId};
use crate::journal::{Entry, Journal, JournalError, Line, Opening, Outcome, Record};
use crate::state::{Phase, RunState};

/// When a failed step is tried again: `first` after the first failure, doubled each time up to `longest`.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub first: Duration,
    pub longest: Duration,
    /// After so many attempts a step counts as failed for good; `None` is never. Beyond the point
    /// of no return it is never.
    pub max_attempts: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(10), max_attempts: None }
    }
}

impl Retry {
    fn after(&self, attempt: u32) -> Duration {
        let doubled = self.first * 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
        doubled.min(self.longest)
    }
}

/// How a runner ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    Finished(Outcome, String),
    /// Another operator goes on with this run.
    Superseded,
}

/// Why a runner had to stop; the run itself stands in the journal and can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal of this run belongs to another plan: {journal} instead of {expected}")]
    OtherPlan { journal: String, expected: String },
}

type StepEnd = (StepId, u32, Result<Value, StepError>);

/// One run in this process.
pub struct Runner<E, J> {
    graph: Graph,
    executor: Arc<E>,
    journal: Arc<J>,
    id: String,
    retry: Retry,
    now: fn() -> Timestamp,
    state: RunState,
    view: watch::Sender<RunState>,
    cancel: watch::Receiver<Option<String>>,
    tasks: JoinSet<StepEnd>,
    running: BTreeMap<StepId, AbortHandle>,
    retry_at: BTreeMap<StepId, Instant>,
    notes: mpsc::UnboundedReceiver<(StepId, String)>,
    note_sender: mpsc::UnboundedSender<(StepId, String)>,
}

impl<E: Executor, J: Journal> Runner<E, J> {
    /// `id` names this incarnation, uniquely. `cancel` turns to a reason when a person stops the run.
    #[must_use]
    pub fn new(
        graph: Graph,
        executor: Arc<E>,
        journal: Arc<J>,
        id: String,
        now: fn() -> Timestamp,
        cancel: watch::Receiver<Option<String>>,
    ) -> Self {
        let (note_sender, notes) = mpsc::unbounded_channel();
        Self {
            graph,
            executor,
            journal,
            id,
            retry: Retry::default(),
            now,
            state: RunState::default(),
            view: watch::Sender::new(RunState::default()),
            cancel,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            retry_at: BTreeMap::new(),
            notes,
            note_sender,
        }
    }

    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Where the run stands, after each change: what is in the journal, and what running steps say.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RunState> {
        self.view.subscribe()
    }

    /// Carries the run out, from its beginning or from where its journal stands.
    ///
    /// # Errors
    /// When the journal is damaged or of another plan. While it cannot be reached, nothing starts
    /// and the runner keeps trying.
    pub async fn run(mut self, opening: Opening) -> Result<RunEnd, RunError> {
        self.load().await?;
        if let Some((outcome, message)) = self.state.finished.clone() {
            return Ok(RunEnd::Finished(outcome, message));
        }
        let mut lines = vec![self.line(self.first_entry(opening)?)];
        loop {
            self.note_cancel(&mut lines);
            let starting = self.plan_next(&mut lines);
            if !lines.is_empty() && !self.store(std::mem::take(&mut lines)).await? {
                return Ok(RunEnd::Superseded);
            }
            if let Some((outcome, message)) = self.state.finished.clone() {
                return Ok(RunEnd::Finished(outcome, message));
            }
            for step in starting {
                self.launch(&step);
            }
            self.wait(&mut lines).await;
        }
    }

    fn first_entry(&self, opening: Opening) -> Result<Entry, RunError> {
        match &self.state.opening {
            None => Ok(Entry::Started(Box::new(opening))),
            Some(begun) if begun.plan_hash == opening.plan_hash => Ok(Entry::Resumed),
            Some(begun) => Err(RunError::OtherPlan { journal: begun.plan_hash.clone(), expected: opening.plan_hash }),
        }
    }

    fn line(&self, entry: Entry) -> Line {
        Line { at: (self.now)(), entry }
    }

    fn note_cancel(&self, lines: &mut Vec<Line>) {
        let reason = self.cancel.borrow().clone();
        if let Some(reason) = reason.filter(|_| self.state.cancelled.is_none()) {
            lines.push(self.line(Entry::Cancelled { reason }));
        }
    }

    /// Adds the intents (or the end) that follow from the journal and from `lines`, and gives the
    /// steps to launch once they are stored.
    fn plan_next(&mut self, lines: &mut Vec<Line>) -> Vec<StepId> {
        let mut ahead = self.state.clone();
        for line in lines.iter() {
            ahead.apply(line);
        }
        let now = Instant::now();
        let Decision { start, finish, stop_running } = decide(
            &self.graph,
            &ahead,
            |id| self.running.contains_key(id),
            |id| self.retry_at.get(id).is_none_or(|at| *at <= now),
            self.retry.max_attempts,
        );
        // Whose time has come was asked about; without an entry a step may start at any time.
        self.retry_at.retain(|_, at| *at > now);
        if stop_running {
            self.stop_ordinary_steps();
        }
        if let Some((outcome, message)) = finish {
            lines.push(self.line(Entry::Finished { outcome, message }));
            return Vec::new();
        }
        start.into_iter().filter(|id| self.intend(id, &ahead, lines)).collect()
    }

    /// Writes the intent of a step; `false` if it could not even be prepared.
    fn intend(&mut self, id: &StepId, ahead: &RunState, lines: &mut Vec<Line>) -> bool {
        let before = ahead.step(id);
        let attempt = before.map_or(0, |s| s.attempts) + 1;
        let prepared = match before.and_then(|s| s.data.clone()) {
            Some(data) => Ok(data),
            None => match self.graph.get(id) {
                Some(step) => self.executor.prepare(step),
                None => return false,
            },
        };
        let step = id.clone();
        match prepared {
            Ok(data) => lines.push(self.line(Entry::Intent { step, attempt, data })),
            Err(error) => {
                self.back_off(id, attempt);
                lines.push(self.line(Entry::Failed { step, attempt, error }));
                return false;
            }
        }
        true
    }

    fn stop_ordinary_steps(&mut self) {
        let graph = &self.graph;
        self.running.retain(|id, handle| {
            let keep = graph.get(id).is_some_and(|s| s.always);
            if !keep {
                handle.abort();
            }
            keep
        });
    }

    fn launch(&mut self, id: &StepId) {
        let (Some(step), Some(at)) = (self.graph.get(id).cloned(), self.state.step(id)) else {
            return;
        };
        let attempt = at.attempts;
        let context = StepContext {
            data: at.data.clone().unwrap_or_default(),
            results: Arc::new(self.state.results()),
            earlier_data: Arc::new(self.state.data()),
            attempt,
            progress: Progress { step: id.clone(), sender: self.note_sender.clone() },
            step,
        };
        let span = step_span(&context.step, attempt);
        let executor = Arc::clone(&self.executor);
        let end_of = id.clone();
        let handle = self.tasks.spawn(
            async move {
                let end = executor.execute(context).await;
                if let Err(error) = &end {
                    tracing::warn!(error = %error, hint = %error.hint, "step failed");
                }
                (end_of, attempt, end)
            }
            .instrument(span),
        );
        self.running.insert(id.clone(), handle);
    }

    /// Waits until there is something to write or to decide.
    async fn wait(&mut self, lines: &mut Vec<Line>) {
        let wake = self.next_retry();
        tokio::select! {
            Some(end) = self.tasks.join_next() => self.ended(end, lines),
            Some((step, message)) = self.notes.recv() => self.said(&step, message),
            () = tokio::time::sleep_until(wake) => {}
            Ok(()) = self.cancel.changed() => {}
        }
        // What else has ended meanwhile goes into the same record.
        while let Some(end) = self.tasks.try_join_next() {
            self.ended(end, lines);
        }
        while let Ok((step, message)) = self.notes.try_recv() {
            self.said(&step, message);
        }
    }

    fn next_retry(&self) -> Instant {
        let first = self.retry_at.values().min().copied();
        first.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn ended(&mut self, end: Result<StepEnd, JoinError>, lines: &mut Vec<Line>) {
        let (step, attempt, end) = match end {
            Ok(end) => end,
            // Stopped by us: nothing to write.
            Err(stopped) if stopped.is_cancelled() => return,
            Err(panicked) => match self.panicked(&panicked) {
                Some(end) => end,
                None => return,
            },
        };
        self.running.remove(&step);
        match end {
            Ok(result) => {
                self.retry_at.remove(&step);
                lines.push(self.line(Entry::Done { step, result }));
            }
            Err(error) => {
                self.back_off(&step, attempt);
                let over = (error.remedy == Remedy::StartOver).then(|| error.message.clone());
                let again = self.graph.from_the_start_of_subject(&step);
                lines.push(self.line(Entry::Failed { step, attempt, error }));
                if let Some(reason) = over {
                    let steps = again;
                    steps.iter().for_each(|s| self.back_off(s, attempt));
                    lines.push(self.line(Entry::Rewound { steps, reason }));
                }
            }
        }
    }

    /// A bug in a step must not end the recovery of a hospital: it counts as a failed attempt.
    fn panicked(&self, error: &JoinError) -> Option<StepEnd> {
        let ended = |handle: &AbortHandle| handle.id() == error.id();
        let (id, _) = self.running.iter().find(|(_, handle)| ended(handle))?;
        let attempt = self.state.step(id).map_or(1, |s| s.attempts);
        let message = format!("the step stopped by a defect in the operator: {error}");
        Some((id.clone(), attempt, Err(StepError::retry(message))))
    }

    fn back_off(&mut self, id: &StepId, attempt: u32) {
        let at = Instant::now() + self.retry.after(attempt);
        self.retry_at.insert(id.clone(), at);
    }

    fn said(&mut self, step: &StepId, message: String) {
        let Some(at) = self.state.steps.get_mut(step) else {
            return;
        };
        if at.phase == Phase::Begun && at.message != message {
            at.message = message;
            self.view.send_replace(self.state.clone());
        }
    }

    async fn load(&mut self) -> Result<(), RunError> {
        let records = self.patiently(|journal| async move { journal.load().await }).await?;
        self.state = RunState::from_records(&records);
        self.view.send_replace(self.state.clone());
        Ok(())
    }

    /// Stores a record; `false` if another operator's stands in its place.
    async fn store(&mut self, lines: Vec<Line>) -> Result<bool, RunError> {
        let record = Arc::new(Record { runner: self.id.clone(), lines });
        let n = self.state.next;
        let stored = self
            .patiently(|journal| {
                let record = Arc::clone(&record);
                async move { journal.append(n, &record).await }
            })
            .await;
        match stored {
            Ok(()) => {
                self.state.apply_record(&record);
                self.view.send_replace(self.state.clone());
                Ok(true)
            }
            Err(JournalError::Conflict { .. }) => Ok(self.is_mine(n, &record).await?),
            Err(other) => Err(other.into()),
        }
    }

    /// After a conflict: an answer may have been lost, so that the record that stands there is ours.
    async fn is_mine(&mut self, n: u64, record: &Record) -> Result<bool, RunError> {
        let records = self.patiently(|journal| async move { journal.load().await }).await?;
        let at = usize::try_from(n).unwrap_or(usize::MAX);
        let mine = records.get(at) == Some(record) && records.len() == at + 1;
        self.state = RunState::from_records(&records);
        self.view.send_replace(self.state.clone());
        Ok(mine)
    }

    /// Repeats an access to the journal while it cannot be reached.
    async fn patiently<T, F>(&self, access: impl Fn(Arc<J>) -> F) -> Result<T, JournalError>
    where
        F: Future<Output = Result<T, JournalError>>,
    {
        let mut attempt = 0;
        loop {
            match access(Arc::clone(&self.journal)).await {
                Err(JournalError::Unavailable(reason)) => {
                    attempt += 1;
                    tracing::warn!(reason, attempt, "journal not reachable; nothing starts");
                    self.view.send_modify(|v| v.journal_problem = Some(reason));
                    tokio::time::sleep(self.retry.after(attempt)).await;
                }
                settled => return settled,
            }
        }
    }
}

fn step_span(step: &Step, attempt: u32) -> tracing::Span {
    tracing::info_span!(
        "step",
        otel.name = %step.id,
        step = step.kind.name(),
        database = step.subject.database(),
        service = step.subject.service(),
        attempt,
    )
}
