//! Proves that a bucket can hold a vault: its settings, and a lock that is tried and not only asked for.
//!
//! [`Vault::reach`] asks for the settings and the time; it writes nothing. [`Vault::check`] puts a small locked object
//! and tries to delete it. [`Vault::probe_lock`] tries all that whoever stole the vault's credentials would try, each
//! attempt judged by what is read back afterwards. Objects of the probe stand below `probe/`; newer versions and delete
//! markers there are its own doing.

mod attempt;
mod probe;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use attempt::{Attempt, Outcome, Tried};
pub use probe::{EVIDENCE, LockProbe, ProbeOptions};

use crate::error::VaultError;
use crate::fetch::{damaged, real_versions, retrying};
use crate::log::incarnation::Incarnation;
use crate::object::{Subject, encode_plain};
use crate::store::{BucketFacts, Created, Lock, Retention, StoreError, StoreErrorKind};
use crate::vault::Vault;

/// How far the store's clock and the local one may be apart before it is an alarm. Requests are refused by most stores
/// at 15 minutes.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How much a lock that is read back may be shorter than the one that was asked for: rounding.
const LOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Every attempt of the probe, in the order in which they are made.
pub(crate) const ALL: &[Attempt] = &[
    Attempt::ShortenRetention,
    Attempt::DowngradeRetention,
    Attempt::DeleteVersion,
    Attempt::DeleteBatch,
    Attempt::BypassGovernance,
    Attempt::Overwrite,
    Attempt::Hide,
    Attempt::PutUnlocked,
    Attempt::SuspendVersioning,
    Attempt::PutLifecycle,
    Attempt::PutPolicy,
    Attempt::PutLockConfiguration,
    Attempt::ExpiringRules,
    Attempt::ReadOther,
];

/// What a check proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultCheck {
    /// The probe object's key.
    pub probe: String,
    /// Until when the store says that the probe is locked.
    pub locked_until: Timestamp,
    /// The store's clock less the local one, in seconds; none when the store tells no time.
    pub clock_skew_seconds: Option<i64>,
}

impl VaultCheck {
    /// Whether the local clock is near the store's; none when the store tells no time.
    pub fn clock_in_sync(&self) -> Option<bool> {
        Some(in_sync(self.clock_skew_seconds?))
    }
}

/// Whether clocks that are so many seconds apart count as the same.
pub fn in_sync(skew_seconds: i64) -> bool {
    skew_seconds.unsigned_abs() <= MAX_CLOCK_SKEW.as_secs()
}

/// What was found without writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The store's clock; none when it tells no time.
    pub now: Option<Timestamp>,
    /// The store's clock less the local one, in seconds.
    pub clock_skew_seconds: Option<i64>,
}

/// A probe object, just stored.
pub(super) struct Probe {
    pub(super) key: String,
    /// Its version.
    pub(super) id: String,
    pub(super) object: Bytes,
    pub(super) retention: Retention,
}

impl Vault {
    /// Asks for the bucket's settings and the store's time. Writes nothing.
    ///
    /// # Errors
    /// The bucket cannot be reached, or cannot hold a vault.
    pub async fn reach(&self) -> Result<Reached, VaultError> {
        let (facts, clock_skew_seconds) = self.facts().await?;
        Ok(Reached { now: facts.now, clock_skew_seconds })
    }

    /// Tries the vault: credentials, bucket, versioning, Object Lock; puts a small locked object, reads its retention
    /// back, tries to create it again and to delete it (which must both be refused).
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub async fn check(&self) -> Result<VaultCheck, VaultError> {
        let (facts, clock_skew_seconds) = self.facts().await?;
        let probe = self.put_probe(facts.now).await?;
        self.refuses_a_second(&probe.key).await?;
        self.refuses_to_delete(&probe).await?;
        Ok(VaultCheck { probe: probe.key, locked_until: probe.retention.until, clock_skew_seconds })
    }

