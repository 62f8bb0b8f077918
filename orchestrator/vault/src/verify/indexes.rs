//! Indexes, in the order of their numbers. Without I/O.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::report::{Finding, FindingKind};
use crate::keys::DatabaseKeys;
use crate::log::index::{Index, StoredIndex, check_index};
use crate::log::walk::LogFacts;
use crate::object::{Decoded, Hash, ObjectError};

/// What is known of the indexes so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Indexes {
    /// The last one that holds.
    last: Option<(Index, Hash)>,
    /// The number that comes next.
    next: u64,
}

impl Indexes {
    /// Takes the next index, in the order of the keys.
    pub(super) fn meet(
        &mut self,
        facts: &Arc<LogFacts>,
        keys: &DatabaseKeys,
        key: &str,
        decoded: Result<&Decoded, ObjectError>,
        findings: &mut Vec<Finding>,
    ) {
        let Some(n) = keys.parse_index(key) else {
            return findings.push(Finding::new(key, FindingKind::Damaged, "its key is none of an index"));
        };
        let before = self.last.clone().map(|(index, hash)| StoredIndex { index, hash, stored: None });
        let checked = decoded.and_then(|decoded| check_index(facts, n, before.as_ref(), decoded));
        match checked {
            Ok(found) => {
                if n > self.next {
                    let detail = format!("indexes are never deleted, and none stands here; index {n} does");
                    findings.push(Finding::new(&keys.index(self.next), FindingKind::Missing, detail));
                }
                self.last = Some((found.index, found.hash));
            }
            // Whoever reads the log does not need it: the one before it, or the next one that holds, takes its place.
            Err(error) => {
                let detail = format!("{error}; readers pass it over");
                findings.push(Finding::new(key, FindingKind::of(&error), detail));
            }
        }
        self.next = n.saturating_add(1);
    }
}
