//! The Drill controller: a plan rehearsed from the vault alone, in a namespace that can reach nothing else.
//!
//! Whatever happens (a failure, a deleted Drill, an operator that is killed), the namespace goes: the clean-up is a
//! step of the journal that follows every end, and the object's finalizer waits for it.

pub mod build;
pub mod executor;
pub mod isolation;
pub mod mirror;
mod prepare;
mod prove;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::condition::{reasons, types};
use holdfast_api::run::RunPhase;
use holdfast_api::{Conditions, Drill, DrillStatus, RecoveryPlan};
use holdfast_recovery::journal::Opening;
use holdfast_recovery::{Graph, Retry, RunEnd};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;

use crate::execution::drive::{DriveError, Run, drive};
use crate::execution::opening::{Ground, ground, opening, spec_of};
use crate::execution::{faulty_journal, finalizer, plan_of};
use crate::recovery_plan::observe::{Facts, observe};
use crate::recovery_plan::validate::{faults, summary};
use crate::{Context, Error};

use executor::DrillExecutor;
use mirror::DrillMirror;

/// After another operator went on with a run, it is looked at again this much later.
const SUPERSEDED: Duration = Duration::from_secs(10);
/// A rehearsal that does not work has shown what it was for: it is not repeated for ever.
const RETRY: Retry =
    Retry { first: Duration::from_millis(200), longest: Duration::from_secs(10), max_attempts: Some(8) };

/// Admits or refuses the Drill, and carries it out.
///
/// # Errors
/// [`DriveError`]; it is called again.
pub async fn reconcile(drill: Arc<Drill>, ctx: Arc<Context>) -> Result<Action, DriveError> {
    ctx.stores.are_ready().await;
    let status = newest_status(&ctx, &drill);
    let deleted = drill.metadata.deletion_timestamp.is_some();
    if status.phase.is_over() || (deleted && status.phase == RunPhase::Pending) {
        finalizer::remove_if_present(&ctx, drill.as_ref()).await?;
        return Ok(Action::await_change());
    }
    if status.phase == RunPhase::Running {
        return carry_out(&ctx, drill, status, None).await;
    }
    match begin(&ctx, &drill, &status).await? {
        Some((status, opening)) => carry_out(&ctx, drill, status, Some(opening)).await,
        None => Ok(Action::await_change()),
    }
}

/// A change of status wakes nobody, so the object at hand may be older than the store.
fn newest_status(ctx: &Context, drill: &Drill) -> DrillStatus {
    let newest = ctx.stores.drills.get(&ObjectRef::from_obj(drill));
    let newest = newest.filter(|d| d.uid() == drill.uid()).and_then(|d| d.status.clone());
    newest.or_else(|| drill.status.clone()).unwrap_or_default()
}

/// Admits the Drill (its status is then Running) or refuses it.
async fn begin(
    ctx: &Context,
    drill: &Drill,
    status: &DrillStatus,
) -> Result<Option<(DrillStatus, Opening)>, DriveError> {
    match admit(ctx, drill).await? {
        Ok((plan, facts)) => {
            let opening = opening(ctx, "drill", drill, (&plan, &facts), &drill.spec.reason)?;
            let status = running(drill, status, &facts, &opening);
            futures::future::try_join(finalizer::add(ctx, drill), ctx.patch_status(drill, &status)).await?;
            let note = format!("plan {} ({})", opening.plan_name, opening.plan_hash);
            ctx.normal(drill, "Admitted", "Admit", &note).await;
            Ok(Some((status, opening)))
        }
        Err((reason, message)) => {
            let refused = refused(drill, status, reason, &message);
            ctx.patch_status(drill, &refused).await?;
            ctx.publish_transitions(drill, &status.conditions, &refused.conditions).await;
            Ok(None)
        }
    }
}

