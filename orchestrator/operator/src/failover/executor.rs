//! The steps of a failover.

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::recovery_plan::{PlanDatabase, PlanService};
use holdfast_api::{Durability, RecoveryPlanSpec, StandbyDatabase};
use holdfast_dataplane::status::{AgentState, AgentStatus};
use holdfast_recovery::StepError;
use holdfast_recovery::executor::{Executor, StepContext};
use holdfast_recovery::graph::{Step, StepKind, Subject};
use holdfast_vault::{DatabaseVault, Identities, Promoted, Promotion, Taken, TakeoverOptions, TakerState, Vault};
use holdfast_wal::{Lsn, TimelineId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Context;
use crate::execution::databases::{self, ReplayTarget, commit_check};
use crate::execution::remedy::{from_json, step_error, to_json};
use crate::execution::services;

/// How often the agent of a new primary is asked.
const PROTECT_POLL: Duration = Duration::from_millis(50);
/// One attempt to see it protected; then the step says what is in the way and is repeated.
const PROTECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Carries out the steps of one Failover.
pub struct FailoverExecutor {
    pub(super) ctx: Arc<Context>,
    pub(super) namespace: String,
    /// Who takes over, for people who read the seals.
    pub(super) by: String,
    /// The plan as it is in the journal.
    pub(super) spec: RecoveryPlanSpec,
    pub(super) vault: Vault,
    pub(super) identities: Identities,
}

impl Executor for FailoverExecutor {
    fn prepare(&self, step: &Step) -> Result<Value, StepError> {
        match step.kind {
            // What makes a repeated takeover the same one.
            StepKind::Takeover => to_json(&TakerState::generate(self.by.clone())),
            _ => Ok(Value::Null),
        }
    }

    async fn execute(&self, context: StepContext) -> Result<Value, StepError> {
        match &context.step.subject {
            Subject::Database(name) => {
                let database = find(&self.spec.databases, |d| &d.name == name, name)?;
                let standby = databases::standby(&self.ctx, &self.namespace, &database.standby)?;
                self.database_step(&context, database, &standby).await
            }
            Subject::Service(name) => {
                let service = find(&self.spec.services, |s| &s.name == name, name)?;
                self.service_step(&context, service).await
            }
            Subject::Run => Err(unknown(&context)),
        }
    }
}

fn find<'a, T>(list: &'a [T], is: impl Fn(&T) -> bool, name: &str) -> Result<&'a T, StepError> {
    list.iter().find(|i| is(i)).ok_or_else(|| {
        StepError::person(format!("the journal's plan has no {name}"), "keep the journal: this is a defect")
    })
}

fn unknown(context: &StepContext) -> StepError {
    let message = format!("a failover has no step {}", context.step.id);
    StepError::person(message, "keep the journal: this is a defect")
}

/// What the step `kind` of the same database left.
fn result_of<T: DeserializeOwned>(context: &StepContext, kind: StepKind, field: &str) -> Result<T, StepError> {
    let id = context.step.subject.step(kind);
    from_json(context.results.get(&id).and_then(|r| r.get(field)).unwrap_or(&Value::Null))
}

impl FailoverExecutor {
    async fn service_step(&self, context: &StepContext, service: &PlanService) -> Result<Value, StepError> {
        let (ctx, namespace) = (&self.ctx, self.namespace.as_str());
        match (context.step.kind, &service.traffic) {
            (StepKind::Start, _) => services::start(ctx, namespace, service).await,
            (StepKind::Probe, _) => services::probe(ctx, namespace, service, &context.progress).await,
            (StepKind::Traffic, Some(traffic)) => {
                services::switch_traffic(ctx, namespace, traffic, &context.progress).await
            }
            (StepKind::Traffic, None) => Ok(json!({ "summary": "the plan switches no traffic" })),
            _ => Err(unknown(context)),
        }
    }

