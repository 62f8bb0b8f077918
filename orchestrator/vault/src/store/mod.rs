//! What the vault needs of a store, and the stores there are.

mod client;
mod credentials;
mod forbidden;
mod hedge;
mod http;
mod memory;
mod oldest;
mod raw;
mod s3;
mod s3_forbidden;
mod tls;
mod url;
mod web_identity;

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;

pub use forbidden::{Answer, Forbidden};
pub use memory::{MemoryStore, Toxics};
pub(crate) use oldest::Oldest;
pub(crate) use raw::{Asked, Get, Got, List, Put, Raw, Refusal, Reply, Sum, Tamper, seconds};
pub use s3::S3Store;
pub use url::UrlStore;

/// What became of a create-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is stored, now, by this request.
    Stored {
        /// The store's `Date` in this very answer; none when the store tells no time.
        at: Option<Timestamp>,
    },
    /// Something stands there already; whether it is the same only a GET tells.
    Exists,
}

impl Created {
    /// Whether this request stored it.
    pub fn is_stored(self) -> bool {
        matches!(self, Created::Stored { .. })
    }
}

/// For how long a new object is locked, from the store's present time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// The vault's retention of chunks: segments take their place.
    Short,
    /// The vault's retention.
    Long,
}

/// An object, or the front of one.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its bytes, or the first of them.
    pub bytes: Bytes,
    /// How many bytes the whole object has.
    pub total_len: u64,
    /// The version that was read.
    pub version_id: Option<String>,
    /// When the store made that version, by the store's clock.
    pub last_modified: Option<Timestamp>,
    /// How it is locked, as far as the answer told it: S3 does to whoever may ask for the retention, and not every store does.
    pub lock: Option<Retention>,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// Whether it is a delete marker: nobody who follows the rules makes one.
    pub is_delete_marker: bool,
    /// When the store made it, by the store's clock.
    pub last_modified: Option<Timestamp>,
}

/// A key of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The bytes of its newest version.
    pub size: u64,
    /// When the store made that version, by the store's clock.
    pub last_modified: Option<Timestamp>,
}

/// What versions to list.
#[derive(Clone, Debug)]
pub struct VersionsRequest<'a> {
    /// Only keys that begin so.
    pub prefix: &'a str,
    /// Where the page before ended ([`VersionsPage::next`]); none for the first page.
    pub after: Option<&'a VersionsMarker>,
    /// At most this many (the store may give fewer).
    pub limit: usize,
}

/// Where a page of versions ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionsMarker {
    /// The last key.
    pub key: String,
    /// Its last version on that page; none when the store gave none.
    pub id: Option<String>,
}

/// A version in a listing of versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// The key.
    pub key: String,
    /// The version's id.
    pub id: String,
    /// Whether it is a delete marker.
    pub is_delete_marker: bool,
    /// Whether it is the newest of its key.
    pub is_latest: bool,
    /// Its bytes; 0 for a delete marker.
    pub size: u64,
    /// When the store made it, by the store's clock.
    pub last_modified: Option<Timestamp>,
}

/// A page of versions, in the order of their keys; the versions of one key in no order that can be relied on.
#[derive(Clone, Debug, Default)]
pub struct VersionsPage {
    /// The versions.
    pub versions: Vec<ListedVersion>,
    /// Where to go on; none after the last page.
    pub next: Option<VersionsMarker>,
}

/// What to list.
#[derive(Clone, Debug)]
pub struct ListRequest<'a> {
    /// Only keys that begin so.
    pub prefix: &'a str,
    /// Only keys after this one; empty for all.
    pub after: &'a str,
    /// At most this many (the store may give fewer).
    pub limit: usize,
    /// Give what stands between the prefix and the next `/` once, as a folder, instead of each key below.
    pub folders: bool,
}

/// A page of a listing. A hint, never the truth.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Keys, in order.
    pub entries: Vec<Entry>,
    /// Folders, in order, each with its slash.
    pub folders: Vec<String>,
    /// There may be more after the last one.
    pub more: bool,
}

