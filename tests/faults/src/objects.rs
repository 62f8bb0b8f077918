//! Writing and reading objects: what a request asks for, checked, and what the answer says.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::HeaderMap;
use jiff::Timestamp;
use s3s::checksum::ChecksumHasher;
use s3s::dto::{
    GetObjectInput, GetObjectOutput, HeadObjectOutput, ObjectLockLegalHoldStatus, ObjectLockMode, PutObjectInput,
    StreamingBlob,
};
use s3s::{S3Error, S3Result, dto, s3_error};

use crate::bucket::{Bucket, Found, Put, Version, World};
use crate::fault::Fault;
use crate::lock::{self, Retention};
use crate::operations::{last_modified, time};
use crate::transport::headers;

const MAX_BODY: usize = 256 << 20;

/// Reads a body whole.
pub(crate) async fn body_of(body: Option<StreamingBlob>, world: &World) -> S3Result<Bytes> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let mut bytes = BytesMut::new();
    loop {
        match body.try_next().await {
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(piece)) if bytes.len() + piece.len() <= MAX_BODY => bytes.extend_from_slice(&piece),
            Ok(Some(_)) => return Err(s3_error!(EntityTooLarge)),
            Err(_) if world.on(Fault::PayloadHashIgnored) => return Ok(bytes.freeze()),
            Err(error) => {
                return Err(S3Error::with_message(
                    s3s::S3ErrorCode::BadDigest,
                    format!("the body does not fit: {error}"),
                ));
            }
        }
    }
}

/// The lock that headers ask for.
pub(crate) fn lock_asked(
    mode: Option<&ObjectLockMode>,
    until: Option<dto::Timestamp>,
    world: &World,
) -> S3Result<Option<Retention>> {
    let (mode, until) = match (mode, until) {
        (None, None) => return Ok(None),
        (Some(mode), Some(until)) => (mode, until),
        _ if world.on(Fault::HalfLockAccepted) => return Ok(None),
        _ => {
            let text = "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied";
            return Err(s3_error!(InvalidArgument, "{text}"));
        }
    };
    let until = from_dto(&until)?;
    if until <= world.clock.now() && !world.on(Fault::PastLockAccepted) {
        return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
    }
    let compliance = match mode.as_str() {
        "COMPLIANCE" => true,
        "GOVERNANCE" => false,
        _ => return Err(s3_error!(InvalidArgument, "Unknown wormMode directive")),
    };
    Ok(Some(Retention { compliance, until }))
}

pub(crate) fn from_dto(at: &dto::Timestamp) -> S3Result<Timestamp> {
    let mut text = Vec::new();
    at.format(dto::TimestampFormat::DateTime, &mut text).map_err(|_| s3_error!(InvalidArgument))?;
    String::from_utf8_lossy(&text).parse().map_err(|_| s3_error!(InvalidArgument))
}

pub(crate) fn holds(status: Option<&ObjectLockLegalHoldStatus>) -> bool {
    status.is_some_and(|status| status.as_str() == "ON")
}

