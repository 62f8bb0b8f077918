//! The page of the live plan, for `holdfast runbook`.

use holdfast_api::condition::{self, types};
use holdfast_api::{RecoveryPlan, RecoveryPlanStatus, StandbyDatabase, Vault};
use holdfast_recovery::canonical;
use jiff::Timestamp;
use kube::{Api, Client};

use super::{Live, LiveDatabase, Page};

/// Why the page cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RunbookError {
    /// There is no such plan.
    #[error(
        "there is no RecoveryPlan {namespace}/{plan}. `kubectl get recoveryplans --all-namespaces` lists them; when the cluster is lost, plan and runbook are in the vault under plan/{plan}/"
    )]
    NoPlan {
        /// Where it was looked for.
        namespace: String,
        /// Its name.
        plan: String,
    },
    /// The API server does not answer.
    #[error(
        "the cluster cannot be read: {0}. Check KUBECONFIG and the context; when the cluster is lost, plan and runbook are in the vault under plan/"
    )]
    Kube(#[from] Box<kube::Error>),
    /// The plan has no hash, which is a bug.
    #[error("the plan cannot be hashed: {0}")]
    Hash(#[from] serde_json::Error),
}

/// Reads the plan and what it names, and renders the page with what is true now.
///
/// # Errors
/// [`RunbookError`].
pub async fn from_cluster(client: Client, namespace: &str, plan: &str) -> Result<String, RunbookError> {
    let plans: Api<RecoveryPlan> = Api::namespaced(client.clone(), namespace);
    let Some(object) = plans.get_opt(plan).await.map_err(Box::new)? else {
        return Err(RunbookError::NoPlan { namespace: namespace.to_owned(), plan: plan.to_owned() });
    };
    let standbys = standbys(&client, namespace, &object).await?;
    let vault = match standbys.iter().flatten().next() {
        Some(first) => {
            let vaults: Api<Vault> = Api::namespaced(client, namespace);
            let name = &first.spec.vault.name;
            vaults.get_opt(name).await.map_err(Box::new)?.map(|v| (name.clone(), v.spec))
        }
        None => None,
    };
    let named = object.spec.databases.iter().zip(&standbys);
    let sources = named.filter_map(|(d, s)| Some((d.standby.clone(), s.as_ref()?.spec.source.clone())));
    let mut page = Page {
        namespace: namespace.to_owned(),
        plan: plan.to_owned(),
        hash: canonical::hash_of(&object.spec)?,
        vault,
        sources: sources.collect(),
        spec: object.spec.clone(),
        live: None,
    };
    let runbook_hash = canonical::hash_text(&page.render());
    page.live = Some(live(&object, &standbys, runbook_hash));
    Ok(page.render())
}

async fn standbys(
    client: &Client,
    namespace: &str,
    plan: &RecoveryPlan,
) -> Result<Vec<Option<StandbyDatabase>>, RunbookError> {
    let api: Api<StandbyDatabase> = Api::namespaced(client.clone(), namespace);
    let mut found = Vec::new();
    for database in &plan.spec.databases {
        found.push(api.get_opt(&database.standby).await.map_err(Box::new)?);
    }
    Ok(found)
}

fn live(plan: &RecoveryPlan, standbys: &[Option<StandbyDatabase>], runbook_hash: String) -> Live {
    let status: RecoveryPlanStatus = plan.status.clone().unwrap_or_default();
    let ready = condition::find(&status.conditions, types::READY);
    let databases = plan.spec.databases.iter().zip(standbys);
    Live {
        at: Timestamp::now(),
        ready: ready.map_or("not checked yet".to_owned(), |c| format!("{}: {}", c.reason, c.message)),
        databases: databases.map(|(d, s)| database(&d.name, s.as_ref())).collect(),
        last_drill: status.last_drill,
        runbook_hash,
    }
}

fn database(name: &str, standby: Option<&StandbyDatabase>) -> LiveDatabase {
    let status = standby.and_then(|s| s.status.clone());
    let state = match (standby, &status) {
        (None, _) => "its StandbyDatabase does not exist".to_owned(),
        (_, None) => "no status yet".to_owned(),
        (_, Some(status)) => format!("{:?}", status.phase),
    };
    let status = status.unwrap_or_default();
    LiveDatabase { name: name.to_owned(), state, replayed_lsn: status.replayed_lsn, lag_seconds: status.lag_seconds }
}
