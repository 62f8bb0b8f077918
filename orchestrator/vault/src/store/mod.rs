//! What the vault needs of a store, and the stores there are.

mod client;
mod memory;
mod s3;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;

pub use memory::{MemoryStore, Toxics};
pub use s3::S3Store;

/// What became of a create-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is stored, now, by this request.
    Stored,
    /// Something stands there already; whether it is the same only a GET tells.
    Exists,
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

/// A store of objects: S3, as far as the vault needs it. Each request is sent once; who asks decides on retries.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Creates an object if the key is free, locked for the vault's retention. An error that is not permanent means
    /// that it is unknown whether it is stored: send the same bytes again.
    fn create<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<Created, StoreError>>;
    /// Reads the newest version, whole; `None` when the key is absent or hidden by a delete marker.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// Reads the first bytes of the newest version.
    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// Reads one version, whole.
    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>>;
    /// All versions of a key, the real ones oldest first. Where delete markers stand among them is not told.
    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>>;
    /// A page of keys.
    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>>;
    /// How a version is locked; `None` when it is not.
    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>>;
    /// Tries to delete a version. `Ok(true)`: deleted, `Ok(false)`: refused. Only the lock probe does this.
    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;
    /// The bucket's settings.
    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>>;
}

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
            StoreErrorKind::Credentials => "check the access key and the secret in the Vault's credentials Secret",
            StoreErrorKind::NoSuchBucket => {
                "create the bucket with versioning and Object Lock enabled, or correct the name in the Vault"
            }
            StoreErrorKind::Denied => "grant these credentials this operation on the vault's prefix",
            StoreErrorKind::Unreachable => "check the endpoint and the network; it is tried again",
            StoreErrorKind::Throttled => "nothing: it is tried again more slowly",
            StoreErrorKind::Damaged => "nothing: it is tried again; if it stays, look at the store and the network",
            StoreErrorKind::Other => "see what the store says",
        }
    }
}
