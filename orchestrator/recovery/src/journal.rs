//! What is written down before a step starts and after it ends, and where.

use std::future::Future;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::executor::StepError;
use crate::graph::StepId;

/// How a run began: enough to carry it out without the cluster that asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// `failover` or `drill`.
    pub kind: String,
    /// Namespace and name of the object that asked for the run.
    pub requested_by: String,
    /// When that object was created: all durations count from here.
    pub requested_at: Timestamp,
    pub plan_name: String,
    pub plan_hash: String,
    pub runbook_hash: String,
    /// The plan as it was; later changes to the object do not touch a run that has begun.
    pub plan: Value,
    pub reason: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Succeeded,
    /// A step failed for good; nothing passed the point of no return.
    Failed,
    /// A person stopped it before the point of no return.
    Aborted,
}

/// One thing that happened, or is about to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    Started(Box<Opening>),
    /// Another incarnation goes on from here.
    Resumed,
    /// The step may begin from now on; `data` is what makes a repetition the same act.
    Intent {
        step: StepId,
        attempt: u32,
        data: Value,
    },
    Done {
        step: StepId,
        result: Value,
    },
    Failed {
        step: StepId,
        attempt: u32,
        error: StepError,
    },
    /// The ground has moved: these steps are to be done again, with new data.
    Rewound {
        steps: Vec<StepId>,
        reason: String,
    },
    Cancelled {
        reason: String,
    },
    Finished {
        outcome: Outcome,
        message: String,
    },
}

/// An entry and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at: Timestamp,
    #[serde(flatten)]
    pub entry: Entry,
}

/// What is stored as one object: the lines that were ready at the same time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The incarnation that wrote it, a unique id.
    pub runner: String,
    pub lines: Vec<Line>,
}

/// Why a journal cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Record `n` exists and is not ours.
    #[error("journal record {n} was written by another operator")]
    Conflict { n: u64 },
    /// It may work later.
    #[error("the journal cannot be reached: {0}")]
    Unavailable(String),
    /// It will not work later.
    #[error("the journal is damaged or refused: {0}")]
    Damaged(String),
}

/// An append-only list of records, numbered from 0, each created once.
pub trait Journal: Send + Sync + 'static {
    /// All records in order.
    fn load(&self) -> impl Future<Output = Result<Vec<Record>, JournalError>> + Send;

    /// Creates record `n`. On success it is stored for good. A [`JournalError::Conflict`] means that
    /// `n` exists with other content; after [`JournalError::Unavailable`] it may exist or not.
    fn append(&self, n: u64, record: &Record) -> impl Future<Output = Result<(), JournalError>> + Send;
}
