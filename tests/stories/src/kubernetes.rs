//! Reading custom resources: conditions, steps, times.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::Result;
use holdfast_api::condition::ConditionStatus;
use holdfast_api::{Drill, Failover, ProtectedDatabase, RecoveryPlan, StandbyDatabase, Vault};
use holdfast_lab::wait;
use kube::api::Api;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

pub use holdfast_api::condition::Condition;

/// A kind whose status has conditions.
pub trait Observed: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// Empty while nothing was observed.
    fn conditions(&self) -> &[Condition];
}

macro_rules! observed {
    ($($kind:ty),*) => {$(
        impl Observed for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }
        }
    )*};
}

observed!(Vault, ProtectedDatabase, StandbyDatabase, RecoveryPlan, Failover, Drill);

/// The object's conditions, one a line, for messages.
pub fn conditions(object: &impl Observed) -> String {
    let lines = object.conditions().iter().map(|condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        format!("{type_}={status:?} ({reason}) {message}")
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    if text.is_empty() { "no conditions yet".to_owned() } else { text }
}

/// Waits until the condition `type_` of the object is True and returns the object.
pub(crate) async fn condition_true<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    type_: &str,
    limit: Duration,
) -> Result<K>
where
    K: Observed + Resource<Scope = kube::core::NamespaceResourceScope>,
{
    condition(client, namespace, name, type_, limit, |condition| condition.status == ConditionStatus::True).await
}

/// Waits until the object's condition `type_`, found for its present spec, is as `wanted` and returns the object.
pub(crate) async fn condition<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    type_: &str,
    limit: Duration,
    wanted: impl Fn(&Condition) -> bool,
) -> Result<K>
where
    K: Observed + Resource<Scope = kube::core::NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let what = format!("{} {name}: condition {type_}", K::kind(&()));
    let object = wait::until(&what, limit, || async {
        let object = api.get(name).await.map_err(|error| error.to_string())?;
        let found = object.conditions().iter().find(|condition| condition.type_ == type_);
        match found {
            Some(found) if found.observed_generation >= object.meta().generation && wanted(found) => Ok(object),
            _ => Err(conditions(&object)),
        }
    });
    Ok(object.await?)
}

/// Microseconds since 1970 of a time in a status.
pub fn epoch_us(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

/// `kind/name`, for messages.
pub(crate) fn describe<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}", K::kind(&()), object.name_any())
}
