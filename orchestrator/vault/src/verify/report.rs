//! What a scrub reports.

use std::fmt;

use holdfast_wal::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cost::Span;
use crate::object::ObjectError;

/// Something that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The object.
    pub key: String,
    /// What.
    pub what: FindingKind,
    /// In which way.
    pub detail: String,
    /// The WAL that cannot be read for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// The backup that cannot be read for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The moments that can no longer be restored for it, nothing else being wrong. Empty before the scrub is through, and
    /// where another object holds the same WAL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Moments>,
}

/// What can be wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FindingKind {
    /// It cannot be read, or is not what was written.
    Damaged,
    /// It is not there.
    Missing,
    /// Sound, and by nobody who is trusted.
    Untrusted,
    /// Somebody put a newer version or a delete marker over it. The object itself is read as it was.
    Tampered,
    /// Not locked, or no longer.
    Unlocked,
    /// Nobody of the given identities can open it.
    Unreadable,
}

impl FindingKind {
    pub(super) fn of(error: &ObjectError) -> FindingKind {
        match error {
            ObjectError::Untrusted(_) => FindingKind::Untrusted,
            ObjectError::NoIdentity => FindingKind::Unreadable,
            _ => FindingKind::Damaged,
        }
    }

    /// Whether something cannot be restored for it. The rest is a sign of an attack or of a wrong set-up.
    pub fn is_loss(self) -> bool {
        !matches!(self, FindingKind::Tampered | FindingKind::Unlocked)
    }

    /// What to do.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Damaged | Self::Missing => {
                "keep the bucket as it is, look for the object in a copy of the vault, and take a new base backup"
            }
            Self::Untrusted => "find out whose key made it; list the key in the Vault's writers if it is yours",
            Self::Tampered => {
                "nothing is lost; somebody used credentials that can write here: rotate them and find out who"
            }
            Self::Unlocked => "extend its lock (`holdfast vault hold`), and check what created it",
            Self::Unreadable => "give the identity of a recipient that it was encrypted to",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Untrusted => "untrusted",
            Self::Tampered => "tampered",
            Self::Unlocked => "unlocked",
            Self::Unreadable => "unreadable",
        })
    }
}

impl Finding {
    pub(super) fn new(key: &str, what: FindingKind, detail: impl Into<String>) -> Finding {
        let (key, detail) = (key.to_owned(), detail.into());
        Finding { key, what, detail, span: None, backup: None, costs: Vec::new() }
    }
}

/// A position of the log and when the store had it, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// The position.
    pub lsn: Lsn,
    /// When, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} ({})", at.strftime("%Y-%m-%dT%H:%M:%SZ"), self.lsn),
            None => write!(f, "{}", self.lsn),
        }
    }
}

/// Moments between two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moments {
    /// The first, or the one before it.
    pub from: Moment,
    /// The last, or the one after it.
    pub to: Moment,
    /// The newest backup at or before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backup) = &self.backup {
            write!(f, "backup {backup}: ")?;
        }
        write!(f, "no restore to moments between {} and {}", self.from, self.to)
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Objects listed and looked at.
    pub objects: u64,
    /// Of these, objects whose whole body was read and its digest compared.
    pub bodies: u64,
    /// Of these, objects that were decrypted and decompressed.
    pub opened: u64,
    /// Objects whose lock was read.
    pub locks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Requests made.
    pub requests: u64,
    /// Objects that stand beside the chain: put behind a seal, which readers ignore.
    pub beside: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Totals {
    /// Bytes read a second, in GB (10^9).
    pub fn gb_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / 1e9 / self.seconds } else { 0.0 }
    }
}

/// What is known after a whole scrub.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The database.
    pub database: String,
    /// The end of the log.
    pub tip: Moment,
    /// The complete backups, and whether each can be read.
    pub backups: Vec<super::cost::BackupSpan>,
    /// The moments that can be restored.
    pub restorable: Vec<Moments>,
    /// The moments that cannot be restored and could be if nothing was wrong.
    pub lost: Vec<Moments>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub totals: Totals,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
