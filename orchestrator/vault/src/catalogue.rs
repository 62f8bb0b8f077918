//! What is in a vault, by listings: every key with its versions, and what each key is for.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::VaultError;
use crate::fetch::{self, retrying};
use crate::keys::Position;
use crate::store::{
    ListRequest, ListedVersion, Oldest, Store, StoreError, StoreErrorKind, VersionsMarker, VersionsRequest,
};
use crate::vault::Vault;

/// Keys of one page.
const PAGE: usize = 1000;

/// What a key is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeyKind {
    /// Which database a name stands for.
    Identity {
        /// The database's name.
        database: String,
    },
    /// A chunk or a seal.
    Log {
        /// The database's name.
        database: String,
        /// Where it stands.
        at: Position,
    },
    /// A whole WAL segment.
    Segment {
        /// The database's name.
        database: String,
        /// Folder and name below `segment/`.
        name: String,
    },
    /// An index.
    Index {
        /// The database's name.
        database: String,
        /// Its number.
        n: u64,
    },
    /// A part of a base backup.
    BackupPart {
        /// The database's name.
        database: String,
        /// The backup's id.
        backup: String,
        /// Its number.
        n: u32,
    },
    /// The end of a base backup.
    BackupManifest {
        /// The database's name.
        database: String,
        /// The backup's id.
        backup: String,
    },
    /// A record of a run's journal.
    Journal {
        /// The run.
        run: String,
    },
    /// A plan with its runbook.
    Plan,
    /// Evidence of a check.
    Evidence,
    /// What a check of the lock left behind.
    Probe,
    /// Nothing that this version knows.
    Other,
}

impl KeyKind {
    /// One word, for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Identity { .. } => "identity",
            Self::Log { .. } => "log",
            Self::Segment { .. } => "segment",
            Self::Index { .. } => "index",
            Self::BackupPart { .. } => "backup part",
            Self::BackupManifest { .. } => "backup manifest",
            Self::Journal { .. } => "journal",
            Self::Plan => "plan",
            Self::Evidence => "evidence",
            Self::Probe => "probe",
            Self::Other => "unknown",
        }
    }
}

/// A key as a listing of versions shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedKey {
    /// The key.
    pub key: String,
    /// The id of its oldest version, which is the object; none when there are delete markers only.
    pub version: Option<String>,
    /// The bytes of that version.
    pub size: u64,
    /// When the store made that version, by the store's clock.
    pub stored: Option<Timestamp>,
    /// Versions that were put over it: tampering.
    pub newer_versions: usize,
    /// Delete markers: tampering.
    pub delete_markers: usize,
}

impl ListedKey {
    /// Whether somebody touched it after it was created.
    pub fn tampered(&self) -> bool {
        self.newer_versions + self.delete_markers > 0
    }
}

/// The keys below a prefix, in order, from a place on.
pub struct KeyWalk {
    store: Arc<dyn Store>,
    prefix: String,
    /// Where the next page begins; none for the first.
    next: Option<VersionsMarker>,
    started: bool,
    /// The versions of the last key seen, which may go on on the next page.
    open: Option<Seen>,
    ready: VecDeque<Seen>,
    /// Requests so far.
    pub(crate) requests: u64,
}

/// What listings showed of one key.
#[derive(Debug)]
struct Seen {
    key: String,
    real: Oldest<ListedVersion>,
    markers: usize,
}

impl Seen {
    fn new(key: &str) -> Seen {
        Seen { key: key.to_owned(), real: Oldest::default(), markers: 0 }
    }

    fn add(&mut self, version: ListedVersion) {
        match version.is_delete_marker {
            true => self.markers += 1,
            false => self.real.push(version.last_modified, version),
        }
    }
}

