//! The steps of a failover and of a drill, and which waits for which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, PlanProblem};

/// Names a step within a run: `<database or service>/<kind>`, or `<kind>` alone for the run's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(String);

impl StepId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a step does. The words are those of `docs/architecture.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Put the takeover seal: from here no commit of the old primary is acknowledged.
    Takeover,
    /// Replay to the end of the last complete record at or below the seal.
    Replay,
    /// Put the promote seal: the point of no return.
    PromoteSeal,
    /// Open the standby.
    Promote,
    /// The new primary's own agent acknowledges commits into the next epoch.
    Protect,
    /// Scale the workloads up.
    Start,
    /// The service answers.
    Probe,
    /// Send the site's traffic to the service.
    Traffic,
    /// Make the namespace of a drill.
    Prepare,
    /// Restore a database from the vault into the drill.
    Restore,
    /// Open a drill's database; nothing is sealed.
    Open,
    /// Prove that production cannot be reached from the drill.
    Isolation,
    /// Write the report of a drill.
    Report,
    /// Remove everything that the drill made.
    CleanUp,
}

impl StepKind {
    /// The kebab-case name, as in journal and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Takeover => "takeover",
            Self::Replay => "replay",
            Self::PromoteSeal => "promote-seal",
            Self::Promote => "promote",
            Self::Protect => "protect",
            Self::Start => "start",
            Self::Probe => "probe",
            Self::Traffic => "traffic",
            Self::Prepare => "prepare",
            Self::Restore => "restore",
            Self::Open => "open",
            Self::Isolation => "isolation",
            Self::Report => "report",
            Self::CleanUp => "clean-up",
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a step is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    Run,
    Database(String),
    Service(String),
}

impl Subject {
    /// The id of the step of this kind about this subject.
    #[must_use]
    pub fn step(&self, kind: StepKind) -> StepId {
        StepId(match self {
            Self::Run => kind.name().to_owned(),
            Self::Database(name) | Self::Service(name) => format!("{name}/{kind}"),
        })
    }

    #[must_use]
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Database(name) => Some(name),
            _ => None,
        }
    }

    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Service(name) => Some(name),
            _ => None,
        }
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub id: StepId,
    pub kind: StepKind,
    pub subject: Subject,
    /// All of these are done before this one starts.
    pub after: BTreeSet<StepId>,
    /// From the moment that this step may have begun, the run only goes forward.
    pub no_return: bool,
    /// Runs when all other steps are done or the run has failed; one after the other.
    pub always: bool,
}

/// The steps of one run; every `after` is a step of the same graph and there is no circle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    steps: BTreeMap<StepId, Step>,
    order: Vec<StepId>,
}

impl Graph {
    /// The steps of a failover.
    ///
    /// No database passes the point of no return before every database of the plan is sealed and
    /// replayed: a hospital goes over as a whole or, up to there, not at all.
    ///
    /// # Errors
    /// What [`Plan::validate`] says.
    pub fn failover(plan: &Plan) -> Result<Self, Vec<PlanProblem>> {
        plan.validate()?;
        let mut graph = Self::default();
        let replayed: BTreeSet<_> = plan.databases.iter().map(|d| replayed(d)).collect();
        for name in &plan.databases {
            let db = Subject::Database(name.clone());
            graph.chain(&db, &[StepKind::Takeover, StepKind::Replay], BTreeSet::new());
            graph.chain(&db, &[StepKind::PromoteSeal, StepKind::Promote, StepKind::Protect], replayed.clone());
        }
        graph.services(plan, StepKind::Protect);
        for service in &plan.services {
            let subject = Subject::Service(service.name.clone());
            let probed = BTreeSet::from([subject.step(StepKind::Probe)]);
            graph.chain(&subject, &[StepKind::Traffic], probed);
        }
        Ok(graph)
    }

    /// The steps of a drill: the same order of databases and services, in a namespace of its own,
    /// without seals and without traffic; report and clean-up follow whatever happened.
    ///
    /// # Errors
    /// What [`Plan::validate`] says.
    pub fn drill(plan: &Plan) -> Result<Self, Vec<PlanProblem>> {
        plan.validate()?;
        let mut graph = Self::default();
        graph.chain(&Subject::Run, &[StepKind::Prepare], BTreeSet::new());
        let prepared = BTreeSet::from([Subject::Run.step(StepKind::Prepare)]);
        for name in &plan.databases {
            let db = Subject::Database(name.clone());
            graph.chain(&db, &[StepKind::Restore, StepKind::Replay, StepKind::Open], prepared.clone());
        }
        graph.services(plan, StepKind::Open);
        let everything = graph.order.iter().cloned().collect();
        graph.chain(&Subject::Run, &[StepKind::Isolation], everything);
        graph.chain(&Subject::Run, &[StepKind::Report, StepKind::CleanUp], BTreeSet::new());
        for kind in [StepKind::Report, StepKind::CleanUp] {
            if let Some(step) = graph.steps.get_mut(&Subject::Run.step(kind)) {
                step.always = true;
            }
        }
        Ok(graph)
    }

    #[must_use]
    pub fn get(&self, id: &StepId) -> Option<&Step> {
        self.steps.get(id)
    }

    /// All steps, in the order in which they were planned.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.order.iter().filter_map(|id| self.steps.get(id))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The steps of a subject from its first one up to and including `id`: what must be done again
    /// when `id` finds that the ground has moved.
    #[must_use]
    pub fn from_the_start_of_subject(&self, id: &StepId) -> Vec<StepId> {
        let Some(step) = self.get(id) else {
            return Vec::new();
        };
        let mut again: Vec<StepId> = self.steps().filter(|s| s.subject == step.subject).map(|s| s.id.clone()).collect();
        let upto = again.iter().position(|i| i == id).unwrap_or(0);
        again.truncate(upto + 1);
        again
    }

    fn services(&mut self, plan: &Plan, database_ready: StepKind) {
        for service in &plan.services {
            let subject = Subject::Service(service.name.clone());
            let databases = service.databases.iter().map(|d| Subject::Database(d.clone()).step(database_ready));
            let services = service.depends_on.iter().map(|s| Subject::Service(s.clone()).step(StepKind::Probe));
            let mut after: BTreeSet<_> = databases.chain(services).collect();
            if after.is_empty() && database_ready == StepKind::Open {
                after.insert(Subject::Run.step(StepKind::Prepare));
            }
            self.chain(&subject, &[StepKind::Start, StepKind::Probe], after);
        }
    }

    /// Adds steps that follow each other; the first one follows `after`.
    fn chain(&mut self, subject: &Subject, kinds: &[StepKind], after: BTreeSet<StepId>) {
        let mut after = after;
        for kind in kinds {
            let id = subject.step(*kind);
            let step = Step {
                id: id.clone(),
                kind: *kind,
                subject: subject.clone(),
                after: std::mem::replace(&mut after, BTreeSet::from([id.clone()])),
                no_return: *kind == StepKind::PromoteSeal,
                always: false,
            };
            self.order.push(id.clone());
            self.steps.insert(id, step);
        }
    }
}

fn replayed(database: &str) -> StepId {
    Subject::Database(database.to_owned()).step(StepKind::Replay)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::Service;

    /// The hospital: three databases; billing and lab need registration.
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

    fn after(graph: &Graph, id: &str) -> Vec<String> {
        let step = graph.steps().find(|s| s.id.as_str() == id).unwrap();
        step.after.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_failover_goes_over_as_a_whole() {
        let graph = Graph::failover(&hospital()).unwrap();
        assert_eq!(graph.len(), 3 * 5 + 3 * 3);
        assert_eq!(after(&graph, "lab/takeover"), Vec::<String>::new());
        assert_eq!(after(&graph, "lab/replay"), ["lab/takeover"]);
        assert_eq!(after(&graph, "lab/promote-seal"), ["billing/replay", "lab/replay", "registration/replay"]);
        assert_eq!(after(&graph, "lab/protect"), ["lab/promote"]);
        assert_eq!(after(&graph, "lab/start"), ["lab/protect", "registration/probe"]);
        assert_eq!(after(&graph, "lab/traffic"), ["lab/probe"]);
        let no_return: Vec<_> = graph.steps().filter(|s| s.no_return).collect();
        assert!(no_return.iter().all(|s| s.kind == StepKind::PromoteSeal));
        assert_eq!(no_return.len(), 3);
    }

    #[test]
    fn a_drill_has_neither_seals_nor_traffic_and_always_cleans_up() {
        let graph = Graph::drill(&hospital()).unwrap();
        let kinds: BTreeSet<_> = graph.steps().map(|s| s.kind).collect();
        for kind in [StepKind::Takeover, StepKind::PromoteSeal, StepKind::Promote, StepKind::Traffic] {
            assert!(!kinds.contains(&kind), "{kind}");
        }
        assert_eq!(after(&graph, "clean-up"), ["report"]);
        assert!(after(&graph, "isolation").contains(&"lab/probe".to_owned()));
        let always: Vec<_> = graph.steps().filter(|s| s.always).map(|s| s.id.as_str()).collect();
        assert_eq!(always, ["report", "clean-up"]);
    }

    #[test]
    fn a_lost_seal_goes_back_to_the_takeover_of_its_database() {
        let graph = Graph::failover(&hospital()).unwrap();
        let seal = Subject::Database("lab".into()).step(StepKind::PromoteSeal);
        let again: Vec<_> = graph.from_the_start_of_subject(&seal).iter().map(ToString::to_string).collect();
        assert_eq!(again, ["lab/takeover", "lab/replay", "lab/promote-seal"]);
    }

    #[test]
    fn a_bad_plan_gives_no_graph() {
        let mut plan = hospital();
        plan.services[0].depends_on = vec!["lab".into()];
        assert!(Graph::failover(&plan).is_err());
        assert!(Graph::drill(&plan).is_err());
    }
}
