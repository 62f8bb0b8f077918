//! S3 requests as they are, for the conformance suite: with conditions, checksums and locks that may be wrong on purpose,
//! and answers that keep what the store said. Each request is sent once.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::client::{DateReader, StoreClock, kind_of, store_error};
use super::s3::S3Store;
use super::{ListedVersion, Retention, StoreError, StoreErrorKind, VersionsMarker, VersionsPage};

/// The longest body that is read.
const MAX_LEN: usize = 64 << 20;
/// Digests of something else: of no bytes, and of four other ones.
const OTHER_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";
/// What stores say of a version that has no retention.
const NO_RETENTION: [&str; 2] = ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"];
const OTHER_CRC32C: &str = "AAAAAQ==";

/// Sends requests to one bucket, through a store's client.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    client: Client,
    bucket: String,
    clock: Arc<StoreClock>,
}

/// What the store answered, and its `Date` in this answer.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    pub(crate) at: Option<Timestamp>,
    pub(crate) said: Result<T, Refusal>,
}

/// The store understood and would not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    /// The answer says that a delete marker hides the key.
    pub(crate) marker: bool,
}

impl Refusal {
    pub(crate) fn kind(&self) -> StoreErrorKind {
        kind_of(self.status, &self.code)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(format!("{} {}", self.status, self.code).trim_end())
    }
}

/// An answer, or none that says anything.
pub(crate) type Asked<T> = Result<Reply<T>, StoreError>;

/// The checksum that goes with a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sum {
    #[default]
    Sha256,
    None,
    WrongSha256,
    WrongCrc32c,
    WrongMd5,
}

/// What happens to a request after it was signed.
#[derive(Clone, Debug, Default)]
pub(crate) enum Tamper {
    #[default]
    Nothing,
    /// Other bytes, of the same length.
    Body(Bytes),
    NoSignature,
    WrongSignature,
}

impl Intercept for Tamper {
    fn name(&self) -> &'static str {
        "holdfast-conformance"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        match self {
            Self::Nothing => {}
            Self::Body(bytes) => *request.body_mut() = SdkBody::from(bytes.clone()),
            Self::NoSignature => {
                request.headers_mut().remove("authorization");
            }
            Self::WrongSignature => {
                let signed = request.headers().get("authorization").unwrap_or_default().to_owned();
                request.headers_mut().insert("authorization", spoiled(&signed));
            }
        }
        Ok(())
    }
}

/// The same header with another last digit of the signature.
fn spoiled(signed: &str) -> String {
    let mut text = signed.to_owned();
    let last = text.pop();
    text.push(if last == Some('0') { '1' } else { '0' });
    text
}

/// A PUT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Put {
    pub(crate) body: Bytes,
    pub(crate) if_absent: bool,
    pub(crate) sum: Sum,
    /// COMPLIANCE, GOVERNANCE or nonsense.
    pub(crate) mode: Option<&'static str>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) hold: bool,
    pub(crate) metadata: Option<(&'static str, String)>,
    pub(crate) tamper: Tamper,
}

/// A GET.
#[derive(Clone, Debug, Default)]
pub(crate) struct Get<'a> {
    pub(crate) version: Option<&'a str>,
    pub(crate) range: Option<&'static str>,
    pub(crate) with_checksum: bool,
    pub(crate) tamper: Tamper,
}

/// What a GET gave.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Bytes,
    pub(crate) version: Option<String>,
    pub(crate) modified: Option<Timestamp>,
    pub(crate) content_range: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) metadata: Vec<(String, String)>,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct List<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) after: Option<&'a str>,
    pub(crate) token: Option<String>,
    pub(crate) limit: Option<i32>,
    pub(crate) folders: bool,
}

