//! S3, by the AWS SDK.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketVersioningStatus, ObjectLockEnabled, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::client::{self, DateReader, SignedDigest, StoreClock, store_error};
use super::hedge::Hedger;
use super::{
    Answer, BucketFacts, Created, Entry, Forbidden, LifecycleFacts, ListRequest, ListedVersion, Listing, Lock, Object,
    Oldest, Retention, Store, StoreError, StoreErrorKind, Traffic, Version, VersionsMarker, VersionsPage,
    VersionsRequest,
};
use crate::config::VaultConfig;
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::object::{MAX_BODY_LEN, MAX_HEADER_LEN};

/// Versions of one page, which is what S3 gives at most.
const PAGE: usize = 1000;
/// A lock may end so many seconds before its retention is over: as long as a PUT may take.
const MAX_SHORT: i64 = 60;
/// The longest answer that is read into memory.
const MAX_OBJECT_LEN: u64 = MAX_BODY_LEN + MAX_HEADER_LEN as u64 + 1024;

/// A bucket in S3.
pub struct S3Store {
    pub(super) client: Client,
    pub(super) bucket: String,
    retention: Duration,
    chunk_retention: Duration,
    pub(super) clock: Arc<StoreClock>,
    hedger: Hedger,
    /// The same for reads, whose times are others.
    reads: Hedger,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

pub(super) type Outcome<T, E> = Result<T, SdkError<E, HttpResponse>>;

impl S3Store {
    /// Prepares the access; sends no request.
    pub fn new(config: VaultConfig) -> Result<S3Store, VaultError> {
        let bad = |reason: &str| Err(VaultError::BadConfig { reason: reason.to_owned() });
        if config.bucket.is_empty() {
            return bad("the bucket has no name");
        }
        if config.region.is_empty() {
            return bad("the region is empty; stores that have none take us-east-1");
        }
        if !(1..=36_500).contains(&config.retention_days) {
            return bad("the retention is not between 1 day and 100 years");
        }
        if config.chunk_retention_days == 0 {
            return bad("the retention of chunks is not at least 1 day");
        }
        let clock = Arc::<StoreClock>::default();
        let client = client::new(&config, clock.clone()).map_err(|error| match error {
            VaultError::BadCredentials { detail, .. } => {
                VaultError::BadCredentials { bucket: config.bucket.clone(), detail }
            }
            other => other,
        })?;
        let (retention, chunk_retention) = (config.retention(), config.chunk_retention());
        Ok(S3Store {
            client,
            bucket: config.bucket,
            retention,
            chunk_retention,
            clock,
            hedger: Hedger::default(),
            reads: Hedger::default(),
        })
    }

    pub(super) fn target(&self, key: &str) -> String {
        format!("{}/{key}", self.bucket)
    }

    pub(super) fn failed<T, E>(
        &self,
        operation: &'static str,
        key: &str,
        outcome: Outcome<T, E>,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        outcome.map_err(|error| store_error(operation, &self.target(key), error))
    }

    pub(super) fn error(&self, kind: StoreErrorKind, operation: &'static str, key: &str, detail: &str) -> StoreError {
        StoreError { kind, operation, target: self.target(key), detail: detail.to_owned() }
    }

    /// Until when to lock what is created now. The store's clock decides; without an answer yet, it is asked.
    async fn retain_until(&self, lock: Lock) -> Result<DateTime, StoreError> {
        if self.clock.now().is_none() {
            self.versioning().await?;
        }
        let none = || self.error(StoreErrorKind::Other, "GetBucketVersioning", "", "the store's answers carry no Date");
        let now = self.clock.now().ok_or_else(none)?;
        let retention = self.length_of(lock);
        // Rounded up: stores keep whole seconds.
        let seconds = now.as_second() + 1 + retention.as_secs().min(i64::MAX as u64 / 2) as i64;
        Ok(DateTime::from_secs(seconds))
    }

    fn length_of(&self, lock: Lock) -> Duration {
        match lock {
            Lock::Short => self.chunk_retention,
            Lock::Long => self.retention,
        }
    }

    /// Whether the bucket is versioned. Asked of the bucket itself, not of a listing or by HEAD, because a role that is
    /// bound to its own prefix may ask this alone; the answer tells the store's time, and an error says what is wrong.
    async fn versioning(&self) -> Result<bool, StoreError> {
        let outcome = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        let versioning = self.failed("GetBucketVersioning", "", outcome)?;
        Ok(versioning.status() == Some(&BucketVersioningStatus::Enabled))
    }

