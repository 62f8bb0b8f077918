//! Makes locks longer: of everything at once when an attack is suspected, and of what the newest base backup needs, again
//! and again, so that a site can always be recovered however long ago its primary died.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalogue::{KeyWalk, ListedKey};
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::janitor::decide::Needs;
use crate::object::ObjectError;
use crate::segment::read::From;
use crate::store::{Store, StoreError};
use crate::vault::Vault;

/// Requests at the same time.
const IN_FLIGHT: usize = 16;
/// Keys that are named one by one in a report.
const MAX_NAMED: usize = 100;

/// What became of the locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Until when all of them hold now, but for those that failed.
    pub until: Option<Timestamp>,
    /// Locks that were made longer.
    pub extended: u64,
    /// Locks that were long enough.
    pub already: u64,
    /// Locks that could not be made longer.
    pub failed: u64,
    /// The first hundred of those, each with why.
    pub failures: Vec<String>,
}

impl Held {
    /// Objects looked at.
    pub fn looked(&self) -> u64 {
        self.extended + self.already + self.failed
    }

    fn count(&mut self, key: &str, outcome: Result<bool, StoreError>) -> Result<(), VaultError> {
        match outcome {
            Ok(true) => self.extended += 1,
            Ok(false) => self.already += 1,
            // The rest would fail as well.
            Err(error) if !error.is_permanent() => return Err(error.into()),
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < MAX_NAMED {
                    self.failures.push(format!("{key}: {error}"));
                }
            }
        }
        Ok(())
    }
}

impl Vault {
    /// Locks every object below a path in the vault (`db/billing/`; empty for all) until then. Done again it goes on.
    /// `progress` hears of objects looked at and locks made longer.
    ///
    /// # Errors
    /// When the store is away for long. Objects that it refuses to lock are named in the report.
    pub async fn hold(
        &self,
        path: &str,
        until: Timestamp,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Held, VaultError> {
        let mut held = Held { until: Some(until), ..Held::default() };
        let mut walk = self.walk_keys(path, None);
        let mut batch = Vec::new();
        loop {
            let next = walk.next().await?;
            let done = next.is_none();
            batch.extend(next);
            if batch.len() < 1000 && !done {
                continue;
            }
            let store = &*self.store;
            let lock = |listed: ListedKey| async move {
                let outcome = match &listed.version {
                    Some(id) => extend(store, &listed.key, id, until, until).await,
                    // Delete markers alone: there is nothing to lock.
                    None => Ok(false),
                };
                (listed.key, outcome)
            };
            let batch = futures::stream::iter(std::mem::take(&mut batch));
            let mut locking = std::pin::pin!(batch.map(lock).buffer_unordered(IN_FLIGHT));
            while let Some((key, outcome)) = locking.next().await {
                held.count(&key, outcome)?;
                progress(held.looked(), held.extended);
            }
            if done {
                return Ok(held);
            }
        }
    }

    /// The store's time, which alone says until when to lock.
    ///
    /// # Errors
    /// When the store does not answer or tells no time.
    pub async fn store_time(&self) -> Result<Timestamp, VaultError> {
        let facts = retrying(|| self.store.bucket()).await?;
        facts.now.ok_or_else(|| VaultError::BadConfig { reason: "the store's answers carry no Date".into() })
    }
}

impl DatabaseVault {
    /// Locks for `keep` from now (by the store's clock) what a recovery with the newest complete base backup needs: the
    /// database's identity, the backup, the segments from its start on with the seals that they name, and the newest
    /// index. Locks that hold for more than half of that are left as they are.
    ///
    /// # Errors
    /// As [`Vault::hold`], and [`VaultError::Damaged`] when something that is needed is not there.
    pub async fn hold_recovery(&self, keep: Duration) -> Result<Held, VaultError> {
        let now = self.vault.store_time().await?;
        let after = |span: Duration| now.checked_add(span).unwrap_or(Timestamp::MAX);
        let (until, at_least) = (after(keep), after(keep / 2));
        let needed = self.recovery_objects().await?;
        let mut held = Held { until: Some(at_least), ..Held::default() };
        // Every object but a chunk was locked for the vault's retention when it was made: no need to ask about the young.
        let young = |listed: &ListedKey| {
            listed.stored.and_then(|stored| stored.checked_add(keep).ok()).is_some_and(|until| until >= at_least)
        };
        let (young, old): (Vec<_>, Vec<_>) = needed.into_iter().partition(young);
        held.already = young.len() as u64;
        let store = &*self.vault.store;
        let lock = |listed: ListedKey| async move {
            let id = listed.version.clone().unwrap_or_default();
            (extend(store, &listed.key, &id, at_least, until).await, listed.key)
        };
        let mut locking = std::pin::pin!(futures::stream::iter(old).map(lock).buffer_unordered(IN_FLIGHT));
        while let Some((outcome, key)) = locking.next().await {
            held.count(&key, outcome)?;
        }
        Ok(held)
    }

