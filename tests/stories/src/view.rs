//! What a person would look at while the hospital works: replication and the vault, at both sites.

use std::time::Duration;

use holdfast_api::condition::{ConditionStatus, types};
use holdfast_api::{ProtectedDatabase, StandbyDatabase, Vault};
use kube::Client;
use kube::api::{Api, ListParams};

use crate::kubernetes::Observed;
use crate::story::{NAMESPACE, VAULT};

/// One database as both sites see it.
#[derive(Clone, Debug, Default)]
pub struct DatabaseView {
    pub name: String,
    /// Whether acknowledged commits are in the vault.
    pub protected: bool,
    /// Everything before it is in the vault.
    pub durable_lsn: Option<String>,
    pub lag_bytes: Option<i64>,
    /// The standby's replay position.
    pub replayed_lsn: Option<String>,
    pub replay_lag_seconds: Option<f64>,
    pub epoch: Option<i64>,
}

/// Both sites at one moment. What cannot be asked is left out.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub databases: Vec<DatabaseView>,
    /// The vault's conditions in short, at the standby site.
    pub vault: String,
}

impl View {
    /// Asks both sites, each for at most two seconds.
    pub async fn of(primary: &Client, standby: &Client) -> Self {
        let vaults = Api::<Vault>::namespaced(standby.clone(), NAMESPACE);
        let (protected, standbys, vault) = tokio::join!(
            list::<ProtectedDatabase>(primary),
            list::<StandbyDatabase>(standby),
            limited(vaults.get(VAULT)),
        );
        let mut view = Self { vault: vault.as_ref().map_or("not reached".to_owned(), words), ..Self::default() };
        for standby in &standbys {
            view.add_standby(standby);
        }
        for database in &protected {
            view.add_protected(database);
        }
        view
    }

    fn database(&mut self, name: &str) -> &mut DatabaseView {
        let at = self.databases.iter().position(|database| database.name == name).unwrap_or_else(|| {
            self.databases.push(DatabaseView { name: name.to_owned(), ..DatabaseView::default() });
            self.databases.len() - 1
        });
        &mut self.databases[at]
    }

    fn add_standby(&mut self, standby: &StandbyDatabase) {
        let (Some(name), Some(status)) = (&standby.metadata.name, &standby.status) else {
            return;
        };
        let database = self.database(name);
        // What was promoted replays nothing any more.
        if !is_true(standby, types::PROMOTED) {
            database.replayed_lsn = status.replayed_lsn.clone();
            database.replay_lag_seconds = status.lag_seconds;
        }
        database.epoch = status.epoch;
        if let Some(protection) = &status.protection {
            database.durable_lsn = protection.durable_lsn.clone();
            database.lag_bytes = protection.lag_bytes;
            database.protected = is_true(standby, types::PROTECTED);
        }
    }

    fn add_protected(&mut self, protected: &ProtectedDatabase) {
        let (Some(name), Some(status)) = (&protected.metadata.name, &protected.status) else {
            return;
        };
        let Some(protection) = &status.protection else {
            return;
        };
        let database = self.database(name);
        database.protected = is_true(protected, types::PROTECTED);
        database.durable_lsn = protection.durable_lsn.clone();
        database.lag_bytes = protection.lag_bytes;
        database.epoch = protection.epoch;
    }
}

async fn list<K>(client: &Client) -> Vec<K>
where
    K: Observed + kube::Resource<Scope = kube::core::NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    limited(api.list(&ListParams::default())).await.map(|list| list.items).unwrap_or_default()
}

async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(2), request).await.ok()?.ok()
}

fn is_true(object: &impl Observed, type_: &str) -> bool {
    object.conditions().iter().any(|condition| condition.type_ == type_ && condition.status == ConditionStatus::True)
}

fn words(vault: &Vault) -> String {
    let word = |type_, well: &str, badly: &str| {
        if is_true(vault, type_) { well.to_owned() } else { badly.to_owned() }
    };
    [
        word(types::READY, "ready", "NOT READY"),
        word(types::LOCK_ENFORCED, "lock enforced", "LOCK NOT PROVEN"),
        word(types::ESCROW_CONFIGURED, "escrow", "no escrow"),
    ]
    .join(", ")
}
