//! What a ProtectedDatabase depends on, and what its agent says.

use std::sync::Arc;

use holdfast_api::{ProtectedDatabase, Vault};
use holdfast_dataplane::status::AgentStatus;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::{Resource, ResourceExt};

use crate::claims::Claimant;
use crate::role::RoleError;
use crate::vault_access::{VaultAccessError, secret_text};
use crate::{Context, Error};

/// For how long a missing Vault is only waited for.
const NEW_SECONDS: i64 = 10;

/// Everything that validation and status need to know.
pub(crate) struct Observed {
    pub(crate) vault: Result<Arc<Vault>, VaultAccessError>,
    /// What is wrong with the Secret of the connection.
    pub(crate) secret_problem: Option<String>,
    /// Every ProtectedDatabase of the cluster that writes under the same name in the same bucket.
    pub(crate) same_place: Vec<Claimant>,
    /// The StandbyDatabase of the same name, whose objects would have the same names.
    pub(crate) same_name: Vec<Claimant>,
    /// It was created a moment ago.
    pub(crate) is_new: bool,
    pub(crate) agent: Result<AgentStatus, RoleError>,
}

pub(crate) async fn observe(database: &ProtectedDatabase, ctx: &Context) -> Result<Observed, Error> {
    let namespace = database.namespace().unwrap_or_default();
    let name = database.name_any();
    let credentials = &database.spec.connection.credentials.secret_name;
    let (secret, agent) = tokio::join!(ctx.secret(&namespace, credentials), ctx.agent_status(&namespace, &name));
    let secret = secret?;
    let usable = secret_text(secret.as_ref(), "username").and_then(|_| secret_text(secret.as_ref(), "password"));
    let vault = ctx.vault_object(&namespace, &database.spec.vault.name);
    let same_place = match &vault {
        Ok(vault) => same_place(database, vault, ctx),
        Err(_) => Vec::new(),
    };
    Ok(Observed {
        vault,
        secret_problem: usable.err(),
        same_place,
        is_new: is_new(database),
        same_name: same_name(&ctx.stores.standby_databases, &namespace, &name),
        agent,
    })
}

/// Whether the object was created a moment ago, perhaps before what it refers to.
pub(crate) fn is_new<K: Resource>(object: &K) -> bool {
    let created = object.meta().creation_timestamp.as_ref();
    created.is_some_and(|t| Timestamp::now().duration_since(t.0) < SignedDuration::from_secs(NEW_SECONDS))
}

/// The object of another kind that has this name in this namespace.
pub(crate) fn same_name<K>(store: &Store<K>, namespace: &str, name: &str) -> Vec<Claimant>
where
    K: Resource<DynamicType = ()> + reflector::Lookup<DynamicType = ()> + Clone,
{
    let found = store.get(&ObjectRef::new(name).within(namespace));
    found.map(|o| Claimant::of(o.as_ref())).into_iter().collect()
}

fn same_place(database: &ProtectedDatabase, vault: &Vault, ctx: &Context) -> Vec<Claimant> {
    let all = ctx.stores.protected_databases.state();
    all.iter()
        .filter(|other| other.vault_name() == database.vault_name())
        .filter(|other| {
            let namespace = other.namespace().unwrap_or_default();
            ctx.vault_object(&namespace, &other.spec.vault.name).is_ok_and(|theirs| is_same_bucket(&theirs, vault))
        })
        .map(|other| Claimant::of(other.as_ref()))
        .collect()
}

fn is_same_bucket(a: &Vault, b: &Vault) -> bool {
    let place = |v: &Vault| {
        (
            v.spec.endpoint.as_deref().map(|e| e.trim_end_matches('/').to_owned()),
            v.spec.bucket.clone(),
            v.spec.prefix.clone(),
        )
    };
    place(a) == place(b)
}
