//! The Failover controller: one object, one execution.
//!
//! The reconcile of a Failover lasts as long as its run. The operator killed at any moment loses nothing: the
//! next one finds the object Running, loads the journal from the vault and goes on.

pub mod admission;
pub mod executor;
pub mod mirror;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::condition::types;
use holdfast_api::run::RunPhase;
use holdfast_api::{Conditions, Failover, FailoverStatus};
use holdfast_recovery::journal::Opening;
use holdfast_recovery::{Graph, Retry, RunEnd};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;

use crate::Context;
use crate::execution::drive::{DriveError, Run, drive};
use crate::execution::opening::{Ground, ground, opening, spec_of};
use crate::execution::{faulty_journal, finalizer, plan_of};

use admission::{Admitted, DOOR, Refusal};
use executor::FailoverExecutor;
use mirror::FailoverMirror;

/// After another operator went on with a run, it is looked at again this much later.
const SUPERSEDED: Duration = Duration::from_secs(10);

/// Admits or refuses the Failover, and carries it out.
///
/// # Errors
/// [`DriveError`]; it is called again.
pub async fn reconcile(failover: Arc<Failover>, ctx: Arc<Context>) -> Result<Action, DriveError> {
    ctx.stores.are_ready().await;
    let status = newest_status(&ctx, &failover);
    if status.phase.is_over() {
        finalizer::remove_if_present(&ctx, failover.as_ref()).await?;
        return Ok(Action::await_change());
    }
    if status.phase == RunPhase::Running {
        return carry_out(&ctx, failover, status, None).await;
    }
    if failover.metadata.deletion_timestamp.is_some() {
        finalizer::remove_if_present(&ctx, failover.as_ref()).await?;
        return Ok(Action::await_change());
    }
    match begin(&ctx, &failover, &status).await? {
        Some((status, opening)) => carry_out(&ctx, failover, status, Some(opening)).await,
        None => Ok(Action::await_change()),
    }
}

/// A change of status wakes nobody, so the object at hand may be older than the store.
fn newest_status(ctx: &Context, failover: &Failover) -> FailoverStatus {
    let newest = ctx.stores.failovers.get(&ObjectRef::from_obj(failover));
    let newest = newest.filter(|f| f.uid() == failover.uid()).and_then(|f| f.status.clone());
    newest.or_else(|| failover.status.clone()).unwrap_or_default()
}

/// Admits the Failover (its status is then Running) or refuses it.
async fn begin(
    ctx: &Arc<Context>,
    failover: &Arc<Failover>,
    status: &FailoverStatus,
) -> Result<Option<(FailoverStatus, Opening)>, DriveError> {
    let _one_at_a_time = DOOR.lock().await;
    match admission::admit(ctx, failover).await? {
        Ok(admitted) => {
            let on = (&admitted.plan, &admitted.facts);
            let opening = opening(ctx, "failover", failover.as_ref(), on, &failover.spec.reason)?;
            let status = running(failover, status, &admitted, &opening);
            futures::future::try_join(
                finalizer::add(ctx, failover.as_ref()),
                ctx.patch_status(failover.as_ref(), &status),
            )
            .await?;
            let note = format!("plan {} ({})", opening.plan_name, opening.plan_hash);
            ctx.normal(failover.as_ref(), "Admitted", "Admit", &note).await;
            Ok(Some((status, opening)))
        }
        Err(refusal) => {
            let refused = refused(failover, status, &refusal);
            ctx.patch_status(failover.as_ref(), &refused).await?;
            ctx.publish_transitions(failover.as_ref(), &status.conditions, &refused.conditions).await;
            Ok(None)
        }
    }
}

fn running(failover: &Failover, old: &FailoverStatus, admitted: &Admitted, opening: &Opening) -> FailoverStatus {
    let mut conditions = Conditions::of(&old.conditions, failover.metadata.generation, Timestamp::now());
    let reason = holdfast_api::condition::reasons::RUNNING;
    conditions.set(types::COMPLETE, false, reason, "it begins");
    conditions.set(types::FAILED, false, reason, "it goes on");
    FailoverStatus {
        observed_generation: failover.metadata.generation,
        phase: RunPhase::Running,
        plan_hash: Some(opening.plan_hash.clone()),
        runbook_hash: Some(opening.runbook_hash.clone()),
        vault: admitted.facts.vault().map(str::to_owned),
        evidence: failover.uid().map(|uid| format!("run/{uid}")),
        conditions: conditions.into_vec(),
        ..FailoverStatus::default()
    }
}

fn refused(failover: &Failover, old: &FailoverStatus, refusal: &Refusal) -> FailoverStatus {
    let mut conditions = Conditions::of(&old.conditions, failover.metadata.generation, Timestamp::now());
    conditions.set(types::COMPLETE, false, refusal.reason, refusal.message.clone());
    conditions.set(types::FAILED, true, refusal.reason, refusal.message.clone());
    FailoverStatus {
        observed_generation: failover.metadata.generation,
        phase: RunPhase::Refused,
        conditions: conditions.into_vec(),
        ..FailoverStatus::default()
    }
}

/// Runs it from wherever its journal stands. `admitted` is there when it was admitted just now.
async fn carry_out(
    ctx: &Arc<Context>,
    failover: Arc<Failover>,
    status: FailoverStatus,
    admitted: Option<Opening>,
) -> Result<Action, DriveError> {
    let vault_name = status.vault.clone().unwrap_or_default();
    let Ground { vault, identities, journal, begun } =
        ground(ctx, failover.as_ref(), &vault_name, admitted.is_some()).await?;
    let opening = match begun.or(admitted) {
        Some(opening) => opening,
        // Killed between its admission and the first entry: nothing has happened yet.
        None => match begin(ctx, &failover, &FailoverStatus::default()).await? {
            Some((_, opening)) => opening,
            None => return Ok(Action::await_change()),
        },
    };
    let spec = spec_of(failover.as_ref(), &opening)?;
    let plan = plan_of(&spec);
    let graph = Graph::failover(&plan).map_err(|p| faulty_journal(failover.as_ref(), &format!("{p:?}")))?;
    let uid = failover.uid().unwrap_or_default();
    let executor = FailoverExecutor {
        ctx: ctx.clone(),
        namespace: failover.namespace().unwrap_or_default(),
        by: format!("Failover {} ({uid})", opening.requested_by),
        spec,
        vault,
        identities,
    };
    let span =
        tracing::info_span!(parent: None, "failover", otel.name = "failover", run = %uid, plan = opening.plan_name);
    let conditions = status.conditions.clone();
    let mirror =
        FailoverMirror { ctx: ctx.clone(), failover: failover.clone(), graph: graph.clone(), plan, last: status };
    let run = Run { graph, executor, journal, opening, retry: Retry::default(), span };
    match drive(ctx, failover.as_ref(), run, mirror, conditions).await? {
        RunEnd::Finished(..) => {
            finalizer::remove(ctx, failover.as_ref()).await?;
            Ok(Action::await_change())
        }
        RunEnd::Superseded => Ok(Action::requeue(SUPERSEDED)),
    }
}
