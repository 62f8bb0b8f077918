//! The operations of S3, one request at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::SignedDuration;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::bucket::{Bucket, Delete, Put, Version, World};
use crate::fault::Fault;
use crate::lock::{Held, Retention};
use crate::objects::{body_of, checked_put, fits, found, from_dto, got, headed, holds, lock_asked};
use crate::settings::Settings;
use crate::upload::Upload;
use crate::{listing, lock};

/// How long a racy condition takes from looking to storing.
const RACE: Duration = Duration::from_millis(30);

/// All buckets.
pub(crate) type Buckets = Arc<Mutex<BTreeMap<String, Bucket>>>;

pub(crate) fn locked(buckets: &Buckets) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
    buckets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time as S3 writes it.
pub(crate) fn time(at: jiff::Timestamp) -> Timestamp {
    Timestamp::from(SystemTime::from(at))
}

/// What the store says of when a version was made.
pub(crate) fn last_modified(version: &Version, world: &World) -> Timestamp {
    if world.on(Fault::LastModifiedMoves) {
        return time(world.clock.now());
    }
    time(if world.on(Fault::LastModifiedLies) { version.at - SignedDuration::from_hours(24) } else { version.at })
}

#[derive(Clone, Debug)]
pub(crate) struct Operations {
    pub(crate) buckets: Buckets,
    pub(crate) world: World,
}

type Answer<T> = S3Result<S3Response<T>>;

fn ok<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

