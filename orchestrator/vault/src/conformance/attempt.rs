//! What a check works with: requests that are repeated while no answer comes, objects of its own, and what the same credentials
//! may do where nothing forbids it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::concurrency::Races;
use super::report::Left;
use super::{Check, versions};
use crate::fetch::Backoff;
use crate::store::{
    Asked, BucketFacts, Get, Got, ListedVersion, Put, Raw, Refusal, Reply, Retention, Store, StoreError,
    StoreErrorKind, VersionsPage,
};

/// How long a request is repeated at first; each one given up halves it.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often a request is sent at least: one alone may take longer than that before it counts as lost.
const ATTEMPTS: u32 = 3;
/// The shortest lock that is used, and what is added for each second that an answer takes.
const SHORT_LOCK: Duration = Duration::from_secs(4);
/// How long what a listing shows may lag behind, where that is not what is tried.
const SETTLING: Duration = Duration::from_secs(6);
/// How long the end of a short lock is waited for at most, by the store's clock.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often is looked whether the locks are over.
const WAIT: Duration = Duration::from_secs(15);
/// How many versions are deleted at a time.
const REMOVALS: usize = 16;
/// How much sooner than asked for a lock may look over to a clock of whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// The store did otherwise.
    Wrong(String),
    /// It could not be tried.
    Untried(String),
}

/// What a check comes to.
pub(super) type Tried<T = ()> = Result<T, Miss>;

/// The store did otherwise.
pub(super) fn wrong<T>(what: impl Into<String>) -> Tried<T> {
    Err(Miss::Wrong(what.into()))
}

/// It could not be tried.
pub(super) fn untried<T>(why: impl Into<String>) -> Tried<T> {
    Err(Miss::Untried(why.into()))
}

/// Passes when this holds.
pub(super) fn holds(right: bool, otherwise: impl FnOnce() -> String) -> Tried {
    if right { Ok(()) } else { wrong(otherwise()) }
}

impl From<StoreError> for Miss {
    fn from(error: StoreError) -> Miss {
        match error.kind {
            // Answers came, again and again, and were cut short.
            StoreErrorKind::Damaged => Miss::Wrong(error.to_string()),
            _ => Miss::Untried(error.to_string()),
        }
    }
}

/// What must be answered with yes. No by lack of a right proves nothing about the store.
pub(super) fn needed<T>(what: &str, reply: Reply<T>) -> Tried<T> {
    reply.said.map_err(|refusal| denied(what, &refusal))
}

fn denied(what: &str, refusal: &Refusal) -> Miss {
    match refusal.kind() {
        StoreErrorKind::Denied | StoreErrorKind::Credentials | StoreErrorKind::ClockSkew => {
            Miss::Untried(format!("these credentials may not {what} ({refusal})"))
        }
        _ => Miss::Wrong(format!("the store would not {what} ({refusal})")),
    }
}

/// What must be answered with no.
pub(super) fn refused<T>(what: &str, reply: Reply<T>) -> Tried<Refusal> {
    match reply.said {
        Ok(_) => wrong(format!("the store agreed to {what}")),
        Err(refusal) => Ok(refusal),
    }
}

/// Something that the credentials may do; why not, else.
type Power = Result<(), String>;

/// What the credentials may do where no lock forbids it, found out once and only when somebody asks.
#[derive(Debug, Default)]
struct Powers {
    delete: OnceCell<Power>,
    batch: OnceCell<Power>,
    bypass: OnceCell<Power>,
}

/// What all checks of a run share.
pub(super) struct Shared {
    raw: Raw,
    store: Arc<dyn Store>,
    root: String,
    facts: BucketFacts,
    lock: Duration,
    races: Races,
    given_up: AtomicU32,
    powers: Powers,
    default_retention: OnceCell<Tried<Option<String>>>,
}

