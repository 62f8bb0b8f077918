//! What the bucket says when it is tried.

use std::time::Instant;

use holdfast_api::Vault;
use holdfast_api::common::sentence;
use holdfast_api::condition::reasons;
use holdfast_vault::{LockProbe, ProbeOptions, StoreErrorKind, VaultError};

use super::suitability::Known;
use crate::{Context, Error};

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The bucket was reached and has the settings of a vault.
    Sound {
        /// The store's clock minus ours, in seconds.
        clock_skew_seconds: Option<i64>,
        /// What the lock probe found, when it was due.
        probed: Option<Box<Probed>>,
    },
    /// Something is wrong.
    Faulty {
        /// The reason for the condition.
        reason: String,
        /// What, where, and what to do.
        message: String,
        /// The bucket was reached, so that the fault says something about its lock.
        about_the_lock: bool,
    },
}

/// What the lock probe found, and where that is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// What it found.
    pub(crate) probe: LockProbe,
    /// The key of the evidence; none when it could not be stored.
    pub(crate) evidence: Option<String>,
}

/// Opens the vault, asks for its settings, and probes its lock when that is due.
pub(crate) async fn observe(vault: &Vault, ctx: &Context, probe: bool) -> Result<Observed, Error> {
    let access = match ctx.open_vault_object(vault).await {
        Ok(access) => access,
        Err(Error::Vault(error)) => {
            return Ok(Observed::Faulty {
                reason: error.reason().to_owned(),
                message: error.to_string(),
                about_the_lock: false,
            });
        }
        Err(error) => return Err(error),
    };
    let observed = match probe {
        true => probe_store(vault, &access.vault, ctx).await,
        false => reach(&access.vault).await,
    };
    Ok(observed.unwrap_or_else(|error| faulty(&error, vault.spec.endpoint.as_deref())))
}

async fn reach(vault: &holdfast_vault::Vault) -> Result<Observed, VaultError> {
    let clock_skew_seconds = vault.reach().await?.clock_skew_seconds;
    Ok(Observed::Sound { clock_skew_seconds, probed: None })
}

/// Probes the lock, and tries once for each bucket and prefix whether the store is suitable at all. A store that was
/// refused is not tried again, nor probed, until something changed or some time went by.
async fn probe_store(object: &Vault, vault: &holdfast_vault::Vault, ctx: &Context) -> Result<Observed, VaultError> {
    match ctx.suitability.known(object, Instant::now()) {
        Known::Refused(error) => return Err(error),
        Known::Suitable => return probe_lock(object, vault).await,
        Known::Nothing => {}
    }
    let observed = probe_lock(object, vault).await?;
    match vault.check_store().await {
        // Next time, then.
        Ok(report) if report.is_void() => {}
        Ok(_) => ctx.suitability.remember(object, None, Instant::now()),
        Err(error @ VaultError::UnsuitableStore { .. }) => {
            ctx.suitability.remember(object, Some(&error), Instant::now());
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(observed)
}

async fn probe_lock(object: &Vault, vault: &holdfast_vault::Vault) -> Result<Observed, VaultError> {
    let options = ProbeOptions { other_prefix: object.spec.foreign_prefix.clone() };
    let probe = vault.probe_lock(&options).await?;
    let clock_skew_seconds = probe.check.clock_skew_seconds;
    let evidence = match vault.put_lock_evidence(&probe).await {
        Ok(key) => Some(key),
        // What was found is in the status and in the events all the same.
        Err(error) => {
            tracing::warn!(%error, "the result of the lock probe could not be stored as evidence");
            None
        }
    };
    Ok(Observed::Sound { clock_skew_seconds, probed: Some(Box::new(Probed { probe, evidence })) })
}

fn faulty(error: &VaultError, endpoint: Option<&str>) -> Observed {
    let store = endpoint.unwrap_or("AWS");
    Observed::Faulty {
        reason: reason(error).to_owned(),
        message: format!("{} ({store}). To do: {}", sentence(&error.to_string()), sentence(error.hint())),
        about_the_lock: matches!(
            error,
            VaultError::BucketWithoutObjectLock { .. }
                | VaultError::BucketWithoutVersioning { .. }
                | VaultError::LockNotEnforced { .. }
        ),
    }
}

/// The condition's reason for an error of the vault.
pub(crate) fn reason(error: &VaultError) -> &'static str {
    use StoreErrorKind::{Credentials, Damaged, NoSuchBucket, Throttled, Unreachable};
    match error {
        VaultError::BucketWithoutVersioning { .. } => reasons::BUCKET_WITHOUT_VERSIONING,
        VaultError::BucketWithoutObjectLock { .. } => reasons::BUCKET_WITHOUT_OBJECT_LOCK,
        VaultError::NoSuchBucket { .. } => reasons::NO_SUCH_BUCKET,
        VaultError::BadCredentials { .. } => reasons::BAD_CREDENTIALS,
        VaultError::LockNotEnforced { .. } => reasons::LOCK_NOT_ENFORCED,
        VaultError::ConditionNotHonoured { .. } | VaultError::UnsuitableStore { .. } => reasons::UNSUITABLE_STORE,
        VaultError::BadConfig { .. } | VaultError::BadName { .. } => reasons::INVALID_SPEC,
        VaultError::Store(error) => match error.kind {
            Unreachable | Throttled | Damaged => reasons::VAULT_UNREACHABLE,
            Credentials => reasons::BAD_CREDENTIALS,
            NoSuchBucket => reasons::NO_SUCH_BUCKET,
            _ => reasons::STORE_REFUSED,
        },
        other => other.reason(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsuitable_store_names_the_check_and_what_to_do() {
        let detail = "list-is-sorted: keys are listed in this order: b, a (the reason)".to_owned();
        let error = VaultError::UnsuitableStore { bucket: "b00".into(), detail };
        let Observed::Faulty { reason, message, .. } = faulty(&error, None) else { panic!("it is faulty") };
        assert_eq!(reason, reasons::UNSUITABLE_STORE);
        for part in ["`b00`", "list-is-sorted", "To do: use another store", "holdfast vault conformance"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn a_fault_says_what_where_and_what_to_do() {
        let error = VaultError::BucketWithoutObjectLock { bucket: "plain".into() };
        let Observed::Faulty { reason, message, about_the_lock } = faulty(&error, Some("http://s3:8333")) else {
            panic!("it is faulty");
        };
        assert_eq!(reason, reasons::BUCKET_WITHOUT_OBJECT_LOCK);
        assert!(about_the_lock);
        for part in ["`plain`", "http://s3:8333", "To do: create a new bucket"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}
