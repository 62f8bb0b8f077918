//! One object, described for a person: what it says of itself, what holds of that, how it is locked. Never WAL, and never
//! what a backup holds.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::catalogue::KeyKind;
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::object::{Decoded, Encoding, Hash, ObjectError, Subject, decode_header, decode_stored};
use crate::store::{Object, Retention, StoreErrorKind, Version};
use crate::vault::Vault;

/// The longest plain body that is shown, in bytes.
const MAX_SHOWN: u64 = 1024 * 1024;

/// What is to know of one object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Its key.
    pub key: String,
    /// What the key is for.
    #[serde(flatten)]
    pub kind: KeyKind,
    /// Its bytes, header and all; of the oldest version.
    pub size: u64,
    /// When the store made it, by the store's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Timestamp>,
    /// All versions, the real ones oldest first: the first real one is the object.
    pub versions: Vec<VersionLine>,
    /// How the object is locked.
    pub lock: LockLine,
    /// The digest of its header block: what other objects name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// Its header, as it stands in the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Value>,
    /// What is wrong with it; absent when signature, digest, place and writer hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The body, where it is plain JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionLine {
    /// Its id.
    pub id: String,
    /// Whether it is a delete marker.
    pub delete_marker: bool,
    /// When the store made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Timestamp>,
}

/// How an object is locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "lock")]
pub enum LockLine {
    /// Locked until then, by the store's clock.
    Locked {
        /// Until when.
        until: Timestamp,
        /// COMPLIANCE; otherwise an administrator can lift it.
        compliance: bool,
    },
    /// No retention; or the store has no locks.
    Unlocked,
    /// These credentials may not ask.
    Unknown,
}

impl Description {
    /// Whether nothing is wrong with the object and nobody touched it.
    pub fn is_sound(&self) -> bool {
        self.problem.is_none() && self.versions.len() == 1
    }
}

impl Vault {
    /// Describes the object at a key; `None` when there never was one.
    pub async fn describe(&self, key: &str) -> Result<Option<Description>, VaultError> {
        let versions = retrying(|| self.store.versions(key)).await?;
        let Some(first) = versions.iter().find(|version| !version.is_delete_marker) else {
            return Ok(None);
        };
        let object = retrying(|| self.store.get_version(key, &first.id)).await?;
        let lock = match retrying(|| self.store.retention(key, &first.id)).await {
            Ok(Some(Retention { compliance, until })) => LockLine::Locked { until, compliance },
            Ok(None) => LockLine::Unlocked,
            Err(error) if error.kind == StoreErrorKind::Denied => LockLine::Unknown,
            Err(error) => return Err(error.into()),
        };
        let line = |version: &Version| VersionLine {
            id: version.id.clone(),
            delete_marker: version.is_delete_marker,
            stored: version.last_modified,
        };
        let kind = self.kind(key);
        let mut description = Description {
            key: key.to_owned(),
            size: object.as_ref().map_or(0, |object| object.total_len),
            stored: first.last_modified,
            versions: versions.iter().map(line).collect(),
            lock,
            hash: None,
            header: None,
            problem: None,
            body: None,
            kind,
        };
        match object {
            Some(object) => self.look_into(&mut description, &object),
            None => description.problem = Some("it is listed and cannot be read".to_owned()),
        }
        Ok(Some(description))
    }

    fn look_into(&self, description: &mut Description, object: &Object) {
        // The header is worth showing even when the body is not what it says.
        if let Ok(decoded) = decode_header(&object.bytes) {
            description.hash = Some(decoded.hash);
            description.header = serde_json::to_value(&decoded.header).ok();
        }
        match decode_stored(object) {
            Ok((decoded, body)) => {
                let problem = belongs(&description.kind, &decoded).and_then(|()| self.believes(&decoded));
                description.problem = problem.err().map(|error| error.to_string());
                let plain =
                    decoded.header.body.filter(|info| info.encoding == Encoding::Plain && info.len <= MAX_SHOWN);
                description.body = plain.and_then(|_| serde_json::from_slice(&body).ok());
            }
            Err(error) => description.problem = Some(error.to_string()),
        }
    }

    /// Chunks and parts are vouched for by another object: a seal, a manifest.
    fn believes(&self, decoded: &Decoded) -> Result<(), ObjectError> {
        match decoded.header.subject {
            Subject::Chunk(_) | Subject::BackupPart { .. } => Ok(()),
            _ => self.trust.check(decoded),
        }
    }
}

/// Whether an object says of itself what its key says.
fn belongs(kind: &KeyKind, decoded: &Decoded) -> Result<(), ObjectError> {
    let fits = match (kind, &decoded.header.subject) {
        (KeyKind::Identity { database }, Subject::Identity { database: stated }) => database == stated,
        (KeyKind::Log { database, at }, Subject::Chunk(chunk)) => {
            *database == chunk.database && (at.epoch, at.start) == (chunk.epoch, chunk.start)
        }
        (KeyKind::Log { database, at }, Subject::Seal(seal)) => {
            *database == seal.database && (at.epoch, at.start) == (seal.epoch, seal.start)
        }
        (KeyKind::Segment { database, .. }, Subject::Segment(segment)) => *database == segment.database,
        (KeyKind::Index { database, n }, Subject::Index(index)) => *database == index.database && *n == index.n,
        (KeyKind::BackupPart { database, backup, n }, Subject::BackupPart { database: d, backup: b, n: m, .. }) => {
            (database, backup, n) == (d, b, m)
        }
        (KeyKind::BackupManifest { database, backup }, Subject::BackupManifest { database: d, backup: b, .. }) => {
            (database, backup) == (d, b)
        }
        (KeyKind::Journal { run }, Subject::Journal { run: stated, .. }) => run == stated,
        (KeyKind::Plan, Subject::Plan { .. }) | (KeyKind::Probe, Subject::Probe) => true,
        (KeyKind::Evidence | KeyKind::Other, _) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(ObjectError::Misplaced { reason: "it does not belong at this key".into() }) }
}