impl std::fmt::Debug for KeyWalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyWalk").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl KeyWalk {
    /// Keys that begin with `prefix`, those after `after` only.
    pub(crate) fn new(store: Arc<dyn Store>, prefix: String, after: Option<&str>) -> KeyWalk {
        let next = after.map(|key| VersionsMarker { key: key.to_owned(), id: None });
        KeyWalk { store, prefix, next, started: false, open: None, ready: VecDeque::new(), requests: 0 }
    }

    /// The next key; none after the last.
    pub async fn next(&mut self) -> Result<Option<ListedKey>, StoreError> {
        loop {
            if let Some(seen) = self.ready.pop_front() {
                return self.listed(seen).await.map(Some);
            }
            if self.started && self.next.is_none() {
                let Some(last) = self.open.take() else { return Ok(None) };
                return self.listed(last).await.map(Some);
            }
            self.page().await?;
        }
    }

    async fn page(&mut self) -> Result<(), StoreError> {
        let request = VersionsRequest { prefix: &self.prefix, after: self.next.as_ref(), limit: PAGE };
        let page = retrying(|| self.store.list_versions(request.clone())).await?;
        self.requests += 1;
        if page.next.is_some() && page.next == self.next {
            // It would be asked for ever; and what it does not list must not look as if it was not there.
            let (kind, operation) = (StoreErrorKind::Other, "ListObjectVersions");
            let detail = "the listing does not go on".to_owned();
            return Err(StoreError { kind, operation, target: self.prefix.clone(), detail });
        }
        for version in page.versions {
            if let Some(open) = self.open.take_if(|open| open.key != version.key) {
                self.ready.push_back(open);
            }
            self.open.get_or_insert_with(|| Seen::new(&version.key)).add(version);
        }
        (self.next, self.started) = (page.next, true);
        Ok(())
    }

    async fn listed(&mut self, seen: Seen) -> Result<ListedKey, StoreError> {
        let Seen { key, real, markers } = seen;
        let (count, mut real) = (real.count(), real.into_vec());
        if count > 1 {
            // The order within a listing cannot be relied on.
            self.requests += 1;
            let ordered = fetch::real_versions(&*self.store, &key).await?;
            let first = ordered.first().and_then(|first| real.iter().position(|version| version.id == first.id));
            real.drain(..first.unwrap_or_default());
        }
        let oldest = real.into_iter().next();
        Ok(ListedKey {
            key,
            version: oldest.as_ref().map(|oldest| oldest.id.clone()),
            size: oldest.as_ref().map_or(0, |oldest| oldest.size),
            stored: oldest.and_then(|oldest| oldest.last_modified),
            newer_versions: count.saturating_sub(1),
            delete_markers: markers,
        })
    }
}

impl Vault {
    /// The names of all databases, in order.
    pub async fn databases(&self) -> Result<Vec<String>, VaultError> {
        self.folders(&self.keys.databases()).await
    }

    /// Every key below a path in the vault (such as `db/billing/log/`; empty for all), in order, those after a whole key only.
    pub fn walk_keys(&self, path: &str, after: Option<&str>) -> KeyWalk {
        KeyWalk::new(self.store.clone(), format!("{}{path}", self.keys.root()), after)
    }

    /// What stands before every key of the vault, with its slash.
    pub fn root(&self) -> String {
        self.keys.root()
    }

    /// What a whole key is for.
    pub fn kind(&self, key: &str) -> KeyKind {
        let root = self.keys.root();
        key.strip_prefix(&root).and_then(|rest| self.kind_of(key, rest)).unwrap_or(KeyKind::Other)
    }

    fn kind_of(&self, key: &str, rest: &str) -> Option<KeyKind> {
        let mut parts = rest.split('/');
        let (folder, name) = (parts.next()?, parts.next()?.to_owned());
        let (kind, tail) = match folder {
            "db" => (parts.next()?, parts.collect::<Vec<_>>()),
            "plan" => return Some(KeyKind::Plan),
            "run" => return Some(KeyKind::Journal { run: name }),
            "evidence" => return Some(KeyKind::Evidence),
            "probe" => return Some(KeyKind::Probe),
            _ => return None,
        };
        let database = name;
        match (kind, tail.as_slice()) {
            ("identity", []) => Some(KeyKind::Identity { database }),
            ("log", _) => {
                let at = self.keys.database(&database).parse(key)?;
                Some(KeyKind::Log { database, at })
            }
            ("segment", [_, ..]) => Some(KeyKind::Segment { database, name: tail.join("/") }),
            ("index", [n]) => Some(KeyKind::Index { database, n: u64::from_str_radix(n, 16).ok()? }),
            ("backup", [id, "manifest"]) => Some(KeyKind::BackupManifest { database, backup: (*id).to_owned() }),
            ("backup", [id, n]) => Some(KeyKind::BackupPart { database, backup: (*id).to_owned(), n: n.parse().ok()? }),
            _ => None,
        }
    }

