//! The plan and its runbook in the vault, where they are found when the cluster is gone.

use bytes::Bytes;
use holdfast_api::{RecoveryPlanSpec, StandbyDatabase, Vault};
use holdfast_recovery::canonical;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use serde::Serialize;

use crate::{Context, Error};

/// What is stored: enough to make the standby site's objects again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    format: u32,
    namespace: &'a str,
    plan: &'a str,
    plan_hash: &'a str,
    spec: &'a RecoveryPlanSpec,
    standbys: Vec<serde_json::Value>,
    vault: Option<serde_json::Value>,
    runbook: &'a str,
}

/// A plan that is ready to be stored.
pub struct Stored<'a> {
    /// Where the plan is.
    pub namespace: &'a str,
    /// Its name.
    pub plan: &'a str,
    /// Its spec.
    pub spec: &'a RecoveryPlanSpec,
    /// The hash of its spec.
    pub plan_hash: &'a str,
    /// Its runbook, without what changes from minute to minute.
    pub runbook: &'a str,
    /// The Vault of its databases.
    pub vault: &'a str,
}

/// Stores plan and runbook under the hash of both and says where. `already` is where they were stored last:
/// the same is not sent again.
///
/// # Errors
/// What the vault says, for a person.
pub async fn store(ctx: &Context, stored: &Stored<'_>, already: Option<&str>) -> Result<String, String> {
    let text = canonical::canonical_json(&document(ctx, stored)).map_err(|e| e.to_string())?;
    let hash = canonical::hash_text(&text);
    let key = format!("plan/{}/{hash}", stored.plan);
    if already == Some(key.as_str()) {
        return Ok(key);
    }
    let vault = ctx.vault(stored.namespace, stored.vault).await.map_err(|e: Error| e.to_string())?;
    vault.put_plan(stored.plan, &hash, Bytes::from(text)).await.map_err(|e| format!("{e}; {}", e.hint()))?;
    Ok(key)
}

fn document<'a>(ctx: &Context, stored: &Stored<'a>) -> Document<'a> {
    let within = |name: &str| ObjectRef::<StandbyDatabase>::new(name).within(stored.namespace);
    let standbys = stored.spec.databases.iter().filter_map(|d| {
        let standby = ctx.stores.standby_databases.get(&within(&d.standby))?;
        Some(serde_json::json!({ "name": standby.name_any(), "spec": standby.spec }))
    });
    let vault = ctx.stores.vaults.get(&ObjectRef::<Vault>::new(stored.vault).within(stored.namespace));
    Document {
        format: 1,
        namespace: stored.namespace,
        plan: stored.plan,
        plan_hash: stored.plan_hash,
        spec: stored.spec,
        standbys: standbys.collect(),
        vault: vault.map(|v| serde_json::json!({ "name": v.name_any(), "spec": v.spec })),
        runbook: stored.runbook,
    }
}
