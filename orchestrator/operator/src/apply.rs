//! Writing to the cluster: server-side apply of whole objects and of status, as field manager `holdfast`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{Context, Error};

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "holdfast";
/// An unchanged object is applied again after this long, so that what somebody else changed is mended.
const REAPPLY_AFTER: Duration = Duration::from_secs(30);

/// Which objects were applied when, by a digest of their content.
#[derive(Default)]
pub struct AppliedCache(Mutex<HashMap<String, (u64, Instant)>>);

impl AppliedCache {
    fn is_recent(&self, key: &str, digest: u64) -> bool {
        let applied = self.0.lock().unwrap_or_else(|e| e.into_inner());
        applied.get(key).is_some_and(|(d, at)| *d == digest && at.elapsed() < REAPPLY_AFTER)
    }

    fn remember(&self, key: String, digest: u64) {
        let mut applied = self.0.lock().unwrap_or_else(|e| e.into_inner());
        applied.retain(|_, (_, at)| at.elapsed() < REAPPLY_AFTER);
        applied.insert(key, (digest, Instant::now()));
    }

    pub(crate) fn forget(&self, key: &str) {
        let mut applied = self.0.lock().unwrap_or_else(|e| e.into_inner());
        applied.remove(key);
    }
}

/// A namespaced object that can be applied.
pub trait Applicable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug
{
}

impl<K> Applicable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug
{
}

/// `Kind namespace/name`, for messages and keys.
pub fn describe<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.meta().namespace.as_deref().unwrap_or("-");
    format!("{} {namespace}/{}", K::kind(&()), object.name_any())
}

/// The reference that makes Kubernetes delete `child` with its owner.
///
/// # Errors
/// When the owner was not read from the API server.
pub fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Result<OwnerReference, Error> {
    object.controller_owner_ref(&()).ok_or_else(|| Error::Incomplete { object: describe(object), field: "uid" })
}

impl Context {
    /// The namespaced API of a kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Applies the object (its namespace and name must be set) and returns what the API server has.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn apply<K: Applicable>(&self, object: &K) -> Result<K, Error> {
        let namespace =
            object.namespace().ok_or_else(|| Error::Incomplete { object: describe(object), field: "namespace" })?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api::<K>(&namespace)
            .patch(&object.name_any(), &params, &Patch::Apply(object))
            .await
            .map_err(Error::kube(format!("apply {}", describe(object))))
    }

    /// Applies the object unless the same content was applied within the last half minute.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn apply_changed<K: Applicable>(&self, object: &K) -> Result<(), Error> {
        let key = describe(object);
        let digest = digest(object).map_err(|source| Error::Json { what: key.clone(), source })?;
        if self.applied.is_recent(&key, digest) {
            return Ok(());
        }
        self.apply(object).await?;
        self.applied.remember(key, digest);
        Ok(())
    }

    /// Deletes the object if it exists. True when it did.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn delete_if_exists<K: Applicable>(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let what = format!("{} {namespace}/{name}", K::kind(&()));
        self.applied.forget(&what);
        match self.api::<K>(namespace).delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(Error::kube(format!("delete {what}"))(error)),
        }
    }

    /// Writes the whole status of one of our objects. The status must hold every field that should stay.
    ///
    /// # Errors
    /// [`Error::Kube`]; 404 when the object is gone, 409 when one of the same name took its place.
    pub async fn patch_status<K, S>(&self, object: &K, status: &S) -> Result<(), Error>
    where
        K: Applicable,
        S: Serialize,
    {
        self.patch_status_as(FIELD_MANAGER, object, status).await
    }

    /// Writes the part of a status that this field manager writes. It must hold every field of that part that should stay,
    /// and none that another manager writes.
    ///
    /// # Errors
    /// As [`Context::patch_status`].
    pub async fn patch_status_as<K, S>(&self, manager: &str, object: &K, status: &S) -> Result<(), Error>
    where
        K: Applicable,
        S: Serialize,
    {
        let namespace = object.namespace().unwrap_or_default();
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": object.name_any(), "uid": object.uid() },
            "status": status,
        });
        let params = PatchParams::apply(manager).force();
        self.api::<K>(&namespace)
            .patch_status(&object.name_any(), &params, &Patch::Apply(&patch))
            .await
            .map_err(Error::kube(format!("write the status of {}", describe(object))))?;
        Ok(())
    }
}

/// A digest of an object's content, to see whether it changed.
fn digest<T: Serialize>(object: &T) -> Result<u64, serde_json::Error> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(object)?.hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn unchanged_content_is_recent_and_changed_content_is_not() {
        let cache = AppliedCache::default();
        let mut map = ConfigMap::default();
        let before = digest(&map).unwrap();
        cache.remember("a".into(), before);
        assert!(cache.is_recent("a", before));
        assert!(!cache.is_recent("b", before));
        map.metadata.name = Some("x".into());
        assert!(!cache.is_recent("a", digest(&map).unwrap()));
        cache.forget("a");
        assert!(!cache.is_recent("a", before));
    }
}