    /// Sends a PUT, and when its answer takes too long the same once more on another connection. The first answer that
    /// says something counts; which of the two stored the object is the same, their bytes are.
    async fn put(&self, key: &str, body: Bytes, lock: Lock) -> Result<Created, StoreError> {
        let until = self.retain_until(lock).await?;
        let put = || self.put_once(key, body.clone(), until);
        let (created, version) = self.hedger.run(body.len(), put).await?;
        if let (Created::Stored { at: Some(date) }, Some(version)) = (created, version)
            && let Some(wanted) = fell_short(until.secs(), date, self.length_of(lock))
        {
            tracing::warn!(key, %wanted, "the store's clock is ahead of what this process took it for: a lock is made longer");
            retrying(|| self.lock_until(key, &version, wanted)).await?;
        }
        Ok(created)
    }

    /// Gives the version that was made, too.
    async fn put_once(&self, key: &str, body: Bytes, until: DateTime) -> Result<(Created, Option<String>), StoreError> {
        // Of this very answer: others come in at the same time.
        let (date, digest) = (Arc::<StoreClock>::default(), Sha256::digest(&body));
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .if_none_match("*")
            .checksum_sha256(aws_smithy_types::base64::encode(digest))
            .object_lock_mode(ObjectLockMode::Compliance)
            .object_lock_retain_until_date(until)
            .content_type("application/octet-stream")
            .body(ByteStream::from(body))
            .customize()
            .interceptor(DateReader(date.clone()))
            .interceptor(SignedDigest(hex::encode(digest)));
        match request.send().await {
            Ok(output) => Ok((Created::Stored { at: date.date() }, output.version_id)),
            Err(SdkError::ServiceError(service)) if service.raw().status().as_u16() == 412 => {
                Ok((Created::Exists, None))
            }
            Err(error) => Err(store_error("PutObject", &self.target(key), error)),
        }
    }

    /// Reads, and when the answer takes too long asks once more on another connection: the first answer counts.
    async fn read(&self, key: &str, version: Option<&str>, front: Option<u64>) -> Result<Option<Object>, StoreError> {
        // How long a whole object is, only the answer tells.
        let len = front.map_or(usize::MAX, |front| front as usize);
        self.reads.run(len, || self.read_once(key, version, front)).await
    }

