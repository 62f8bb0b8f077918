//! Metrics of steps.

use holdfast_recovery::{Graph, Phase, RunState, StepId};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    kind: String,
    step: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    kind: String,
    outcome: String,
}

/// Durations and failures of steps, outcomes of runs. `kind` is failover or drill.
#[derive(Clone)]
pub struct RunMetrics {
    durations: Family<StepLabels, Histogram, fn() -> Histogram>,
    failures: Family<StepLabels, Counter>,
    runs: Family<RunLabels, Counter>,
    /// Runs under way in this process.
    pub running: Gauge,
}

impl RunMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self {
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 2.0, 16))),
            failures: Family::default(),
            runs: Family::default(),
            running: Gauge::default(),
        };
        metrics.register(
            "step_duration_seconds",
            "From the first intent of a step to its result, by run kind and step",
            new.durations.clone(),
        );
        metrics.register("step_failures", "Failed attempts of steps, by run kind and step", new.failures.clone());
        metrics.register("runs", "Failovers and drills that ended, by run kind and outcome", new.runs.clone());
        metrics.register("runs_running", "Failovers and drills under way", new.running.clone());
        new
    }

    /// Counts what changed from `old` to `new`.
    pub fn observe(&self, kind: &str, graph: &Graph, old: &RunState, new: &RunState) {
        for step in graph.steps() {
            let labels = || StepLabels { kind: kind.to_owned(), step: step.kind.name().to_owned() };
            if became(old, new, &step.id, Phase::Done)
                && let Some(seconds) = seconds_of(new, &step.id)
            {
                self.durations.get_or_create(&labels()).observe(seconds);
            }
            if became(old, new, &step.id, Phase::Failed) {
                self.failures.get_or_create(&labels()).inc();
            }
        }
        if let (None, Some((outcome, _))) = (&old.finished, &new.finished) {
            let outcome = format!("{outcome:?}").to_lowercase();
            self.runs.get_or_create(&RunLabels { kind: kind.to_owned(), outcome }).inc();
        }
    }
}

/// Whether a step came into this phase from another one.
pub fn became(old: &RunState, new: &RunState, id: &StepId, phase: Phase) -> bool {
    new.phase(id) == phase && old.phase(id) != phase
}

fn seconds_of(state: &RunState, id: &StepId) -> Option<f64> {
    let step = state.step(id)?;
    Some(step.finished_at?.duration_since(step.started_at?).as_secs_f64())
}
