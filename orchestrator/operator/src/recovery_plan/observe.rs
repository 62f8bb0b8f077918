//! What the cluster has of what a plan names.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use holdfast_api::condition::types;
use holdfast_api::recovery_plan::LastDrill;
use holdfast_api::standby_database::Role;
use holdfast_api::{Drill, RecoveryPlanSpec, StandbyDatabase, condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::{Context, Error};

/// What the cluster has of what a plan names.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// StandbyDatabases by name.
    pub standbys: BTreeMap<String, StandbyFacts>,
    /// Deployments that exist.
    pub workloads: BTreeSet<String>,
    /// Services that exist.
    pub services: BTreeSet<String>,
}

impl Facts {
    /// The Vault of the databases; the first one's, when they differ.
    pub fn vault(&self) -> Option<&str> {
        self.standbys.values().next().map(|s| s.vault.as_str())
    }
}

/// A StandbyDatabase, as far as a plan depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyFacts {
    /// Its Vault.
    pub vault: String,
    /// Name of the database in the vault.
    pub source: String,
    /// Whether it is promoted, by its status.
    pub is_promoted: bool,
    /// Why it is not ready, if it is not.
    pub not_ready: Option<String>,
    /// How far it has replayed.
    pub replayed_lsn: Option<String>,
    /// How far it is behind the vault, in seconds.
    pub lag_seconds: Option<f64>,
}

impl StandbyFacts {
    /// Of a StandbyDatabase.
    pub fn of(standby: &StandbyDatabase) -> Self {
        let status = standby.status.clone().unwrap_or_default();
        let ready = condition::find(&status.conditions, types::READY);
        let not_ready = match ready {
            Some(c) if c.status == holdfast_api::ConditionStatus::True => None,
            Some(c) => Some(format!("{}: {}", c.reason, c.message)),
            None => Some("it has no status yet".to_owned()),
        };
        let promoted = condition::is_true(&status.conditions, types::PROMOTED);
        Self {
            vault: standby.spec.vault.name.clone(),
            source: standby.spec.source.clone(),
            is_promoted: promoted || status.role == Some(Role::Primary),
            not_ready,
            replayed_lsn: status.replayed_lsn,
            lag_seconds: status.lag_seconds,
        }
    }
}

/// Looks: StandbyDatabases in the store, workloads and Services at the API server.
///
/// # Errors
/// [`Error::Kube`].
pub async fn observe(ctx: &Context, namespace: &str, spec: &RecoveryPlanSpec) -> Result<Facts, Error> {
    let names = spec.databases.iter().map(|d| d.standby.as_str());
    let standbys = names.filter_map(|name| {
        let found = ctx.stores.standby_databases.get(&ObjectRef::new(name).within(namespace))?;
        Some((name.to_owned(), StandbyFacts::of(&found)))
    });
    let workloads: BTreeSet<&str> =
        spec.services.iter().flat_map(|s| s.workloads.iter().map(|w| w.name.as_str())).collect();
    let services: BTreeSet<&str> =
        spec.services.iter().filter_map(|s| s.traffic.as_ref().map(|t| t.service.as_str())).collect();
    let (workloads, services) = futures::future::try_join(
        existing::<Deployment>(ctx, namespace, workloads),
        existing::<Service>(ctx, namespace, services),
    )
    .await?;
    Ok(Facts { standbys: standbys.collect(), workloads, services })
}

async fn existing<K: crate::apply::Applicable>(
    ctx: &Context,
    namespace: &str,
    names: BTreeSet<&str>,
) -> Result<BTreeSet<String>, Error> {
    let api = &ctx.api::<K>(namespace);
    let look = names.into_iter().map(|name| async move {
        let found = api.get_opt(name).await;
        let found = found.map_err(Error::kube(format!("read {} {namespace}/{name}", K::kind(&()))))?;
        Ok::<_, Error>(found.map(|_| name.to_owned()))
    });
    Ok(try_join_all(look).await?.into_iter().flatten().collect())
}

/// The drill of this plan that came to an end last.
pub fn last_drill(ctx: &Context, namespace: &str, plan: &str) -> Option<LastDrill> {
    let drills = ctx.stores.drills.state();
    let over = drills.iter().filter(|d| d.namespace().as_deref() == Some(namespace) && d.spec.plan.name == plan);
    over.filter_map(|d| of_drill(d)).max_by_key(|d| d.finished_at)
}

fn of_drill(drill: &Drill) -> Option<LastDrill> {
    let status = drill.status.as_ref().filter(|s| s.phase.is_over() && s.finished_at.is_some())?;
    Some(LastDrill {
        name: drill.name_any(),
        outcome: status.phase,
        finished_at: status.finished_at,
        serving_after_seconds: status.serving_after_seconds,
        plan_hash: status.plan_hash.clone(),
    })
}
