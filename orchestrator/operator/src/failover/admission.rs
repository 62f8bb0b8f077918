//! Whether a Failover may begin.

use holdfast_api::condition::reasons;
use holdfast_api::run::RunPhase;
use holdfast_api::{Failover, RecoveryPlan};
use kube::api::ListParams;
use kube::{Resource, ResourceExt};
use tokio::sync::Mutex;

use crate::recovery_plan::observe::{Facts, observe};
use crate::recovery_plan::validate::{faults, promoted, summary};
use crate::{Context, Error};

/// One decision at a time: who is admitted says so in its status before the next one looks.
pub(super) static DOOR: Mutex<()> = Mutex::const_new(());

/// Why a Failover is not begun, and never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason for a condition.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What a Failover is begun with.
pub struct Admitted {
    /// The plan as it is now.
    pub plan: RecoveryPlan,
    /// What the cluster has of it.
    pub facts: Facts,
}

/// Decides; the API server is asked, not the stores.
///
/// # Errors
/// When the API server does not answer: nothing is decided then.
pub async fn admit(ctx: &Context, failover: &Failover) -> Result<Result<Admitted, Refusal>, Error> {
    let namespace = failover.namespace().unwrap_or_default();
    let name = &failover.spec.plan.name;
    let found = ctx.api::<RecoveryPlan>(&namespace).get_opt(name).await;
    let found = found.map_err(Error::kube(format!("read RecoveryPlan {namespace}/{name}")))?;
    let Some(plan) = found else {
        return Ok(Err(unknown_plan(&namespace, name)));
    };
    let (facts, all) = futures::future::try_join(observe(ctx, &namespace, &plan.spec), all(ctx, &namespace)).await?;
    if let Some((reason, message)) = summary(&faults(&namespace, &plan.spec, &facts)) {
        let message = format!("{reason}: {message}. Mend the plan and create another Failover");
        return Ok(Err(Refusal { reason: reasons::PLAN_NOT_VALID, message }));
    }
    if let Some(rival) = rival(failover, &all) {
        let message = format!(
            "Failover {rival} carries out plan {name:?} and is not over; follow it: kubectl -n {namespace} get failover {rival} --watch"
        );
        return Ok(Err(Refusal { reason: reasons::ANOTHER_FAILOVER_RUNS, message }));
    }
    let promoted = promoted(&plan.spec, &facts);
    if !promoted.is_empty() {
        let message = format!(
            "this site is the primary already: {} take writes here. There is nothing to fail over to; nothing was done",
            promoted.join(", ")
        );
        return Ok(Err(Refusal { reason: reasons::ALREADY_PROMOTED, message }));
    }
    Ok(Ok(Admitted { plan, facts }))
}

fn unknown_plan(namespace: &str, name: &str) -> Refusal {
    let message = format!(
        "there is no RecoveryPlan {namespace}/{name}. kubectl -n {namespace} get recoveryplans lists them; create another Failover that names one"
    );
    Refusal { reason: reasons::UNKNOWN_PLAN, message }
}

async fn all(ctx: &Context, namespace: &str) -> Result<Vec<Failover>, Error> {
    let list = ctx.api::<Failover>(namespace).list(&ListParams::default()).await;
    Ok(list.map_err(Error::kube(format!("list Failovers in {namespace}")))?.items)
}

/// The other Failover of the same plan that keeps this one from beginning: one that runs, or an older one
/// that is not over. Of two that came at once the older one goes on.
pub fn rival(me: &Failover, all: &[Failover]) -> Option<String> {
    let others = all.iter().filter(|f| f.uid() != me.uid() && f.spec.plan == me.spec.plan);
    let phase = |f: &Failover| f.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let mut rivals = others.filter(|f| match phase(f) {
        RunPhase::Running => true,
        RunPhase::Pending => age(f) < age(me) && f.meta().deletion_timestamp.is_none(),
        _ => false,
    });
    rivals.next().map(ResourceExt::name_any)
}

/// What is smaller is older.
fn age(failover: &Failover) -> (Option<jiff::Timestamp>, String) {
    (failover.meta().creation_timestamp.as_ref().map(|t| t.0), failover.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn failover(name: &str, second: u8, plan: &str, status: Value) -> Failover {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Failover",
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"plan": {"name": plan}, "reason": "test"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn the_one_that_runs_or_the_older_one_goes_on() {
        let me = failover("me", 5, "p", json!(null));
        let table = [
            (failover("older", 4, "p", json!(null)), Some("older")),
            (failover("younger", 6, "p", json!(null)), None),
            (failover("younger", 6, "p", json!({"phase": "Running"})), Some("younger")),
            (failover("older", 4, "p", json!({"phase": "Succeeded"})), None),
            (failover("older", 4, "p", json!({"phase": "Refused"})), None),
            (failover("older", 4, "other", json!(null)), None),
            (failover("as-old", 5, "p", json!(null)), Some("as-old")),
            (failover("zz-as-old", 5, "p", json!(null)), None),
        ];
        for (other, expected) in table {
            let name = other.name_any();
            let all = [me.clone(), other];
            assert_eq!(rival(&me, &all).as_deref(), expected, "{name}");
        }
    }
}