    async fn read_once(
        &self,
        key: &str,
        version: Option<&str>,
        front: Option<u64>,
    ) -> Result<Option<Object>, StoreError> {
        let range = front.map(|len| format!("bytes=0-{}", len.max(1) - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let request = request.set_version_id(version.map(str::to_owned)).set_range(range);
        match request.send().await {
            Ok(output) => self.collect(key, output).await.map(Some),
            Err(SdkError::ServiceError(service)) if is_absent(service.err(), service.raw().status().as_u16()) => {
                Ok(None)
            }
            // A range of an empty object, which is none of ours: let it be read as what it is.
            Err(SdkError::ServiceError(service)) if front.is_some() && service.raw().status().as_u16() == 416 => {
                let (bytes, version_id) = (Bytes::new(), version.map(str::to_owned));
                Ok(Some(Object { bytes, total_len: 0, version_id, last_modified: None, lock: None }))
            }
            Err(error) => Err(store_error("GetObject", &self.target(key), error)),
        }
    }

    /// Reads the answer's body, never more than an object may have, and never less than the answer announces.
    async fn collect(&self, key: &str, output: GetObjectOutput) -> Result<Object, StoreError> {
        let announced = u64::try_from(output.content_length.unwrap_or_default()).unwrap_or_default();
        let total_len = output.content_range.as_deref().and_then(total_of_range).unwrap_or(announced);
        let last_modified = output.last_modified.and_then(|at| Timestamp::from_second(at.secs()).ok());
        let version_id = output.version_id.clone();
        let lock =
            retention_of(output.object_lock_mode().map(|mode| mode.as_str()), output.object_lock_retain_until_date());
        let fault = |detail: String| self.error(StoreErrorKind::Damaged, "GetObject", key, &detail);
        if announced > MAX_OBJECT_LEN {
            let detail = format!("{announced} bytes, more than any object of a vault");
            return Err(self.error(StoreErrorKind::Other, "GetObject", key, &detail));
        }
        let (mut body, mut bytes) = (output.body, BytesMut::with_capacity(announced as usize));
        while let Some(piece) = body.try_next().await.map_err(|e| fault(format!("cut short: {e}")))? {
            if (bytes.len() + piece.len()) as u64 > announced {
                return Err(fault("more bytes than announced".to_owned()));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != announced {
            return Err(fault(format!("{} bytes of {announced}", bytes.len())));
        }
        Ok(Object { bytes: bytes.freeze(), total_len, version_id, last_modified, lock })
    }

    async fn all_versions(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        // S3 lists the newest first, a thousand a page: whoever puts a thousand over the object must not push it out of sight.
        let (mut real, mut markers) = (Oldest::default(), Oldest::default());
        let mut after: Option<VersionsMarker> = None;
        loop {
            let request = VersionsRequest { prefix: key, after: after.as_ref(), limit: PAGE };
            let page = self.versions_page(request).await?;
            // Longer keys may begin with this one; versions of this one come first.
            for version in page.versions.into_iter().filter(|version| version.key == key) {
                let ListedVersion { id, is_delete_marker, last_modified, .. } = version;
                let kept = if is_delete_marker { &mut markers } else { &mut real };
                kept.push(last_modified, Version { id, is_delete_marker, last_modified });
            }
            match page.next {
                Some(next) if next.key.as_str() <= key => after = Some(next),
                _ => break,
            }
        }
        let mut versions = markers.into_vec();
        versions.extend(real.into_vec());
        versions.sort_by_key(|version| version.last_modified);
        Ok(versions)
    }

    async fn versions_page(&self, request: VersionsRequest<'_>) -> Result<VersionsPage, StoreError> {
        let limit = i32::try_from(request.limit.min(1000)).unwrap_or(1000);
        let mut list = self.client.list_object_versions().bucket(&self.bucket).prefix(request.prefix).max_keys(limit);
        if let Some(after) = request.after {
            list = list.key_marker(&after.key).set_version_id_marker(after.id.clone());
        }
        let output = self.failed("ListObjectVersions", request.prefix, list.send().await)?;
        let seconds = |at: Option<&DateTime>| at.and_then(|at| Timestamp::from_second(at.secs()).ok());
        let id = |id: Option<&str>| id.unwrap_or("null").to_owned();
        let real = output.versions().iter().filter_map(|v| {
            Some(ListedVersion {
                key: v.key()?.to_owned(),
                id: id(v.version_id()),
                is_delete_marker: false,
                is_latest: v.is_latest() == Some(true),
                size: u64::try_from(v.size().unwrap_or_default()).unwrap_or_default(),
                last_modified: seconds(v.last_modified()),
            })
        });
        let markers = output.delete_markers().iter().filter_map(|m| {
            Some(ListedVersion {
                key: m.key()?.to_owned(),
                id: id(m.version_id()),
                is_delete_marker: true,
                is_latest: m.is_latest() == Some(true),
                size: 0,
                last_modified: seconds(m.last_modified()),
            })
        });
        let mut versions: Vec<ListedVersion> = real.chain(markers).collect();
        versions.sort_by(|a, b| a.key.cmp(&b.key));
        if output.is_truncated() != Some(true) {
            return Ok(VersionsPage { versions, next: None });
        }
        let id = output.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned);
        let next = output.next_key_marker().map(|key| VersionsMarker { key: key.to_owned(), id });
        // A page that does not say where the next one begins hides versions: what was listed first is then the newest.
        let last = versions.last().map(|last| &last.key);
        let goes_on = next.as_ref().is_some_and(|next| {
            let inside = next.id.is_none() && Some(&next.key) == last;
            !inside && request.after != Some(next)
        });
        if goes_on {
            return Ok(VersionsPage { versions, next });
        }
        let detail = "the listing is cut short and does not say where it goes on";
        Err(self.error(StoreErrorKind::Other, "ListObjectVersions", request.prefix, detail))
    }

    async fn lock_until(&self, key: &str, id: &str, until: Timestamp) -> Result<(), StoreError> {
        // Rounded up: stores keep whole seconds.
        let seconds = until.as_second() + i64::from(until.subsec_nanosecond() > 0);
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(DateTime::from_secs(seconds))
            .build();
        let request = self.client.put_object_retention().bucket(&self.bucket).key(key).version_id(id);
        let outcome = request.retention(retention).send().await;
        self.failed("PutObjectRetention", key, outcome).map(|_| ())
    }

    async fn page(&self, request: ListRequest<'_>) -> Result<Listing, StoreError> {
        let limit = i32::try_from(request.limit.min(1000)).unwrap_or(1000);
        let mut list = self.client.list_objects_v2().bucket(&self.bucket).prefix(request.prefix).max_keys(limit);
        if !request.after.is_empty() {
            list = list.start_after(request.after);
        }
        if request.folders {
            list = list.delimiter("/");
        }
        let outcome = list.send().await;
        let output = self.failed("ListObjectsV2", request.prefix, outcome)?;
        let size = |size: Option<i64>| u64::try_from(size.unwrap_or_default()).unwrap_or_default();
        let seconds = |at: Option<&DateTime>| at.and_then(|at| Timestamp::from_second(at.secs()).ok());
        let entries = output.contents().iter().filter_map(|object| {
            let (size, last_modified) = (size(object.size()), seconds(object.last_modified()));
            Some(Entry { key: object.key()?.to_owned(), size, last_modified })
        });
        let folders = output.common_prefixes().iter().filter_map(|p| p.prefix());
        Ok(Listing {
            entries: entries.filter(|entry| entry.key.as_str() > request.after).collect(),
            folders: folders.filter(|folder| *folder > request.after).map(str::to_owned).collect(),
            more: output.is_truncated() == Some(true),
        })
    }

    async fn lock_of(&self, key: &str, id: &str) -> Result<Option<Retention>, StoreError> {
        let request = self.client.get_object_retention().bucket(&self.bucket).key(key).version_id(id);
        let output = match request.send().await {
            Ok(output) => output,
            Err(SdkError::ServiceError(service))
                if matches!(
                    service.err().code(),
                    Some("NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError" | "NoSuchKey")
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(store_error("GetObjectRetention", &self.target(key), error)),
        };
        let Some(retention) = output.retention() else { return Ok(None) };
        Ok(retention_of(retention.mode().map(|mode| mode.as_str()), retention.retain_until_date()))
    }

    async fn delete_refused(&self, key: &str, id: &str) -> Result<bool, StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key).version_id(id);
        let answer = match request.send().await {
            Ok(_) => return Ok(true),
            Err(SdkError::ServiceError(service)) => {
                let (status, code) = (service.raw().status().as_u16(), service.err().code().unwrap_or_default());
                match refusal(status, code) {
                    Some(refused) => return Ok(!refused),
                    None => SdkError::ServiceError(service),
                }
            }
            Err(error) => error,
        };
        Err(store_error("DeleteObject", &self.target(key), answer))
    }

    async fn facts(&self) -> Result<BucketFacts, StoreError> {
        let versioning = self.versioning().await?;
        let lock = self.client.get_object_lock_configuration().bucket(&self.bucket).send().await;
        let object_lock = match lock {
            Ok(output) => {
                let configuration = output.object_lock_configuration();
                configuration.and_then(|c| c.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled)
            }
            Err(SdkError::ServiceError(service))
                if service.err().code() == Some("ObjectLockConfigurationNotFoundError") =>
            {
                false
            }
            Err(error) => return Err(store_error("GetObjectLockConfiguration", &self.target(""), error)),
        };
        Ok(BucketFacts { versioning, object_lock, now: self.clock.now() })
    }
}

/// Until when an object is to be locked that was made at `date`, if its lock ends well before that: a machine that was
/// suspended knows a time of the store that is too early, because the clock that measures stood still with it.
fn fell_short(until: i64, date: Timestamp, retention: Duration) -> Option<Timestamp> {
    let wanted = date.checked_add(retention).ok()?;
    (wanted.as_second() - until > MAX_SHORT).then_some(wanted)
}

/// What an error says of the deletion of a version: refused, there is nothing to delete, or (none) neither: credentials that
/// are not accepted and a bucket that is not there have refused nothing.
fn refusal(status: u16, code: &str) -> Option<bool> {
    match (status, code) {
        (404, "NoSuchVersion" | "NoSuchKey") => Some(false),
        // What stores say of a lock where S3 says 403 AccessDenied.
        (400 | 405 | 409, "InvalidRequest" | "MethodNotAllowed" | "ObjectLocked") => Some(true),
        _ => (client::kind_of(status, code) == StoreErrorKind::Denied).then_some(true),
    }
}

fn is_absent(error: &GetObjectError, status: u16) -> bool {
    // A 404 that names the bucket is another thing. 405 is a version that is a delete marker.
    error.is_no_such_key() || (matches!(status, 404 | 405) && error.code() != Some("NoSuchBucket"))
}

/// A lock as an answer tells it; none without an end.
fn retention_of(mode: Option<&str>, until: Option<&DateTime>) -> Option<Retention> {
    let until = Timestamp::from_second(until?.secs()).ok()?;
    Some(Retention { compliance: mode == Some(ObjectLockRetentionMode::Compliance.as_str()), until })
}

/// The length of the whole in `bytes 0-99/1234`.
fn total_of_range(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.parse().ok()
}

impl Store for S3Store {
    fn create<'a>(&'a self, key: &'a str, body: Bytes, lock: Lock) -> BoxFuture<'a, Result<Created, StoreError>> {
        self.put(key, body, lock).boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, None, None).boxed()
    }

    fn get_front<'a>(&'a self, key: &'a str, len: u64) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, None, Some(len)).boxed()
    }