/// Sends a request and keeps the `Date` of its very answer.
macro_rules! send {
    ($raw:expr, $operation:literal, $key:expr, $request:expr) => {
        send!($raw, $operation, $key, $request, Tamper::Nothing)
    };
    ($raw:expr, $operation:literal, $key:expr, $request:expr, $tamper:expr) => {{
        let date = Arc::<StoreClock>::default();
        let request = $request.customize().interceptor(DateReader(date.clone())).interceptor($tamper);
        let outcome = request.send().await;
        $raw.reply($operation, $key, date.date(), outcome)
    }};
}

impl Raw {
    /// Requests by the client of this store.
    pub(crate) fn new(store: &S3Store) -> Raw {
        Raw { client: store.client.clone(), bucket: store.bucket.clone(), clock: store.clock.clone() }
    }

    /// The same client, and a bucket of that name.
    pub(crate) fn other_bucket(&self, name: String) -> Raw {
        Raw { bucket: name, ..self.clone() }
    }

    /// The store's clock; the local one when the store tells no time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().unwrap_or_else(Timestamp::now)
    }

    fn reply<T, E>(
        &self,
        operation: &'static str,
        key: &str,
        at: Option<Timestamp>,
        outcome: Result<T, SdkError<E, HttpResponse>>,
    ) -> Asked<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match outcome {
            Ok(output) => Ok(Reply { at, said: Ok(output) }),
            Err(error) => match refusal(&error) {
                Some(refusal) => Ok(Reply { at, said: Err(refusal) }),
                None => Err(store_error(operation, &format!("{}/{key}", self.bucket), error)),
            },
        }
    }

    fn broken(&self, operation: &'static str, key: &str, kind: StoreErrorKind, detail: String) -> StoreError {
        StoreError { kind, operation, target: format!("{}/{key}", self.bucket), detail }
    }

    /// Puts an object; gives the version that the answer names.
    pub(crate) async fn put(&self, key: &str, put: &Put) -> Asked<Option<String>> {
        let sha256 = aws_smithy_types::base64::encode(Sha256::digest(&put.body));
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(put.body.clone()));
        let request = match put.sum {
            Sum::Sha256 => request.checksum_sha256(sha256),
            Sum::None => request,
            Sum::WrongSha256 => {
                request.checksum_sha256(aws_smithy_types::base64::encode(Sha256::digest(b"something else")))
            }
            Sum::WrongCrc32c => request.checksum_crc32_c(OTHER_CRC32C),
            Sum::WrongMd5 => request.content_md5(OTHER_MD5),
        };
        let mut request = request
            .set_if_none_match(put.if_absent.then(|| "*".to_owned()))
            .set_object_lock_mode(put.mode.map(ObjectLockMode::from))
            .set_object_lock_retain_until_date(put.until.map(date_time))
            .set_object_lock_legal_hold_status(put.hold.then_some(ObjectLockLegalHoldStatus::On));
        if let Some((name, value)) = &put.metadata {
            request = request.metadata(*name, value);
        }
        let reply = send!(self, "PutObject", key, request, put.tamper.clone())?;
        Ok(Reply { at: reply.at, said: reply.said.map(|output| output.version_id) })
    }

    /// Reads an object, or a part of it.
    pub(crate) async fn get(&self, key: &str, get: Get<'_>) -> Asked<Got> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let request = request.set_version_id(get.version.map(str::to_owned));
        let request = request.set_range(get.range.map(str::to_owned));
        let mode = get.with_checksum.then_some(aws_sdk_s3::types::ChecksumMode::Enabled);
        let reply = send!(self, "GetObject", key, request.set_checksum_mode(mode), get.tamper)?;
        let said = match reply.said {
            Ok(output) => Ok(self.collect(key, output).await?),
            Err(refusal) => Err(refusal),
        };
        Ok(Reply { at: reply.at, said })
    }

    async fn collect(&self, key: &str, output: GetObjectOutput) -> Result<Got, StoreError> {
        let cut = |detail: String| self.broken("GetObject", key, StoreErrorKind::Damaged, detail);
        let announced = usize::try_from(output.content_length.unwrap_or_default()).unwrap_or_default();
        let version = output.version_id.clone();
        let modified = output.last_modified.and_then(seconds);
        let (content_range, sha256) = (output.content_range.clone(), output.checksum_sha256.clone());
        let metadata = output.metadata.clone().unwrap_or_default().into_iter().collect();
        let (mut body, mut bytes) = (output.body, BytesMut::new());
        while let Some(piece) = body.try_next().await.map_err(|e| cut(format!("cut short: {e}")))? {
            if bytes.len() + piece.len() > MAX_LEN {
                return Err(cut("more bytes than were stored".to_owned()));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() != announced {
            return Err(cut(format!("{} bytes of {announced}", bytes.len())));
        }
        Ok(Got { bytes: bytes.freeze(), version, modified, content_range, sha256, metadata })
    }

    /// Asks for an object's headers.
    pub(crate) async fn head(&self, key: &str, version: Option<&str>) -> Asked<HeadObjectOutput> {
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        send!(self, "HeadObject", key, request.set_version_id(version.map(str::to_owned)))
    }

    /// Deletes a version; without one, hides the key behind a delete marker.
    pub(crate) async fn delete(&self, key: &str, version: Option<&str>, bypass: bool) -> Asked<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        let request = request.set_version_id(version.map(str::to_owned));
        let request = request.set_bypass_governance_retention(bypass.then_some(true));
        let reply = send!(self, "DeleteObject", key, request)?;
        Ok(Reply { at: reply.at, said: reply.said.map(|_| ()) })
    }

    /// Deletes a version in a batch of one.
    pub(crate) async fn delete_batch(&self, key: &str, version: &str) -> Asked<()> {
        let built = ObjectIdentifier::builder().key(key).version_id(version).build();
        let built = built.and_then(|object| Delete::builder().objects(object).build());
        let delete = built.map_err(|e| self.broken("DeleteObjects", key, StoreErrorKind::Other, e.to_string()))?;
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
        let reply = send!(self, "DeleteObjects", key, request)?;
        // The answer to a batch is 200 even when each of its deletions is refused.
        let said = reply.said.and_then(|output| match output.errors().first() {
            Some(error) => {
                let code = error.code().unwrap_or("refused").to_owned();
                Err(Refusal { status: 403, code, marker: false })
            }
            None => Ok(()),
        });
        Ok(Reply { at: reply.at, said })
    }

    /// A page of keys.
    pub(crate) async fn list(&self, list: &List<'_>) -> Asked<ListObjectsV2Output> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(list.prefix);
        let request = request.set_start_after(list.after.map(str::to_owned));
        let request = request.set_continuation_token(list.token.clone()).set_max_keys(list.limit);
        send!(self, "ListObjectsV2", list.prefix, request.set_delimiter(list.folders.then(|| "/".to_owned())))
    }

    /// A page of versions, in the store's own order; markers after the versions.
    pub(crate) async fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionsMarker>,
        limit: Option<i32>,
    ) -> Asked<VersionsPage> {
        let request = self.client.list_object_versions().bucket(&self.bucket).prefix(prefix).set_max_keys(limit);
        let request = request.set_key_marker(after.map(|after| after.key.clone()));
        let request = request.set_version_id_marker(after.and_then(|after| after.id.clone()));
        let reply = send!(self, "ListObjectVersions", prefix, request)?;
        let page = |output: aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput| {
            let id = |id: Option<&str>| id.unwrap_or("null").to_owned();
            let real = output.versions().iter().map(|v| ListedVersion {
                key: v.key().unwrap_or_default().to_owned(),
                id: id(v.version_id()),
                is_delete_marker: false,
                is_latest: v.is_latest() == Some(true),
                size: u64::try_from(v.size().unwrap_or_default()).unwrap_or_default(),
                last_modified: v.last_modified().copied().and_then(seconds),
            });
            let markers = output.delete_markers().iter().map(|m| ListedVersion {
                key: m.key().unwrap_or_default().to_owned(),
                id: id(m.version_id()),
                is_delete_marker: true,
                is_latest: m.is_latest() == Some(true),
                size: 0,
                last_modified: m.last_modified().copied().and_then(seconds),
            });
            let marker = output.next_key_marker().map(|key| VersionsMarker {
                key: key.to_owned(),
                id: output.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned),
            });
            let next = if output.is_truncated() == Some(true) { marker } else { None };
            VersionsPage { versions: real.chain(markers).collect(), next }
        };
        Ok(Reply { at: reply.at, said: reply.said.map(page) })
    }

    /// How a version is locked; none when the store says that it is not.
    pub(crate) async fn retention(&self, key: &str, version: &str) -> Asked<Option<Retention>> {
        let request = self.client.get_object_retention().bucket(&self.bucket).key(key).version_id(version);
        let reply = send!(self, "GetObjectRetention", key, request)?;
        let said = match reply.said {
            Ok(output) => Ok(output.retention().and_then(|retention| {
                let until = retention.retain_until_date().copied().and_then(seconds)?;
                Some(Retention { compliance: retention.mode() == Some(&ObjectLockRetentionMode::Compliance), until })
            })),
            // Some stores give the code of a bucket without a lock, as the vault's own reading knows.
            Err(refusal) if NO_RETENTION.contains(&&*refusal.code) => Ok(None),
            Err(refusal) => Err(refusal),
        };
        Ok(Reply { at: reply.at, said })
    }

    /// Sets the retention of a version; none takes it away.
    pub(crate) async fn retain(&self, key: &str, version: &str, to: Option<&Retention>, bypass: bool) -> Asked<()> {
        let mode = |compliance| match compliance {
            true => ObjectLockRetentionMode::Compliance,
            false => ObjectLockRetentionMode::Governance,
        };
        let retention = ObjectLockRetention::builder()
            .set_mode(to.map(|to| mode(to.compliance)))
            .set_retain_until_date(to.map(|to| date_time(to.until)))
            .build();
        let request = self.client.put_object_retention().bucket(&self.bucket).key(key).version_id(version);
        let request = request.retention(retention).set_bypass_governance_retention(bypass.then_some(true));
        let reply = send!(self, "PutObjectRetention", key, request)?;
        Ok(Reply { at: reply.at, said: reply.said.map(|_| ()) })
    }

    /// Whether a legal hold is on a version.
    pub(crate) async fn held(&self, key: &str, version: &str) -> Asked<bool> {
        let request = self.client.get_object_legal_hold().bucket(&self.bucket).key(key).version_id(version);
        let reply = send!(self, "GetObjectLegalHold", key, request)?;
        let on = |hold: &ObjectLockLegalHold| hold.status() == Some(&ObjectLockLegalHoldStatus::On);
        Ok(Reply { at: reply.at, said: reply.said.map(|output| output.legal_hold().is_some_and(on)) })
    }

    /// Puts a legal hold on a version, or lifts it.
    pub(crate) async fn hold(&self, key: &str, version: &str, on: bool) -> Asked<()> {
        let status = if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let request = self.client.put_object_legal_hold().bucket(&self.bucket).key(key).version_id(version);
        let reply = send!(self, "PutObjectLegalHold", key, request.legal_hold(hold))?;
        Ok(Reply { at: reply.at, said: reply.said.map(|_| ()) })
    }

    /// Copies an object within the bucket, locked in COMPLIANCE mode until then.
    pub(crate) async fn copy(&self, from: &str, to: &str, until: Timestamp) -> Asked<Option<String>> {
        let request = self.client.copy_object().bucket(&self.bucket).key(to);
        let request = request.copy_source(format!("{}/{from}", self.bucket));
        let request = request.object_lock_mode(ObjectLockMode::Compliance);
        let reply = send!(self, "CopyObject", to, request.object_lock_retain_until_date(date_time(until)))?;
        Ok(Reply { at: reply.at, said: reply.said.map(|output| output.version_id) })
    }

    /// Begins an upload in parts, locked in COMPLIANCE mode until then; gives its id.
    pub(crate) async fn begin_upload(&self, key: &str, until: Timestamp) -> Asked<String> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let request = request.object_lock_mode(ObjectLockMode::Compliance);
        let request = request.object_lock_retain_until_date(date_time(until));
        let reply = send!(self, "CreateMultipartUpload", key, request)?;
        Ok(Reply { at: reply.at, said: reply.said.map(|output| output.upload_id.unwrap_or_default()) })
    }

    /// Sends the one part of an upload; gives its entity tag.
    pub(crate) async fn upload_part(&self, key: &str, upload: &str, body: &Bytes) -> Asked<String> {
        let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(upload).part_number(1);
        let reply = send!(self, "UploadPart", key, request.body(ByteStream::from(body.clone())))?;
        Ok(Reply { at: reply.at, said: reply.said.map(|output| output.e_tag.unwrap_or_default()) })
    }

    /// Ends an upload of one part.
    pub(crate) async fn complete_upload(&self, key: &str, upload: &str, tag: &str, if_absent: bool) -> Asked<()> {
        let part = CompletedPart::builder().part_number(1).e_tag(tag).build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let request = request.set_if_none_match(if_absent.then(|| "*".to_owned())).multipart_upload(parts);
        let reply = send!(self, "CompleteMultipartUpload", key, request)?;
        Ok(Reply { at: reply.at, said: reply.said.map(|_| ()) })
    }

    /// Gives an upload up.
    pub(crate) async fn abort_upload(&self, key: &str, upload: &str) -> Asked<()> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let reply = send!(self, "AbortMultipartUpload", key, request)?;
        Ok(Reply { at: reply.at, said: reply.said.map(|_| ()) })
    }

    /// The mode of the bucket's default retention; none without one.
    pub(crate) async fn default_retention(&self) -> Asked<Option<String>> {
        let request = self.client.get_object_lock_configuration().bucket(&self.bucket);
        let reply = send!(self, "GetObjectLockConfiguration", "", request)?;
        let said = reply.said.map(|output| {
            let rule = output.object_lock_configuration().and_then(|configuration| configuration.rule());
            let default = rule.and_then(|rule| rule.default_retention())?;
            let mode = default.mode().map_or("", ObjectLockRetentionMode::as_str);
            Some(match (default.days(), default.years()) {
                (Some(days), _) => format!("{days} days {mode}"),
                (None, Some(years)) => format!("{years} years {mode}"),
                (None, None) => mode.to_owned(),
            })
        });
        Ok(Reply { at: reply.at, said })
    }
}

