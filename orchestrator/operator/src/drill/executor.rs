//! The steps of a drill.

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::recovery_plan::{PlanDatabase, PlanService};
use holdfast_api::standby_database::Position;
use holdfast_api::{RecoveryPlanSpec, StandbyDatabase};
use holdfast_recovery::StepError;
use holdfast_recovery::executor::{Executor, StepContext};
use holdfast_recovery::graph::{Step, StepKind, Subject};
use holdfast_vault::{Identities, Vault};
use holdfast_wal::Lsn;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{build, isolation};
use crate::execution::databases::{self, ReplayTarget, commit_check};
use crate::execution::remedy::{from_json, step_error};
use crate::execution::services;
use crate::{Context, Error};

const POLL: Duration = Duration::from_millis(250);
/// One attempt to restore; then the step says what is in the way and is repeated.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a namespace may take to go before the attempt says so and is repeated.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// The init container that keeps a workload from starting before its pod is isolated.
const GATE: &str = "wait-for-isolation";

/// Carries out the steps of one Drill.
pub struct DrillExecutor {
    pub(super) ctx: Arc<Context>,
    /// Where production is.
    pub(super) namespace: String,
    /// The drill's own namespace.
    pub(super) target: String,
    /// The Drill's uid.
    pub(super) uid: String,
    /// The plan as it is in the journal.
    pub(super) spec: RecoveryPlanSpec,
    pub(super) vault_name: String,
    pub(super) vault: Vault,
    pub(super) identities: Identities,
}

/// Where a log ended when the drill began.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Tip {
    epoch: i64,
    lsn: Lsn,
}

impl Executor for DrillExecutor {
    fn prepare(&self, _: &Step) -> Result<Value, StepError> {
        // Names follow from the Drill's uid, so that every attempt has the same ones.
        Ok(Value::Null)
    }

    async fn execute(&self, context: StepContext) -> Result<Value, StepError> {
        match &context.step.subject {
            Subject::Run => self.run_step(&context).await,
            Subject::Database(name) => {
                let database = self.spec.databases.iter().find(|d| &d.name == name).ok_or_else(|| lost(name))?;
                self.database_step(&context, database).await
            }
            Subject::Service(name) => {
                let service = self.spec.services.iter().find(|s| &s.name == name).ok_or_else(|| lost(name))?;
                self.service_step(&context, service).await
            }
        }
    }
}

fn lost(name: &str) -> StepError {
    StepError::person(format!("the journal's plan has no {name}"), "keep the journal: this is a defect")
}

impl DrillExecutor {
    async fn run_step(&self, context: &StepContext) -> Result<Value, StepError> {
        match context.step.kind {
            StepKind::Prepare => self.prepare_namespace().await,
            StepKind::Isolation => self.prove_isolation(context).await,
            StepKind::Report => Ok(self.report(context)),
            StepKind::CleanUp => self.clean_up(context).await,
            _ => Err(lost(context.step.id.as_str())),
        }
    }

    async fn database_step(&self, context: &StepContext, database: &PlanDatabase) -> Result<Value, StepError> {
        let tip = tip(context, &database.name)?;
        match context.step.kind {
            StepKind::Restore => self.restore(context, database, tip).await,
            StepKind::Replay => self.replay(context, database, tip).await,
            StepKind::Open => self.open(database).await,
            _ => Err(lost(context.step.id.as_str())),
        }
    }

    /// Restores a copy by the same controller that makes a standby, and waits until it answers.
    async fn restore(&self, context: &StepContext, database: &PlanDatabase, tip: Tip) -> Result<Value, StepError> {
        let original = databases::standby(&self.ctx, &self.namespace, &database.standby)?;
        let until = Position { epoch: tip.epoch, lsn: tip.lsn.to_string() };
        let wanted = build::standby(&self.target, &original, until);
        let copy = self.ctx.apply(&wanted).await.map_err(step_error)?;
        let deadline = Instant::now() + RESTORE_TIMEOUT;
        loop {
            let waiting = match self.ctx.connect_standby(&copy).await {
                Ok(_) => return Ok(json!({ "summary": "restored from the vault, answers" })),
                Err(error) => self.why_not_restored(&copy).unwrap_or_else(|| error.to_string()),
            };
            if Instant::now() >= deadline {
                let seconds = RESTORE_TIMEOUT.as_secs();
                return Err(StepError::retry(format!("not restored after {seconds} s: {waiting}")));
            }
            context.progress.say(waiting);
            sleep(POLL).await;
        }
    }

    /// What the copy's own controller says.
    fn why_not_restored(&self, copy: &StandbyDatabase) -> Option<String> {
        let newest = databases::standby(&self.ctx, &self.target, &copy.name_any()).ok()?;
        let status = newest.status.as_ref()?;
        let ready = holdfast_api::condition::find(&status.conditions, holdfast_api::condition::types::READY)?;
        Some(format!("{}: {}", ready.reason, ready.message))
    }