    async fn database_step(
        &self,
        context: &StepContext,
        database: &PlanDatabase,
        standby: &StandbyDatabase,
    ) -> Result<Value, StepError> {
        let log = self.vault.database(&standby.spec.source).map_err(step_error)?;
        match context.step.kind {
            StepKind::Takeover => self.takeover(context, standby, &log).await,
            StepKind::Replay => self.replay(context, standby, &log).await,
            StepKind::PromoteSeal => self.promote_seal(context, &log).await,
            StepKind::Promote => self.promote(context, standby).await,
            StepKind::Protect => self.protect(context, database, standby).await,
            _ => Err(unknown(context)),
        }
    }

    /// Puts the takeover seal. Only for a standby that answers and is in recovery: a log is not sealed for nothing.
    async fn takeover(
        &self,
        context: &StepContext,
        standby: &StandbyDatabase,
        log: &DatabaseVault,
    ) -> Result<Value, StepError> {
        let instance_id = instance_id(standby)?;
        if databases::takes_writes(&self.ctx, standby).await.map_err(step_error)? {
            return Err(StepError::person(
                "the standby takes writes already, so this site is the primary; nothing was sealed",
                "look at its StandbyDatabase and at who promoted it",
            ));
        }
        let state: TakerState = from_json(&context.data)?;
        context.progress.say("sealing the log");
        let taken = log.takeover(&state, &TakeoverOptions::default()).await.map_err(step_error)?;
        Ok(json!({
            "summary": format!("the log ends at {}, epoch {} is pending", taken.sealed, taken.epoch),
            "sealedLsn": taken.sealed, "instanceId": instance_id, "taken": to_json(&taken)?,
        }))
    }

    async fn replay(
        &self,
        context: &StepContext,
        standby: &StandbyDatabase,
        log: &DatabaseVault,
    ) -> Result<Value, StepError> {
        let upto: Lsn = result_of(context, StepKind::Takeover, "sealedLsn")?;
        let target = ReplayTarget { log, identities: &self.identities, upto };
        let replayed = databases::replay(&self.ctx, standby, &target, &context.progress).await?;
        Ok(json!({
            "summary": format!("replayed to {replayed}, the last record at or below {upto}"),
            "replayedLsn": replayed,
        }))
    }

    /// The point of no return.
    async fn promote_seal(&self, context: &StepContext, log: &DatabaseVault) -> Result<Value, StepError> {
        let state: TakerState = self.taker(context)?;
        let taken: Taken = result_of(context, StepKind::Takeover, "taken")?;
        let promotion = Promotion {
            start: result_of(context, StepKind::Replay, "replayedLsn")?,
            instance_id: result_of(context, StepKind::Takeover, "instanceId")?,
            new_timeline: TimelineId(taken.lineage.history.timeline.0 + 1),
        };
        let promoted: Promoted = log.promote(&state, &taken, &promotion).await.map_err(step_error)?;
        Ok(json!({
            "summary": format!("epoch {} opens at {} on timeline {}", promoted.epoch, promoted.start, promotion.new_timeline),
            "epoch": promoted.epoch, "promotedLsn": promoted.start, "timeline": promotion.new_timeline,
        }))
    }

    /// The state that the takeover of this database was journaled with.
    fn taker(&self, context: &StepContext) -> Result<TakerState, StepError> {
        let id = context.step.subject.step(StepKind::Takeover);
        from_json(context.earlier_data.get(&id).unwrap_or(&Value::Null))
    }

