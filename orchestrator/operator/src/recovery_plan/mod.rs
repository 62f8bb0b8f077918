//! The RecoveryPlan controller: a plan's faults are known before it is needed.

pub mod observe;
pub mod store;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::condition::{reasons, types};
use holdfast_api::{Conditions, RecoveryPlan, RecoveryPlanStatus};
use holdfast_recovery::canonical;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;

use crate::apply::describe;
use crate::execution::plan_of;
use crate::runbook::Page;
use crate::{Context, Error};

use observe::Facts;
use store::Stored;
use validate::{Fault, faults, not_ready, promoted, summary};

/// What a plan depends on changes without the plan: it is looked at this often.
const AGAIN: Duration = Duration::from_secs(5);

/// Checks the plan against the cluster, stores it in the vault, and says so in its status.
///
/// # Errors
/// When the API server does not answer.
pub async fn reconcile(plan: Arc<RecoveryPlan>, ctx: Arc<Context>) -> Result<Action, Error> {
    if plan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    ctx.stores.are_ready().await;
    let namespace = plan.namespace().unwrap_or_default();
    let facts = observe::observe(&ctx, &namespace, &plan.spec).await?;
    let old = plan_status(&ctx, &plan);
    let checked = check(&ctx, &plan, &facts, old.stored.as_deref()).await?;
    let status = status(&plan, &old, checked, observe::last_drill(&ctx, &namespace, &plan.name_any()));
    if status != old {
        ctx.patch_status(plan.as_ref(), &status).await?;
        ctx.publish_transitions(plan.as_ref(), &old.conditions, &status.conditions).await;
    }
    Ok(Action::requeue(AGAIN))
}

/// The newest status that was watched: a change of status wakes nobody, so the object at hand may be old.
fn plan_status(ctx: &Context, plan: &RecoveryPlan) -> RecoveryPlanStatus {
    let reference = ObjectRef::from_obj(plan);
    let newest = ctx.stores.recovery_plans.get(&reference);
    newest.and_then(|p| p.status.clone()).or_else(|| plan.status.clone()).unwrap_or_default()
}

/// What was found out about a plan.
struct Checked {
    order: Vec<Vec<String>>,
    hash: String,
    runbook_hash: Option<String>,
    stored: Result<String, Fault>,
    faults: Vec<Fault>,
    not_ready: Vec<Fault>,
    /// Databases that take writes here already.
    promoted: Vec<String>,
}

async fn check(ctx: &Context, plan: &RecoveryPlan, facts: &Facts, already: Option<&str>) -> Result<Checked, Error> {
    let namespace = plan.namespace().unwrap_or_default();
    let hash = hash_of(plan)?;
    let faults = faults(&namespace, &plan.spec, facts);
    let (runbook_hash, stored) = if faults.is_empty() {
        let text = page(ctx, &namespace, plan, facts, &hash).render();
        let stored = keep(ctx, plan, facts, (&hash, &text), already).await;
        (Some(canonical::hash_text(&text)), stored)
    } else {
        let message = "a plan with a fault is not stored".to_owned();
        (None, Err(Fault { reason: reasons::PLAN_NOT_STORED, message }))
    };
    Ok(Checked {
        order: plan_of(&plan.spec).waves(),
        hash,
        runbook_hash,
        stored,
        not_ready: not_ready(&plan.spec, facts),
        promoted: promoted(&plan.spec, facts),
        faults,
    })
}

/// The hash of a plan's spec.
///
/// # Errors
/// [`Error::Json`], which is a bug.
pub fn hash_of(plan: &RecoveryPlan) -> Result<String, Error> {
    canonical::hash_of(&plan.spec).map_err(|source| Error::Json { what: describe(plan), source })
}

/// The runbook's page of this plan, without what changes from minute to minute.
pub fn page(ctx: &Context, namespace: &str, plan: &RecoveryPlan, facts: &Facts, hash: &str) -> Page {
    let vault = facts.vault().unwrap_or_default();
    let vault = ctx.stores.vaults.get(&ObjectRef::new(vault).within(namespace));
    Page {
        namespace: namespace.to_owned(),
        plan: plan.name_any(),
        spec: plan.spec.clone(),
        hash: hash.to_owned(),
        vault: vault.map(|v| (v.name_any(), v.spec.clone())),
        sources: facts.standbys.iter().map(|(name, s)| (name.clone(), s.source.clone())).collect(),
        live: None,
    }
}

async fn keep(
    ctx: &Context,
    plan: &RecoveryPlan,
    facts: &Facts,
    (hash, text): (&str, &str),
    already: Option<&str>,
) -> Result<String, Fault> {
    let vault = facts.vault().unwrap_or_default();
    let (namespace, name) = (plan.namespace().unwrap_or_default(), plan.name_any());
    let stored = Stored { namespace: &namespace, plan: &name, spec: &plan.spec, plan_hash: hash, runbook: text, vault };
    store::store(ctx, &stored, already).await.map_err(|e| Fault {
        reason: reasons::PLAN_NOT_STORED,
        message: format!("plan and runbook are not in the vault {vault}: {e}"),
    })
}

fn status(
    plan: &RecoveryPlan,
    old: &RecoveryPlanStatus,
    checked: Checked,
    last_drill: Option<holdfast_api::recovery_plan::LastDrill>,
) -> RecoveryPlanStatus {
    let mut conditions = Conditions::of(&old.conditions, plan.metadata.generation, Timestamp::now());
    match summary(&checked.faults) {
        Some((reason, message)) => conditions.set(types::VALID, false, reason, message),
        None => conditions.set(types::VALID, true, reasons::PLAN_VALID, "the plan has no fault"),
    };
    let in_the_way = summary(&checked.faults)
        .or_else(|| summary(&checked.not_ready))
        .or_else(|| checked.stored.as_ref().err().map(|f| (f.reason, f.message.clone())));
    match in_the_way {
        Some((reason, message)) => conditions.set(types::READY, false, reason, message),
        None if !checked.promoted.is_empty() => conditions.set(
            types::READY,
            false,
            reasons::CARRIED_OUT,
            format!("this site is the primary: {} take writes here", checked.promoted.join(", ")),
        ),
        None => conditions.set(types::READY, true, reasons::AVAILABLE, "the plan can be carried out now"),
    };
    RecoveryPlanStatus {
        observed_generation: plan.metadata.generation,
        order: checked.order,
        hash: Some(checked.hash),
        runbook_hash: checked.runbook_hash,
        stored: checked.stored.ok(),
        // Drills may be deleted; what they showed stays.
        last_drill: last_drill.max_by_time(old.last_drill.clone()),
        conditions: conditions.into_vec(),
    }
}

trait MaxByTime {
    fn max_by_time(self, other: Self) -> Self;
}

impl MaxByTime for Option<holdfast_api::recovery_plan::LastDrill> {
    fn max_by_time(self, other: Self) -> Self {
        [self, other].into_iter().flatten().max_by_key(|d| d.finished_at)
    }
}
