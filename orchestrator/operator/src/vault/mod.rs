//! Vault: proves that the bucket holds what is locked in it, and says so.

mod observe;
mod status;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::Vault;
use jiff::Timestamp;
use kube::runtime::controller::Action;

pub(crate) use observe::reason;

use crate::{Context, Error};

/// How often a healthy vault is checked again.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// How soon a failed check is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Checks the bucket and writes the verdict into the status.
///
/// # Errors
/// When the API server cannot be asked. A bad bucket is a condition, not an error.
pub async fn reconcile(vault: Arc<Vault>, ctx: Arc<Context>) -> Result<Action, Error> {
    let result = step(&vault, &ctx).await;
    ctx.with_refusal_in_status(vault.as_ref(), result).await
}

async fn step(vault: &Vault, ctx: &Context) -> Result<Action, Error> {
    let old = vault.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    if let Some(wait) = status::rest(&old, vault.metadata.generation, now, CHECK_INTERVAL) {
        return Ok(Action::requeue(wait));
    }
    let observed = observe::observe(vault, ctx).await?;
    let new = status::derive(vault, &observed, now);
    let ready = holdfast_api::condition::is_true(&new.conditions, "Ready");
    ctx.patch_status(vault, &new).await?;
    ctx.publish_transitions(vault, &old.conditions, &new.conditions).await;
    Ok(Action::requeue(if ready { CHECK_INTERVAL } else { RETRY_INTERVAL }))
}