    fn get_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Object>, StoreError>> {
        self.read(key, Some(id), None).boxed()
    }

    fn versions<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Version>, StoreError>> {
        self.all_versions(key).boxed()
    }

    fn list<'a>(&'a self, request: ListRequest<'a>) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.page(request).boxed()
    }

    fn retention<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Retention>, StoreError>> {
        self.lock_of(key, id).boxed()
    }

    fn try_delete_version<'a>(&'a self, key: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.delete_refused(key, id).boxed()
    }

    fn extend_retention<'a>(
        &'a self,
        key: &'a str,
        id: &'a str,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.lock_until(key, id, until).boxed()
    }

    fn list_versions<'a>(&'a self, request: VersionsRequest<'a>) -> BoxFuture<'a, Result<VersionsPage, StoreError>> {
        self.versions_page(request).boxed()
    }

    fn now(&self) -> Option<Timestamp> {
        self.clock.now()
    }

    fn traffic(&self) -> Traffic {
        self.hedger.traffic() + self.reads.traffic().of_gets()
    }

    fn lock_length(&self, lock: Lock) -> Option<Duration> {
        Some(self.length_of(lock))
    }

    fn forbidden<'a>(&'a self, request: Forbidden<'a>) -> BoxFuture<'a, Result<Answer, StoreError>> {
        self.attempt_forbidden(request).boxed()
    }

    fn lifecycle(&self) -> BoxFuture<'_, Result<Option<LifecycleFacts>, StoreError>> {
        self.lifecycle_facts().boxed()
    }

    fn as_s3(&self) -> Option<&S3Store> {
        Some(self)
    }

    fn bucket(&self) -> BoxFuture<'_, Result<BucketFacts, StoreError>> {
        self.facts().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_suspended_machine_cut_short_is_made_up_for() {
        let (date, week) = (Timestamp::from_second(1_000_000).unwrap(), Duration::from_secs(7 * 24 * 60 * 60));
        let asked = |seconds_late: i64| 1_000_000 - seconds_late + 7 * 24 * 60 * 60;
        assert_eq!(fell_short(asked(0), date, week), None);
        assert_eq!(fell_short(asked(60), date, week), None, "the request itself may have taken that long");
        assert_eq!(fell_short(asked(61), date, week), Some(date + week));
        assert_eq!(fell_short(asked(-9999), date, week), None, "too long is long enough");
    }

    #[test]
    fn only_a_refusal_is_one() {
        for (status, code, expected) in [
            (403, "AccessDenied", Some(true)),
            (400, "InvalidRequest", Some(true)),
            (404, "NoSuchVersion", Some(false)),
            (403, "InvalidAccessKeyId", None),
            (403, "RequestTimeTooSkewed", None),
            (400, "ExpiredToken", None),
            (404, "NoSuchBucket", None),
            (429, "TooManyRequests", None),
            (503, "SlowDown", None),
            (400, "RequestTimeout", None),
        ] {
            assert_eq!(refusal(status, code), expected, "{status} {code}");
        }
    }
}
