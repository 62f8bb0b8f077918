//! Who carries a step out.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::graph::{Step, StepId};

/// What to do about a step that did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Try again: it may work by itself.
    Retry,
    /// The ground has moved (a seal was lost): begin again with the first step of this subject.
    StartOver,
    /// It needs a person. Before the point of no return the run ends; after it, it keeps trying.
    Person,
}

/// Why a step did not work: what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    pub remedy: Remedy,
    /// What is wrong and where. No patient data, no secrets: it goes into status and evidence.
    pub message: String,
    /// What a person does about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl StepError {
    pub fn retry(message: impl Into<String>) -> Self {
        Self { remedy: Remedy::Retry, message: message.into(), hint: String::new() }
    }

    pub fn start_over(message: impl Into<String>) -> Self {
        Self { remedy: Remedy::StartOver, message: message.into(), hint: String::new() }
    }

    pub fn person(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { remedy: Remedy::Person, message: message.into(), hint: hint.into() }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Says what a running step is doing; the last word wins. Not journaled.
#[derive(Clone, Debug)]
pub struct Progress {
    pub(crate) step: StepId,
    pub(crate) sender: mpsc::UnboundedSender<(StepId, String)>,
}

impl Progress {
    pub fn say(&self, message: impl Into<String>) {
        // A run that has ended does not listen any more.
        let _ = self.sender.send((self.step.clone(), message.into()));
    }
}

/// What a step is given.
#[derive(Clone, Debug)]
pub struct StepContext {
    pub step: Step,
    /// What [`Executor::prepare`] made before the first attempt; the same in every attempt.
    pub data: Value,
    /// Results of the steps that are done.
    pub results: Arc<BTreeMap<StepId, Value>>,
    /// What the steps before were prepared with.
    pub earlier_data: Arc<BTreeMap<StepId, Value>>,
    /// From 1.
    pub attempt: u32,
    pub progress: Progress,
}

/// Carries steps out.
///
/// `execute` is idempotent for the same `data`: it may be repeated after a crash at any point, also
/// while an earlier attempt in another process is still under way. It may be dropped at any await.
pub trait Executor: Send + Sync + 'static {
    /// Makes what must be the same in every attempt (keys, nonces, names). Journaled with the intent,
    /// before anything is done.
    ///
    /// # Errors
    /// Treated as a failure of the step.
    fn prepare(&self, step: &Step) -> Result<Value, StepError>;

    /// Does the step; the result goes into the journal and to the steps after it.
    fn execute(&self, context: StepContext) -> impl Future<Output = Result<Value, StepError>> + Send;
}
