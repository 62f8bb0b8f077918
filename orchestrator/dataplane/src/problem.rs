//! The problems that a person reads: their codes and how they are made.

use holdfast_vault::VaultError;

use crate::status::Problem;

/// Codes, PascalCase: the reasons of conditions and events.
pub mod code {
    pub const CREDENTIALS_UNREADABLE: &str = "CredentialsUnreadable";
    pub const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";
    pub const DATABASE_STARTING: &str = "DatabaseStarting";
    pub const WRONG_PASSWORD: &str = "WrongPassword";
    pub const ACCESS_REFUSED: &str = "AccessRefused";
    pub const NO_SUCH_DATABASE: &str = "NoSuchDatabase";
    pub const ROLE_WITHOUT_REPLICATION: &str = "RoleWithoutReplication";
    pub const WAL_LEVEL_MINIMAL: &str = "WalLevelMinimal";
    pub const UNSAFE_SETTINGS: &str = "UnsafeSettings";
    pub const UNSUPPORTED_VERSION: &str = "UnsupportedVersion";
    pub const SYSTEM_ID_MISMATCH: &str = "SystemIdMismatch";
    pub const DIVERGED: &str = "DatabaseDiverged";
    pub const WAL_GONE: &str = "WalGone";
    pub const REPLICATION_FAILED: &str = "ReplicationFailed";
    pub const SYNCHRONOUS_NOT_PERMITTED: &str = "SynchronousNotPermitted";
    pub const SYNCHRONOUS_NAMES_TAKEN: &str = "SynchronousStandbyNamesTaken";
    pub const SYNCHRONOUS_COMMIT_UNSUITABLE: &str = "SynchronousCommitUnsuitable";
    pub const TABLESPACES_UNSUPPORTED: &str = "TablespacesUnsupported";
    pub const BACKUP_FAILED: &str = "BaseBackupFailed";
    pub const NOTHING_TO_RESTORE: &str = "NothingToRestore";
    pub const DAMAGED_OBJECT: &str = "DamagedObject";
    pub const FENCED: &str = "Fenced";
    pub const ANOTHER_WRITER: &str = "AnotherWriter";
    pub const TAKEOVER_PENDING: &str = "TakeoverPending";
    pub const RECIPIENTS_INVALID: &str = "RecipientsInvalid";
    pub const IDENTITY_UNUSABLE: &str = "IdentityUnusable";
    pub const VAULT_UNREACHABLE: &str = "VaultUnreachable";
}

impl Problem {
    pub fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: hint.into() }
    }
}

/// A problem with the vault. Codes not listed in [`code`] are the vault's own reasons (`BucketWithoutObjectLock`, ...).
pub(crate) fn vault_problem(error: &VaultError) -> Problem {
    let code = match error.reason() {
        "OtherSystem" => code::SYSTEM_ID_MISMATCH,
        "StoreUnreachable" | "StoreThrottled" => code::VAULT_UNREACHABLE,
        "Damaged" => code::DAMAGED_OBJECT,
        other => other,
    };
    Problem::new(code, error.to_string(), error.hint())
}
