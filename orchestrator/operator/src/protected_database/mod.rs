//! ProtectedDatabase: runs an agent for a PostgreSQL server and says how safe the server is.

mod build;
mod observe;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::ProtectedDatabase;
use jiff::Timestamp;
use kube::runtime::controller::Action;

pub(crate) use build::durability;
pub(crate) use observe::{is_new, same_name};
pub(crate) use validate::{Fault, lost_name, usable_vault};

use crate::{Context, Error};

/// How often the status follows the agent.
const LIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Applies the agent when the spec is sound, and writes what the agent says into the status either way: a spec
/// that became unsound changes nothing of what runs.
///
/// # Errors
/// When the API server cannot be asked, or refuses what is applied.
pub async fn reconcile(database: Arc<ProtectedDatabase>, ctx: Arc<Context>) -> Result<Action, Error> {
    let result = step(&database, &ctx).await;
    ctx.with_refusal_in_status(database.as_ref(), result).await
}

async fn step(database: &ProtectedDatabase, ctx: &Context) -> Result<Action, Error> {
    if database.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let observed = observe::observe(database, ctx).await?;
    let verdict = validate::validate(database, &observed);
    if let Ok(vault) = &verdict {
        build::build(database, vault, &ctx.image)?.apply(ctx).await?;
    }
    let old = database.status.clone().unwrap_or_default();
    let fault = verdict.as_ref().err();
    let new = status::derive(database, fault, &observed.agent, Timestamp::now());
    if new != old {
        ctx.patch_status(database, &new).await?;
        ctx.publish_transitions(database, &old.conditions, &new.conditions).await;
    }
    Ok(Action::requeue(LIVE_INTERVAL))
}
