//! Conditions: their types, their reasons, and how one is set.
//!
//! Types and reasons are interface: people alert on them. They are written once, here.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::date_time;

/// Condition types.
pub mod types {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// Vault: a lock was tried, and the store refused to break it.
    pub const LOCK_ENFORCED: &str = "LockEnforced";
    /// Vault: the store's clock and this site's are near each other.
    pub const CLOCK_IN_SYNC: &str = "ClockInSync";
    /// Vault: there are at least two recipients, so that one lost key does not lose the data.
    pub const ESCROW_CONFIGURED: &str = "EscrowConfigured";
    /// Vault: no private key that opens what is stored stands at a site that only protects databases.
    pub const KEYS_APART: &str = "KeysApart";
    /// Vault: only named writers are believed, and this site is one of them.
    pub const WRITERS_TRUSTED: &str = "WritersTrusted";
    /// Vault: the last pass over everything that is stored found nothing wrong.
    pub const INTACT: &str = "Intact";
    /// Database: every commit that is acknowledged is in the vault (or is, up to the lag, when Asynchronous).
    pub const PROTECTED: &str = "Protected";
    /// Database: another site owns the log now. Bad news: True is what is wrong.
    pub const FENCED: &str = "Fenced";
    /// Database: the newest base backup is not older than twice its interval.
    pub const BACKUP_FRESH: &str = "BackupFresh";
    /// StandbyDatabase: a hot standby replays what arrives in the vault.
    pub const FOLLOWING: &str = "Following";
    /// StandbyDatabase: its archiver puts the log into segments and indexes in time, and keeps the locks long enough.
    pub const ARCHIVING: &str = "Archiving";
    /// StandbyDatabase: it was promoted and takes writes.
    pub const PROMOTED: &str = "Promoted";
    /// RecoveryPlan: the plan has no fault that can be seen without executing it.
    pub const VALID: &str = "Valid";
    /// Failover, Drill: the execution is over, well or badly.
    pub const COMPLETE: &str = "Complete";
    /// Failover, Drill: the execution cannot go on.
    pub const FAILED: &str = "Failed";

    /// Types whose `True` is the bad news.
    pub const NEGATIVE: &[&str] = &[FENCED, FAILED];
}

/// Condition reasons.
pub mod reasons {
    // Well.
    /// Everything that is looked at is well.
    pub const AVAILABLE: &str = "Available";
    /// The store refused to delete a locked object before its time.
    pub const DELETE_REFUSED: &str = "DeleteRefused";
    /// The store's clock and this site's are near each other.
    pub const WITHIN_BOUNDS: &str = "WithinBounds";
    /// Commits wait for the vault.
    pub const SYNCHRONOUS: &str = "Synchronous";
    /// Commits do not wait for the vault, as asked.
    pub const ASYNCHRONOUS: &str = "Asynchronous";
    /// This site owns the log.
    pub const OWNS_THE_LOG: &str = "OwnsTheLog";
    /// The newest base backup is recent enough.
    pub const RECENT_BACKUP: &str = "RecentBackup";
    /// Several recipients can decrypt.
    pub const SEVERAL_RECIPIENTS: &str = "SeveralRecipients";
    /// No private key is named here, or this site needs it.
    pub const NO_NEEDLESS_KEY: &str = "NoNeedlessKey";
    /// A private key stands beside the databases that it opens the vault of, and nothing here needs it.
    pub const KEY_AT_PRIMARY: &str = "KeyAtPrimary";
    /// Only named writers are believed.
    pub const NAMED_WRITERS: &str = "NamedWriters";
    /// Everything that is stored was looked at and found sound.
    pub const VERIFIED: &str = "Verified";
    /// The standby replays what arrives in the vault.
    pub const REPLAYING: &str = "Replaying";
    /// Segments and an index cover the log soon after it is written.
    pub const IN_SEGMENTS: &str = "InSegments";
    /// The database was promoted.
    pub const PROMOTED: &str = "Promoted";

