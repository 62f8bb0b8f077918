//! What the bucket says when it is tried.

use holdfast_api::Vault;
use holdfast_api::common::sentence;
use holdfast_api::condition::reasons;
use holdfast_vault::{StoreErrorKind, VaultError};

use crate::{Context, Error};

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The lock was tried and held.
    Sound {
        /// The store's clock minus ours, in seconds.
        clock_skew_seconds: Option<i64>,
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

/// Opens the vault and tries its lock.
pub(crate) async fn observe(vault: &Vault, ctx: &Context) -> Result<Observed, Error> {
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
    Ok(match access.vault.check().await {
        Ok(check) => Observed::Sound { clock_skew_seconds: check.clock_skew_seconds },
        Err(error) => faulty(&error, vault.spec.endpoint.as_deref()),
    })
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
        VaultError::ConditionNotHonoured { .. } => reasons::UNSUITABLE_STORE,
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
