//! Asking a store again until it answers, and reading the oldest version of a key.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::Instant;

use crate::error::VaultError;
use crate::object::ObjectError;
use crate::store::{Created, Object, Store, StoreError, Version};

/// How long reads and seals are tried again before the caller hears of it. A running writer never gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits that grow, with jitter, so that many clients of a store that came back do not come at once.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { next: first, max }
    }

    pub(crate) fn store() -> Backoff {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// The next wait: between a half and the whole of the step.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

/// Sends a request again while it fails in a way that may pass.
pub(crate) async fn retrying<T, F>(mut request: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let (started, mut backoff) = (Instant::now(), Backoff::store());
    loop {
        match request().await {
            Err(error) if !error.is_permanent() && started.elapsed() < PATIENCE => {
                tracing::debug!(%error, "asking the store again");
                tokio::time::sleep(backoff.step()).await;
            }
            other => return other,
        }
    }
}

/// Creates an object, sending the same bytes again while it is unknown whether it is stored. `Exists` may be the
/// very object, by an earlier request whose answer was lost.
pub(crate) async fn create_until_known(store: &dyn Store, key: &str, body: Bytes) -> Result<Created, StoreError> {
    retrying(|| store.create(key, body.clone())).await
}

/// All real versions of a key, oldest first.
pub(crate) async fn real_versions(store: &dyn Store, key: &str) -> Result<Vec<Version>, StoreError> {
    let mut versions = retrying(|| store.versions(key)).await?;
    versions.retain(|version| !version.is_delete_marker);
    Ok(versions)
}

/// The oldest version of a key, which is the object: a newer version or a delete marker is not looked at. `None` only
/// when there is no version at all. Costs two requests.
pub(crate) async fn oldest(store: &dyn Store, key: &str) -> Result<Option<Object>, StoreError> {
    let versions = real_versions(store, key).await?;
    let Some(version) = versions.first() else { return Ok(None) };
    if let Some(object) = retrying(|| store.get_version(key, &version.id)).await? {
        return Ok(Some(object));
    }
    // Listed and not there: the listing was ahead of the object, or the store is no vault.
    retrying(|| store.get(key)).await
}

/// For `map_err`: an object at this key is damaged.
pub(crate) fn damaged(key: &str) -> impl FnOnce(ObjectError) -> VaultError + '_ {
    move |error| VaultError::Damaged { key: key.to_owned(), error }
}
