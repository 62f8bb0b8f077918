//! How a run is opened, and what it is resumed with.

use std::time::Duration;

use holdfast_api::{RecoveryPlan, RecoveryPlanSpec};
use holdfast_recovery::RunState;
use holdfast_recovery::canonical;
use holdfast_recovery::journal::{Journal, JournalError, Opening};
use holdfast_vault::{Identities, Vault};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::sleep;

use super::drive::DriveError;
use super::faulty_journal;
use super::journal::VaultJournal;
use crate::apply::{Applicable, describe};
use crate::recovery_plan::{self, observe::Facts};
use crate::{Context, Error};

/// How often the journal is asked for before the reconcile gives up (and is repeated).
const PATIENCE: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// The first entry of the journal of `object`, which asks for this plan.
///
/// # Errors
/// When the plan cannot be hashed, which is a bug.
pub fn opening<K: Applicable>(
    ctx: &Context,
    kind: &str,
    object: &K,
    (plan, facts): (&RecoveryPlan, &Facts),
    reason: &str,
) -> Result<Opening, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let plan_hash = recovery_plan::hash_of(plan)?;
    let page = recovery_plan::page(ctx, &namespace, plan, facts, &plan_hash);
    let spec = serde_json::to_value(&plan.spec);
    Ok(Opening {
        kind: kind.to_owned(),
        requested_by: format!("{namespace}/{}", object.name_any()),
        requested_at: object.creation_timestamp().map_or_else(Timestamp::now, |t| t.0),
        plan_name: plan.name_any(),
        plan_hash,
        runbook_hash: canonical::hash_text(&page.render()),
        plan: spec.map_err(|source| Error::Json { what: describe(plan), source })?,
        reason: reason.to_owned(),
    })
}

/// What a run works with.
pub struct Ground {
    /// The vault that holds the databases and the journal.
    pub vault: Vault,
    /// The site's private keys.
    pub identities: Identities,
    /// The journal of the run.
    pub journal: VaultJournal,
    /// What the journal says that the run was opened with; none if it has not begun, or was admitted just now.
    pub begun: Option<Opening>,
}

/// Opens the vault and the journal of a run. The journal of one that was admitted just now is not read: the runner
/// does that anyway, and seconds count.
///
/// # Errors
/// When the vault cannot be opened or the journal cannot be read.
pub async fn ground<K: Applicable>(ctx: &Context, object: &K, vault: &str, is_new: bool) -> Result<Ground, DriveError> {
    let namespace = object.namespace().unwrap_or_default();
    let access = ctx.open_vault(&namespace, vault).await?;
    let identities = match access.identities {
        Some(identities) => identities,
        // It says what is missing.
        None => ctx.vault_identities(&namespace, vault).await?,
    };
    let uid = object.uid().unwrap_or_default();
    let journal = VaultJournal(access.vault.journal(&uid).map_err(|e| faulty_journal(object, &e))?);
    let begun = if is_new { None } else { begun(object, &journal).await? };
    Ok(Ground { vault: access.vault, identities, journal, begun })
}

/// Reads the journal's first word. A vault that is away for a moment is waited for: a run stands in there.
async fn begun<K: Applicable>(object: &K, journal: &VaultJournal) -> Result<Option<Opening>, DriveError> {
    for _ in 0..PATIENCE {
        match journal.load().await {
            Ok(records) => return Ok(RunState::from_records(&records).opening),
            Err(JournalError::Unavailable(reason)) => tracing::warn!(reason, "the journal cannot be read yet"),
            Err(source) => return Err(DriveError::Journal { object: describe(object), source: source.into() }),
        }
        sleep(PAUSE).await;
    }
    let reason = "the vault does not answer; it is tried again".to_owned();
    Err(DriveError::Journal { object: describe(object), source: JournalError::Unavailable(reason).into() })
}

/// The plan that a run was opened with.
///
/// # Errors
/// When the journal's plan is not understood.
pub fn spec_of<K: Applicable>(object: &K, opening: &Opening) -> Result<RecoveryPlanSpec, DriveError> {
    let spec = serde_json::from_value(opening.plan.clone());
    Ok(spec.map_err(|source| Error::Json { what: describe(object), source })?)
}