    async fn replay(&self, context: &StepContext, database: &PlanDatabase, tip: Tip) -> Result<Value, StepError> {
        let copy = databases::standby(&self.ctx, &self.target, &database.standby)?;
        let log = self.vault.database(&copy.spec.source).map_err(step_error)?;
        let target = ReplayTarget { log: &log, identities: &self.identities, upto: tip.lsn };
        let replayed = databases::replay(&self.ctx, &copy, &target, &context.progress).await?;
        Ok(json!({
            "summary": format!("replayed to {replayed}, the last record at or below {}", tip.lsn),
            "sealedLsn": tip.lsn, "replayedLsn": replayed,
        }))
    }

    /// Opens the copy. No seal: in here nobody else can see it, and the vault does not learn of it.
    async fn open(&self, database: &PlanDatabase) -> Result<Value, StepError> {
        let copy = databases::standby(&self.ctx, &self.target, &database.standby)?;
        let instance = self.ctx.connect_standby(&copy).await.map_err(step_error)?;
        let state = instance.promote().await.map_err(step_error)?;
        let switch = instance.switch_point(state.timeline).await.map_err(step_error)?;
        commit_check(&self.ctx, &copy).await?;
        Ok(json!({
            "summary": format!("opened at {switch} on timeline {}; it takes writes", state.timeline),
            "promotedLsn": switch,
        }))
    }

    async fn service_step(&self, context: &StepContext, service: &PlanService) -> Result<Value, StepError> {
        match context.step.kind {
            StepKind::Start => self.start(service).await,
            StepKind::Probe => services::probe(&self.ctx, &self.target, service, &context.progress).await,
            _ => Err(lost(context.step.id.as_str())),
        }
    }

    async fn start(&self, service: &PlanService) -> Result<Value, StepError> {
        let targets = self.targets().await?;
        let (must_fail, must_pass) = (targets.must_fail(), targets.must_pass());
        for workload in &service.workloads {
            let name = &workload.name;
            let original = self.read::<Deployment>(name).await?.ok_or_else(|| {
                StepError::person(format!("there is no Deployment {}/{name}", self.namespace), "apply it")
            })?;
            let gate = isolation::container(GATE, &self.ctx.image, &must_fail, &must_pass);
            let copy = build::deployment(&self.target, &original, workload.replicas, gate);
            self.ctx.apply(&copy).await.map_err(step_error)?;
        }
        Ok(json!({ "summary": "its workloads run in the drill" }))
    }

    /// The report is this entry of the journal: it is in the vault, chained and locked.
    fn report(&self, context: &StepContext) -> Value {
        let done: Vec<&str> = context.results.keys().map(holdfast_recovery::StepId::as_str).collect();
        json!({
            "summary": format!("{} steps were done; the report is in the journal", done.len()),
            "namespace": self.target, "done": done,
            "isolation": context.results.get(&Subject::Run.step(StepKind::Isolation)),
            "results": *context.results,
        })
    }

    /// Removes the namespace, and with it everything that the drill made, and sees that it is gone.
    async fn clean_up(&self, context: &StepContext) -> Result<Value, StepError> {
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let deadline = Instant::now() + CLEAN_UP_TIMEOUT;
        loop {
            let found = api.get_opt(&self.target).await.map_err(Error::kube(format!("read namespace {}", self.target)));
            let Some(found) = found.map_err(step_error)? else {
                return Ok(json!({ "summary": format!("namespace {} is gone", self.target), "gone": true }));
            };
            if found.labels().get(build::DRILL_LABEL) != Some(&self.uid) {
                return Ok(json!({ "summary": "there was nothing to remove", "gone": true }));
            }
            if found.metadata.deletion_timestamp.is_none() {
                self.delete(&api, &found).await?;
            }
            if Instant::now() >= deadline {
                let hint = format!("kubectl get namespace {} -o yaml says what holds it", self.target);
                let message = format!("namespace {} is not gone after {} s", self.target, CLEAN_UP_TIMEOUT.as_secs());
                return Err(StepError::retry(message).with_hint(hint));
            }
            context.progress.say(what_holds(&found));
            sleep(POLL).await;
        }
    }

    async fn delete(&self, api: &Api<Namespace>, found: &Namespace) -> Result<(), StepError> {
        let uid = found.uid();
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&self.target, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(step_error(Error::kube(format!("delete namespace {}", self.target))(error))),
        }
    }
}

/// What keeps a namespace from going, in the words of the namespace controller.
fn what_holds(namespace: &Namespace) -> String {
    let conditions = namespace.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let held: Vec<String> = conditions.filter(|c| c.status == "True").filter_map(|c| c.message.clone()).collect();
    if held.is_empty() { "the namespace is going".to_owned() } else { held.join("; ") }
}

/// Where this database's log ended when the drill began.
fn tip(context: &StepContext, database: &str) -> Result<Tip, StepError> {
    let prepared = context.results.get(&Subject::Run.step(StepKind::Prepare));
    from_json(prepared.and_then(|p| p.get("tips")?.get(database)).unwrap_or(&Value::Null))
}
