//! Any place that the `object_store` crate reaches, by its URL: a folder, or a bucket of another cloud. This is where
//! copies of a vault live.
//!
//! There are no versions and there is no lock: what stands at a key is the object, and whoever can write there can
//! change it. Hash chain and signatures still tell. When the vault's store made an object is kept beside it (a file's
//! modification time, an object's metadata `holdfaststored`), because trust in a writer may end at a moment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode,
    PutOptions,
};
use url::Url;

use super::http::Connector;
use super::{
    BucketFacts, Created, Entry, ListRequest, ListedVersion, Listing, Lock, Object, Retention, Store, StoreError,
    StoreErrorKind, Version, VersionsMarker, VersionsPage, VersionsRequest, unsupported,
};
use crate::error::VaultError;
use crate::object::{MAX_BODY_LEN, MAX_HEADER_LEN};

/// The longest object that is read into memory.
const MAX_OBJECT_LEN: u64 = MAX_BODY_LEN + MAX_HEADER_LEN as u64 + 1024;
/// What may be given.
const KINDS: &str = "give file:///folder, s3://bucket/path, gs://bucket/path or az://container/path";
/// The one version that there is.
const ONLY: &str = "only";
/// The metadata of an object that says when the vault's store made it.
const STORED: &str = "holdfaststored";
/// How long a listing of a folder is used: a folder can only be listed as a whole.
const LISTING_LIFE: Duration = Duration::from_secs(5);

/// A store at a URL: `file:///folder`, `s3://bucket/path`, `gs://bucket/path` or `az://container/path`. Credentials for
/// a cloud come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
pub struct UrlStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The folder on this machine; none in a cloud.
    folder: Option<PathBuf>,
    url: Url,
    /// The last listing of a folder: its prefix, when it was made, and what was there.
    listed: Mutex<Option<(String, Instant, Keys)>>,
}

/// Size and time of what stands at each key.
type Keys = Arc<BTreeMap<String, (u64, Option<Timestamp>)>>;