    async fn facts(&self) -> Result<(BucketFacts, Option<i64>), VaultError> {
        let facts = retrying(|| self.store.bucket()).await.map_err(|e| self.explain(e))?;
        let asked_at = Timestamp::now();
        let bucket = self.bucket.clone();
        if !facts.versioning {
            return Err(VaultError::BucketWithoutVersioning { bucket });
        }
        if !facts.object_lock {
            return Err(VaultError::BucketWithoutObjectLock { bucket });
        }
        Ok((facts, facts.now.map(|now| now.as_second() - asked_at.as_second())))
    }

    fn probe_object(&self, key: Option<&str>) -> Result<(String, Bytes), VaultError> {
        let me = Incarnation::random().vouched(self.writer_key()?.as_ref());
        let header = me.header(Subject::Probe);
        let key = match key {
            Some(key) => key.to_owned(),
            None => self.keys.probe(&format!("{}-{}", header.created.strftime("%Y%m%dT%H%M%SZ"), me.nonce())),
        };
        let (object, _) = encode_plain(header, b"", me.key()).map_err(damaged(&key))?;
        Ok((key, object))
    }

    /// Stores a new locked object and reads its lock back.
    async fn put_probe(&self, now: Option<Timestamp>) -> Result<Probe, VaultError> {
        let (key, object) = self.probe_object(None)?;
        // `Exists` is its own, by an earlier request: nobody else knows the nonce in the key.
        self.create_probe(&key, object.clone()).await?;
        let versions = real_versions(&*self.store, &key).await.map_err(|e| self.explain(e))?;
        let Some(version) = versions.into_iter().next() else {
            return Err(self.not_enforced("the probe just stored is not listed"));
        };
        let retention = retrying(|| self.store.retention(&key, &version.id)).await.map_err(|e| self.explain(e))?;
        let Some(retention) = retention else {
            return Err(self.not_enforced("a locked PUT left an object without retention"));
        };
        if !retention.compliance {
            return Err(self.not_enforced("the retention read back is not in COMPLIANCE mode"));
        }
        let least = self.store.lock_length(Lock::Short).unwrap_or(LOCK_TOLERANCE * 60);
        let soonest = now.unwrap_or(Timestamp::UNIX_EPOCH) + least.saturating_sub(LOCK_TOLERANCE);
        if retention.until < soonest {
            let detail = format!("the retention read back ends at {}, before what was asked for", retention.until);
            return Err(self.not_enforced(&detail));
        }
        Ok(Probe { key, id: version.id, object, retention })
    }

    async fn create_probe(&self, key: &str, object: Bytes) -> Result<Created, VaultError> {
        let create = || self.store.create(key, object.clone(), Lock::Short);
        retrying(create).await.map_err(|e| self.explain(e))
    }

    async fn refuses_a_second(&self, key: &str) -> Result<(), VaultError> {
        let (_, second) = self.probe_object(Some(key))?;
        if self.create_probe(key, second).await?.is_stored() {
            return Err(VaultError::ConditionNotHonoured { bucket: self.bucket.clone() });
        }
        Ok(())
    }

    async fn refuses_to_delete(&self, probe: &Probe) -> Result<(), VaultError> {
        let (key, id) = (&*probe.key, &*probe.id);
        let delete = retrying(|| self.store.try_delete_version(key, id));
        if delete.await.map_err(|e| self.explain(e))? {
            return Err(self.not_enforced("a locked version was deleted with the vault's own credentials"));
        }
        if retrying(|| self.store.get_version(key, id)).await.map_err(|e| self.explain(e))?.is_none() {
            return Err(self.not_enforced("a locked version was gone after its deletion had been refused"));
        }
        Ok(())
    }

    fn not_enforced(&self, detail: &str) -> VaultError {
        VaultError::LockNotEnforced { bucket: self.bucket.clone(), detail: detail.to_owned() }
    }

    /// Gives the failures that a person meets when a vault is set up names of their own.
    pub(crate) fn explain(&self, error: StoreError) -> VaultError {
        let bucket = self.bucket.clone();
        match error.kind {
            StoreErrorKind::NoSuchBucket => VaultError::NoSuchBucket { bucket },
            StoreErrorKind::Credentials => VaultError::BadCredentials { bucket, detail: error.detail },
            _ => VaultError::Store(error),
        }
    }
}
