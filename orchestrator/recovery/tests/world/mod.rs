//! A world in memory: its journal and its effects survive the runners that work on it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast_recovery::journal::{Entry, Journal, JournalError, Opening, Record};
use holdfast_recovery::{
    Executor, Graph, Plan, Retry, RunEnd, RunError, Runner, Service, Step, StepContext, StepError,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

pub(crate) const STEP_TIME: Duration = Duration::from_millis(4);

/// Short, because the tests wait in real time.
const RETRY: Retry = Retry { first: Duration::from_millis(1), longest: Duration::from_millis(5), max_attempts: None };

/// Where the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    BeforeAppend(u64),
    AfterAppend(u64),
    BeforeEffect(&'static str),
    AfterEffect(&'static str),
}

#[derive(Default)]
struct Inner {
    /// As JSON: what is stored is what can be read back.
    records: Vec<String>,
    effects: BTreeMap<String, u32>,
    /// `begin STEP` and `done STEP`, as they happened.
    log: Vec<String>,
    data: BTreeMap<String, BTreeSet<String>>,
    attempts: BTreeMap<String, u32>,
    prepared: u64,
    failures: BTreeMap<String, (u32, StepError)>,
    hanging: BTreeSet<String>,
    panics: BTreeSet<String>,
    lost_answers: BTreeSet<u64>,
    journal_down: bool,
    crash: Option<Crash>,
    at_once: i64,
    most_at_once: i64,
}

#[derive(Clone)]
pub(crate) struct World {
    graph: Graph,
    inner: Arc<Mutex<Inner>>,
    crashed: Arc<Notify>,
    effect: Arc<Notify>,
    cancel: watch::Sender<Option<String>>,
}

pub(crate) fn hospital() -> Plan {
    let service = |name: &str, depends_on: &[&str]| Service {
        name: name.into(),
        databases: vec![name.into()],
        depends_on: depends_on.iter().map(|d| (*d).into()).collect(),
    };
    Plan {
        databases: ["registration", "billing", "lab"].map(String::from).into(),
        services: vec![
            service("registration", &[]),
            service("billing", &["registration"]),
            service("lab", &["registration"]),
        ],
    }
}

pub(crate) fn failover_graph() -> Graph {
    Graph::failover(&hospital()).expect("a good plan")
}

pub(crate) fn drill_graph() -> Graph {
    Graph::drill(&hospital()).expect("a good plan")
}

impl World {
    pub(crate) fn new(graph: Graph) -> Self {
        Self {
            graph,
            inner: Arc::default(),
            crashed: Arc::default(),
            effect: Arc::default(),
            cancel: watch::Sender::new(None),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A step that panics on purpose may hold nothing, so the lock is never poisoned for long.
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn crash_at(&self, crash: Crash) {
        self.inner().crash = Some(crash);
    }

    pub(crate) fn survive(&self) {
        self.inner().crash = None;
    }

    pub(crate) fn fail(&self, step: &str, times: u32, error: StepError) {
        self.inner().failures.insert(step.into(), (times, error));
    }

    pub(crate) fn hang(&self, step: &str) {
        self.inner().hanging.insert(step.into());
    }

    pub(crate) fn panic_once(&self, step: &str) {
        self.inner().panics.insert(step.into());
    }

    pub(crate) fn lose_answer_of_append(&self, n: u64) {
        self.inner().lost_answers.insert(n);
    }

    pub(crate) fn journal_down(&self, down: bool) {
        self.inner().journal_down = down;
    }

    pub(crate) fn cancel(&self, reason: &str) {
        self.cancel.send_replace(Some(reason.into()));
    }

    /// Waits until the effect of a step has happened.
    pub(crate) async fn reached(&self, step: &str) {
        while !self.inner().effects.contains_key(step) {
            self.effect.notified().await;
        }
    }

    fn runner(&self, id: &str) -> Runner<World, World> {
        let world = Arc::new(self.clone());
        let journal = Arc::clone(&world);
        let cancel = self.cancel.subscribe();
        Runner::new(self.graph.clone(), world, journal, id.into(), clock, cancel).with_retry(RETRY)
    }

    pub(crate) async fn run(&self, id: &str) -> RunEnd {
        self.runner(id).run(opening("hash")).await.expect("a run")
    }

    pub(crate) async fn run_bounded(&self, id: &str, max_attempts: u32) -> RunEnd {
        let retry = Retry { max_attempts: Some(max_attempts), ..RETRY };
        let runner = self.runner(id).with_retry(retry);
        runner.run(opening("hash")).await.expect("a run")
    }

    pub(crate) async fn try_run_with_plan(&self, id: &str, hash: &str) -> Result<RunEnd, RunError> {
        self.runner(id).run(opening(hash)).await
    }

    /// `true` if the process was stopped at its crash point, `false` if the run never came there.
    pub(crate) async fn run_until_crash(&self, id: &str) -> bool {
        tokio::select! {
            _ = self.run(id) => false,
            () = self.crashed.notified() => true,
        }
    }

    pub(crate) fn forget_the_end(self) -> Self {
        self.inner().records.pop();
        self
    }

    pub(crate) fn effects(&self) -> BTreeMap<String, u32> {
        self.inner().effects.clone()
    }

    pub(crate) fn attempts(&self, step: &str) -> u32 {
        self.inner().attempts.get(step).copied().unwrap_or(0)
    }

    pub(crate) fn most_at_once(&self) -> i64 {
        self.inner().most_at_once
    }

    pub(crate) fn different_data(&self, step: &str) -> usize {
        self.inner().data.get(step).map_or(0, BTreeSet::len)
    }

    pub(crate) fn check_same_data_in_every_attempt(&self) {
        for (step, data) in &self.inner().data {
            assert_eq!(data.len(), 1, "{step} was done with different data");
        }
    }

    /// Every step had its effect, never before those that it waits for, and every intent was
    /// stored before the step began.
    pub(crate) fn check_complete_and_ordered(&self) {
        let inner = self.inner();
        for step in self.graph.steps() {
            let id = step.id.as_str();
            assert!(inner.effects.contains_key(id), "{id} was never done");
            let begun = inner.log.iter().position(|l| *l == format!("begin {id}"));
            for before in &step.after {
                let done = inner.log.iter().position(|l| *l == format!("done {before}"));
                assert!(
                    matches!((done, begun), (Some(done), Some(begun)) if done < begun),
                    "{id} began before {before} was done"
                );
            }
        }
        drop(inner);
        self.check_intents_come_first();
    }

    fn check_intents_come_first(&self) {
        let mut intents = BTreeSet::new();
        for record in self.records() {
            for line in &record.lines {
                match &line.entry {
                    Entry::Intent { step, .. } => drop(intents.insert(step.clone())),
                    Entry::Done { step, .. } => {
                        assert!(intents.contains(step), "{step} has no intent before its result");
                    }
                    _ => {}
                }
            }
        }
    }

    /// Who wrote the last record.
    pub(crate) fn last_runner(&self) -> Option<String> {
        self.records().last().map(|record| record.runner.clone())
    }

    fn records(&self) -> Vec<Record> {
        let parse = |r: &String| serde_json::from_str(r).expect("a record reads back");
        self.inner().records.iter().map(parse).collect()
    }

    async fn maybe_crash(&self, here: Crash) {
        if self.inner().crash == Some(here) {
            self.crashed.notify_one();
            pending::<()>().await;
        }
    }

    fn crash_step(&self, id: &str, after: bool) -> Option<Crash> {
        self.inner().crash.filter(|c| match c {
            Crash::BeforeEffect(step) => !after && *step == id,
            Crash::AfterEffect(step) => after && *step == id,
            _ => false,
        })
    }

    fn begin(&self, context: &StepContext) -> Result<(), StepError> {
        let id = context.step.id.to_string();
        let mut inner = self.inner();
        *inner.attempts.entry(id.clone()).or_default() += 1;
        let data = context.data.to_string();
        inner.data.entry(id.clone()).or_default().insert(data);
        if inner.panics.remove(&id) {
            drop(inner);
            panic!("a defect");
        }
        if let Some((left, error)) = inner.failures.get_mut(&id).filter(|f| f.0 > 0) {
            *left -= 1;
            return Err(error.clone());
        }
        inner.log.push(format!("begin {id}"));
        inner.at_once += 1;
        inner.most_at_once = inner.most_at_once.max(inner.at_once);
        Ok(())
    }

    fn end(&self, context: &StepContext) {
        let id = context.step.id.to_string();
        let mut inner = self.inner();
        inner.log.push(format!("done {id}"));
        *inner.effects.entry(id).or_default() += 1;
        inner.at_once -= 1;
        drop(inner);
        self.effect.notify_waiters();
    }
}

fn clock() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn opening(plan_hash: &str) -> Opening {
    Opening {
        kind: "failover".into(),
        requested_by: "hospital/now".into(),
        requested_at: Timestamp::UNIX_EPOCH,
        plan_name: "hospital".into(),
        plan_hash: plan_hash.into(),
        runbook_hash: "runbook".into(),
        plan: json!({"databases": []}),
        reason: "test".into(),
    }
}

impl Executor for World {
    fn prepare(&self, step: &Step) -> Result<Value, StepError> {
        let mut inner = self.inner();
        inner.prepared += 1;
        Ok(json!({"step": step.id, "nonce": inner.prepared}))
    }

    async fn execute(&self, context: StepContext) -> Result<Value, StepError> {
        self.begin(&context)?;
        let id = context.step.id.as_str();
        if self.inner().hanging.contains(id) {
            pending::<()>().await;
        }
        tokio::time::sleep(STEP_TIME).await;
        if let Some(crash) = self.crash_step(id, false) {
            self.maybe_crash(crash).await;
        }
        self.end(&context);
        if let Some(crash) = self.crash_step(id, true) {
            self.maybe_crash(crash).await;
        }
        Ok(json!({"did": id}))
    }
}

impl Journal for World {
    async fn load(&self) -> Result<Vec<Record>, JournalError> {
        if self.inner().journal_down {
            return Err(JournalError::Unavailable("down".into()));
        }
        Ok(self.records())
    }

    fn append(&self, n: u64, record: &Record) -> impl Future<Output = Result<(), JournalError>> + Send {
        let text = serde_json::to_string(record).expect("a record is JSON");
        async move {
            self.maybe_crash(Crash::BeforeAppend(n)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            {
                let mut inner = self.inner();
                if inner.journal_down {
                    return Err(JournalError::Unavailable("down".into()));
                }
                if inner.records.len() as u64 != n {
                    return Err(JournalError::Conflict { n });
                }
                inner.records.push(text);
                if inner.lost_answers.remove(&n) {
                    return Err(JournalError::Unavailable("answer lost".into()));
                }
            }
            self.maybe_crash(Crash::AfterAppend(n)).await;
            Ok(())
        }
    }
}
