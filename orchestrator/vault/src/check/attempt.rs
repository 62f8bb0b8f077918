//! What the lock probe tries, what came of it, and how that is judged. Without I/O.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{Answer, LifecycleFacts, Retention};

/// Something that whoever stole the vault's credentials would try, or a setting that would do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// Set an earlier retain-until date.
    ShortenRetention,
    /// Turn COMPLIANCE into GOVERNANCE.
    DowngradeRetention,
    /// Delete a locked version.
    DeleteVersion,
    /// Delete a locked version in a batch.
    DeleteBatch,
    /// Delete a locked version with the header that lifts GOVERNANCE.
    BypassGovernance,
    /// PUT over a locked object.
    Overwrite,
    /// Hide a locked object behind a delete marker.
    Hide,
    /// PUT an object without a retention.
    PutUnlocked,
    /// Suspend versioning.
    SuspendVersioning,
    /// Put a lifecycle rule.
    PutLifecycle,
    /// Put a bucket policy.
    PutPolicy,
    /// Put an Object Lock configuration.
    PutLockConfiguration,
    /// A lifecycle rule that is there and expires objects.
    ExpiringRules,
    /// Read what belongs to somebody else.
    ReadOther,
}

impl Attempt {
    /// What is tried, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ShortenRetention => "shorten a retention",
            Self::DowngradeRetention => "downgrade COMPLIANCE to GOVERNANCE",
            Self::DeleteVersion => "delete a locked version",
            Self::DeleteBatch => "delete a locked version in a batch",
            Self::BypassGovernance => "delete with governance bypassed",
            Self::Overwrite => "overwrite a locked object",
            Self::Hide => "hide a locked object behind a delete marker",
            Self::PutUnlocked => "upload an object without retention",
            Self::SuspendVersioning => "suspend versioning",
            Self::PutLifecycle => "put a lifecycle rule",
            Self::PutPolicy => "put a bucket policy",
            Self::PutLockConfiguration => "change the Object Lock configuration",
            Self::ExpiringRules => "expire objects by a lifecycle rule that is there",
            Self::ReadOther => "read another database's objects",
        }
    }

    /// Its name in metrics and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortenRetention => "shorten-retention",
            Self::DowngradeRetention => "downgrade-retention",
            Self::DeleteVersion => "delete-version",
            Self::DeleteBatch => "delete-batch",
            Self::BypassGovernance => "bypass-governance",
            Self::Overwrite => "overwrite",
            Self::Hide => "hide",
            Self::PutUnlocked => "put-unlocked",
            Self::SuspendVersioning => "suspend-versioning",
            Self::PutLifecycle => "put-lifecycle",
            Self::PutPolicy => "put-policy",
            Self::PutLockConfiguration => "put-lock-configuration",
            Self::ExpiringRules => "expiring-rules",
            Self::ReadOther => "read-other",
        }
    }

    /// Whether its success means that what is stored can be lost before its time. The others are rights that the
    /// vault's credentials should not have: they can hide or disturb, and nothing that is locked is lost by them.
    pub fn breaks_the_lock(self) -> bool {
        !matches!(
            self,
            Self::PutUnlocked
                | Self::PutLifecycle
                | Self::PutPolicy
                | Self::PutLockConfiguration
                | Self::ExpiringRules
                | Self::ReadOther
        )
    }

    /// What to do when it succeeds.
    fn remedy(self) -> &'static str {
        match self {
            Self::SuspendVersioning => {
                "deny s3:PutBucketVersioning to these credentials; a store that suspends versioning under Object Lock \
                 cannot hold a vault"
            }
            Self::PutUnlocked => "give the bucket a default retention in COMPLIANCE mode",
            Self::PutLifecycle => "deny s3:PutLifecycleConfiguration to these credentials in the bucket's policy",
            Self::PutPolicy => "deny s3:PutBucketPolicy and s3:DeleteBucketPolicy to these credentials",
            Self::PutLockConfiguration => "deny s3:PutBucketObjectLockConfiguration to these credentials",
            Self::ExpiringRules => {
                "remove the rule: it hides objects behind delete markers. Only a rule that ends unfinished multipart \
                 uploads belongs on a vault's bucket"
            }
            Self::ReadOther => "allow these credentials s3:GetObject and s3:ListBucket on the vault's own prefix only",
            _ => "use another store: this one accepts a lock and does not hold it",
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// Refused, and what stood there was read back unchanged.
    Refused {
        /// What the store said: status and code.
        said: String,
    },
    /// It is possible and harms nothing.
    Harmless {
        /// Why not.
        why: String,
    },
    /// It is possible, harms nothing that follows the rules, and could be better.
    Limit {
        /// What is possible.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// It succeeded, and that is harm.
    Harmful {
        /// What succeeded.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Not tried.
    Skipped {
        /// Why not.
        why: String,
    },
}

impl Outcome {
    /// One word, as in metrics and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Harmless { .. } => "harmless",
            Self::Limit { .. } => "limit",
            Self::Harmful { .. } => "harmful",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// What there is to say beyond the word.
    pub fn detail(&self) -> String {
        match self {
            Self::Refused { said } => said.clone(),
            Self::Harmless { why } | Self::Skipped { why } => why.clone(),
            Self::Limit { what, remedy } | Self::Harmful { what, remedy } => format!("{what}. To do: {remedy}"),
        }
    }

    /// Whether it is harm.
    pub fn is_harmful(&self) -> bool {
        matches!(self, Self::Harmful { .. })
    }
}

/// One attempt and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// What was tried.
    pub attempt: Attempt,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A probe object as it was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The version that the probe stored is the oldest of its key and has the probe's bytes.
    pub intact: bool,
    /// How that version is locked.
    pub retention: Option<Retention>,
    /// A delete marker is listed.
    pub marker: bool,
    /// Newer versions that are listed.
    pub newer: usize,
}

/// Judges an attempt on a locked probe object by what the store said and by what was read back before and after.
pub(super) fn judge_object(attempt: Attempt, answer: &Answer, before: &Seen, after: &Seen) -> Outcome {
    let harmful = |what: String| Outcome::Harmful { what, remedy: attempt.remedy().to_owned() };
    let said = match answer {
        Answer::Refused { said } => format!("the store refused ({said})"),
        Answer::Accepted { .. } => "the store agreed".to_owned(),
        Answer::Untried { why } => return Outcome::Skipped { why: why.clone() },
    };
    if !after.intact {
        return harmful(format!("{said}, and the locked version is gone, changed, or not the oldest any more"));
    }
    if let Some(weaker) = weaker(before.retention.as_ref(), after.retention.as_ref()) {
        return harmful(format!("{said}, and the lock {weaker}"));
    }
    match (attempt, answer) {
        (_, Answer::Refused { said }) => Outcome::Refused { said: said.clone() },
        (Attempt::Overwrite, _) if after.newer > before.newer => Outcome::Harmless {
            why: "possible: a newer version, which readers ignore and report; the oldest reads as it was".to_owned(),
        },
        (Attempt::Hide, _) if after.marker => Outcome::Harmless {
            why: "possible: readers see the delete marker, report it, and read the version behind it".to_owned(),
        },
        (Attempt::Hide, _) => harmful("the store agreed and lists no delete marker: what it hides looks absent".into()),
        _ => Outcome::Limit {
            what: "the store agreed and changed nothing".to_owned(),
            remedy: "nothing: the object is as it was; the store's answer cannot be trusted".to_owned(),
        },
    }
}

/// In what way a lock got weaker.
fn weaker(before: Option<&Retention>, after: Option<&Retention>) -> Option<String> {
    let before = before?;
    let Some(after) = after else { return Some("is gone".to_owned()) };
    if before.compliance && !after.compliance {
        return Some("is not in COMPLIANCE mode any more".to_owned());
    }
    (after.until < before.until).then(|| format!("ends at {} instead of {}", after.until, before.until))
}

/// Judges an upload without a retention. `retention` is what was read back, `enough` the least time that a default
/// should give.
pub(super) fn judge_unlocked(answer: &Answer, retention: Option<&Retention>, enough: Timestamp) -> Outcome {
    let remedy = Attempt::PutUnlocked.remedy().to_owned();
    match (answer, retention) {
        (Answer::Refused { said }, _) => Outcome::Refused { said: said.clone() },
        (Answer::Untried { why }, _) => Outcome::Skipped { why: why.clone() },
        (_, Some(lock)) if lock.compliance && lock.until >= enough => {
            Outcome::Harmless { why: format!("possible: the bucket's default retention locks it until {}", lock.until) }
        }
        (_, Some(lock)) if lock.compliance => {
            let what = format!("possible: the bucket's default retention ends already at {}", lock.until);
            Outcome::Limit { what, remedy }
        }
        (_, Some(_)) => {
            Outcome::Limit { what: "possible: the bucket's default retention is in GOVERNANCE mode".to_owned(), remedy }
        }
        (_, None) => {
            let what = "possible, and nothing locks it (what Holdfast stores carries its own lock)".to_owned();
            Outcome::Limit { what, remedy }
        }
    }
}

/// Judges a change of the bucket's settings.
pub(super) fn judge_setting(attempt: Attempt, answer: &Answer) -> Outcome {
    let harmful = |what: String| Outcome::Harmful { what, remedy: attempt.remedy().to_owned() };
    match answer {
        Answer::Refused { said } => Outcome::Refused { said: said.clone() },
        Answer::Untried { why } => Outcome::Skipped { why: why.clone() },
        Answer::Accepted { left: None } => harmful("the store agreed; it was put back as it was at once".to_owned()),
        Answer::Accepted { left: Some(left) } => Outcome::Harmful {
            what: format!("the store agreed, AND IT COULD NOT BE PUT BACK: {left}"),
            remedy: format!("put it right by hand now, then {}", attempt.remedy()),
        },
    }
}

/// Judges the lifecycle rules that are there.
pub(super) fn judge_rules(facts: Option<&LifecycleFacts>) -> Outcome {
    match facts {
        None => Outcome::Skipped { why: "these credentials may not read the bucket's lifecycle rules".to_owned() },
        Some(facts) if facts.expiring.is_empty() => {
            Outcome::Harmless { why: "no lifecycle rule expires anything".to_owned() }
        }
        Some(facts) => Outcome::Harmful {
            what: format!("lifecycle rules expire objects: {}", facts.expiring.join(", ")),
            remedy: Attempt::ExpiringRules.remedy().to_owned(),
        },
    }
}

/// What came of a look at another's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Refused.
    Refused(String),
    /// Allowed, and there was nothing.
    Nothing,
    /// Allowed, and there was this.
    Found(String),
}

/// Judges the look at another's objects: a listing, and the read of one key (of one that was listed, if any).
pub(super) fn judge_other(listing: &Look, reading: &Look) -> Outcome {
    let remedy = Attempt::ReadOther.remedy().to_owned();
    match (listing, reading) {
        (_, Look::Found(key)) => Outcome::Harmful { what: format!("`{key}` was read"), remedy },
        (Look::Refused(said), Look::Refused(_)) => Outcome::Refused { said: said.clone() },
        (Look::Found(_), Look::Refused(_)) => {
            Outcome::Limit { what: "names can be listed; reading is refused".to_owned(), remedy }
        }
        (Look::Nothing, Look::Refused(_)) => {
            Outcome::Limit { what: "names could be listed (there are none); reading is refused".to_owned(), remedy }
        }
        (_, Look::Nothing) => {
            Outcome::Limit { what: "reading is allowed; nothing was there to read".to_owned(), remedy }
        }
    }
}