impl fmt::Debug for UrlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlStore").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl UrlStore {
    /// Prepares the access; sends no request.
    ///
    /// # Errors
    /// [`VaultError::BadConfig`]: the URL or what the environment says cannot be used, or there is no such folder.
    pub fn open(url: &Url) -> Result<UrlStore, VaultError> {
        if url.scheme() == "file" {
            let folder = folder_of(url)?;
            let local = LocalFileSystem::new_with_prefix(&folder)
                .map_err(|error| bad(format!("the folder {}: {error}", folder.display())))?;
            // A copy that is said to be made must outlive a power cut.
            let store: Arc<dyn ObjectStore> = Arc::new(local.with_fsync(true));
            return Ok(UrlStore::new(store, Path::default(), Some(folder), url));
        }
        let (store, root) = cloud(url).map_err(|error| bad(format!("{url}: {}; {KINDS}", chain(&error))))?;
        Ok(UrlStore::new(store, root, None, url))
    }

    /// The same, for a copy that is to be made: a folder that does not exist is made.
    ///
    /// # Errors
    /// As [`UrlStore::open`], and when the folder cannot be made.
    pub fn create(url: &Url) -> Result<UrlStore, VaultError> {
        if url.scheme() == "file" {
            let folder = folder_of(url)?;
            std::fs::create_dir_all(&folder)
                .map_err(|error| bad(format!("the folder {} cannot be made: {error}", folder.display())))?;
        }
        UrlStore::open(url)
    }

    fn new(store: Arc<dyn ObjectStore>, root: Path, folder: Option<PathBuf>, url: &Url) -> UrlStore {
        UrlStore { store, root, folder, url: url.clone(), listed: Mutex::default() }
    }

    fn path(&self, operation: &'static str, key: &str) -> Result<Path, StoreError> {
        let whole = if self.root.as_ref().is_empty() { key.to_owned() } else { format!("{}/{key}", self.root) };
        Path::parse(whole).map_err(|error| self.refused(operation, key, error.to_string()))
    }

    fn key(&self, path: &Path) -> Option<String> {
        let path = path.as_ref();
        if self.root.as_ref().is_empty() {
            return Some(path.to_owned());
        }
        Some(path.strip_prefix(self.root.as_ref())?.strip_prefix('/')?.to_owned())
    }

    fn target(&self, key: &str) -> String {
        format!("{}/{key}", self.url.as_str().trim_end_matches('/'))
    }

    fn refused(&self, operation: &'static str, key: &str, detail: String) -> StoreError {
        StoreError { kind: StoreErrorKind::Other, operation, target: self.target(key), detail }
    }

    fn failed(&self, operation: &'static str, key: &str, error: object_store::Error) -> StoreError {
        use object_store::Error as E;
        let kind = match &error {
            E::PermissionDenied { .. } => StoreErrorKind::Denied,
            E::Unauthenticated { .. } => StoreErrorKind::Credentials,
            // A disk that fails once fails again; a cloud that does not answer may answer later.
            E::Generic { .. } if self.folder.is_none() => StoreErrorKind::Unreachable,
            _ => StoreErrorKind::Other,
        };
        StoreError { kind, operation, target: self.target(key), detail: chain(&error) }
    }

    async fn put(&self, key: &str, body: Bytes, stored: Option<Timestamp>) -> Result<Created, StoreError> {
        let path = self.path("PutObject", key)?;
        let mut options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        if let (None, Some(stored)) = (&self.folder, stored) {
            options.attributes = Attributes::from_iter([(Attribute::Metadata(STORED.into()), stored.to_string())]);
        }
        match self.store.put_opts(&path, body.into(), options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                return Ok(Created::Exists);
            }
            Err(error) => return Err(self.failed("PutObject", key, error)),
        }
        self.date(key, stored)?;
        Ok(Created::Stored { at: None })
    }

    /// Gives a file the time at which the vault's store made the object.
    fn date(&self, key: &str, stored: Option<Timestamp>) -> Result<(), StoreError> {
        let (Some(folder), Some(stored)) = (&self.folder, stored) else { return Ok(()) };
        let file = folder.join(key);
        let set = File::options().write(true).open(&file).and_then(|file| file.set_modified(SystemTime::from(stored)));
        set.map_err(|error| self.refused("PutObject", key, format!("its time cannot be set: {error}")))
    }

    async fn read(&self, key: &str, front: Option<u64>) -> Result<Option<Object>, StoreError> {
        let path = self.path("GetObject", key)?;
        let range = front.map(|len| GetRange::Bounded(0..len.max(1)));
        let result = match self.store.get_opts(&path, GetOptions { range, ..GetOptions::default() }).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            // The front of an empty object, which is none of ours: let it be read as what it is.
            Err(error) if front.is_some() => return self.empty(key, &path, error).await,
            Err(error) => return Err(self.failed("GetObject", key, error)),
        };
        let (total_len, range) = (result.meta.size, result.range.clone());
        if range.end.saturating_sub(range.start) > MAX_OBJECT_LEN {
            return Err(self.refused("GetObject", key, format!("{total_len} bytes, more than any object of a vault")));
        }
        let noted = result.attributes.get(&Attribute::Metadata(STORED.into())).and_then(|at| at.parse().ok());
        let last_modified = noted.or_else(|| modified(&result.meta));
        let bytes = result.bytes().await.map_err(|error| self.failed("GetObject", key, error))?;
        Ok(Some(Object { bytes, total_len, version_id: Some(ONLY.to_owned()), last_modified, lock: None }))
    }

    async fn empty(&self, key: &str, path: &Path, error: object_store::Error) -> Result<Option<Object>, StoreError> {
        match self.store.head(path).await {
            Ok(meta) if meta.size == 0 => {
                let (version_id, last_modified) = (Some(ONLY.to_owned()), modified(&meta));
                Ok(Some(Object { bytes: Bytes::new(), total_len: 0, version_id, last_modified, lock: None }))
            }
            _ => Err(self.failed("GetObject", key, error)),
        }
    }

    async fn only_version(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        let path = self.path("HeadObject", key)?;
        match self.store.head(&path).await {
            Ok(meta) => {
                Ok(vec![Version { id: ONLY.to_owned(), is_delete_marker: false, last_modified: modified(&meta) }])
            }
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(self.failed("HeadObject", key, error)),
        }
    }

    /// Keys below a folder and after one of them, in order: at most `limit`, and whether there may be more.
    async fn keys_after(&self, prefix: &str, after: &str, limit: usize) -> Result<(Keys, bool), StoreError> {
        let whole = self.folder.is_some();
        if whole && let Some(keys) = self.listed_before(prefix) {
            return Ok((keys, false));
        }
        let path = self.path("ListObjects", prefix.trim_end_matches('/'))?;
        let offset = if after.is_empty() { Path::default() } else { self.path("ListObjects", after)? };
        let mut stream = if whole || after.is_empty() {
            self.store.list(Some(&path))
        } else {
            self.store.list_with_offset(Some(&path), &offset)
        };
        let (mut keys, mut more) = (BTreeMap::new(), false);
        while let Some(meta) = stream.next().await {
            let meta = meta.map_err(|error| self.failed("ListObjects", prefix, error))?;
            let Some(key) = self.key(&meta.location) else { continue };
            keys.insert(key, (meta.size, modified(&meta)));
            // A cloud lists in order; a folder does not, and has to be read to its end.
            if !whole && keys.len() >= limit {
                more = true;
                break;
            }
        }
        let keys = Arc::new(keys);
        if whole {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            *listed = Some((prefix.to_owned(), Instant::now(), keys.clone()));
        }
        Ok((keys, more))
    }

    fn listed_before(&self, prefix: &str) -> Option<Keys> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, at, keys) = listed.as_ref()?;
        (of == prefix && at.elapsed() < LISTING_LIFE).then(|| keys.clone())
    }

    async fn page(&self, request: ListRequest<'_>) -> Result<Listing, StoreError> {
        if request.folders {
            return self.folders(request).await;
        }
        let (keys, more) = self.keys_after(request.prefix, request.after, request.limit).await?;
        let after = keys.iter().filter(|(key, _)| key.as_str() > request.after);
        let entry = |(key, (size, at)): (&String, &(u64, Option<Timestamp>))| Entry {
            key: key.clone(),
            size: *size,
            last_modified: *at,
        };
        let mut entries: Vec<Entry> = after.take(request.limit + 1).map(entry).collect();
        let more = more || entries.len() > request.limit;
        entries.truncate(request.limit);
        Ok(Listing { entries, folders: Vec::new(), more })
    }

    async fn folders(&self, request: ListRequest<'_>) -> Result<Listing, StoreError> {
        let path = self.path("ListObjects", request.prefix.trim_end_matches('/'))?;
        let found = self.store.list_with_delimiter(Some(&path)).await;
        let found = found.map_err(|error| self.failed("ListObjects", request.prefix, error))?;
        let folders = found.common_prefixes.iter().filter_map(|path| self.key(path)).map(|key| format!("{key}/"));
        let mut folders: Vec<String> = folders.filter(|folder| folder.as_str() > request.after).collect();
        folders.sort();
        let entry = |meta: &ObjectMeta| {
            Some(Entry { key: self.key(&meta.location)?, size: meta.size, last_modified: modified(meta) })
        };
        let mut entries: Vec<Entry> = found.objects.iter().filter_map(entry).collect();
        entries.retain(|entry| entry.key.as_str() > request.after);
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing { entries, folders, more: false })
    }

    async fn versions_page(&self, request: VersionsRequest<'_>) -> Result<VersionsPage, StoreError> {
        let after = request.after.map_or("", |marker| marker.key.as_str());
        // Such a store lists folders only.
        let folder = request.prefix.rfind('/').map_or("", |slash| &request.prefix[..=slash]);
        let (keys, more) = self.keys_after(folder, after, request.limit).await?;
        let version = |(key, (size, at)): (&String, &(u64, Option<Timestamp>))| ListedVersion {
            key: key.clone(),
            id: ONLY.to_owned(),
            is_delete_marker: false,
            is_latest: true,
            size: *size,
            last_modified: *at,
        };
        let wanted = |(key, _): &(&String, &_)| key.as_str() > after && key.starts_with(request.prefix);
        let found = keys.iter().filter(wanted).take(request.limit + 1);
        let mut versions: Vec<ListedVersion> = found.map(version).collect();
        let more = more || versions.len() > request.limit;
        versions.truncate(request.limit);
        let last = versions.last().filter(|_| more).map(|last| VersionsMarker { key: last.key.clone(), id: None });
        Ok(VersionsPage { versions, next: last })
    }

    async fn reach(&self) -> Result<BucketFacts, StoreError> {
        let mut first = self.store.list(Some(&self.root));
        first.try_next().await.map_err(|error| self.failed("ListObjects", "", error))?;
        Ok(BucketFacts { versioning: false, object_lock: false, now: None })
    }
}

