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
    BucketFacts, Created, Entry, ListRequest, Listing, Object, Retention, Store, StoreError, StoreErrorKind, Version,
};

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
    enforce_lock: bool,
    honour_condition: bool,
}

#[derive(Clone)]
struct Stored {
    id: String,
    /// None: a delete marker.
    bytes: Option<Bytes>,
    at: Timestamp,
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
            enforce_lock: true,
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

    /// A store that ignores `If-None-Match`.
    pub fn set_honour_condition(&self, honour: bool) {
        self.state().honour_condition = honour;
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
        self.push(key, None);
    }

    /// What an attacker with the right to write does: no condition.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        self.push(key, Some(bytes));
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

    fn push(&self, key: &str, bytes: Option<Bytes>) {
        self.state().push(key, bytes);
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
            return Duration::ZERO;
        }
        self.toxics.delay.mul_f64(self.rng.random_range(0.0..1.0))
    }

    fn push(&mut self, key: &str, bytes: Option<Bytes>) {
        self.next_version += 1;
        let stored = Stored { id: format!("v{}", self.next_version), bytes, at: Timestamp::UNIX_EPOCH };
        self.keys.entry(key.to_owned()).or_default().push(stored);
    }

    fn newest(&self, key: &str) -> Option<&Stored> {
        self.keys.get(key)?.last().filter(|stored| stored.bytes.is_some())
    }

    fn create(&mut self, key: &str, body: &Bytes) -> Created {
        if self.honour_condition && self.newest(key).is_some() {
            return Created::Exists;
        }
        self.push(key, Some(body.clone()));
        Created::Stored
    }

    fn list(&self, request: &ListRequest<'_>) -> Listing {
        let mut listing = Listing::default();
        for (key, versions) in self.keys.range(request.prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(request.prefix) else { break };
            let Some(bytes) = versions.last().and_then(|v| v.bytes.as_ref()) else { continue };
            if key.as_str() <= request.after {
                continue;
            }
            if listing.entries.len() + listing.folders.len() >= request.limit {
                listing.more = true;
                break;
            }
            match rest.split_once('/').filter(|_| request.folders) {
                Some((folder, _)) => {
                    let folder = format!("{}{folder}/", request.prefix);
                    if listing.folders.last() != Some(&folder) {
                        listing.folders.push(folder);
                    }
                }
                None => listing.entries.push(Entry { key: key.clone(), size: bytes.len() as u64 }),
            }
        }
        listing
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
    })
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<Created, StoreError>> {
        async move {
            self.request("PutObject", key, |state| {
                let twice = state.toxics.duplicate;
                let created = state.create(key, &body);
                if state.rng.random_bool(twice) {
                    // Either answer may come back.
                    return state.create(key, &body);
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
        let until = Timestamp::UNIX_EPOCH + Duration::from_secs(24 * 60 * 60);
        let find = move |state: &mut State| {
            let there = state.keys.get(key)?.iter().any(|v| v.id == id);
            there.then_some(Retention { compliance: true, until })
        };
        self.request("HeadObject", key, find).boxed()
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        let delete = move |state: &mut State| {
            if state.enforce_lock {
                return false;
            }
            if let Some(versions) = state.keys.get_mut(key) {
                versions.retain(|v| v.id != id);
            }
            true
        };
        self.request("DeleteObject", key, delete).boxed()
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        self.request("HeadBucket", "", |state| state.facts).boxed()
    }
}