    // Not yet.
    /// Nothing is known yet.
    pub const CHECKING: &str = "Checking";
    /// Something that was just created has not come up yet.
    pub const STARTING: &str = "Starting";
    /// The base backup is being unpacked.
    pub const RESTORING: &str = "Restoring";
    /// The database is in recovery; there is nothing to write.
    pub const IN_RECOVERY: &str = "InRecovery";
    /// The first base backup is not complete yet.
    pub const BACKUP_RUNNING: &str = "BackupRunning";
    /// The log is sealed: the standby waits to be promoted.
    pub const SEALED: &str = "Sealed";

    /// Reasons that say "not yet" and deserve no warning.
    pub const NOT_YET: &[&str] =
        &[CHECKING, STARTING, RESTORING, IN_RECOVERY, BACKUP_RUNNING, SEALED, RUNNING, CARRIED_OUT];

    // Vault.
    /// The bucket does not exist.
    pub const NO_SUCH_BUCKET: &str = "NoSuchBucket";
    /// The bucket has no versioning.
    pub const BUCKET_WITHOUT_VERSIONING: &str = "BucketWithoutVersioning";
    /// The bucket has no Object Lock.
    pub const BUCKET_WITHOUT_OBJECT_LOCK: &str = "BucketWithoutObjectLock";
    /// The store accepted a lock and did not keep it.
    pub const LOCK_NOT_ENFORCED: &str = "LockNotEnforced";
    /// The lock holds, and the vault's credentials may do what only an administrator should.
    pub const EXCESSIVE_RIGHTS: &str = "ExcessiveRights";
    /// This site's clock is far from the store's.
    pub const CLOCK_SKEW: &str = "ClockSkew";
    /// The store refuses the credentials.
    pub const BAD_CREDENTIALS: &str = "BadCredentials";
    /// The credentials' Secret or one of its keys is missing.
    pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
    /// The identity's Secret or its key is missing or cannot be read.
    pub const IDENTITY_MISSING: &str = "IdentityMissing";
    /// The identity opens nothing that is encrypted to the recipients.
    pub const BAD_IDENTITY: &str = "BadIdentity";
    /// The writer key's Secret or its key is missing or cannot be read.
    pub const WRITER_KEY_MISSING: &str = "WriterKeyMissing";
    /// The site's writer key is not among the writers that are believed.
    pub const WRITER_NOT_LISTED: &str = "WriterNotListed";
    /// The site's writer key is revoked.
    pub const WRITER_REVOKED: &str = "WriterRevoked";
    /// Everybody who can write to the bucket is believed.
    pub const ANY_WRITER: &str = "AnyWriter";
    /// The store cannot be reached.
    pub const VAULT_UNREACHABLE: &str = "VaultUnreachable";
    /// The store refuses a request although it knows the credentials.
    pub const STORE_REFUSED: &str = "StoreRefused";
    /// The store lacks something that the vault is built on.
    pub const UNSUITABLE_STORE: &str = "UnsuitableStore";
    /// A recipient is not an age public key.
    pub const BAD_RECIPIENT: &str = "BadRecipient";
    /// Only one key can decrypt.
    pub const ONE_RECIPIENT: &str = "OneRecipient";
    /// An object cannot be read, or is not what was written.
    pub const DAMAGED_OBJECT: &str = "DamagedObject";
    /// An object that must be there is not.
    pub const MISSING_OBJECT: &str = "MissingObject";
    /// An object is sound, and by nobody who is trusted.
    pub const UNTRUSTED_OBJECT: &str = "UntrustedObject";
    /// Somebody put something over an object; the object itself is read as it was.
    pub const TAMPERED_OBJECT: &str = "TamperedObject";
    /// An object is not locked, or no longer.
    pub const UNLOCKED_OBJECT: &str = "UnlockedObject";
    /// None of this site's private keys opens an object.
    pub const UNREADABLE_OBJECT: &str = "UnreadableObject";
    /// Nothing is stored that could be looked at.
    pub const NOTHING_STORED: &str = "NothingStored";
    /// The last complete pass over everything that is stored is too old.
    pub const VERIFICATION_OVERDUE: &str = "VerificationOverdue";
    /// The spec says that nothing is to be done.
    pub const SUSPENDED: &str = "Suspended";
    /// Not known while the vault is not ready.
    pub const UNKNOWN: &str = "Unknown";

