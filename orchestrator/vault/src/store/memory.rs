//! A store in memory, for tests: versions, delete markers, and faults on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{
    Answer, BucketFacts, Created, Entry, Forbidden, LifecycleFacts, ListRequest, ListedVersion, Listing, Lock, Object,
    Retention, Store, StoreError, StoreErrorKind, Version, VersionsMarker, VersionsPage, VersionsRequest,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often requests go wrong, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toxics {
    /// The request is lost on its way.
    pub lose_request: f64,
    /// It takes effect and the answer is lost.
    pub lose_answer: f64,
    /// A create takes effect twice (the second may find the first).
    pub duplicate: f64,
    /// The longest delay before the effect and before the answer.
    pub delay: Duration,
    /// What each request takes at least.
    pub latency: Duration,
}

/// A store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
}

struct State {
    keys: BTreeMap<String, Vec<Stored>>,
    next_version: u64,
    toxics: Toxics,
    rng: Xoshiro256PlusPlus,
    requests: u64,
    away: bool,
    facts: BucketFacts,
    /// The store's clock: it stands still unless it is moved.
    now: Timestamp,
    /// How long chunks, and how long all else is locked.
    locks: (Duration, Duration),
    enforce_lock: bool,
    shorten_locks: bool,
    honour_condition: bool,
}

#[derive(Clone)]
struct Stored {
    id: String,
    /// None: a delete marker.
    bytes: Option<Bytes>,
    at: Timestamp,
    /// Until when it is locked.
    until: Option<Timestamp>,
    /// Locked in COMPLIANCE mode; else in GOVERNANCE.
    compliance: bool,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("keys", &self.state().keys.len()).finish_non_exhaustive()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new(0, Toxics::default())
    }
}

impl MemoryStore {
    /// A store whose faults follow from the seed.
    pub fn new(seed: u64, toxics: Toxics) -> MemoryStore {
        let facts = BucketFacts { versioning: true, object_lock: true, now: Some(Timestamp::UNIX_EPOCH) };
        let state = State {
            keys: BTreeMap::new(),
            next_version: 0,
            toxics,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            requests: 0,
            away: false,
            facts,
            now: Timestamp::UNIX_EPOCH,
            locks: (7 * DAY, 90 * DAY),
            enforce_lock: true,
            shorten_locks: false,
            honour_condition: true,
        };
        MemoryStore { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the faults.
    pub fn set_toxics(&self, toxics: Toxics) {
        self.state().toxics = toxics;
    }

    /// Away: every request fails as if nothing answered.
    pub fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// A bucket with other settings.
    pub fn set_bucket(&self, versioning: bool, object_lock: bool) {
        let mut state = self.state();
        (state.facts.versioning, state.facts.object_lock) = (versioning, object_lock);
    }

    /// A store that says it locks and does not.
    pub fn set_enforce_lock(&self, enforce: bool) {
        self.state().enforce_lock = enforce;
    }

    /// A store that locks for half of what it is asked for.
    pub fn set_shortened_locks(&self, shorten: bool) {
        self.state().shorten_locks = shorten;
    }

    /// A store that ignores `If-None-Match`.
    pub fn set_honour_condition(&self, honour: bool) {
        self.state().honour_condition = honour;
    }

    /// Moves the store's clock on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now.saturating_add(by).unwrap_or(Timestamp::MAX);
        state.facts.now = Some(state.now);
    }

    /// For how long chunks ([`Lock::Short`]) and all else ([`Lock::Long`]) are locked from now on.
    pub fn set_locks(&self, short: Duration, long: Duration) {
        self.state().locks = (short, long);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// All keys that are not hidden.
    pub fn keys(&self) -> Vec<String> {
        let visible = |versions: &Vec<Stored>| versions.last().is_some_and(|v| v.bytes.is_some());
        self.state().keys.iter().filter(|(_, versions)| visible(versions)).map(|(key, _)| key.clone()).collect()
    }

    /// What an attacker with the right to delete does.
    pub fn put_delete_marker(&self, key: &str) {
        self.state().push(key, None, None);
    }

    /// What an attacker with the right to write does: no condition.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        self.state().push(key, Some(bytes), None);
    }

    /// What a bad disk does.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(last) = state.keys.get_mut(key).and_then(|versions| versions.last_mut())
            && let Some(bytes) = &last.bytes
        {
            let mut changed = bytes.to_vec();
            change(&mut changed);
            last.bytes = Some(changed.into());
        }
    }