impl Listing {
    /// The page that answers a request, of all entries in the order of their keys that begin with its prefix.
    pub(crate) fn page(request: &ListRequest<'_>, entries: impl Iterator<Item = Entry>) -> Listing {
        let mut listing = Listing::default();
        for entry in entries.filter(|entry| entry.key.as_str() > request.after) {
            if listing.entries.len() + listing.folders.len() >= request.limit {
                listing.more = true;
                break;
            }
            let rest = entry.key.strip_prefix(request.prefix).unwrap_or_default();
            match rest.split_once('/').filter(|_| request.folders) {
                Some((folder, _)) => {
                    let folder = format!("{}{folder}/", request.prefix);
                    if listing.folders.last() != Some(&folder) {
                        listing.folders.push(folder);
                    }
                }
                None => listing.entries.push(entry),
            }
        }
        listing
    }
}

/// How long and how an object is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// COMPLIANCE or not (GOVERNANCE can be lifted by an administrator, and so by whoever stole his keys).
    pub compliance: bool,
    /// Until when, by the store's clock.
    pub until: Timestamp,
}

/// What is to know of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketFacts {
    /// Versioning is enabled.
    pub versioning: bool,
    /// Object Lock is enabled.
    pub object_lock: bool,
    /// The store's clock.
    pub now: Option<Timestamp>,
}

/// What a client sent and what came of it, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// PUTs, each counted once.
    pub puts: u64,
    /// PUTs that were sent a second time because the answer took too long.
    pub hedged: u64,
    /// Of these, the ones that the second request answered.
    pub hedges_won: u64,
    /// PUTs that failed.
    pub failed: u64,
    /// Of these, the ones at which the store asked to slow down.
    pub throttled: u64,
    /// GETs of objects and of their fronts, each counted once.
    pub gets: u64,
    /// GETs that were sent a second time because the answer took too long.
    pub gets_hedged: u64,
    /// Of these, the ones that the second request answered.
    pub gets_hedges_won: u64,
    /// GETs that failed. That nothing stands at the key is an answer.
    pub gets_failed: u64,
    /// Of these, the ones at which the store asked to slow down.
    pub gets_throttled: u64,
}

impl Add for Traffic {
    type Output = Traffic;

    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            puts: self.puts + other.puts,
            hedged: self.hedged + other.hedged,
            hedges_won: self.hedges_won + other.hedges_won,
            failed: self.failed + other.failed,
            throttled: self.throttled + other.throttled,
            gets: self.gets + other.gets,
            gets_hedged: self.gets_hedged + other.gets_hedged,
            gets_hedges_won: self.gets_hedges_won + other.gets_hedges_won,
            gets_failed: self.gets_failed + other.gets_failed,
            gets_throttled: self.gets_throttled + other.gets_throttled,
        }
    }
}

/// What is to know of a bucket's lifecycle rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleFacts {
    /// The names of the rules in force that expire objects or versions.
    pub expiring: Vec<String>,
}

/// A store of objects: S3, as far as the vault needs it. Each request is sent once; who asks decides on retries.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Creates an object if the key is free, locked in COMPLIANCE mode for so long. An error that is not permanent
    /// means that it is unknown whether it is stored: send the same bytes again.
    fn create<'a>(&'a self, key: &'a str, body: Bytes, lock: Lock) -> BoxFuture<'a, Result<Created, StoreError>>;
    /// Creates an object that was made elsewhere, `stored` being when its first store made it (the store keeps that time
    /// where it can).
    fn create_copy<'a>(
        &'a self,
        key: &'a str,
        body: Bytes,
        stored: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Created, StoreError>> {
        let _ = stored;
        self.create(key, body, Lock::Long)
    }
    /// Reads the newest version, whole; `None` when the key is absent or hidden by a delete marker.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// Reads the first bytes of the newest version.
    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// Reads one version, whole.
    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// All versions of a key, the real ones oldest first; of very many the oldest only, and of delete markers not all.
    /// Where delete markers stand among them is not told.
    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>>;
    /// A page of keys.
    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>>;
    /// How a version is locked; `None` when it is not.
    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>>;
    /// Tries to delete a version. `Ok(true)`: deleted, `Ok(false)`: refused. Only the lock probe and the janitor do
    /// this; there is no way to ask for a delete marker.
    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;
    /// Locks a version in COMPLIANCE mode until then. It can only make a lock longer: a store refuses the rest.
    fn extend_retention<'a>(
        &'a self,
        key: &'a str,
        id: &'a str,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let _ = (id, until);
        unsupported("PutObjectRetention", key)
    }
    /// A page of all versions below a prefix, delete markers included. A hint, as every listing.
    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        unsupported("ListObjectVersions", request.prefix)
    }
    /// The store's time by its last answer; none before the first, or when it tells no time.
    fn now(&self) -> Option<Timestamp> {
        None
    }
    /// For how long the store locks what is created so; none when it locks nothing.
    fn lock_length(&self, lock: Lock) -> Option<Duration> {
        let _ = lock;
        None
    }
    /// Sends one request of the lock probe. An error says nothing about what is allowed.
    fn forbidden<'a>(&'a self, request: Forbidden<'a>) -> BoxFuture<'a, Result<Answer, StoreError>> {
        let _ = request;
        unsupported("LockProbe", "")
    }
    /// The bucket's lifecycle rules; `None` when the credentials may not read them.
    fn lifecycle(&self) -> BoxFuture<'_, Result<Option<LifecycleFacts>, StoreError>> {
        unsupported("GetBucketLifecycleConfiguration", "")
    }
    /// What was sent so far.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    /// The store as S3, for who sends requests of its own; none when it is not.
    fn as_s3(&self) -> Option<&S3Store> {
        None
    }
    /// The bucket's settings.
    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>>;
}

