//! Runs a run and mirrors it: the journal first, then status, then events.

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::Condition;
use holdfast_api::run::{Step, StepPhase};
use holdfast_recovery::journal::{JournalError, Opening};
use holdfast_recovery::{Executor, Graph, Phase, Retry, RunEnd, RunError, RunState, Runner};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, warn};

use crate::apply::{Applicable, describe};
use crate::error::ReconcileError;
use crate::{Context, Error};

use super::journal::VaultJournal;
use super::metrics::became;

/// How often it is looked whether a person has deleted the object.
const CANCEL_POLL: Duration = Duration::from_millis(250);

/// What is to be run.
pub struct Run<E> {
    /// The steps.
    pub graph: Graph,
    /// Who carries them out.
    pub executor: E,
    /// Where it is written down.
    pub journal: VaultJournal,
    /// The first entry, if the journal has none yet.
    pub opening: Opening,
    /// How failed steps are repeated.
    pub retry: Retry,
    /// The span that is the run's trace.
    pub span: tracing::Span,
}

/// Why a run stands still. The journal has how far it is.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The journal cannot be used.
    #[error("{object}: {source}. Nothing goes on; keep the vault as it is and continue by hand as the runbook says")]
    Journal {
        /// Whose.
        object: String,
        /// Why.
        source: RunError,
    },
    /// The runner stopped by a defect.
    #[error("the runner of {object} stopped, which is a bug: {reason}")]
    Stopped {
        /// Whose.
        object: String,
        /// Why.
        reason: String,
    },
    /// The cluster.
    #[error(transparent)]
    Reconcile(#[from] Error),
}

impl ReconcileError for DriveError {
    fn reason(&self) -> &str {
        match self {
            Self::Journal { source: RunError::Journal(JournalError::Damaged(_)), .. } => "JournalDamaged",
            Self::Journal { .. } => "JournalFailed",
            Self::Stopped { .. } => "Bug",
            Self::Reconcile(error) => error.reason(),
        }
    }
}

/// How a run looks in the status of its object.
pub trait Mirror: Send {
    /// The object's status type.
    type Status: Serialize + Send + Sync;

    /// The whole status; called for each change, in order.
    fn status(&mut self, state: &RunState) -> Self::Status;

    /// The steps as the status had them last.
    fn steps(&self) -> &[Step];

    /// Its conditions.
    fn conditions(status: &Self::Status) -> Vec<Condition>;

    /// Why a person wants it to stop, if one does.
    fn cancelled(&self) -> Option<String>;
}

/// Carries the run out to its end, from wherever its journal stands, and mirrors it in the object's status.
///
/// # Errors
/// [`DriveError`]; it can be called again at any time.
pub async fn drive<K, E, M>(
    ctx: &Context,
    object: &K,
    run: Run<E>,
    mirror: M,
    conditions: Vec<Condition>,
) -> Result<RunEnd, DriveError>
where
    K: Applicable + Sync,
    E: Executor,
    M: Mirror,
{
    let kind = run.opening.kind.clone();
    let (cancel, cancelled) = watch::channel(mirror.cancelled());
    let id = uuid::Uuid::new_v4().to_string();
    let (executor, journal) = (Arc::new(run.executor), Arc::new(run.journal));
    let runner = Runner::new(run.graph.clone(), executor, journal, id, Timestamp::now, cancelled).with_retry(run.retry);
    let mut view = runner.watch();
    let told = mirror.steps().to_vec();
    let seen = RunState::default();
    let mut show = Show { ctx, object, graph: run.graph, kind, mirror, conditions, seen, told };
    let mut task = AbortOnDropHandle::new(tokio::spawn(runner.run(run.opening).instrument(run.span)));
    let mut poll = interval(CANCEL_POLL);
    ctx.runs.running.inc();
    let _running = scopeguard(|| {
        ctx.runs.running.dec();
    });
    let end = loop {
        tokio::select! {
            biased;
            end = &mut task => break end,
            Ok(()) = view.changed() => {
                let state = view.borrow_and_update().clone();
                if let Err(error) = show.state(state).await {
                    warn!(%error, object = describe(object), "status not written; it follows with the next change");
                }
            }
            _ = poll.tick() => {
                if let (None, Some(reason)) = (cancel.borrow().clone(), show.mirror.cancelled()) {
                    cancel.send_replace(Some(reason));
                }
            }
        }
    };
    let last = view.borrow().clone();
    show.state(last).await?;
    let object = describe(object);
    match end {
        Ok(end) => end.map_err(|source| DriveError::Journal { object, source }),
        Err(error) => Err(DriveError::Stopped { object, reason: error.to_string() }),
    }
}

/// Runs `end` when the scope is left, however that happens.
fn scopeguard<F: FnMut()>(end: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}

struct Show<'a, K, M> {
    ctx: &'a Context,
    object: &'a K,
    graph: Graph,
    kind: String,
    mirror: M,
    conditions: Vec<Condition>,
    seen: RunState,
    /// What the process before this one wrote into the status, and told before that.
    told: Vec<Step>,
}

impl<K: Applicable + Sync, M: Mirror> Show<'_, K, M> {
    async fn state(&mut self, state: RunState) -> Result<(), Error> {
        self.ctx.runs.observe(&self.kind, &self.graph, &self.seen, &state);
        let status = self.mirror.status(&state);
        let conditions = M::conditions(&status);
        // First the event: a process that is killed in between tells it twice, and not never.
        self.events(&state, &conditions).await;
        let written = self.ctx.patch_status(self.object, &status).await;
        self.seen = state;
        self.conditions = conditions;
        written
    }

    async fn events(&self, state: &RunState, conditions: &[Condition]) {
        for step in self.graph.steps() {
            let (id, at) = (&step.id, state.step(&step.id));
            let Some(at) = at else { continue };
            let told = self.told.iter().find(|told| told.name == id.as_str());
            // Events of one object with the same reason and action become one: the step's own name keeps them apart.
            if became(&self.seen, state, id, Phase::Done) && !told.is_some_and(|told| told.state == StepPhase::Done) {
                let found = at.result.as_ref().and_then(|r| r.get("summary")?.as_str());
                let note = format!("{id}: {}", found.unwrap_or("done"));
                self.ctx.normal(self.object, "StepDone", id.as_str(), &note).await;
            }
            let attempts = i64::from(at.attempts);
            let told = told.is_some_and(|told| failed(told.state) && i64::from(told.attempts) == attempts);
            if became(&self.seen, state, id, Phase::Failed) && !told {
                let note = format!("{id}, attempt {}: {}; {}", at.attempts, at.message, at.hint);
                self.ctx.warning(self.object, "StepFailed", id.as_str(), &note).await;
            }
        }
        self.ctx.publish_transitions(self.object, &self.conditions, conditions).await;
    }
}

fn failed(phase: StepPhase) -> bool {
    matches!(phase, StepPhase::Failed | StepPhase::Retrying)
}