fn bad(reason: String) -> VaultError {
    VaultError::BadConfig { reason }
}

fn folder_of(url: &Url) -> Result<PathBuf, VaultError> {
    url.to_file_path().map_err(|()| bad(format!("{url} names no folder; write it as file:///folder")))
}

fn cloud(url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), object_store::Error> {
    // The three builders have no trait in common.
    macro_rules! build {
        ($builder:ty) => {{
            let begun = <$builder>::new().with_url(url.as_str()).with_http_connector(Connector);
            let built =
                options().into_iter().fold(begun, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                });
            Arc::new(built.build()?)
        }};
    }
    let (scheme, root) = ObjectStoreScheme::parse(url)?;
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => {
            let source = "no such kind of store".into();
            return Err(object_store::Error::Generic { store: "URL", source });
        }
    };
    Ok((store, root))
}

/// What the environment says of credentials and endpoints, in the spelling of `object_store`.
fn options() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let known = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix));
    let mut options: Vec<(String, String)> =
        std::env::vars_os().filter_map(text).filter(|(name, value)| known(name) && !value.is_empty()).collect();
    let plain = |(name, value): &(String, String)| name.starts_with("AWS_ENDPOINT") && value.starts_with("http://");
    if options.iter().any(plain) {
        options.push(("AWS_ALLOW_HTTP".to_owned(), "true".to_owned()));
    }
    // Buckets with a lock ask for a checksum, and every store is better with one.
    options.push(("AWS_CHECKSUM_ALGORITHM".to_owned(), "sha256".to_owned()));
    options
}

fn modified(meta: &ObjectMeta) -> Option<Timestamp> {
    Timestamp::from_second(meta.last_modified.timestamp()).ok()
}

/// The whole chain of causes: the outer ones say little.
fn chain(error: &object_store::Error) -> String {
    let (mut text, mut next) = (error.to_string(), std::error::Error::source(error));
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl Store for UrlStore {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, _: Lock) -> BoxFuture<'a, Result<Created, StoreError>> {
        self.put(key, body, None).boxed()
    }

    fn create_copy<'a>(
        &'a self,
        key: &'a str,
        body: Bytes,
        stored: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Created, StoreError>> {
        self.put(key, body, stored).boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, None).boxed()
    }

    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, Some(len)).boxed()
    }

    fn get_version<'a>(&'a self, key: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, None).boxed()
    }

    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>> {
        self.only_version(key).boxed()
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.page(request).boxed()
    }

    fn retention<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, _: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        unsupported("DeleteObject", key)
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        self.versions_page(request).boxed()
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        self.reach().boxed()
    }
}