/// For what a store cannot do at all.
fn unsupported<'a, T: Send + 'a>(operation: &'static str, key: &str) -> BoxFuture<'a, Result<T, StoreError>> {
    let (kind, detail) = (StoreErrorKind::Other, "this kind of store cannot do that".to_owned());
    let error = StoreError { kind, operation, target: key.to_owned(), detail };
    Box::pin(std::future::ready(Err(error)))
}

/// What to do when credentials are not accepted.
pub(crate) const CREDENTIALS_HINT: &str = "check the access key and the secret in the Vault's credentials Secret; or, with \
    webIdentity, the ARN of the role and whom it trusts: this cluster's issuer, the audience sts.amazonaws.com and the \
    service account";

/// What kind of failure, which says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The credentials are missing or wrong.
    Credentials,
    /// There is no such bucket.
    NoSuchBucket,
    /// The credentials are good and may not do this.
    Denied,
    /// No answer, or one that says try again: whether it was done is unknown.
    Unreachable,
    /// The local clock is too far from the store's: the store refuses every request.
    ClockSkew,
    /// The store asks to slow down.
    Throttled,
    /// The answer does not fit the request: cut short, or other bytes than it says.
    Damaged,
    /// Anything else.
    Other,
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "the credentials are not accepted",
            Self::NoSuchBucket => "there is no such bucket",
            Self::Denied => "access denied",
            Self::Unreachable => "no usable answer from the store",
            Self::ClockSkew => "this machine's clock is too far from the store's",
            Self::Throttled => "the store asks to slow down",
            Self::Damaged => "a damaged answer",
            Self::Other => "refused",
        })
    }
}

/// A request to the store that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {target}: {kind} ({detail})")]
pub struct StoreError {
    /// What kind.
    pub kind: StoreErrorKind,
    /// The S3 operation.
    pub operation: &'static str,
    /// The bucket, and the key if there is one.
    pub target: String,
    /// What the store or the transport said.
    pub detail: String,
}

impl StoreError {
    /// Whether asking again is no use before a person changed something.
    pub fn is_permanent(&self) -> bool {
        !matches!(self.kind, StoreErrorKind::Unreachable | StoreErrorKind::Throttled | StoreErrorKind::Damaged)
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self.kind {
            StoreErrorKind::Credentials => CREDENTIALS_HINT,
            StoreErrorKind::NoSuchBucket => {
                "create the bucket with versioning and Object Lock enabled, or correct the name in the Vault"
            }
            StoreErrorKind::Denied => "grant these credentials this operation on the vault's prefix",
            StoreErrorKind::ClockSkew => "synchronise this machine's clock (NTP), or the store's",
            StoreErrorKind::Unreachable => "check the endpoint and the network; it is tried again",
            StoreErrorKind::Throttled => "nothing: it is tried again more slowly",
            StoreErrorKind::Damaged => "nothing: it is tried again; if it stays, look at the store and the network",
            StoreErrorKind::Other => "see what the store says",
        }
    }
}