    // Databases.
    /// The Vault that the spec names does not exist.
    pub const VAULT_NOT_FOUND: &str = "VaultNotFound";
    /// The Vault that the spec names is not ready.
    pub const VAULT_NOT_READY: &str = "VaultNotReady";
    /// Another ProtectedDatabase writes under that name in the same vault.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The spec says something that cannot be done.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The agent does not answer.
    pub const AGENT_UNREACHABLE: &str = "AgentUnreachable";
    /// The relay does not answer.
    pub const RELAY_UNREACHABLE: &str = "RelayUnreachable";
    /// The archiver does not answer.
    pub const ARCHIVER_UNREACHABLE: &str = "ArchiverUnreachable";
    /// The log has run on beyond the newest index for more than half the lifetime of chunks.
    pub const ARCHIVER_BEHIND: &str = "ArchiverBehind";
    /// PostgreSQL does not answer.
    pub const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";
    /// A pod that Holdfast made does not run.
    pub const POD_NOT_RUNNING: &str = "PodNotRunning";
    /// Another site owns the log.
    pub const FENCED: &str = "Fenced";
    /// Another site is about to take over.
    pub const TAKEOVER_PENDING: &str = "TakeoverPending";
    /// The server does not wait for the vault although it should.
    pub const NOT_SYNCHRONOUS: &str = "NotSynchronous";
    /// Something is in the way and is tried again.
    pub const RETRYING: &str = "Retrying";
    /// The agent refuses to write.
    pub const REFUSED: &str = "Refused";
    /// The newest base backup is too old.
    pub const BACKUP_TOO_OLD: &str = "BackupTooOld";
    /// The vault holds no base backup of the source.
    pub const NOTHING_TO_RESTORE_FROM: &str = "NothingToRestoreFrom";
    /// The restore failed.
    pub const RESTORE_FAILED: &str = "RestoreFailed";
    /// The standby does not receive WAL.
    pub const NOT_FOLLOWING: &str = "NotFollowing";
    /// It was not promoted.
    pub const NOT_PROMOTED: &str = "NotPromoted";
    // Plans and executions.
    /// The plan has no fault.
    pub const PLAN_VALID: &str = "PlanValid";
    /// The services wait for each other in a circle.
    pub const PLAN_CYCLE: &str = "PlanCycle";
    /// A database that the plan does not list, or whose StandbyDatabase does not exist.
    pub const UNKNOWN_DATABASE: &str = "UnknownDatabase";
    /// A service that the plan does not list, or a Service that does not exist.
    pub const UNKNOWN_SERVICE: &str = "UnknownService";
    /// A workload that does not exist.
    pub const UNKNOWN_WORKLOAD: &str = "UnknownWorkload";
    /// Two databases or two services of the plan have the same name.
    pub const DUPLICATE_NAME: &str = "DuplicateName";
    /// The databases of the plan are in different vaults.
    pub const SEVERAL_VAULTS: &str = "SeveralVaults";
    /// A standby is not following.
    pub const DATABASE_NOT_READY: &str = "DatabaseNotReady";
    /// Plan and runbook could not be stored in the vault.
    pub const PLAN_NOT_STORED: &str = "PlanNotStored";
    /// The plan that the spec names does not exist.
    pub const UNKNOWN_PLAN: &str = "UnknownPlan";
    /// The plan that the spec names has a fault.
    pub const PLAN_NOT_VALID: &str = "PlanNotValid";
    /// An older Failover of the same plan is not over.
    pub const ANOTHER_FAILOVER_RUNS: &str = "AnotherFailoverRuns";
    /// A database of the plan takes writes at this site already.
    pub const ALREADY_PROMOTED: &str = "AlreadyPromoted";
    /// The plan was carried out: this site is the primary.
    pub const CARRIED_OUT: &str = "CarriedOut";
    /// Steps are being carried out.
    pub const RUNNING: &str = "Running";
    /// Every step is done.
    pub const SUCCEEDED: &str = "Succeeded";
    /// A step failed for good.
    pub const STEP_FAILED: &str = "StepFailed";
    /// A person stopped it.
    pub const ABORTED: &str = "Aborted";
    /// A step fails again and again and needs a person; it keeps being tried.
    pub const NEEDS_A_PERSON: &str = "NeedsAPerson";

