//! Vault: proves that the bucket holds what is locked in it, and says so.

mod due;
pub(crate) mod metrics;
mod observe;
mod placed;
mod status;
mod suitability;
mod writers;

use std::sync::Arc;

use due::Due;
use holdfast_api::condition::{is_true, types};
use holdfast_api::{CHECK_NOW_ANNOTATION, Vault};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

pub(crate) use observe::reason;
pub(crate) use suitability::Suitability;

use crate::verification::own_part;
use crate::{Context, Error};

/// Checks the bucket and writes the verdict into the status.
///
/// # Errors
/// When the API server cannot be asked. A bad bucket is a condition, not an error.
pub async fn reconcile(vault: Arc<Vault>, ctx: Arc<Context>) -> Result<Action, Error> {
    let vault = own_part(Arc::unwrap_or_clone(vault));
    let result = step(&vault, &ctx).await;
    ctx.with_refusal_in_status(&vault, result).await
}

async fn step(vault: &Vault, ctx: &Context) -> Result<Action, Error> {
    let old = vault.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let asked = vault.annotations().get(CHECK_NOW_ANNOTATION).map(String::as_str);
    let probe = match due::due(&old, vault.metadata.generation, asked, now) {
        Due::Rest(wait) => return Ok(Action::requeue(wait)),
        Due::Reach => false,
        Due::Probe => true,
    };
    let observed = observe::observe(vault, ctx, probe).await?;
    let users = placed::users(vault, ctx);
    let new = status::derive(vault, &observed, users.as_ref(), now);
    ctx.vault_checks.observe(vault, &observed);
    let ready = is_true(&new.conditions, types::READY);
    ctx.patch_status(vault, &new).await?;
    ctx.publish_transitions(vault, &old.conditions, &new.conditions).await;
    Ok(Action::requeue(if ready { due::REACH_INTERVAL } else { due::RETRY_INTERVAL }))
}