    /// Runs a request: away, lost, delayed, done, answer lost.
    async fn request<T>(
        &self,
        operation: &'static str,
        key: &str,
        effect: impl FnOnce(&mut State) -> T,
    ) -> Result<T, StoreError> {
        let (before, after, lost) = {
            let mut state = self.state();
            state.requests += 1;
            let toxics = state.toxics;
            let lost = state.away || state.rng.random_bool(toxics.lose_request);
            (state.delay(), state.delay(), lost)
        };
        pause(before).await;
        if lost {
            return Err(unreachable(operation, key));
        }
        let (value, lost) = {
            let mut state = self.state();
            let value = effect(&mut state);
            let toxics = state.toxics;
            (value, state.rng.random_bool(toxics.lose_answer))
        };
        pause(after).await;
        if lost { Err(unreachable(operation, key)) } else { Ok(value) }
    }
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

fn unreachable(operation: &'static str, key: &str) -> StoreError {
    let (kind, detail) = (StoreErrorKind::Unreachable, "as asked for".to_owned());
    StoreError { kind, operation, target: key.to_owned(), detail }
}

impl State {
    fn delay(&mut self) -> Duration {
        if self.toxics.delay.is_zero() {
            return self.toxics.latency / 2;
        }
        self.toxics.latency / 2 + self.toxics.delay.mul_f64(self.rng.random_range(0.0..1.0))
    }

    fn push(&mut self, key: &str, bytes: Option<Bytes>, lock: Option<Lock>) {
        self.next_version += 1;
        let until = lock.map(|lock| match lock {
            Lock::Short => self.locks.0,
            Lock::Long => self.locks.1,
        });
        let until = until.map(|long| if self.shorten_locks { long / 2 } else { long });
        let until = until.map(|long| self.now.saturating_add(long).unwrap_or(Timestamp::MAX));
        let stored = Stored { id: format!("v{}", self.next_version), bytes, at: self.now, until, compliance: true };
        self.keys.entry(key.to_owned()).or_default().push(stored);
    }

    fn newest(&self, key: &str) -> Option<&Stored> {
        self.keys.get(key)?.last().filter(|stored| stored.bytes.is_some())
    }

    fn create(&mut self, key: &str, body: &Bytes, lock: Lock) -> Created {
        if self.honour_condition && self.newest(key).is_some() {
            return Created::Exists;
        }
        self.push(key, Some(body.clone()), Some(lock));
        Created::Stored { at: Some(self.now) }
    }

    fn delete_version(&mut self, key: &str, id: &str) -> bool {
        let (enforced, now) = (self.enforce_lock, self.now);
        let Some(versions) = self.keys.get_mut(key) else { return true };
        let locked = |v: &Stored| v.id == id && v.until.is_some_and(|until| until > now);
        if enforced && versions.iter().any(locked) {
            return false;
        }
        versions.retain(|v| v.id != id);
        if versions.is_empty() {
            self.keys.remove(key);
        }
        true
    }

    fn extend(&mut self, key: &str, id: &str, until: Timestamp) -> Result<(), StoreError> {
        let refused = |kind, detail: &str| {
            let detail = detail.to_owned();
            Err(StoreError { kind, operation: "PutObjectRetention", target: key.to_owned(), detail })
        };
        let versions = self.keys.get_mut(key);
        let version = versions.and_then(|versions| versions.iter_mut().find(|v| v.id == id && v.bytes.is_some()));
        match version {
            None => refused(StoreErrorKind::Other, "NoSuchVersion"),
            Some(version) if self.enforce_lock && version.until.is_some_and(|now| now > until) => {
                refused(StoreErrorKind::Denied, "a COMPLIANCE lock can only grow")
            }
            Some(version) => {
                version.until = Some(until);
                Ok(())
            }
        }
    }

    /// A store that enforces its locks refuses what S3 refuses, and every change of the bucket's settings.
    fn forbidden(&mut self, request: &Forbidden<'_>) -> Answer {
        let refused = |said: &str| Answer::Refused { said: said.to_owned() };
        match request {
            Forbidden::DeleteVersion { key, id }
            | Forbidden::DeleteBatch { key, id }
            | Forbidden::BypassGovernance { key, id } => {
                if self.delete_version(key, id) {
                    Answer::accepted()
                } else {
                    refused("403 AccessDenied")
                }
            }
            Forbidden::Retain { key, id, until, compliance } => {
                if self.enforce_lock {
                    return refused("403 AccessDenied");
                }
                let versions = self.keys.get_mut(*key).into_iter().flatten();
                for version in versions.filter(|version| version.id == *id) {
                    (version.until, version.compliance) = (Some(*until), *compliance);
                }
                Answer::accepted()
            }
            Forbidden::PutUnlocked { key, body } => {
                self.push(key, Some(body.clone()), None);
                Answer::accepted()
            }
            Forbidden::Hide { key } => {
                self.push(key, None, None);
                Answer::accepted()
            }
            _ if self.enforce_lock => refused("403 AccessDenied"),
            _ => Answer::accepted(),
        }
    }