async fn admit(ctx: &Context, drill: &Drill) -> Result<Result<(RecoveryPlan, Facts), (&'static str, String)>, Error> {
    let namespace = drill.namespace().unwrap_or_default();
    let name = &drill.spec.plan.name;
    let found = ctx.api::<RecoveryPlan>(&namespace).get_opt(name).await;
    let Some(plan) = found.map_err(Error::kube(format!("read RecoveryPlan {namespace}/{name}")))? else {
        let message = format!(
            "there is no RecoveryPlan {namespace}/{name}. kubectl -n {namespace} get recoveryplans lists them; create another Drill that names one"
        );
        return Ok(Err((reasons::UNKNOWN_PLAN, message)));
    };
    let facts = observe(ctx, &namespace, &plan.spec).await?;
    Ok(match summary(&faults(&namespace, &plan.spec, &facts)) {
        None => Ok((plan, facts)),
        Some((reason, message)) => {
            let message = format!("{reason}: {message}. Mend the plan and create another Drill");
            Err((reasons::PLAN_NOT_VALID, message))
        }
    })
}

fn running(drill: &Drill, old: &DrillStatus, facts: &Facts, opening: &Opening) -> DrillStatus {
    let mut conditions = Conditions::of(&old.conditions, drill.metadata.generation, Timestamp::now());
    conditions.set(types::COMPLETE, false, reasons::RUNNING, "it begins");
    conditions.set(types::FAILED, false, reasons::RUNNING, "it goes on");
    let uid = drill.uid().unwrap_or_default();
    DrillStatus {
        observed_generation: drill.metadata.generation,
        phase: RunPhase::Running,
        namespace: Some(build::namespace_name(&drill.name_any(), &uid)),
        plan_hash: Some(opening.plan_hash.clone()),
        runbook_hash: Some(opening.runbook_hash.clone()),
        vault: facts.vault().map(str::to_owned),
        evidence: Some(format!("run/{uid}")),
        conditions: conditions.into_vec(),
        ..DrillStatus::default()
    }
}

fn refused(drill: &Drill, old: &DrillStatus, reason: &str, message: &str) -> DrillStatus {
    let mut conditions = Conditions::of(&old.conditions, drill.metadata.generation, Timestamp::now());
    conditions.set(types::COMPLETE, false, reason, message);
    conditions.set(types::FAILED, true, reason, message);
    DrillStatus {
        observed_generation: drill.metadata.generation,
        phase: RunPhase::Refused,
        conditions: conditions.into_vec(),
        ..DrillStatus::default()
    }
}

/// Runs it from wherever its journal stands. `admitted` is there when it was admitted just now.
async fn carry_out(
    ctx: &Arc<Context>,
    drill: Arc<Drill>,
    status: DrillStatus,
    admitted: Option<Opening>,
) -> Result<Action, DriveError> {
    let vault_name = status.vault.clone().unwrap_or_default();
    let Ground { vault, identities, journal, begun } =
        ground(ctx, drill.as_ref(), &vault_name, admitted.is_some()).await?;
    let opening = match begun.or(admitted) {
        Some(opening) => opening,
        // Killed between its admission and the first entry: nothing has happened yet.
        None => match begin(ctx, &drill, &DrillStatus::default()).await? {
            Some((_, opening)) => opening,
            None => return Ok(Action::await_change()),
        },
    };
    let spec = spec_of(drill.as_ref(), &opening)?;
    let plan = plan_of(&spec);
    let graph = Graph::drill(&plan).map_err(|p| faulty_journal(drill.as_ref(), &format!("{p:?}")))?;
    let uid = drill.uid().unwrap_or_default();
    let executor = DrillExecutor {
        ctx: ctx.clone(),
        namespace: drill.namespace().unwrap_or_default(),
        target: build::namespace_name(&drill.name_any(), &uid),
        uid: uid.clone(),
        spec,
        vault_name,
        vault,
        identities,
    };
    let span = tracing::info_span!(parent: None, "drill", otel.name = "drill", run = %uid, plan = opening.plan_name);
    let conditions = status.conditions.clone();
    let mirror = DrillMirror { ctx: ctx.clone(), drill: drill.clone(), graph: graph.clone(), plan, last: status };
    let run = Run { graph, executor, journal, opening, retry: RETRY, span };
    match drive(ctx, drill.as_ref(), run, mirror, conditions).await? {
        RunEnd::Finished(..) => {
            finalizer::remove(ctx, drill.as_ref()).await?;
            Ok(Action::await_change())
        }
        RunEnd::Superseded => Ok(Action::requeue(SUPERSEDED)),
    }
}
