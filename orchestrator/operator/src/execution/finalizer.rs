//! The finalizer of Failovers and Drills, as one value of server-side apply.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::FINALIZER;
use crate::apply::{Applicable, describe};
use crate::{Context, Error};

/// The owner of the finalizer, apart from the owner of the status.
const MANAGER: &str = "holdfast-run";

/// Adds the finalizer.
///
/// # Errors
/// [`Error::Kube`].
pub async fn add<K: Applicable>(ctx: &Context, object: &K) -> Result<(), Error> {
    if object.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    apply(ctx, object, &[FINALIZER]).await
}

/// Removes the finalizer if the object, as last watched, has it.
///
/// # Errors
/// [`Error::Kube`].
pub async fn remove_if_present<K: Applicable>(ctx: &Context, object: &K) -> Result<(), Error> {
    if object.finalizers().iter().any(|f| f == FINALIZER) { remove(ctx, object).await } else { Ok(()) }
}

/// Removes the finalizer; fine when the object is gone.
///
/// # Errors
/// [`Error::Kube`].
pub async fn remove<K: Applicable>(ctx: &Context, object: &K) -> Result<(), Error> {
    match apply(ctx, object, &[]).await {
        Err(Error::Kube { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 404 || s.code == 409) => {
            Ok(())
        }
        other => other,
    }
}

async fn apply<K: Applicable>(ctx: &Context, object: &K, finalizers: &[&str]) -> Result<(), Error> {
    let namespace = object.namespace().unwrap_or_default();
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid(), "finalizers": finalizers },
    });
    let params = PatchParams::apply(MANAGER).force();
    let patched = ctx.api::<K>(&namespace).patch(&object.name_any(), &params, &Patch::Apply(&patch)).await;
    patched.map_err(Error::kube(format!("write the finalizer of {}", describe(object))))?;
    Ok(())
}
