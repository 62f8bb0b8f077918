//! A second vault: the same objects under the same keys in another store.
//!
//! Every object is read at its oldest version, its signature and its digest are checked, and it is created at the other
//! side only if nothing stands there. What stands there and differs is named and left alone. A copy that was broken off
//! goes on where it was: what is there already is not read again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalogue::{KeyWalk, ListedKey};
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::object::decode;
use crate::store::{Created, Store, StoreError};
use crate::vault::Vault;

/// What of a vault is copied: not what checks leave behind.
const FOLDERS: [&str; 4] = ["db/", "evidence/", "plan/", "run/"];

/// How to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Objects under way at the same time; each is held in memory.
    pub parallel: usize,
    /// Only these databases (and nothing else of the vault); empty: all.
    pub databases: Vec<String>,
    /// Read what is there already on both sides and compare it, instead of comparing sizes.
    pub compare: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        CopyOptions { parallel: 8, databases: Vec::new(), compare: false }
    }
}

/// What a copy has done.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    /// Objects that were copied now.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Objects that were there already.
    pub present: u64,
    /// Objects of the copy that the vault no longer has: they expired there.
    pub only_in_copy: u64,
    /// What was not copied, or does not fit.
    pub problems: Vec<CopyProblem>,
    /// Keys that somebody touched in the vault; their oldest version was copied.
    pub tampered: Vec<String>,
}

/// An object that is not in the copy as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyProblem {
    /// The object.
    pub key: String,
    /// What is wrong.
    pub what: CopyProblemKind,
    /// In which way.
    pub detail: String,
}

/// What can be wrong with a copied object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CopyProblemKind {
    /// The vault's own object is damaged: it was not copied.
    SourceDamaged,
    /// Something else stands in the copy: it was left as it is.
    Differs,
}

impl fmt::Display for CopyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            CopyProblemKind::SourceDamaged => "is damaged in the vault and was not copied",
            CopyProblemKind::Differs => "stands in the copy and differs; it was not overwritten",
        };
        write!(f, "object `{}` {what} ({})", self.key, self.detail)
    }
}

/// What became of one object.
enum Outcome {
    Copied(u64),
    Present,
    Problem(CopyProblem),
}

impl Vault {
    /// Copies the vault into another store. `said` is told of every object that is done.
    ///
    /// # Errors
    /// A store that does not answer or cannot take more. What is wrong with single objects is in the report.
    pub async fn copy_to(
        &self,
        target: Arc<dyn Store>,
        options: &CopyOptions,
        mut said: impl FnMut(&CopyReport),
    ) -> Result<CopyReport, VaultError> {
        let mut report = CopyReport::default();
        let folders: Vec<String> = match options.databases.as_slice() {
            [] => FOLDERS.iter().map(|folder| (*folder).to_owned()).collect(),
            names => names.iter().map(|name| format!("db/{name}/")).collect(),
        };
        for folder in folders {
            self.copy_folder(&target, &folder, options, &mut report, &mut said).await?;
        }
        Ok(report)
    }

    async fn copy_folder(
        &self,
        target: &Arc<dyn Store>,
        folder: &str,
        options: &CopyOptions,
        report: &mut CopyReport,
        said: &mut impl FnMut(&CopyReport),
    ) -> Result<(), VaultError> {
        let mut source = self.walk_keys(folder, None);
        let mut there = Merge::begin(KeyWalk::new(target.clone(), format!("{}{folder}", self.root()), None)).await?;
        let mut under_way = FuturesUnordered::new();
        while let Some(listed) = source.next().await? {
            if listed.tampered() {
                report.tampered.push(listed.key.clone());
            }
            let known = there.advance_to(&listed.key).await?;
            // Delete markers only: there is nothing to copy.
            if listed.version.is_none() {
                continue;
            }
            match known {
                Some(copy) if !options.compare => settle(report, by_size(&listed, &copy), said),
                _ => under_way.push(copy_one(self.store.clone(), target.clone(), listed)),
            }
            while under_way.len() >= options.parallel.max(1) {
                if let Some(outcome) = under_way.next().await {
                    settle(report, outcome?, said);
                }
            }
        }
        while let Some(outcome) = under_way.next().await {
            settle(report, outcome?, said);
        }
        report.only_in_copy += there.rest().await?;
        Ok(())
    }
}

fn settle(report: &mut CopyReport, outcome: Outcome, said: &mut impl FnMut(&CopyReport)) {
    match outcome {
        Outcome::Copied(bytes) => {
            report.copied += 1;
            report.copied_bytes += bytes;
        }
        Outcome::Present => report.present += 1,
        Outcome::Problem(problem) => report.problems.push(problem),
    }
    said(report);
}

fn by_size(listed: &ListedKey, copy: &ListedKey) -> Outcome {
    if listed.size == copy.size {
        return Outcome::Present;
    }
    let detail = format!("{} bytes in the vault, {} in the copy", listed.size, copy.size);
    Outcome::Problem(CopyProblem { key: listed.key.clone(), what: CopyProblemKind::Differs, detail })
}

async fn copy_one(source: Arc<dyn Store>, target: Arc<dyn Store>, listed: ListedKey) -> Result<Outcome, StoreError> {
    let (key, version) = (listed.key, listed.version.unwrap_or_default());
    let problem = |what, detail: String| Ok(Outcome::Problem(CopyProblem { key: key.clone(), what, detail }));
    let Some(object) = retrying(|| source.get_version(&key, &version)).await? else {
        return problem(CopyProblemKind::SourceDamaged, "it is listed and cannot be read".to_owned());
    };
    if let Err(error) = decode(&object.bytes) {
        return problem(CopyProblemKind::SourceDamaged, error.to_string());
    }
    let stored = object.last_modified.or(listed.stored);
    match create(&*target, &key, object.bytes.clone(), stored).await? {
        Created::Stored { .. } => Ok(Outcome::Copied(object.total_len)),
        Created::Exists => {
            let there = retrying(|| target.get(&key)).await?;
            match there {
                Some(there) if there.bytes == object.bytes => Ok(Outcome::Present),
                _ => problem(CopyProblemKind::Differs, "the bytes are others".to_owned()),
            }
        }
    }
}

async fn create(target: &dyn Store, key: &str, body: Bytes, stored: Option<Timestamp>) -> Result<Created, StoreError> {
    retrying(|| target.create_copy(key, body.clone(), stored)).await
}

/// Walks the copy beside the vault: both list in the same order.
struct Merge {
    walk: KeyWalk,
    head: Option<ListedKey>,
    passed: u64,
}

impl Merge {
    async fn begin(mut walk: KeyWalk) -> Result<Merge, StoreError> {
        let head = walk.next().await?;
        Ok(Merge { walk, head, passed: 0 })
    }

    /// What stands at this key in the copy. Keys only grow from call to call.
    async fn advance_to(&mut self, key: &str) -> Result<Option<ListedKey>, StoreError> {
        while self.head.as_ref().is_some_and(|head| head.key.as_str() < key) {
            self.passed += 1;
            self.head = self.walk.next().await?;
        }
        match self.head.take() {
            Some(head) if head.key == key => {
                self.head = self.walk.next().await?;
                Ok(Some(head))
            }
            other => {
                self.head = other;
                Ok(None)
            }
        }
    }

    /// How many keys only the copy has.
    async fn rest(mut self) -> Result<u64, StoreError> {
        while self.head.is_some() {
            self.passed += 1;
            self.head = self.walk.next().await?;
        }
        Ok(self.passed)
    }
}