impl Shared {
    pub(super) fn new(
        raw: Raw,
        store: Arc<dyn Store>,
        root: String,
        facts: BucketFacts,
        (lock, races): (Duration, Races),
    ) -> Shared {
        let (given_up, powers, default_retention) = (AtomicU32::new(0), Powers::default(), OnceCell::new());
        Shared { raw, store, root, facts, lock, races, given_up, powers, default_retention }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Why a check cannot be made on this bucket at all.
    pub(super) fn obstacle(&self, check: &Check) -> Option<String> {
        let settled = self.facts.versioning && self.facts.object_lock;
        let about_settings = [versions::ENABLED, super::lock::ENABLED].contains(&check.name);
        (!settled && !about_settings).then(|| "the bucket has no versioning or no Object Lock".to_owned())
    }

    fn patience(&self) -> Duration {
        PATIENCE / (1 << self.given_up.load(Ordering::Relaxed).min(4))
    }

    /// Deletes what can be deleted, and says what stays.
    pub(super) async fn clean_up(self: &Arc<Self>, wait: bool) -> Left {
        let cx = Cx::new(self.clone(), "", 0);
        let mut left = Left::default();
        loop {
            match cx.sweep(&mut left).await {
                Ok(()) => {}
                Err(Miss::Wrong(why) | Miss::Untried(why)) => left.why = why,
            }
            let waiting = left.locked_until.filter(|_| wait).and_then(|until| {
                let left = until.duration_since(self.raw.now()).unsigned_abs();
                (until > self.raw.now()).then_some(left)
            });
            match waiting {
                Some(time) => tokio::time::sleep((time + SECOND).min(WAIT)).await,
                None => return left,
            }
        }
    }
}

/// A version that a check stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) body: Bytes,
    /// Until when it was asked to be locked.
    pub(super) until: Timestamp,
    /// The `Date` of the answer that said so.
    pub(super) at: Option<Timestamp>,
}

/// How a create-if-absent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By this request, or by one before whose answer got lost.
    Stored { version: Option<String>, at: Option<Timestamp> },
    /// Something else stands there.
    Exists(Refusal),
}

/// One attempt at a check.
pub(super) struct Cx {
    shared: Arc<Shared>,
    folder: String,
    unclear: AtomicU32,
}

impl Cx {
    pub(super) fn new(shared: Arc<Shared>, check: &str, attempt: u32) -> Cx {
        let folder = match check {
            "" => shared.root.clone(),
            _ => format!("{}{check}-{attempt}/", shared.root),
        };
        Cx { shared, folder, unclear: AtomicU32::new(0) }
    }

    /// Every request was answered at once.
    pub(super) fn was_clear(&self) -> bool {
        self.unclear.load(Ordering::Relaxed) == 0
    }

    pub(super) fn races(&self) -> Races {
        self.shared.races
    }

    pub(super) fn raw(&self) -> &Raw {
        &self.shared.raw
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    pub(super) fn facts(&self) -> BucketFacts {
        self.shared.facts
    }

    /// The folder of this attempt, with its slash.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.raw.now()
    }

    /// When a lock ends that begins now.
    pub(super) fn locked(&self) -> Timestamp {
        self.now() + self.shared.lock
    }

    /// When a lock ends whose end is waited for.
    pub(super) fn briefly_locked(&self) -> Timestamp {
        self.now() + SHORT_LOCK
    }

    /// Sends a request until it is answered.
    pub(super) async fn ask<T, F>(&self, mut request: impl FnMut() -> F) -> Tried<Reply<T>>
    where
        F: Future<Output = Asked<T>>,
    {
        let (began, mut backoff, mut broke, mut sent) = (Instant::now(), Backoff::store(), true, 0);
        loop {
            sent += 1;
            let error = match request().await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if error.is_permanent() {
                return Err(error.into());
            }
            self.unclear.fetch_add(1, Ordering::Relaxed);
            broke &= error.kind == StoreErrorKind::Unreachable && error.detail.starts_with("50");
            if sent >= ATTEMPTS && began.elapsed() > self.shared.patience() {
                if broke && self.others_are_answered().await {
                    return wrong(format!("the store breaks at it, again and again ({error})"));
                }
                self.shared.given_up.fetch_add(1, Ordering::Relaxed);
                return Err(error.into());
            }
            tokio::time::sleep(backoff.after(&error)).await;
        }
    }

