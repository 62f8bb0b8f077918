//! Proves that a bucket can hold a vault: its settings, and a lock that is tried and not only asked for.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::fetch::{self, damaged, real_versions, retrying};
use crate::log::incarnation::Incarnation;
use crate::object::{Nonce, Subject, encode_plain};
use crate::store::{Created, StoreError, StoreErrorKind};
use crate::vault::Vault;

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

impl Vault {
    /// Tries the vault: credentials, bucket, versioning, Object Lock; puts a small locked object, reads its retention
    /// back, tries to delete it (which must be refused) and to create it again (which must be refused too).
    pub async fn check(&self) -> Result<VaultCheck, VaultError> {
        let facts = retrying(|| self.store.bucket()).await.map_err(|e| self.explain(e))?;
        let asked_at = Timestamp::now();
        let bucket = self.bucket.clone();
        if !facts.versioning {
            return Err(VaultError::BucketWithoutVersioning { bucket });
        }
        if !facts.object_lock {
            return Err(VaultError::BucketWithoutObjectLock { bucket });
        }
        let me = Incarnation::random();
        let key = self.keys.probe(&probe_id(asked_at, me.nonce()));
        let (object, _) = encode_plain(me.header(Subject::Probe), b"", me.key()).map_err(damaged(&key))?;
        self.probe_create(&key, &object).await?;
        let locked_until = self.probe_lock(&key, facts.now).await?;
        let clock_skew_seconds = facts.now.map(|now| now.as_second() - asked_at.as_second());
        Ok(VaultCheck { probe: key, locked_until, clock_skew_seconds })
    }

    async fn probe_create(&self, key: &str, object: &Bytes) -> Result<(), VaultError> {
        let create = || fetch::create_until_known(&*self.store, key, object.clone());
        create().await.map_err(|e| self.explain(e))?;
        let (second, _) = {
            let other = Incarnation::random();
            encode_plain(other.header(Subject::Probe), b"", other.key()).map_err(damaged(key))?
        };
        let again = fetch::create_until_known(&*self.store, key, second).await.map_err(|e| self.explain(e))?;
        if again == Created::Stored {
            return Err(VaultError::ConditionNotHonoured { bucket: self.bucket.clone() });
        }
        Ok(())
    }

    async fn probe_lock(&self, key: &str, now: Option<Timestamp>) -> Result<Timestamp, VaultError> {
        let fault = |detail: &str| VaultError::LockNotEnforced { bucket: self.bucket.clone(), detail: detail.into() };
        let versions = real_versions(&*self.store, key).await.map_err(|e| self.explain(e))?;
        let Some(version) = versions.first() else { return Err(fault("the probe just stored is not listed")) };
        let retention = retrying(|| self.store.retention(key, &version.id)).await.map_err(|e| self.explain(e))?;
        let Some(retention) = retention else { return Err(fault("a locked PUT left an object without retention")) };
        if !retention.compliance {
            return Err(fault("the retention read back is not in COMPLIANCE mode"));
        }
        let soon = now.unwrap_or(Timestamp::UNIX_EPOCH) + Duration::from_secs(60 * 60);
        if retention.until < soon {
            return Err(fault("the retention read back ends at once"));
        }
        let delete = retrying(|| self.store.try_delete_version(key, &version.id));
        if delete.await.map_err(|e| self.explain(e))? {
            return Err(fault("a locked version was deleted with the vault's own credentials"));
        }
        if retrying(|| self.store.get_version(key, &version.id)).await.map_err(|e| self.explain(e))?.is_none() {
            return Err(fault("a locked version was gone after its deletion had been refused"));
        }
        Ok(retention.until)
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

fn probe_id(at: Timestamp, nonce: Nonce) -> String {
    format!("{}-{nonce}", at.strftime("%Y%m%dT%H%M%SZ"))
}