    async fn promote(&self, context: &StepContext, standby: &StandbyDatabase) -> Result<Value, StepError> {
        let start: Lsn = result_of(context, StepKind::PromoteSeal, "promotedLsn")?;
        let timeline: TimelineId = result_of(context, StepKind::PromoteSeal, "timeline")?;
        let instance = self.ctx.connect_standby(standby).await.map_err(step_error)?;
        let state = instance.promote().await.map_err(step_error)?;
        let switch = instance.switch_point(state.timeline).await.map_err(step_error)?;
        if state.timeline != timeline || switch != start {
            return Err(StepError::person(
                format!(
                    "the database opened on timeline {} at {switch}, and the promote seal says timeline {timeline} at {start}",
                    state.timeline
                ),
                "its agent will refuse to protect it: stop the database and keep its volume; restore another standby from the vault",
            ));
        }
        Ok(json!({
            "summary": format!("opened at {switch} on timeline {timeline}"), "promotedLsn": switch,
        }))
    }

    /// Waits until the new primary's own agent owns the next epoch and a commit is acknowledged.
    async fn protect(
        &self,
        context: &StepContext,
        database: &PlanDatabase,
        standby: &StandbyDatabase,
    ) -> Result<Value, StepError> {
        let pending: u64 = result_of(context, StepKind::PromoteSeal, "epoch")?;
        let deadline = Instant::now() + PROTECT_TIMEOUT;
        let status = loop {
            let waiting = match self.ctx.agent_status(&self.namespace, &database.standby).await {
                Ok(status) if is_protected(&status, standby, pending) => break status,
                Ok(status) => describe(&status),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                let hint = format!("kubectl -n {} logs deployment/{}-agent", self.namespace, database.standby);
                let seconds = PROTECT_TIMEOUT.as_secs();
                return Err(StepError::retry(format!("not protected after {seconds} s: {waiting}")).with_hint(hint));
            }
            context.progress.say(waiting);
            sleep(PROTECT_POLL).await;
        };
        context.progress.say("committing a test transaction");
        commit_check(&self.ctx, standby).await?;
        let epoch = status.epoch.unwrap_or_default();
        let what =
            if status.synchronous { "a commit was acknowledged from the vault" } else { "a commit was acknowledged" };
        Ok(json!({ "summary": format!("epoch {epoch}: {what}"), "epoch": epoch }))
    }
}

fn instance_id(standby: &StandbyDatabase) -> Result<String, StepError> {
    let id = standby.status.as_ref().and_then(|s| s.instance_id.clone());
    id.ok_or_else(|| StepError::retry("the StandbyDatabase has no volume yet, so it has no instance id"))
}

fn is_protected(status: &AgentStatus, standby: &StandbyDatabase, pending: u64) -> bool {
    let synchronous = status.synchronous || standby.spec.durability == Durability::Asynchronous;
    status.state == AgentState::Streaming && status.epoch.is_some_and(|e| e >= pending) && synchronous
}

fn describe(status: &AgentStatus) -> String {
    match &status.problem {
        Some(problem) => format!("the agent is {:?}: {}; {}", status.state, problem.message, problem.hint),
        None => format!("the agent is {:?}", status.state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(durability: &str) -> StandbyDatabase {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "StandbyDatabase", "metadata": {"name": "lab-db"},
            "spec": {"vault": {"name": "v"}, "source": "lab", "storage": {"size": "1Gi"},
                     "credentials": {"secretName": "s"}, "durability": durability}}))
        .unwrap()
    }

    #[test]
    fn protected_is_streaming_into_the_new_epoch_with_commits_that_wait() {
        let status = |state, epoch, synchronous| AgentStatus { state, epoch, synchronous, ..AgentStatus::default() };
        let table = [
            (status(AgentState::Streaming, Some(5), true), "Synchronous", true),
            (status(AgentState::Streaming, Some(5), false), "Synchronous", false),
            (status(AgentState::Streaming, Some(5), false), "Asynchronous", true),
            (status(AgentState::Streaming, Some(3), true), "Synchronous", false),
            (status(AgentState::Standby, None, true), "Synchronous", false),
            (status(AgentState::Claiming, Some(5), true), "Synchronous", false),
        ];
        for (status, durability, expected) in table {
            assert_eq!(is_protected(&status, &standby(durability), 4), expected, "{:?} {durability}", status.state);
        }
    }
}