    /// Whether the store answers another request, several times in a row: it is not away.
    async fn others_are_answered(&self) -> bool {
        let key = format!("{}another", self.shared.root);
        for _ in 0..5 {
            if self.raw().head(&key, None).await.is_err() {
                return false;
            }
        }
        true
    }

    /// A PUT of these bytes, create-if-absent, with everything that the vault's own have.
    pub(super) fn create_of(&self, body: impl Into<Bytes>) -> Put {
        Put {
            body: body.into(),
            if_absent: true,
            mode: Some("COMPLIANCE"),
            until: Some(self.locked()),
            ..Put::default()
        }
    }

    /// Creates, and finds out whether a refusal means its own object.
    pub(super) async fn create(&self, key: &str, put: &Put) -> Tried<Ended> {
        let before = self.unclear.load(Ordering::Relaxed);
        let reply = self.ask(|| self.raw().put(key, put)).await?;
        let lost = self.unclear.load(Ordering::Relaxed) > before;
        match reply.said {
            Ok(version) => Ok(Ended::Stored { version, at: reply.at }),
            Err(refusal) if refusal.status == 412 => {
                let mine = lost && self.read(key).await?.bytes == put.body;
                let own = Ended::Stored { version: None, at: reply.at };
                Ok(if mine { own } else { Ended::Exists(refusal) })
            }
            Err(refusal) => Err(denied("create an object", &refusal)),
        }
    }

    /// Stores an object at a fresh key.
    pub(super) async fn stored(&self, name: &str, body: impl Into<Bytes>) -> Tried<Stored> {
        self.stored_as(name, self.create_of(body)).await
    }

