//! Base backups, part by part in the order of their keys. Without I/O.

use serde::{Deserialize, Serialize};

use super::cost::BackupSpan;
use super::report::{Finding, FindingKind};
use crate::backup::BackupManifest;
use crate::keys::DatabaseKeys;
use crate::object::{Decoded, Hash, ObjectError, Subject};

/// What is known of the backups so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backups {
    current: Option<Current>,
    /// Those that are through.
    pub(super) done: Vec<BackupSpan>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Current {
    id: String,
    /// None: it never finished, or its manifest cannot be read.
    manifest: Option<BackupManifest>,
    /// The next part, and what it must name.
    next: u32,
    prev: Option<Hash>,
    sound: bool,
}

impl Backups {
    /// Whether the parts of this backup come now.
    pub(super) fn is_current(&self, id: &str) -> bool {
        self.current.as_ref().is_some_and(|current| current.id == id)
    }

    /// The parts of the next backup come now.
    pub(super) fn begin(
        &mut self,
        keys: &DatabaseKeys,
        id: &str,
        manifest: Result<Option<BackupManifest>, ObjectError>,
        findings: &mut Vec<Finding>,
    ) {
        self.end(keys, findings);
        let manifest = manifest.unwrap_or_else(|error| {
            let detail = format!("{error}; which moments the backup was for is not known");
            let finding = Finding::new(&keys.backup_manifest(id), FindingKind::of(&error), detail);
            findings.push(Finding { backup: Some(id.to_owned()), ..finding });
            None
        });
        self.current = Some(Current { id: id.to_owned(), manifest, next: 0, prev: None, sound: true });
    }

    /// The next part of the current backup.
    pub(super) fn part(
        &mut self,
        keys: &DatabaseKeys,
        n: u32,
        decoded: Result<&Decoded, ObjectError>,
        findings: &mut Vec<Finding>,
    ) {
        let Some(current) = &mut self.current else { return };
        // What never finished is no backup.
        let Some(manifest) = &current.manifest else { return };
        if n > current.next {
            let missing = format!("parts {} to {} are not there", current.next, n - 1);
            let key = keys.backup_part(&current.id, current.next);
            findings.push(of(&current.id, Finding::new(&key, FindingKind::Missing, missing)));
            (current.sound, current.prev) = (false, None);
        }
        let follows = n == current.next && (current.prev.is_some() || n == 0);
        let checked = decoded.and_then(|decoded| {
            let prev = check_part(manifest, n, decoded)?;
            if follows && prev != current.prev {
                return Err(misplaced("it does not follow the part before it"));
            }
            Ok(decoded.hash)
        });
        current.prev = match checked {
            Ok(hash) => Some(hash),
            Err(error) => {
                let finding =
                    Finding::new(&keys.backup_part(&current.id, n), FindingKind::of(&error), error.to_string());
                findings.push(of(&current.id, finding));
                current.sound = false;
                None
            }
        };
        current.next = n.saturating_add(1);
    }

    /// After the last part of the current backup.
    pub(super) fn end(&mut self, keys: &DatabaseKeys, findings: &mut Vec<Finding>) {
        let Some(mut current) = self.current.take() else { return };
        let Some(manifest) = &current.manifest else { return };
        let last = (current.next == manifest.parts) && (!current.sound || current.prev == manifest.last_part);
        if !last {
            let have = current.next.min(manifest.parts);
            let key = keys.backup_part(&current.id, have.min(manifest.parts.saturating_sub(1)));
            let detail = format!("{have} parts of {}, or a last one that the manifest does not name", manifest.parts);
            findings.push(of(&current.id, Finding::new(&key, FindingKind::Missing, detail)));
            current.sound = false;
        }
        self.done.push(BackupSpan {
            id: current.id,
            start: manifest.meta.start,
            end: manifest.end,
            finished: manifest.finished,
            sound: current.sound,
        });
    }
}

fn of(id: &str, finding: Finding) -> Finding {
    Finding { backup: Some(id.to_owned()), ..finding }
}

fn misplaced(reason: &str) -> ObjectError {
    ObjectError::Misplaced { reason: reason.to_owned() }
}

/// What a part names as the one before it, when it is part `n` of this backup.
fn check_part(manifest: &BackupManifest, n: u32, decoded: &Decoded) -> Result<Option<Hash>, ObjectError> {
    let Subject::BackupPart { system_id, backup, n: stated, prev, .. } = &decoded.header.subject else {
        return Err(misplaced("it is not a part of a backup"));
    };
    let signer = (decoded.header.nonce, decoded.header.key) == (manifest.nonce, manifest.key);
    let place = *stated == n && *backup == manifest.meta.id && *system_id == manifest.system_id;
    if signer && place { Ok(*prev) } else { Err(misplaced("it is not this part of this backup")) }
}