    /// Everything that a recovery with the newest base backup needs, and that is not a chunk.
    async fn recovery_objects(&self) -> Result<Vec<ListedKey>, VaultError> {
        let access = self.access().await?;
        let mut needed = self.listed(&access.keys.identity(), &[access.keys.identity()]).await?;
        let Some(newest) = self.backups().await?.pop() else { return Ok(needed) };
        let id = &newest.meta.id;
        let manifest = access.keys.backup_manifest(id);
        let parts: Vec<String> = (0..newest.parts).map(|n| access.keys.backup_part(id, n)).chain([manifest]).collect();
        needed.extend(self.listed(&format!("{}{id}/", access.keys.backups()), &parts).await?);
        let Some(index) = access.newest_index().await? else { return Ok(needed) };
        let key = access.keys.index(index.index.n);
        needed.extend(self.listed(&key, std::slice::from_ref(&key)).await?);
        let Some(last) = index.index.segment else { return Ok(needed) };
        let needs = Needs { kept: vec![(newest.meta.start, newest.meta.timeline)] };
        let first = access.first_needed_segment(&needs).await?;
        let from = first.map_or(newest.meta.start, |first| first.start);
        let links = access.segments(last, From::Byte(from)).await?;
        let keys: Vec<String> = links.iter().map(|link| access.keys.segment(link.at)).collect();
        needed.extend(self.listed(&access.keys.segments(), &keys).await?);
        for at in access.turn_places(&links).await? {
            let key = access.key(at);
            needed.extend(self.listed(&key, std::slice::from_ref(&key)).await?);
        }
        Ok(needed)
    }

    /// Those of the keys below a prefix that are wanted; all of them must be there.
    async fn listed(&self, prefix: &str, wanted: &[String]) -> Result<Vec<ListedKey>, VaultError> {
        let mut missing: HashSet<&str> = wanted.iter().map(String::as_str).collect();
        let mut walk = KeyWalk::new(self.vault.store.clone(), prefix.to_owned(), None);
        let mut found = Vec::with_capacity(wanted.len());
        while let Some(listed) = walk.next().await? {
            if listed.version.is_some() && missing.remove(listed.key.as_str()) {
                found.push(listed);
            }
        }
        match missing.into_iter().min() {
            None => Ok(found),
            Some(key) => {
                let (key, reason) = (key.to_owned(), "a recovery needs it, and it is not there".to_owned());
                Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } })
            }
        }
    }
}

/// Makes a lock last until `until`, unless it lasts until `at_least`. Returns whether it was made longer.
async fn extend(
    store: &dyn Store,
    key: &str,
    id: &str,
    at_least: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let now = retrying(|| store.retention(key, id)).await?;
    if now.is_some_and(|lock| lock.compliance && lock.until >= at_least) {
        return Ok(false);
    }
    retrying(|| store.extend_retention(key, id, until)).await?;
    Ok(true)
}