    /// Stores an object at a fresh key by this PUT.
    pub(super) async fn stored_as(&self, name: &str, put: Put) -> Tried<Stored> {
        let key = self.key(name);
        let (version, at) = match self.create(&key, &put).await? {
            Ended::Stored { version, at } => (version, at),
            Ended::Exists(refusal) => return wrong(format!("a fresh key is refused ({refusal})")),
        };
        let id = match version {
            Some(id) => id,
            None => self.oldest(&key).await?.id,
        };
        let until = put.until.unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Stored { key, id, body: put.body, until, at })
    }

    /// Puts a newer version, locked, without a condition. Gives its id.
    pub(super) async fn overwritten(&self, key: &str, body: impl Into<Bytes>) -> Tried<Option<String>> {
        let put = Put { if_absent: false, ..self.create_of(body) };
        needed("put over an object", self.ask(|| self.raw().put(key, &put)).await?)
    }

    /// Hides a key behind a delete marker.
    pub(super) async fn hidden(&self, key: &str) -> Tried {
        needed("delete without a version", self.ask(|| self.raw().delete(key, None, false)).await?)
    }

    /// The newest version, which must be there.
    pub(super) async fn read(&self, key: &str) -> Tried<Got> {
        needed("read an object", self.ask(|| self.raw().get(key, Get::default())).await?)
    }

    /// A version, which must be there.
    pub(super) async fn read_version(&self, key: &str, id: &str) -> Tried<Got> {
        let get = || self.raw().get(key, Get { version: Some(id), ..Get::default() });
        needed("read a version", self.ask(get).await?)
    }

    /// Whether a version reads as it was stored.
    pub(super) async fn intact(&self, stored: &Stored) -> Tried {
        let got = self.read_version(&stored.key, &stored.id).await?;
        holds(got.bytes == stored.body, || "the version reads otherwise than it was stored".to_owned())
    }

    /// The versions of exactly this key, as listed.
    pub(super) async fn versions(&self, key: &str) -> Tried<Vec<ListedVersion>> {
        let page = needed("list versions", self.ask(|| self.raw().versions(key, None, None)).await?)?;
        Ok(page.versions.into_iter().filter(|version| version.key == key).collect())
    }

    /// The oldest real version of a key.
    pub(super) async fn oldest(&self, key: &str) -> Tried<ListedVersion> {
        let mut real = self.versions(key).await?;
        real.retain(|version| !version.is_delete_marker);
        real.pop().ok_or_else(|| Miss::Wrong("a version that was just stored is not listed".to_owned()))
    }

    /// How a version is locked.
    pub(super) async fn retention(&self, stored: &Stored) -> Tried<Option<Retention>> {
        let reply = self.ask(|| self.raw().retention(&stored.key, &stored.id)).await?;
        needed("read a retention", reply)
    }

    /// Repeats what looks at something that may lag behind.
    pub(super) async fn settled<F: Future<Output = Tried>>(&self, mut look: impl FnMut() -> F) -> Tried {
        let began = Instant::now();
        loop {
            match look().await {
                Err(Miss::Wrong(_)) if began.elapsed() < SETTLING => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                other => return other,
            }
        }
    }

    /// Waits until this moment of the store's clock, the end of a short lock, is surely over. Of a store whose clock jumps,
    /// or that makes a lock of seconds last for years, nobody waits for the end.
    pub(super) async fn wait_until(&self, moment: Timestamp) -> Tried {
        let left = moment.duration_since(self.now());
        // A negative one is over.
        let left = Duration::try_from(left).unwrap_or_default();
        if left > LONGEST_WAIT {
            let seconds = left.as_secs();
            return wrong(format!(
                "a lock of {SHORT_LOCK:?} ends in {seconds} s by the store's own clock: it locks for longer, or its clock jumps"
            ));
        }
        tokio::time::sleep(left + SECOND).await;
        Ok(())
    }

    /// Passes while a lock held against an attempt, by what is there afterwards and not by the answer.
    pub(super) async fn withstood<T>(&self, stored: &Stored, attempt: &str, reply: &Reply<T>) -> Tried {
        let get = || self.raw().get(&stored.key, Get { version: Some(&stored.id), ..Get::default() });
        let got = self.ask(get).await?;
        if got.said.as_ref().is_ok_and(|got| got.bytes == stored.body) {
            return Ok(());
        }
        if self.now() >= stored.until {
            return untried("the answers took longer than the lock");
        }
        let said = match &reply.said {
            Ok(_) => "the store agreed".to_owned(),
            Err(refusal) => format!("the store refused ({refusal})"),
        };
        let left = stored.until.duration_since(self.now()).as_secs();
        wrong(format!("{attempt}: {said}, and the version is gone {left} s before its lock ends"))
    }

    /// The default retention of the bucket, as text.
    pub(super) async fn default_retention(&self) -> Tried<Option<String>> {
        let ask = || async {
            let reply = self.ask(|| self.raw().default_retention()).await?;
            needed("read the bucket's Object Lock configuration", reply)
        };
        self.shared.default_retention.get_or_init(ask).await.clone()
    }

    /// An object that no lock holds.
    pub(super) async fn unlocked(&self, name: &str) -> Tried<Stored> {
        let put = self.create_of(format!("{name} that no lock holds"));
        if self.default_retention().await?.is_none() {
            let put = Put { mode: None, until: None, ..put.clone() };
            match self.stored_as(name, put).await {
                // A policy may forbid it: then with a lock that ends.
                Err(Miss::Untried(_)) => {}
                other => return other,
            }
        }
        let stored = self.stored_as(name, Put { until: Some(self.briefly_locked()), ..put }).await?;
        self.wait_until(stored.until).await?;
        Ok(stored)
    }

    /// That these credentials may delete a version that no lock holds.
    pub(super) async fn may_delete(&self) -> Tried {
        let power = self.shared.powers.delete.get_or_init(|| async {
            let stored = self.unlocked("power-to-delete").await.map_err(text)?;
            let reply = self.ask(|| self.raw().delete(&stored.key, Some(&stored.id), false)).await.map_err(text)?;
            power("delete a version that no lock holds", reply)
        });
        power.await.clone().map_err(Miss::Untried)
    }

    /// That these credentials may delete a version that no lock holds in a batch.
    pub(super) async fn may_delete_batch(&self) -> Tried {
        let power = self.shared.powers.batch.get_or_init(|| async {
            let stored = self.unlocked("power-to-delete-in-a-batch").await.map_err(text)?;
            let reply = self.ask(|| self.raw().delete_batch(&stored.key, &stored.id)).await.map_err(text)?;
            power("delete a version in a batch that no lock holds", reply)
        });
        power.await.clone().map_err(Miss::Untried)
    }

    /// That these credentials may lift a GOVERNANCE lock.
    pub(super) async fn may_bypass(&self) -> Tried {
        let power = self.shared.powers.bypass.get_or_init(|| async {
            let put = Put { mode: Some("GOVERNANCE"), ..self.create_of("to bypass") };
            let stored = self.stored_as("power-to-bypass", put).await.map_err(text)?;
            let reply = self.ask(|| self.raw().delete(&stored.key, Some(&stored.id), true)).await.map_err(text)?;
            power("bypass a GOVERNANCE lock", reply)
        });
        power.await.clone().map_err(Miss::Untried)
    }

    /// Deletes everything in the folder that can be deleted.
    async fn sweep(&self, left: &mut Left) -> Tried {
        (left.versions, left.locked_until, left.why) = (0, None, String::new());
        let mut after = None;
        loop {
            let ask = || self.raw().versions(&self.folder, after.as_ref(), None);
            let page: VersionsPage = needed("list versions", self.ask(ask).await?)?;
            let own = page.versions.iter().filter(|version| version.key.starts_with(&self.folder));
            let removals: Vec<_> = own.map(|version| self.removed(version).boxed()).collect();
            let mut removing = stream::iter(removals).buffer_unordered(REMOVALS);
            while let Some(removed) = removing.next().await {
                count(left, removed?);
            }
            drop(removing);
            match page.next {
                Some(next) if Some(&next) != after.as_ref() => after = Some(next),
                _ => return Ok(()),
            }
        }
    }

    async fn removed(&self, version: &ListedVersion) -> Tried<Removed> {
        let (key, id) = (&*version.key, &*version.id);
        let bypass = self.shared.powers.bypass.get().is_some_and(Result::is_ok);
        let delete = || self.ask(|| self.raw().delete(key, Some(id), bypass));
        let Err(mut refusal) = delete().await?.said else { return Ok(Removed::Deleted) };
        let lock = match version.is_delete_marker {
            true => None,
            false => self.ask(|| self.raw().retention(key, id)).await?.said.ok().flatten(),
        };
        if let Some(lock) = lock.filter(|lock| lock.until > self.now()) {
            return Ok(Removed::Locked(lock.until));
        }
        // A hold that a check could not lift again would stay for ever.
        if self.ask(|| self.raw().hold(key, id, false)).await?.said.is_ok() {
            match delete().await?.said {
                Ok(()) => return Ok(Removed::Deleted),
                Err(again) => refusal = again,
            }
        }
        Ok(Removed::Denied(refusal))
    }
}

/// What became of a version at the end.
enum Removed {
    Deleted,
    Locked(Timestamp),
    Denied(Refusal),
}

fn count(left: &mut Left, removed: Removed) {
    match removed {
        Removed::Deleted => left.deleted += 1,
        Removed::Locked(until) => {
            left.versions += 1;
            left.locked_until = left.locked_until.max(Some(until));
            if left.why.is_empty() {
                left.why = "their locks have not ended".to_owned();
            }
        }
        Removed::Denied(refusal) => {
            left.versions += 1;
            left.why = format!("these credentials may not delete them: {refusal}");
        }
    }
}

fn text(miss: Miss) -> String {
    match miss {
        Miss::Wrong(text) | Miss::Untried(text) => text,
    }
}

fn power(what: &str, reply: Reply<()>) -> Power {
    reply.said.map_err(|refusal| {
        format!("these credentials may not {what} ({refusal}): a refusal of theirs would not be the lock's")
    })
}