impl Operations {
    /// Works on one bucket, alone.
    fn with<T>(&self, bucket: &str, work: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<T> {
        let mut buckets = locked(&self.buckets);
        let bucket =
            buckets.get_mut(bucket).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
        work(bucket)
    }

    /// Stores an object when its condition holds: both under one lock, unless it is told to race.
    async fn store(&self, name: &str, key: &str, put: Put) -> S3Result<String> {
        let world = &self.world;
        let if_absent = put.if_absent;
        if (put.retention.is_some() || put.hold) && !self.with(name, |bucket| Ok(bucket.settings.object_lock))? {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        if if_absent && world.on(Fault::RacyIfNoneMatch) {
            self.with(name, |bucket| bucket.refuses_create(key, true, world))?;
            tokio::time::sleep(RACE).await;
            return self.with(name, |bucket| Ok(bucket.store(key, put, world)));
        }
        self.with(name, |bucket| {
            let refused = bucket.refuses_create(key, if_absent, world);
            if refused.is_ok() || world.on(Fault::RefusedCreateStores) {
                let id = bucket.store(key, put, world);
                refused?;
                return Ok(id);
            }
            refused.map(|()| String::new())
        })
    }

    fn delete_one(&self, name: &str, key: &str, id: Option<&str>, how: Delete) -> S3Result<crate::bucket::Deleted> {
        self.with(name, |bucket| bucket.delete(key, id, how, &self.world))
    }
}

fn retention_of(asked: Option<&ObjectLockRetention>) -> S3Result<Option<Retention>> {
    let Some(asked) = asked else { return Ok(None) };
    match (&asked.mode, &asked.retain_until_date) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => {
            Ok(Some(Retention { compliance: mode.as_str() == "COMPLIANCE", until: from_dto(until)? }))
        }
        _ => Err(s3_error!(MalformedXML)),
    }
}

fn mode_of(compliance: bool) -> ObjectLockRetentionMode {
    let mode = if compliance { ObjectLockRetentionMode::COMPLIANCE } else { ObjectLockRetentionMode::GOVERNANCE };
    ObjectLockRetentionMode::from_static(mode)
}

#[async_trait::async_trait]
impl S3 for Operations {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let world = &self.world;
        self.with(&req.input.bucket, |_| Ok(()))?;
        let body = body_of(req.input.body.take(), world).await?;
        let misfit = !fits(&req.input, &body) && !world.on(Fault::ChecksumIgnored);
        let put = checked_put(&req.input, &req.headers, body, world)?;
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        let refused = || s3_error!(BadDigest, "The checksum you specified did not match what we received");
        if misfit && !world.on(Fault::RefusedChecksumStores) {
            return Err(refused());
        }
        let id = self.store(&bucket, &key, put).await?;
        if misfit {
            return Err(refused());
        }
        let (version_id, checksum_sha256) = (Some(id), req.input.checksum_sha256);
        ok(PutObjectOutput { version_id, checksum_sha256, ..PutObjectOutput::default() })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = &req.input;
        let version =
            self.with(&input.bucket, |bucket| found(bucket, &input.key, input.version_id.as_deref(), &self.world))?;
        ok(got(&version, input, &self.world)?)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = &req.input;
        let version =
            self.with(&input.bucket, |bucket| found(bucket, &input.key, input.version_id.as_deref(), &self.world))?;
        ok(headed(&version, &self.world))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let (input, world) = (req.input, &self.world);
        let CopySource::Bucket { bucket, key, version_id } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let asked = lock_asked(input.object_lock_mode.as_ref(), input.object_lock_retain_until_date, world)?;
        let source = self.with(bucket, |from| found(from, key, version_id.as_deref(), world))?;
        let retention = lock::stored(asked, world).filter(|_| !world.on(Fault::LockDroppedByCopy));
        let hold = holds(input.object_lock_legal_hold_status.as_ref());
        let etag = ETag::Strong(source.etag());
        let metadata = source.metadata;
        let put = Put { body: source.body.unwrap_or_default(), retention, hold, metadata, if_absent: false };
        let id = self.store(&input.bucket, &input.key, put).await?;
        let result = CopyObjectResult {
            e_tag: Some(etag),
            last_modified: Some(time(world.clock.now())),
            ..CopyObjectResult::default()
        };
        ok(CopyObjectOutput { copy_object_result: Some(result), version_id: Some(id), ..CopyObjectOutput::default() })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = req.input;
        let how = Delete { bypass: input.bypass_governance_retention == Some(true), batch: false };
        let deleted = self.delete_one(&input.bucket, &input.key, input.version_id.as_deref(), how)?;
        let delete_marker = deleted.marker.then_some(true);
        ok(DeleteObjectOutput { delete_marker, version_id: deleted.id, ..DeleteObjectOutput::default() })
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let input = req.input;
        let how = Delete { bypass: input.bypass_governance_retention == Some(true), batch: true };
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        self.with(&input.bucket, |_| Ok(()))?;
        for object in input.delete.objects {
            let (key, version_id) = (Some(object.key.clone()), object.version_id.clone());
            match self.delete_one(&input.bucket, &object.key, object.version_id.as_deref(), how) {
                Ok(_) => deleted.push(DeletedObject { key, version_id, ..DeletedObject::default() }),
                Err(error) => {
                    let (code, message) = (Some(error.code().as_str().to_owned()), error.message().map(str::to_owned));
                    errors.push(Error { key, version_id, code, message });
                }
            }
        }
        ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..DeleteObjectsOutput::default() })
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        ok(self.with(&req.input.bucket, |bucket| listing::keys(bucket, &req.input, &self.world))?)
    }

    async fn list_object_versions(&self, req: S3Request<ListObjectVersionsInput>) -> Answer<ListObjectVersionsOutput> {
        ok(self.with(&req.input.bucket, |bucket| listing::versions(bucket, &req.input, &self.world))?)
    }

    async fn put_object_retention(&self, req: S3Request<PutObjectRetentionInput>) -> Answer<PutObjectRetentionOutput> {
        let (input, world) = (req.input, &self.world);
        let to = retention_of(input.retention.as_ref())?;
        let bypass = input.bypass_governance_retention == Some(true);
        let now = world.clock.now();
        self.with(&input.bucket, |bucket| {
            let version = bucket.version_mut(&input.key, input.version_id.as_deref())?;
            version.retention = Held { version, now }.change(to, bypass, world)?;
            if world.on(Fault::LastModifiedTouched) {
                version.at = crate::bucket::whole(now);
            }
            Ok(())
        })?;
        ok(PutObjectRetentionOutput::default())
    }

    async fn get_object_retention(&self, req: S3Request<GetObjectRetentionInput>) -> Answer<GetObjectRetentionOutput> {
        let input = req.input;
        let id = input.version_id.as_deref().filter(|_| !self.world.on(Fault::LockOnWholeKey));
        let retention = self.with(&input.bucket, |bucket| Ok(bucket.version_mut(&input.key, id)?.retention))?;
        let none = || {
            s3_error!(NoSuchObjectLockConfiguration, "The specified object does not have a ObjectLock configuration")
        };
        let retention = retention.ok_or_else(none)?;
        let (mode, until) = (Some(mode_of(retention.compliance)), Some(time(retention.until)));
        ok(GetObjectRetentionOutput { retention: Some(ObjectLockRetention { mode, retain_until_date: until }) })
    }

    async fn put_object_legal_hold(&self, req: S3Request<PutObjectLegalHoldInput>) -> Answer<PutObjectLegalHoldOutput> {
        let input = req.input;
        let hold = holds(input.legal_hold.as_ref().and_then(|hold| hold.status.as_ref()));
        self.with(&input.bucket, |bucket| {
            bucket.version_mut(&input.key, input.version_id.as_deref())?.hold = hold;
            Ok(())
        })?;
        ok(PutObjectLegalHoldOutput::default())
    }

    async fn get_object_legal_hold(&self, req: S3Request<GetObjectLegalHoldInput>) -> Answer<GetObjectLegalHoldOutput> {
        let input = req.input;
        let hold =
            self.with(&input.bucket, |bucket| Ok(bucket.version_mut(&input.key, input.version_id.as_deref())?.hold))?;
        let status = if hold { ObjectLockLegalHoldStatus::ON } else { ObjectLockLegalHoldStatus::OFF };
        let status = Some(ObjectLockLegalHoldStatus::from_static(status));
        ok(GetObjectLegalHoldOutput { legal_hold: Some(ObjectLockLegalHold { status }) })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let (input, world) = (req.input, &self.world);
        let asked = lock_asked(input.object_lock_mode.as_ref(), input.object_lock_retain_until_date, world)?;
        let retention = lock::stored(asked, world).filter(|_| !world.on(Fault::LockDroppedByMultipart));
        let hold = holds(input.object_lock_legal_hold_status.as_ref());
        let id = format!("u{:016x}", rand::random::<u64>());
        self.with(&input.bucket, |bucket| {
            let metadata = input.metadata.clone();
            let upload = Upload { key: input.key.clone(), retention, hold, metadata, ..Upload::default() };
            bucket.uploads.insert(id.clone(), upload);
            Ok(())
        })?;
        let (bucket, key, upload_id) = (Some(input.bucket), Some(input.key), Some(id));
        ok(CreateMultipartUploadOutput { bucket, key, upload_id, ..CreateMultipartUploadOutput::default() })
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let input = req.input;
        let body = body_of(input.body, &self.world).await?;
        let e_tag = Some(ETag::Strong(format!("{:x}", body.len())));
        self.with(&input.bucket, |bucket| {
            let upload = bucket.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            upload.parts.insert(input.part_number, body);
            Ok(())
        })?;
        ok(UploadPartOutput { e_tag, ..UploadPartOutput::default() })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let put = self.with(&input.bucket, |bucket| {
            let upload = bucket.uploads.get(&input.upload_id).filter(|upload| upload.key == input.key);
            let upload = upload.ok_or_else(|| s3_error!(NoSuchUpload))?;
            let (body, if_absent) = (upload.assemble(&named)?, input.if_none_match.is_some());
            let (hold, metadata) = (upload.hold, upload.metadata.clone());
            Ok(Put { body, retention: upload.retention, hold, metadata, if_absent })
        })?;
        let id = self.store(&input.bucket, &input.key, put).await?;
        self.with(&input.bucket, |bucket| Ok(bucket.uploads.remove(&input.upload_id)))?;
        let (bucket, key, version_id) = (Some(input.bucket), Some(input.key), Some(id));
        ok(CompleteMultipartUploadOutput { bucket, key, version_id, ..CompleteMultipartUploadOutput::default() })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        self.with(&req.input.bucket, |bucket| Ok(bucket.uploads.remove(&req.input.upload_id)))?;
        ok(AbortMultipartUploadOutput::default())
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let settings = match req.input.object_lock_enabled_for_bucket {
            Some(true) => Settings::locked(),
            _ => Settings::default(),
        };
        let mut buckets = locked(&self.buckets);
        if buckets.contains_key(&req.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        buckets.insert(req.input.bucket, Bucket::new(settings));
        ok(CreateBucketOutput::default())
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.with(&req.input.bucket, |_| Ok(()))?;
        ok(HeadBucketOutput::default())
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        let enabled = self.with(&req.input.bucket, |bucket| Ok(bucket.settings.versioning))?;
        let status = enabled.map(|enabled| {
            let status = if enabled { BucketVersioningStatus::ENABLED } else { BucketVersioningStatus::SUSPENDED };
            BucketVersioningStatus::from_static(status)
        });
        ok(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() })
    }

    async fn put_bucket_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> Answer<PutBucketVersioningOutput> {
        let status = req.input.versioning_configuration.status.ok_or_else(|| s3_error!(MalformedXML))?;
        let enabled = status.as_str() == BucketVersioningStatus::ENABLED;
        self.with(&req.input.bucket, |bucket| {
            if !enabled && bucket.settings.object_lock && !self.world.on(Fault::VersioningCanBeSuspended) {
                let text = "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.";
                return Err(s3_error!(InvalidBucketState, "{text}"));
            }
            bucket.settings.versioning = Some(enabled);
            Ok(())
        })?;
        ok(PutBucketVersioningOutput::default())
    }

    async fn get_object_lock_configuration(
        &self,
        req: S3Request<GetObjectLockConfigurationInput>,
    ) -> Answer<GetObjectLockConfigurationOutput> {
        let configuration = self.with(&req.input.bucket, |bucket| {
            if !bucket.settings.object_lock {
                return Err(s3_error!(ObjectLockConfigurationNotFoundError));
            }
            let rule = bucket.settings.default.map(|(compliance, days)| ObjectLockRule {
                default_retention: Some(DefaultRetention {
                    days: Some(days),
                    mode: Some(mode_of(compliance)),
                    years: None,
                }),
            });
            let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
            Ok(ObjectLockConfiguration { object_lock_enabled: Some(enabled), rule })
        })?;
        ok(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) })
    }

    async fn put_object_lock_configuration(
        &self,
        req: S3Request<PutObjectLockConfigurationInput>,
    ) -> Answer<PutObjectLockConfigurationOutput> {
        let rule = req.input.object_lock_configuration.and_then(|configuration| configuration.rule);
        let default = rule
            .and_then(|rule| rule.default_retention)
            .and_then(|default| Some((default.mode?.as_str() == ObjectLockRetentionMode::COMPLIANCE, default.days?)));
        self.with(&req.input.bucket, |bucket| {
            if !bucket.settings.versioning_enabled() {
                return Err(s3_error!(InvalidBucketState));
            }
            (bucket.settings.object_lock, bucket.settings.default) = (true, default);
            Ok(())
        })?;
        ok(PutObjectLockConfigurationOutput::default())
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> Answer<GetBucketLifecycleConfigurationOutput> {
        let rules = self.with(&req.input.bucket, |bucket| Ok(bucket.settings.lifecycle.clone()))?;
        let rules = Some(rules.ok_or_else(|| s3_error!(NoSuchLifecycleConfiguration))?);
        ok(GetBucketLifecycleConfigurationOutput { rules, ..GetBucketLifecycleConfigurationOutput::default() })
    }

    async fn put_bucket_lifecycle_configuration(
        &self,
        req: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> Answer<PutBucketLifecycleConfigurationOutput> {
        let rules = req.input.lifecycle_configuration.map(|configuration| configuration.rules).unwrap_or_default();
        if rules.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        self.with(&req.input.bucket, |bucket| {
            bucket.settings.lifecycle = Some(rules);
            Ok(())
        })?;
        ok(PutBucketLifecycleConfigurationOutput::default())
    }

    async fn delete_bucket_lifecycle(
        &self,
        req: S3Request<DeleteBucketLifecycleInput>,
    ) -> Answer<DeleteBucketLifecycleOutput> {
        self.with(&req.input.bucket, |bucket| {
            bucket.settings.lifecycle = None;
            Ok(())
        })?;
        ok(DeleteBucketLifecycleOutput::default())
    }

    async fn get_bucket_policy(&self, req: S3Request<GetBucketPolicyInput>) -> Answer<GetBucketPolicyOutput> {
        let policy = self.with(&req.input.bucket, |bucket| Ok(bucket.settings.policy.clone()))?;
        ok(GetBucketPolicyOutput { policy: Some(policy.ok_or_else(|| s3_error!(NoSuchBucketPolicy))?) })
    }

    /// Kept and given back; it does not decide anything here.
    async fn put_bucket_policy(&self, req: S3Request<PutBucketPolicyInput>) -> Answer<PutBucketPolicyOutput> {
        self.with(&req.input.bucket, |bucket| {
            bucket.settings.policy = Some(req.input.policy);
            Ok(())
        })?;
        ok(PutBucketPolicyOutput::default())
    }

    async fn delete_bucket_policy(&self, req: S3Request<DeleteBucketPolicyInput>) -> Answer<DeleteBucketPolicyOutput> {
        self.with(&req.input.bucket, |bucket| {
            bucket.settings.policy = None;
            Ok(())
        })?;
        ok(DeleteBucketPolicyOutput::default())
    }
}
