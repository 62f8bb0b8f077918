//! What whoever stole the vault's credentials would try. Only the lock probe sends these requests, each against
//! objects of its own.

use bytes::Bytes;
use jiff::Timestamp;

/// A request that a vault's credentials must be refused, or that must do no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forbidden<'a> {
    /// Delete a version.
    DeleteVersion {
        /// The key.
        key: &'a str,
        /// The version.
        id: &'a str,
    },
    /// Delete a version in a batch (DeleteObjects): a permission and a code path of its own.
    DeleteBatch {
        /// The key.
        key: &'a str,
        /// The version.
        id: &'a str,
    },
    /// Delete a version with the header that lifts a GOVERNANCE lock.
    BypassGovernance {
        /// The key.
        key: &'a str,
        /// The version.
        id: &'a str,
    },
    /// Set another retention.
    Retain {
        /// The key.
        key: &'a str,
        /// The version.
        id: &'a str,
        /// Until when, by the store's clock.
        until: Timestamp,
        /// COMPLIANCE, else GOVERNANCE.
        compliance: bool,
    },
    /// PUT without a condition and without a retention.
    PutUnlocked {
        /// The key.
        key: &'a str,
        /// The body.
        body: Bytes,
    },
    /// DELETE without a version: a delete marker hides the key.
    Hide {
        /// The key.
        key: &'a str,
    },
    /// Suspend the bucket's versioning.
    SuspendVersioning,
    /// Put a lifecycle rule (a disabled one, for this prefix only).
    PutLifecycle {
        /// The prefix.
        prefix: &'a str,
    },
    /// Put a bucket policy (the one that is there, or one that says nothing).
    PutPolicy {
        /// A key that nothing stands at, for the policy that says nothing.
        key: &'a str,
    },
    /// Put an Object Lock configuration (the one that is there).
    PutLockConfiguration,
}

/// What the store said to a [`Forbidden`] request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No.
    Refused {
        /// Status and code.
        said: String,
    },
    /// Yes. What the request changed in the bucket's settings was put back.
    Accepted {
        /// What could not be put back.
        left: Option<String>,
    },
    /// It was not asked.
    Untried {
        /// Why not.
        why: String,
    },
}

impl Answer {
    /// Yes, with nothing left behind.
    pub fn accepted() -> Answer {
        Answer::Accepted { left: None }
    }
}