    /// The reconcile itself failed.
    pub const RECONCILE_FAILED: &str = "ReconcileFailed";
    /// The operator may not do what it has to do in this namespace.
    pub const FORBIDDEN: &str = "Forbidden";
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One aspect of an object's state, as Kubernetes conditions are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect; there is one condition of a type.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// A word for programs: why.
    pub reason: String,
    /// What, where, and what to do.
    pub message: String,
    /// `metadata.generation` of the spec that this was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` changed last.
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Timestamp,
}

impl Condition {
    /// Whether this condition is bad news that a person should see: a warning, not a "not yet".
    pub fn is_warning(&self) -> bool {
        let negative = types::NEGATIVE.contains(&self.type_.as_str());
        let bad = match self.status {
            ConditionStatus::True => negative,
            ConditionStatus::False => !negative,
            ConditionStatus::Unknown => false,
        };
        bad && !reasons::NOT_YET.contains(&self.reason.as_str())
            && !(self.type_ == types::PROMOTED && self.reason == reasons::NOT_PROMOTED)
    }
}

/// The conditions of one object, keyed by type.
///
/// Start from the conditions that the object has (`Conditions::of(&status.conditions, generation, now)`),
/// set each type, and write [`Conditions::into_vec`] back: the transition time moves only when the
/// status does.
#[derive(Clone, Debug)]
pub struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    /// The conditions that an object of this generation has now.
    pub fn of(current: &[Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { list: current.to_vec(), generation, now }
    }

    /// Sets the condition of this type.
    pub fn set(
        &mut self,
        type_: &str,
        status: impl Into<ConditionStatus>,
        reason: &str,
        message: impl Into<String>,
    ) -> &mut Self {
        let status = status.into();
        let old = self.list.iter().position(|c| c.type_ == type_);
        let since = match old {
            Some(i) if self.list[i].status == status => self.list[i].last_transition_time,
            _ => self.now,
        };
        let condition = Condition {
            type_: type_.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: self.generation,
            last_transition_time: since,
        };
        match old {
            Some(i) => self.list[i] = condition,
            None => self.list.push(condition),
        }
        self
    }

    /// Removes the condition of this type.
    pub fn remove(&mut self, type_: &str) -> &mut Self {
        self.list.retain(|c| c.type_ != type_);
        self
    }

    /// The conditions, for the status.
    pub fn into_vec(self) -> Vec<Condition> {
        self.list
    }
}

/// A status with conditions.
pub trait Conditioned {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// Replaces its conditions.
    fn set_conditions(&mut self, conditions: Vec<Condition>);
}

/// The condition of this type, if it was ever set.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut first = Conditions::of(&[], Some(1), at(10));
        first.set(types::READY, false, reasons::STARTING, "starting");
        let first = first.into_vec();

        let mut second = Conditions::of(&first, Some(2), at(20));
        second.set(types::READY, false, reasons::POD_NOT_RUNNING, "no pod");
        let second = second.into_vec();
        assert_eq!(second.len(), 1);
        assert_eq!(second[0].last_transition_time, at(10));
        assert_eq!(second[0].observed_generation, Some(2));
        assert_eq!(second[0].reason, reasons::POD_NOT_RUNNING);

        let mut third = Conditions::of(&second, Some(2), at(30));
        third.set(types::READY, true, reasons::AVAILABLE, "well");
        assert_eq!(third.into_vec()[0].last_transition_time, at(30));
    }

    #[test]
    fn a_warning_is_bad_news_that_is_not_a_not_yet() {
        let cases = [
            (types::READY, ConditionStatus::False, reasons::NO_SUCH_BUCKET, true),
            (types::READY, ConditionStatus::False, reasons::STARTING, false),
            (types::READY, ConditionStatus::True, reasons::AVAILABLE, false),
            (types::FENCED, ConditionStatus::True, reasons::FENCED, true),
            (types::FENCED, ConditionStatus::False, reasons::OWNS_THE_LOG, false),
            (types::PROMOTED, ConditionStatus::False, reasons::NOT_PROMOTED, false),
            (types::PROTECTED, ConditionStatus::Unknown, reasons::UNKNOWN, false),
        ];
        for (type_, status, reason, warning) in cases {
            let mut conditions = Conditions::of(&[], None, at(0));
            conditions.set(type_, status, reason, "");
            assert_eq!(conditions.into_vec()[0].is_warning(), warning, "{type_} {reason}");
        }
    }
}