/// Rounded up: stores keep whole seconds.
fn date_time(at: Timestamp) -> DateTime {
    DateTime::from_secs(at.as_second() + i64::from(at.subsec_nanosecond() > 0))
}

pub(crate) fn seconds(at: DateTime) -> Option<Timestamp> {
    Timestamp::from_second(at.secs()).ok()
}

/// What the store understood and would not do. Whether a request was done that got a 5xx, a 429 or no answer is unknown.
fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<Refusal> {
    let SdkError::ServiceError(service) = error else { return None };
    let (status, code) = (service.raw().status().as_u16(), service.err().code().unwrap_or_default());
    let passing = matches!(kind_of(status, code), StoreErrorKind::Unreachable | StoreErrorKind::Throttled);
    let marker = service.raw().headers().get("x-amz-delete-marker") == Some("true");
    (!passing || status == 501).then(|| Refusal { status, code: code.to_owned(), marker })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spoiled_signature_is_another_one_of_the_same_length() {
        for (signed, other) in [("Signature=ab0", "Signature=ab1"), ("Signature=abf", "Signature=ab0")] {
            assert_eq!(spoiled(signed), other);
        }
    }

    #[test]
    fn refusals_read_as_status_and_code() {
        let refusal = |status, code: &str| Refusal { status, code: code.to_owned(), marker: false };
        assert_eq!(refusal(412, "PreconditionFailed").to_string(), "412 PreconditionFailed");
        assert_eq!(refusal(404, "").to_string(), "404");
    }
}
