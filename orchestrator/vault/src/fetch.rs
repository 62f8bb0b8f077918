//! Asking a store again until it answers, and reading the oldest version of a key.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::Instant;

use crate::error::VaultError;
use crate::object::ObjectError;
use crate::store::{Created, Lock, Object, Store, StoreError, StoreErrorKind, Version};

/// How long reads and seals are tried again before the caller hears of it. A running writer never gives up.
const PATIENCE: Duration = Duration::from_secs(15);

/// The least step after "slow down".
const THROTTLED: Duration = Duration::from_millis(500);
/// How much longer than usual the steps may get while the store asks to slow down.
const THROTTLED_FACTOR: u32 = 4;

/// Waits that grow, with full jitter, so that many clients of a store that came back do not come at once. A store that
/// asks to slow down is given more time.
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

    /// The next wait: anything up to the step.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::rng().random_range(0.0..=1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }

    /// The next wait after this error.
    pub(crate) fn after(&mut self, error: &StoreError) -> Duration {
        if error.kind != StoreErrorKind::Throttled {
            self.next = self.next.min(self.max);
            return self.step();
        }
        let step = self.next.max(THROTTLED);
        self.next = (step * 2).min(self.max * THROTTLED_FACTOR);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
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
                tokio::time::sleep(backoff.after(&error)).await;
            }
            other => return other,
        }
    }
}

/// Creates an object, sending the same bytes again while it is unknown whether it is stored. `Exists` may be the
/// very object, by an earlier request whose answer was lost. Locked for the vault's whole retention.
pub(crate) async fn create_until_known(store: &dyn Store, key: &str, body: Bytes) -> Result<Created, StoreError> {
    retrying(|| store.create(key, body.clone(), Lock::Long)).await
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

/// The same of the first bytes, where nobody put anything over the object; else the whole.
pub(crate) async fn oldest_front(store: &dyn Store, key: &str, len: u64) -> Result<Option<Object>, StoreError> {
    let versions = retrying(|| store.versions(key)).await?;
    if let [Version { id, is_delete_marker: false, .. }] = versions.as_slice()
        && let Some(object) = retrying(|| store.get_front(key, len)).await?
        && object.version_id.as_ref().is_none_or(|read| read == id)
    {
        return Ok(Some(object));
    }
    let Some(first) = versions.iter().find(|version| !version.is_delete_marker) else { return Ok(None) };
    if let Some(object) = retrying(|| store.get_version(key, &first.id)).await? {
        return Ok(Some(object));
    }
    retrying(|| store.get(key)).await
}

/// For `map_err`: an object at this key is damaged.
pub(crate) fn damaged(key: &str) -> impl FnOnce(ObjectError) -> VaultError + '_ {
    move |error| VaultError::Damaged { key: key.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_longer_when_the_store_asks_for_it() {
        let error = |kind| StoreError { kind, operation: "x", target: String::new(), detail: String::new() };
        let (away, busy) = (error(StoreErrorKind::Unreachable), error(StoreErrorKind::Throttled));
        let mut backoff = Backoff::store();
        let mut longest = Duration::ZERO;
        for n in 0..200 {
            let wait = backoff.after(&away);
            longest = longest.max(wait);
            assert!(n > 0 || wait <= Duration::from_millis(50), "{wait:?}");
        }
        assert!(longest > Duration::from_secs(1) && longest <= Duration::from_secs(2), "{longest:?}");
        let mut backoff = Backoff::store();
        for _ in 0..200 {
            let wait = backoff.after(&busy);
            longest = longest.max(wait);
            assert!(wait >= THROTTLED / 2, "{wait:?}");
        }
        assert!(longest > Duration::from_secs(4) && longest <= Duration::from_secs(8), "{longest:?}");
        assert!(backoff.after(&away) <= Duration::from_secs(2));
    }
}