    /// The names of what stands directly below a folder, which ends in a slash.
    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>, VaultError> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let request = ListRequest { prefix, after: &after, limit: PAGE, folders: true };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            let name = |folder: &String| Some(folder.strip_prefix(prefix)?.strip_suffix('/')?.to_owned());
            names.extend(listing.folders.iter().filter_map(name));
            match listing.folders.last() {
                // After everything in the folder: `0` is the byte after `/`.
                Some(last) if listing.more => after = format!("{}0", last.trim_end_matches('/')),
                _ => return Ok(names),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Lock, MemoryStore};
    use holdfast_wal::Lsn;

    #[test]
    fn keys_are_told_apart() {
        let vault = Vault::with_store(Arc::new(MemoryStore::default()), "memory", "p");
        let database = "lab".to_owned();
        let at = Position { epoch: 1, start: Lsn(0x300_0000) };
        let cases = [
            ("p/v1/db/lab/identity", KeyKind::Identity { database: database.clone() }),
            ("p/v1/db/lab/log/0000000000000001/0000000003000000", KeyKind::Log { database: database.clone(), at }),
            ("p/v1/db/lab/index/000000000000000A", KeyKind::Index { database: database.clone(), n: 10 }),
            (
                "p/v1/db/lab/backup/b/00000007",
                KeyKind::BackupPart { database: database.clone(), backup: "b".into(), n: 7 },
            ),
            ("p/v1/db/lab/backup/b/manifest", KeyKind::BackupManifest { database, backup: "b".into() }),
            ("p/v1/run/r/00000000", KeyKind::Journal { run: "r".into() }),
            ("p/v1/plan/n/h", KeyKind::Plan),
            ("p/v1/db/lab/log/1/2", KeyKind::Other),
            ("q/v1/plan/n/h", KeyKind::Other),
        ];
        for (key, kind) in cases {
            assert_eq!(vault.kind(key), kind, "{key}");
        }
    }

    #[tokio::test]
    async fn a_walk_gives_every_key_once_and_its_oldest_version() {
        let store = Arc::new(MemoryStore::default());
        for n in 0..2500 {
            store.create(&format!("v1/db/a/log/{n:05}"), "x".into(), Lock::Long).await.unwrap();
        }
        store.overwrite("v1/db/a/log/00999", "newer".into());
        store.put_delete_marker("v1/db/a/log/01000");
        // More than a page of one key: its oldest version is on another page than its newest.
        for _ in 0..2100 {
            store.overwrite("v1/db/a/log/01500", "newer".into());
        }
        let vault = Vault::with_store(store, "memory", "");
        let (mut walk, mut found) = (vault.walk_keys("db/a/", None), Vec::new());
        while let Some(key) = walk.next().await.unwrap() {
            found.push(key);
        }
        assert_eq!(found.len(), 2500);
        assert!(found.is_sorted_by(|a, b| a.key < b.key));
        let tampered: Vec<_> =
            found.iter().filter(|key| key.tampered()).map(|key| (&key.key[12..], key.size)).collect();
        assert_eq!(tampered, [("00999", 1), ("01000", 1), ("01500", 1)]);
        let covered = found.iter().find(|key| key.key.ends_with("01500")).unwrap();
        assert_eq!((covered.newer_versions, covered.delete_markers), (2100, 0));
        let mut rest = vault.walk_keys("db/a/", Some("v1/db/a/log/02497"));
        assert_eq!(rest.next().await.unwrap().map(|key| key.key).as_deref(), Some("v1/db/a/log/02498"));
    }
}
