//! What every reconcile shares.

use std::sync::Arc;
use std::time::Duration;

use holdfast_api::{Drill, Failover, ProtectedDatabase, RecoveryPlan, StandbyDatabase, Vault};
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store, store::Writer};
use tokio::sync::{Semaphore, watch};

use crate::apply::AppliedCache;
use crate::database_metrics::DatabaseMetrics;
use crate::execution::metrics::RunMetrics;
use crate::metrics::Metrics;
use crate::pod::AddressCache;
use crate::standby_database::LagTrackers;
use crate::vault::Suitability;
use crate::vault::metrics::CheckMetrics;
use crate::vault_access::VaultCache;
use crate::verification::metrics::VerificationMetrics;

/// How long a role may take to answer `/status`.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What every reconcile shares: clients, caches, metrics.
///
/// Its helpers live beside what they touch: [`crate::apply`] (objects and status), [`crate::events`],
/// [`crate::vault_access`] (opening a Vault), [`crate::pod`] (finding pods), [`crate::role`] (asking agents,
/// relays and PostgreSQL servers).
pub struct Context {
    /// The API server.
    pub client: Client,
    /// For `/status` of agents and relays.
    pub http: reqwest::Client,
    /// Metrics, also of kinds that register their own.
    pub metrics: Metrics,
    /// Metrics of failovers and drills.
    pub runs: RunMetrics,
    pub(crate) databases: DatabaseMetrics,
    /// Metrics of the checks of vaults.
    pub(crate) vault_checks: CheckMetrics,
    /// Metrics of the verification of vaults.
    pub(crate) verification: VerificationMetrics,
    /// The image of agents, relays and restores: the operator's own.
    pub image: String,
    /// The operator's namespace.
    pub namespace: String,
    /// What the API server has, as last watched.
    pub stores: Stores,
    pub(crate) recorder: Recorder,
    pub(crate) vaults: VaultCache,
    pub(crate) applied: AppliedCache,
    pub(crate) addresses: AddressCache,
    pub(crate) lags: LagTrackers,
    pub(crate) suitability: Suitability,
    /// Whose turn it is to read a log for its last record.
    pub(crate) floors: Semaphore,
}

impl Context {
    /// A context for an operator that runs in `namespace` from `image`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(client: Client, namespace: String, image: String, stores: Stores) -> Result<Arc<Self>, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(STATUS_TIMEOUT).no_proxy().build()?;
        let reporter = Reporter { controller: "holdfast".to_owned(), instance: std::env::var("POD_NAME").ok() };
        let metrics = Metrics::new();
        Ok(Arc::new(Self {
            runs: RunMetrics::new(&metrics),
            databases: DatabaseMetrics::new(&metrics),
            vault_checks: CheckMetrics::new(&metrics),
            verification: VerificationMetrics::new(&metrics),
            recorder: Recorder::new(client.clone(), reporter),
            client,
            http,
            metrics,
            image,
            namespace,
            stores,
            vaults: VaultCache::default(),
            applied: AppliedCache::default(),
            addresses: AddressCache::default(),
            suitability: Suitability::default(),
            floors: Semaphore::new(1),
            lags: LagTrackers::default(),
        }))
    }
}

/// How many kinds there are.
const KINDS: usize = 6;

/// Every object of our kinds in the cluster, as last watched. Reads cost nothing and may be a moment old:
/// what must be exact is read from the API server.
pub struct Stores {
    /// Vaults.
    pub vaults: Store<Vault>,
    /// ProtectedDatabases.
    pub protected_databases: Store<ProtectedDatabase>,
    /// StandbyDatabases.
    pub standby_databases: Store<StandbyDatabase>,
    /// RecoveryPlans.
    pub recovery_plans: Store<RecoveryPlan>,
    /// Failovers.
    pub failovers: Store<Failover>,
    /// Drills.
    pub drills: Store<Drill>,
    /// How many kinds were listed once.
    listed: watch::Sender<usize>,
}

/// The writing ends of [`Stores`], one for each controller.
pub struct Writers {
    pub(crate) vaults: Writer<Vault>,
    pub(crate) protected_databases: Writer<ProtectedDatabase>,
    pub(crate) standby_databases: Writer<StandbyDatabase>,
    pub(crate) recovery_plans: Writer<RecoveryPlan>,
    pub(crate) failovers: Writer<Failover>,
    pub(crate) drills: Writer<Drill>,
}

impl Stores {
    /// Empty stores and their writing ends.
    pub fn new() -> (Self, Writers) {
        let (vaults, vault_writer) = reflector::store();
        let (protected_databases, protected_writer) = reflector::store();
        let (standby_databases, standby_writer) = reflector::store();
        let (recovery_plans, plan_writer) = reflector::store();
        let (failovers, failover_writer) = reflector::store();
        let (drills, drill_writer) = reflector::store();
        let listed = watch::Sender::new(0);
        let stores = Self { vaults, protected_databases, standby_databases, recovery_plans, failovers, drills, listed };
        let writers = Writers {
            vaults: vault_writer,
            protected_databases: protected_writer,
            standby_databases: standby_writer,
            recovery_plans: plan_writer,
            failovers: failover_writer,
            drills: drill_writer,
        };
        (stores, writers)
    }

    /// Waits until everything was listed once: before, what is missing here may exist all the same.
    ///
    /// `Store::wait_until_ready` wakes only the newest of several waiters (it polls one oneshot receiver), so it is left to
    /// each controller's own loop.
    pub async fn are_ready(&self) {
        // It cannot fail: this holds the sending end.
        let _ = self.listed.subscribe().wait_for(|kinds| *kinds >= KINDS).await;
    }

    /// Whether everything was listed once, for who has something to say all the same when not.
    pub fn were_listed(&self) -> bool {
        *self.listed.borrow() >= KINDS
    }

    /// To be called once for each kind, after its first list is in the store.
    pub(crate) fn first_list_is_in(&self) {
        self.listed.send_modify(|kinds| *kinds += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_is_woken_when_the_last_kind_was_listed() {
        let (stores, _writers) = Stores::new();
        let stores = Arc::new(stores);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let stores = stores.clone();
                tokio::spawn(async move { stores.are_ready().await })
            })
            .collect();
        for _ in 1..KINDS {
            stores.first_list_is_in();
        }
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|task| !task.is_finished()) && !stores.were_listed(), "one kind is missing");
        stores.first_list_is_in();
        for task in waiting {
            tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        }
        stores.are_ready().await;
        assert!(stores.were_listed());
    }
}
