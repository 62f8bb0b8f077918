//! The errors of the vault as a whole.

use holdfast_wal::SystemId;
use jiff::Timestamp;

use crate::object::ObjectError;
use crate::store::StoreError;
use crate::trust::Distrust;

/// What went wrong with a vault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VaultError {
    /// A name that cannot stand in a key.
    #[error("`{name}` cannot name {what} in a vault")]
    BadName {
        /// What it was to name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The configuration cannot be used.
    #[error("the vault's configuration: {reason}")]
    BadConfig {
        /// Why.
        reason: String,
    },
    /// A recipient or an identity that is none.
    #[error("{what}: {reason}")]
    BadKey {
        /// Which key.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The bucket has no versioning.
    #[error("bucket `{bucket}` has no versioning")]
    BucketWithoutVersioning {
        /// The bucket.
        bucket: String,
    },
    /// The bucket has no Object Lock.
    #[error("bucket `{bucket}` has no Object Lock")]
    BucketWithoutObjectLock {
        /// The bucket.
        bucket: String,
    },
    /// There is no such bucket.
    #[error("bucket `{bucket}` does not exist")]
    NoSuchBucket {
        /// The bucket.
        bucket: String,
    },
    /// The credentials are missing or wrong.
    #[error("the credentials for bucket `{bucket}` are not accepted: {detail}")]
    BadCredentials {
        /// The bucket.
        bucket: String,
        /// What the store said.
        detail: String,
    },
    /// The lock was accepted and does not hold.
    #[error("bucket `{bucket}` does not enforce Object Lock: {detail}")]
    LockNotEnforced {
        /// The bucket.
        bucket: String,
        /// What was tried and succeeded.
        detail: String,
    },
    /// `If-None-Match` is ignored: a second object was created at a key.
    #[error("bucket `{bucket}` ignores If-None-Match: two writers would overwrite each other")]
    ConditionNotHonoured {
        /// The bucket.
        bucket: String,
    },
    /// The store does not keep what a vault is built on.
    #[error("the store of bucket `{bucket}` is not suitable for a vault: {detail}")]
    UnsuitableStore {
        /// The bucket.
        bucket: String,
        /// Each check that failed, what was seen, and why that matters.
        detail: String,
    },
    /// The name belongs to another database.
    #[error("`{name}` in this vault is the database with system identifier {stored}, not {given}")]
    OtherSystem {
        /// The database's name in the vault.
        name: String,
        /// The system identifier in the vault.
        stored: SystemId,
        /// The one that was given.
        given: SystemId,
    },
    /// Nothing was ever registered under the name.
    #[error("there is no database `{name}` in this vault")]
    UnknownDatabase {
        /// The database's name in the vault.
        name: String,
    },
    /// What this site would write, nobody would believe.
    #[error("this site cannot write: {}", own(distrust))]
    WriterNotTrusted {
        /// What a reader would say of it.
        distrust: Distrust,
    },
    /// An object is damaged or does not belong where it stands, or nobody who is trusted made it.
    #[error("object `{key}`: {error}")]
    Damaged {
        /// The key.
        key: String,
        /// What is wrong with it.
        error: ObjectError,
    },
    /// A chunk that no index covers and that is older than half the lifetime of chunks: it may be gone soon, so nothing
    /// is built on it.
    #[error("object `{key}`, stored at {stored}, is covered by no index and older than half the lifetime of chunks")]
    NotIndexed {
        /// The key.
        key: String,
        /// When the store made it, by the store's clock.
        stored: Timestamp,
        /// What no index covers must be stored after this.
        limit: Timestamp,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn own(distrust: &Distrust) -> String {
    match distrust {
        Distrust::Unvouched => "it has no writer key, and the Vault trusts named writers only".into(),
        Distrust::Unknown { writer } => format!("its writer key {writer} is not among the Vault's writers"),
        Distrust::Revoked { name, writer, not_after, .. } => {
            format!("its writer key {writer} (`{name}`) is revoked since {not_after}")
        }
    }
}

impl VaultError {
    /// An object whose writer is not believed stands there.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Damaged { error: ObjectError::Untrusted(_), .. })
    }

    /// Whether asking again is no use before a person changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            // The archiver will come to it.
            Self::NotIndexed { .. } => false,
            _ => true,
        }
    }

    /// A word for conditions and metrics, in CamelCase.
    pub fn reason(&self) -> &'static str {
        use crate::store::StoreErrorKind as Kind;
        match self {
            Self::BadName { .. } => "BadName",
            Self::BadConfig { .. } => "BadConfig",
            Self::BadKey { .. } => "BadKey",
            Self::BucketWithoutVersioning { .. } => "BucketWithoutVersioning",
            Self::BucketWithoutObjectLock { .. } => "BucketWithoutObjectLock",
            Self::NoSuchBucket { .. } => "NoSuchBucket",
            Self::BadCredentials { .. } => "BadCredentials",
            Self::LockNotEnforced { .. } => "LockNotEnforced",
            Self::ConditionNotHonoured { .. } => "ConditionNotHonoured",
            Self::UnsuitableStore { .. } => "UnsuitableStore",
            Self::OtherSystem { .. } => "OtherSystem",
            Self::UnknownDatabase { .. } => "UnknownDatabase",
            Self::WriterNotTrusted { .. } => "WriterNotTrusted",
            Self::Damaged { error: ObjectError::Untrusted(_), .. } => "Untrusted",
            Self::Damaged { .. } => "Damaged",
            Self::NotIndexed { .. } => "NotIndexed",
            Self::Store(error) => match error.kind {
                Kind::Credentials => "BadCredentials",
                Kind::NoSuchBucket => "NoSuchBucket",
                Kind::ClockSkew => "ClockSkew",
                Kind::Denied => "AccessDenied",
                Kind::Unreachable => "StoreUnreachable",
                Kind::Throttled => "StoreThrottled",
                Kind::Damaged => "DamagedAnswer",
                Kind::Other => "StoreRefused",
            },
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BadName { .. } => "use lower-case letters, digits, `-`, `_` and `.`",
            Self::BadConfig { .. } => "correct the Vault's spec",
            Self::BadKey { .. } => {
                "make a key with `holdfast keys new age` or `holdfast keys new writer` and give it unchanged"
            }
            Self::BucketWithoutVersioning { .. } | Self::BucketWithoutObjectLock { .. } => {
                "create a new bucket with Object Lock enabled (that enables versioning too) and name it in the Vault"
            }
            Self::NoSuchBucket { .. } => "create the bucket with Object Lock enabled, or correct the name in the Vault",
            Self::BadCredentials { .. } => crate::store::CREDENTIALS_HINT,
            Self::LockNotEnforced { .. } | Self::ConditionNotHonoured { .. } => {
                "use another store: this one cannot hold a vault"
            }
            Self::UnsuitableStore { .. } => {
                "use another store; `holdfast vault conformance` makes every check and says what was seen"
            }
            Self::OtherSystem { .. } => {
                "give this database a name of its own in the vault, or point it at the database that the name belongs to"
            }
            Self::UnknownDatabase { .. } => {
                "check the name, and that the ProtectedDatabase at the other site has started"
            }
            Self::WriterNotTrusted { .. } => {
                "make a key with `holdfast keys new writer`, give it to this site as `signing` of the Vault, and \
                 list its public key under writers in the Vaults of both sites"
            }
            Self::Damaged { error: ObjectError::Untrusted(_), .. } => {
                "if the key is yours, list it under writers in the Vault; if not, somebody wrote with stolen credentials: \
                 restore to a moment before this object and protect the restored database under a new name"
            }
            Self::Damaged { .. } => {
                "keep the bucket as it is; restore what stands before this object, or from a copy of the vault"
            }
            Self::NotIndexed { .. } => {
                "see why the archiver fell behind and let it index the log (`holdfast archiver`), then try again"
            }
            Self::Store(error) => error.hint(),
        }
    }
}