    /// As S3 lists: the newest of each key first, and a page may end within a key.
    fn list_versions(&self, request: &VersionsRequest<'_>) -> VersionsPage {
        let mut page = VersionsPage::default();
        let keys = self.keys.range(request.prefix.to_owned()..).take_while(|(key, _)| key.starts_with(request.prefix));
        for (key, versions) in keys {
            let newest_first = versions.iter().rev().enumerate();
            // Of the key at which the page before ended, what comes after the version that it ended with.
            let passed = match request.after {
                Some(after) if *key < after.key => continue,
                Some(after) if *key == after.key => {
                    let last = versions.iter().rev().position(|v| Some(&v.id) == after.id.as_ref());
                    last.map_or(versions.len(), |last| last + 1)
                }
                _ => 0,
            };
            for (n, v) in newest_first.skip(passed) {
                if page.versions.len() >= request.limit {
                    let last = page.versions.last();
                    page.next = last.map(|last| VersionsMarker { key: last.key.clone(), id: Some(last.id.clone()) });
                    return page;
                }
                page.versions.push(ListedVersion {
                    key: key.clone(),
                    id: v.id.clone(),
                    is_delete_marker: v.bytes.is_none(),
                    is_latest: n == 0,
                    size: v.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                    last_modified: Some(v.at),
                });
            }
        }
        page
    }

    fn list(&self, request: &ListRequest<'_>) -> Listing {
        let below = self.keys.range(request.prefix.to_owned()..);
        let below = below.take_while(|(key, _)| key.starts_with(request.prefix));
        let entries = below.filter_map(|(key, versions)| {
            let newest = versions.last()?;
            let size = newest.bytes.as_ref()?.len() as u64;
            Some(Entry { key: key.clone(), size, last_modified: Some(newest.at) })
        });
        Listing::page(request, entries)
    }
}

fn object(stored: &Stored, front: Option<u64>) -> Option<Object> {
    let bytes = stored.bytes.as_ref()?;
    let len = front.map_or(bytes.len(), |front| bytes.len().min(front as usize));
    Some(Object {
        bytes: bytes.slice(..len),
        total_len: bytes.len() as u64,
        version_id: Some(stored.id.clone()),
        last_modified: Some(stored.at),
        lock: stored.until.map(|until| Retention { compliance: stored.compliance, until }),
    })
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, lock: Lock) -> BoxFuture<'a, Result<Created, StoreError>> {
        async move {
            self.request("PutObject", key, |state| {
                let twice = state.toxics.duplicate;
                let created = state.create(key, &body, lock);
                if state.rng.random_bool(twice) {
                    // Either answer may come back.
                    return state.create(key, &body, lock);
                }
                created
            })
            .await
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.request("GetObject", key, |state| state.newest(key).and_then(|s| object(s, None))).boxed()
    }

    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.request("GetObject", key, move |state| state.newest(key).and_then(|s| object(s, Some(len)))).boxed()
    }

    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        let find = move |state: &mut State| {
            let versions = state.keys.get(key)?;
            object(versions.iter().find(|v| v.id == id)?, None)
        };
        self.request("GetObject", key, find).boxed()
    }

    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>> {
        let version =
            |v: &Stored| Version { id: v.id.clone(), is_delete_marker: v.bytes.is_none(), last_modified: Some(v.at) };
        let find = move |state: &mut State| state.keys.get(key).map(|v| v.iter().map(version).collect());
        self.request("ListObjectVersions", key, move |state| find(state).unwrap_or_default()).boxed()
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.request("ListObjectsV2", request.prefix, move |state| state.list(&request)).boxed()
    }

    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>> {
        let find = move |state: &mut State| {
            let version = state.keys.get(key)?.iter().find(|v| v.id == id)?;
            Some(Retention { compliance: version.compliance, until: version.until? })
        };
        self.request("HeadObject", key, find).boxed()
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.request("DeleteObject", key, move |state| state.delete_version(key, id)).boxed()
    }

    fn extend_retention<'a>(
        &'a self,
        key: &'a str,
        id: &'a str,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let extend = self.request("PutObjectRetention", key, move |state| state.extend(key, id, until));
        async move { extend.await? }.boxed()
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        self.request("ListObjectVersions", request.prefix, move |state| state.list_versions(&request)).boxed()
    }

    fn now(&self) -> Option<Timestamp> {
        Some(self.state().now)
    }

    fn lock_length(&self, lock: Lock) -> Option<Duration> {
        let (short, long) = self.state().locks;
        Some(if lock == Lock::Short { short } else { long })
    }

    fn forbidden<'a>(&'a self, request: Forbidden<'a>) -> BoxFuture<'a, Result<Answer, StoreError>> {
        self.request("LockProbe", "", move |state| state.forbidden(&request)).boxed()
    }

    fn lifecycle(&self) -> BoxFuture<'_, Result<Option<LifecycleFacts>, StoreError>> {
        self.request("GetBucketLifecycleConfiguration", "", |_| Some(LifecycleFacts::default())).boxed()
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        self.request("HeadBucket", "", |state| state.facts).boxed()
    }
}
