//! Where a run stands: a pure fold over its journal.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::executor::Remedy;
use crate::graph::{Graph, StepId};
use crate::journal::{Entry, Line, Opening, Outcome, Record};

/// Where one step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Pending,
    /// The intent is journaled; how far it got is not known.
    Begun,
    /// The last attempt failed.
    Failed,
    Done,
}

/// One step, as the journal has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepState {
    pub phase: Phase,
    /// What makes every attempt the same act; from the first intent.
    pub data: Option<Value>,
    pub result: Option<Value>,
    pub attempts: u32,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// The last error or, while it runs, what it says it is doing.
    pub message: String,
    pub hint: String,
    pub remedy: Option<Remedy>,
}

/// A run, as the journal has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunState {
    pub opening: Option<Opening>,
    pub steps: BTreeMap<StepId, StepState>,
    /// Number of the next record.
    pub next: u64,
    /// Who wrote the last record.
    pub runner: Option<String>,
    pub cancelled: Option<String>,
    pub finished: Option<(Outcome, String)>,
    pub finished_at: Option<Timestamp>,
    /// Why the journal cannot be written at the moment. Not journaled, of course.
    pub journal_problem: Option<String>,
}

impl RunState {
    /// Folds a whole journal.
    #[must_use]
    pub fn from_records(records: &[Record]) -> Self {
        let mut state = Self::default();
        for record in records {
            state.apply_record(record);
        }
        state
    }

    pub fn apply_record(&mut self, record: &Record) {
        for line in &record.lines {
            self.apply(line);
        }
        self.next += 1;
        self.runner = Some(record.runner.clone());
    }

    /// Applies one line, stored or about to be.
    pub fn apply(&mut self, line: &Line) {
        match &line.entry {
            Entry::Started(opening) => self.opening = Some((**opening).clone()),
            Entry::Resumed => {}
            Entry::Intent { step, attempt, data } => self.begin(step, *attempt, data, line.at),
            Entry::Done { step, result } => {
                let step = self.step_mut(step);
                step.phase = Phase::Done;
                step.result = Some(result.clone());
                step.finished_at = Some(line.at);
                step.message.clear();
                step.hint.clear();
                step.remedy = None;
            }
            Entry::Failed { step, attempt, error } => {
                let step = self.step_mut(step);
                step.attempts = *attempt;
                step.phase = Phase::Failed;
                step.message.clone_from(&error.message);
                step.hint.clone_from(&error.hint);
                step.remedy = Some(error.remedy);
            }
            Entry::Rewound { steps, reason } => {
                for id in steps {
                    let step = self.step_mut(id);
                    let attempts = step.attempts;
                    *step = StepState { attempts, message: reason.clone(), ..StepState::default() };
                }
            }
            Entry::Cancelled { reason } => self.cancelled = Some(reason.clone()),
            Entry::Finished { outcome, message } => {
                self.finished = Some((*outcome, message.clone()));
                self.finished_at = Some(line.at);
            }
        }
    }

    fn begin(&mut self, id: &StepId, attempt: u32, data: &Value, at: Timestamp) {
        let step = self.step_mut(id);
        step.phase = Phase::Begun;
        step.attempts = attempt;
        step.remedy = None;
        step.data.get_or_insert_with(|| data.clone());
        step.started_at.get_or_insert(at);
    }

    fn step_mut(&mut self, id: &StepId) -> &mut StepState {
        self.steps.entry(id.clone()).or_default()
    }

    #[must_use]
    pub fn step(&self, id: &StepId) -> Option<&StepState> {
        self.steps.get(id)
    }

    #[must_use]
    pub fn phase(&self, id: &StepId) -> Phase {
        self.step(id).map(|s| s.phase).unwrap_or_default()
    }

    /// Whether a step after which there is only forward may have begun.
    #[must_use]
    pub fn past_no_return(&self, graph: &Graph) -> bool {
        graph.steps().any(|s| s.no_return && self.phase(&s.id) != Phase::Pending)
    }

    /// What every step that has begun was prepared with.
    #[must_use]
    pub fn data(&self) -> BTreeMap<StepId, Value> {
        self.steps.iter().filter_map(|(id, s)| Some((id.clone(), s.data.clone()?))).collect()
    }

    /// Results of the steps that are done.
    #[must_use]
    pub fn results(&self) -> BTreeMap<StepId, Value> {
        self.steps.iter().filter_map(|(id, s)| Some((id.clone(), s.result.clone()?))).collect()
    }
}
