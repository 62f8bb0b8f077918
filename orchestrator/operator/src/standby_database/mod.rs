//! StandbyDatabase: restores a database from the vault and keeps it following, ready to be promoted.

mod archive;
mod build;
mod lag;
mod observe;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::StandbyDatabase;
use jiff::Timestamp;
use kube::runtime::controller::Action;

pub use build::{claim_name, objects};
pub(crate) use lag::LagTrackers;

use crate::{Context, Error};

/// How often the status follows the server.
const LIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How often while it is on its way up.
const STARTING_INTERVAL: Duration = Duration::from_secs(1);

/// Applies the standby when the spec is sound, and writes what its parts say into the status either way.
///
/// # Errors
/// When the API server cannot be asked, or refuses what is applied.
pub async fn reconcile(standby: Arc<StandbyDatabase>, ctx: Arc<Context>) -> Result<Action, Error> {
    let result = step(&standby, &ctx).await;
    ctx.with_refusal_in_status(standby.as_ref(), result).await
}

async fn step(standby: &StandbyDatabase, ctx: &Context) -> Result<Action, Error> {
    if standby.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let mut observed = observe::observe(standby, ctx).await?;
    let verdict = validate::validate(standby, &observed);
    if let Ok(vault) = &verdict {
        observed.instance_id = Some(build::apply(standby, vault, status::is_promoted(standby, &observed), ctx).await?);
    }
    let old = standby.status.clone().unwrap_or_default();
    let new = status::derive(standby, verdict.as_ref().err(), &observed, Timestamp::now());
    if new != old {
        ctx.patch_status(standby, &new).await?;
        ctx.publish_transitions(standby, &old.conditions, &new.conditions).await;
    }
    Ok(Action::requeue(match observed.server {
        Ok(_) => LIVE_INTERVAL,
        Err(_) => STARTING_INTERVAL,
    }))
}