/// Checks a PUT as strictly as S3 does, and says what to store. `Err` with the put inside: refused for its checksum.
pub(crate) fn checked_put(input: &PutObjectInput, headers: &HeaderMap, body: Bytes, world: &World) -> S3Result<Put> {
    let asked = lock_asked(input.object_lock_mode.as_ref(), input.object_lock_retain_until_date.clone(), world)?;
    let hold = holds(input.object_lock_legal_hold_status.as_ref());
    let summed =
        headers.contains_key("content-md5") || headers.keys().any(|name| name.as_str().starts_with("x-amz-checksum-"));
    if (asked.is_some() || hold) && !summed && !world.on(Fault::ChecksumNotNeeded) {
        let text = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    if input.if_match.is_some() || input.if_none_match.as_ref().is_some_and(|condition| !condition.is_any()) {
        return Err(s3_error!(NotImplemented, "only If-None-Match: * is understood"));
    }
    let (retention, metadata) = (lock::stored(asked, world), input.metadata.clone());
    Ok(Put { body, retention, hold, metadata, if_absent: input.if_none_match.is_some() })
}

/// Whether the checksums of a PUT fit its body.
pub(crate) fn fits(input: &PutObjectInput, body: &Bytes) -> bool {
    let mut hasher = ChecksumHasher {
        crc32: input.checksum_crc32.as_ref().map(|_| <s3s::crypto::Crc32 as s3s::crypto::Checksum>::new()),
        crc32c: input.checksum_crc32c.as_ref().map(|_| <s3s::crypto::Crc32c as s3s::crypto::Checksum>::new()),
        sha1: input.checksum_sha1.as_ref().map(|_| <s3s::crypto::Sha1 as s3s::crypto::Checksum>::new()),
        sha256: input.checksum_sha256.as_ref().map(|_| <s3s::crypto::Sha256 as s3s::crypto::Checksum>::new()),
        crc64nvme: input.checksum_crc64nvme.as_ref().map(|_| <s3s::crypto::Crc64Nvme as s3s::crypto::Checksum>::new()),
    };
    hasher.update(body);
    let sums = hasher.finalize();
    md5_fits(input.content_md5.as_deref(), body)
        && sums.checksum_crc32 == input.checksum_crc32
        && sums.checksum_crc32c == input.checksum_crc32c
        && sums.checksum_sha1 == input.checksum_sha1
        && sums.checksum_sha256 == input.checksum_sha256
        && sums.checksum_crc64nvme == input.checksum_crc64nvme
}

fn md5_fits(given: Option<&str>, body: &Bytes) -> bool {
    use base64::Engine;
    use s3s::crypto::{Checksum, Md5};
    let Some(given) = given else { return true };
    let mut hasher = Md5::new();
    hasher.update(body);
    base64::engine::general_purpose::STANDARD.encode(hasher.finalize()) == given
}

/// The version that a read is about, or why there is none.
pub(crate) fn found(bucket: &mut Bucket, key: &str, id: Option<&str>, world: &World) -> S3Result<Version> {
    match bucket.find(key, id, world) {
        Found::Object(version) => Ok(version),
        Found::Absent => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        Found::NoSuchVersion => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
        Found::Marker { id, named } => {
            let mut error = match named {
                true => s3_error!(MethodNotAllowed),
                false => s3_error!(NoSuchKey, "The specified key does not exist."),
            };
            if !world.on(Fault::SilentMarkers) {
                error.set_headers(headers([("x-amz-delete-marker", "true"), ("x-amz-version-id", &id)]));
            }
            Err(error)
        }
    }
}

fn range_of(input: &GetObjectInput, len: u64, world: &World) -> S3Result<Option<std::ops::Range<u64>>> {
    let Some(range) = input.range.filter(|_| !world.on(Fault::RangesIgnored)) else { return Ok(None) };
    let beyond = matches!(range, dto::Range::Int { last: Some(last), .. } if last >= len);
    if beyond && world.on(Fault::LongRangesRefused) {
        return Err(s3_error!(InvalidRange));
    }
    let mut range = range.check(len).map_err(|_| s3_error!(InvalidRange))?;
    if world.on(Fault::RangesShifted) && range.end < len {
        range = range.start + 1..range.end + 1;
    }
    Ok(Some(range))
}

fn mode_of(retention: Retention) -> ObjectLockMode {
    ObjectLockMode::from_static(if retention.compliance {
        ObjectLockMode::COMPLIANCE
    } else {
        ObjectLockMode::GOVERNANCE
    })
}

/// The answer to a GET.
pub(crate) fn got(version: &Version, input: &GetObjectInput, world: &World) -> S3Result<GetObjectOutput> {
    let body = version.body.clone().unwrap_or_default();
    let len = body.len() as u64;
    let range = range_of(input, len, world)?;
    let part = range.as_ref().map_or(body.clone(), |range| body.slice(range.start as usize..range.end as usize));
    let sum = input.checksum_mode.is_some() && range.is_none();
    let lock = version.retention;
    Ok(GetObjectOutput {
        content_length: Some(part.len() as i64),
        content_range: range.map(|range| format!("bytes {}-{}/{len}", range.start, range.end - 1)),
        body: Some(StreamingBlob::from(s3s::Body::from(part))),
        last_modified: Some(last_modified(version, world)),
        e_tag: Some(dto::ETag::Strong(version.etag())),
        version_id: Some(version.id.clone()).filter(|_| !world.on(Fault::NoVersionIds)),
        checksum_sha256: sum.then(|| sha256_of(&body)),
        metadata: version.metadata.clone(),
        object_lock_mode: lock.map(mode_of),
        object_lock_retain_until_date: lock.map(|lock| time(lock.until)),
        ..GetObjectOutput::default()
    })
}

fn sha256_of(body: &Bytes) -> String {
    use base64::Engine;
    use sha2::Digest;
    base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(body))
}

/// The answer to a HEAD.
pub(crate) fn headed(version: &Version, world: &World) -> HeadObjectOutput {
    let lies = world.on(Fault::HeadLies);
    let lock = version.retention.filter(|_| !lies);
    let len = version.body.as_ref().map_or(0, Bytes::len) as i64;
    HeadObjectOutput {
        content_length: Some(if lies { len + 1 } else { len }),
        last_modified: Some(last_modified(version, world)),
        e_tag: Some(dto::ETag::Strong(version.etag())),
        version_id: Some(version.id.clone()).filter(|_| !world.on(Fault::NoVersionIds)),
        metadata: version.metadata.clone(),
        object_lock_mode: lock.map(mode_of),
        object_lock_retain_until_date: lock.map(|lock| time(lock.until)),
        ..HeadObjectOutput::default()
    }
}
