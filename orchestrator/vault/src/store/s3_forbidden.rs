//! The requests of the lock probe, by the AWS SDK. What changes the bucket's settings is put back at once.

use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_bucket_lifecycle_configuration::GetBucketLifecycleConfigurationOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, Delete, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, ObjectIdentifier, ObjectLockRetention, ObjectLockRetentionMode, VersioningConfiguration,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::client::{kind_of, store_error};
use super::forbidden::{Answer, Forbidden};
use super::s3::{Outcome, S3Store};
use super::{LifecycleFacts, StoreError, StoreErrorKind};

/// The name of the rule that the probe tries to put.
const PROBE_RULE: &str = "holdfast-probe";
/// How often something is put back before the probe says that it is left.
const UNDO_TRIES: u32 = 5;
const UNDO_WAIT: Duration = Duration::from_millis(200);

impl S3Store {
    /// Sends one request of the lock probe.
    pub(super) async fn attempt_forbidden(&self, request: Forbidden<'_>) -> Result<Answer, StoreError> {
        match request {
            Forbidden::DeleteVersion { key, id } => self.delete_version(key, id, None).await,
            Forbidden::BypassGovernance { key, id } => self.delete_version(key, id, Some(true)).await,
            Forbidden::DeleteBatch { key, id } => self.delete_batch(key, id).await,
            Forbidden::Retain { key, id, until, compliance } => self.retain(key, id, until, compliance).await,
            Forbidden::PutUnlocked { key, body } => self.put_unlocked(key, body).await,
            Forbidden::Hide { key } => {
                let outcome = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
                self.answer("DeleteObject", key, outcome)
            }
            Forbidden::SuspendVersioning => self.suspend_versioning().await,
            Forbidden::PutLifecycle { prefix } => self.put_lifecycle(prefix).await,
            Forbidden::PutPolicy { key } => self.put_policy(key).await,
            Forbidden::PutLockConfiguration => self.put_lock_configuration().await,
        }
    }

    /// Refused is what the store understood and would not do; a store that is away, busy or does not know who asks
    /// has refused nothing.
    fn answer<T, E>(&self, operation: &'static str, key: &str, outcome: Outcome<T, E>) -> Result<Answer, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match outcome {
            Ok(_) => Ok(Answer::accepted()),
            Err(error) => match refusal(&error) {
                Some(said) => Ok(Answer::Refused { said }),
                None => Err(store_error(operation, &self.target(key), error)),
            },
        }
    }

    async fn delete_version(&self, key: &str, id: &str, bypass: Option<bool>) -> Result<Answer, StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key).version_id(id);
        let outcome = request.set_bypass_governance_retention(bypass).send().await;
        self.answer("DeleteObject", key, outcome)
    }

    async fn delete_batch(&self, key: &str, id: &str) -> Result<Answer, StoreError> {
        let built = ObjectIdentifier::builder().key(key).version_id(id).build();
        let built = built.and_then(|object| Delete::builder().objects(object).build());
        let delete = built.map_err(|e| self.error(StoreErrorKind::Other, "DeleteObjects", key, &e.to_string()))?;
        let outcome = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        // The answer to a batch is 200 even when each of its deletions is refused.
        if let Ok(output) = &outcome
            && let Some(error) = output.errors().first()
        {
            return Ok(Answer::Refused { said: error.code().unwrap_or("refused").to_owned() });
        }
        self.answer("DeleteObjects", key, outcome)
    }

    async fn retain(&self, key: &str, id: &str, until: Timestamp, compliance: bool) -> Result<Answer, StoreError> {
        let mode = if compliance { ObjectLockRetentionMode::Compliance } else { ObjectLockRetentionMode::Governance };
        let until = DateTime::from_secs(until.as_second());
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let request = self.client.put_object_retention().bucket(&self.bucket).key(key).version_id(id);
        let outcome = request.retention(retention).bypass_governance_retention(true).send().await;
        self.answer("PutObjectRetention", key, outcome)
    }

    async fn put_unlocked(&self, key: &str, body: Bytes) -> Result<Answer, StoreError> {
        let checksum = aws_smithy_types::base64::encode(Sha256::digest(&body));
        let request = self.client.put_object().bucket(&self.bucket).key(key).checksum_sha256(checksum);
        let outcome = request.body(ByteStream::from(body)).send().await;
        self.answer("PutObject", key, outcome)
    }

    async fn set_versioning(
        &self,
        status: BucketVersioningStatus,
    ) -> Outcome<(), aws_sdk_s3::operation::put_bucket_versioning::PutBucketVersioningError> {
        let configuration = VersioningConfiguration::builder().status(status).build();
        let request = self.client.put_bucket_versioning().bucket(&self.bucket);
        request.versioning_configuration(configuration).send().await.map(|_| ())
    }

    async fn suspend_versioning(&self) -> Result<Answer, StoreError> {
        let outcome = self.set_versioning(BucketVersioningStatus::Suspended).await;
        let answer = self.answer("PutBucketVersioning", "", outcome)?;
        let undo = || async { self.set_versioning(BucketVersioningStatus::Enabled).await.is_ok() };
        Ok(put_back(answer, "the bucket's versioning is suspended", UNDO_WAIT, undo).await)
    }

    /// What the bucket's lifecycle rules would do; none when the credentials may not read them.
    pub(super) async fn lifecycle_facts(&self) -> Result<Option<LifecycleFacts>, StoreError> {
        Ok(self.lifecycle().await?.map(|configuration| {
            let active = |rule: &&LifecycleRule| *rule.status() == ExpirationStatus::Enabled;
            let expires = |rule: &&LifecycleRule| {
                rule.expiration().is_some_and(|e| e.days().is_some() || e.date().is_some())
                    || rule.noncurrent_version_expiration().is_some()
            };
            let rules = configuration.rules().iter().filter(active).filter(expires);
            let expiring = rules.map(|rule| rule.id().unwrap_or("without a name").to_owned()).collect();
            LifecycleFacts { expiring }
        }))
    }

    /// The bucket's lifecycle rules, empty when there are none; `None` when they may not be read.
    async fn lifecycle(&self) -> Result<Option<GetBucketLifecycleConfigurationOutput>, StoreError> {
        match self.client.get_bucket_lifecycle_configuration().bucket(&self.bucket).send().await {
            Ok(output) => Ok(Some(output)),
            Err(SdkError::ServiceError(service)) if service.err().code() == Some("NoSuchLifecycleConfiguration") => {
                Ok(Some(GetBucketLifecycleConfigurationOutput::builder().build()))
            }
            Err(error) if refusal(&error).is_some() => Ok(None),
            Err(error) => Err(store_error("GetBucketLifecycleConfiguration", &self.target(""), error)),
        }
    }

    async fn put_lifecycle(&self, prefix: &str) -> Result<Answer, StoreError> {
        let broken = |error: aws_sdk_s3::error::BuildError| {
            self.error(StoreErrorKind::Other, "PutBucketLifecycleConfiguration", "", &error.to_string())
        };
        let Some(present) = self.lifecycle().await? else {
            // What is there could not be put back: ask with rules that no store can take.
            let nothing = BucketLifecycleConfiguration::builder().set_rules(Some(Vec::new())).build();
            let request = self.client.put_bucket_lifecycle_configuration().bucket(&self.bucket);
            let outcome = request.lifecycle_configuration(nothing.map_err(broken)?).send().await;
            return Ok(blind(self.answer("PutBucketLifecycleConfiguration", "", outcome)?, "lifecycle rules"));
        };
        let mut kept = present.rules().to_vec();
        kept.retain(|rule| rule.id() != Some(PROBE_RULE));
        let put = |rules: Vec<LifecycleRule>| {
            let built = BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build();
            let request = self.client.put_bucket_lifecycle_configuration().bucket(&self.bucket);
            let minimum = present.transition_default_minimum_object_size().cloned();
            let request = request.set_transition_default_minimum_object_size(minimum);
            built.map(|configuration| request.lifecycle_configuration(configuration))
        };
        let rule = LifecycleRule::builder()
            .id(PROBE_RULE)
            .status(ExpirationStatus::Disabled)
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
            .expiration(LifecycleExpiration::builder().days(36_500).build())
            .build()
            .map_err(broken)?;
        let outcome = put(kept.iter().cloned().chain([rule]).collect()).map_err(broken)?.send().await;
        let answer = self.answer("PutBucketLifecycleConfiguration", "", outcome)?;
        let undo = || async {
            if kept.is_empty() {
                return self.client.delete_bucket_lifecycle().bucket(&self.bucket).send().await.is_ok();
            }
            let Ok(request) = put(kept.clone()) else { return false };
            request.send().await.is_ok()
        };
        Ok(put_back(answer, "a disabled lifecycle rule `holdfast-probe`", UNDO_WAIT, undo).await)
    }

    async fn put_policy(&self, key: &str) -> Result<Answer, StoreError> {
        let put = |policy: String| self.client.put_bucket_policy().bucket(&self.bucket).policy(policy).send();
        match self.client.get_bucket_policy().bucket(&self.bucket).send().await {
            Ok(output) => {
                let same = output.policy().unwrap_or_default().trim().to_owned();
                self.answer("PutBucketPolicy", "", put(same).await)
            }
            Err(SdkError::ServiceError(service)) if service.err().code() == Some("NoSuchBucketPolicy") => {
                let answer = self.answer("PutBucketPolicy", "", put(self.void_policy(key)).await)?;
                let undo = || async { self.client.delete_bucket_policy().bucket(&self.bucket).send().await.is_ok() };
                Ok(put_back(answer, "a bucket policy that forbids reading a key that is not there", UNDO_WAIT, undo)
                    .await)
            }
            Err(error) if refusal(&error).is_some() => {
                let answer = self.answer("PutBucketPolicy", "", put("{}".to_owned()).await)?;
                Ok(blind(answer, "bucket policy"))
            }
            Err(error) => Err(store_error("GetBucketPolicy", &self.target(""), error)),
        }
    }

    /// A policy that changes nothing for anybody.
    fn void_policy(&self, key: &str) -> String {
        serde_json::json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Sid": "HoldfastProbe",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": format!("arn:aws:s3:::{}/{key}", self.bucket),
            }],
        })
        .to_string()
    }

    async fn put_lock_configuration(&self) -> Result<Answer, StoreError> {
        let present = self.client.get_object_lock_configuration().bucket(&self.bucket).send().await;
        let present = self.failed("GetObjectLockConfiguration", "", present)?;
        let request = self.client.put_object_lock_configuration().bucket(&self.bucket);
        let same = present.object_lock_configuration().cloned();
        let outcome = request.set_object_lock_configuration(same).send().await;
        self.answer("PutObjectLockConfiguration", "", outcome)
    }
}

/// Status and code, when the store understood the request and would not do it.
fn refusal<E>(error: &SdkError<E, HttpResponse>) -> Option<String>
where
    E: ProvideErrorMetadata,
{
    let SdkError::ServiceError(service) = error else { return None };
    let status = service.raw().status().as_u16();
    let code = service.err().code().unwrap_or_default();
    is_refusal(status, code).then(|| format!("{status} {code}").trim_end().to_owned())
}

fn is_refusal(status: u16, code: &str) -> bool {
    // 501: the store cannot do it at all.
    status == 501 || matches!(kind_of(status, code), StoreErrorKind::Denied | StoreErrorKind::Other)
}

/// The answer to a request that no store can carry out: only "you may not" says something.
fn blind(answer: Answer, what: &str) -> Answer {
    match answer {
        Answer::Refused { said } if said.starts_with("403") || said.starts_with("405") => Answer::Refused { said },
        _ => Answer::Untried {
            why: format!("these credentials may not read the bucket's {what}, so that a try could not be put back"),
        },
    }
}

/// Puts back what an accepted request changed.
async fn put_back<F>(answer: Answer, left: &str, wait: Duration, undo: impl Fn() -> F) -> Answer
where
    F: Future<Output = bool>,
{
    if !matches!(answer, Answer::Accepted { .. }) {
        return answer;
    }
    for attempt in 0..UNDO_TRIES {
        if undo().await {
            return Answer::accepted();
        }
        tokio::time::sleep(wait * 2u32.pow(attempt)).await;
    }
    Answer::Accepted { left: Some(left.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_store_understood_is_a_refusal() {
        for (status, code, refused) in [
            (403, "AccessDenied", true),
            (405, "MethodNotAllowed", true),
            (409, "InvalidBucketState", true),
            (400, "InvalidRequest", true),
            (501, "NotImplemented", true),
            (403, "ExpiredToken", false),
            (403, "SignatureDoesNotMatch", false),
            (404, "NoSuchBucket", false),
            (503, "SlowDown", false),
            (500, "InternalError", false),
            (409, "OperationAborted", false),
        ] {
            assert_eq!(is_refusal(status, code), refused, "{status} {code}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_carried_out_proves_only_a_denial() {
        let said = |said: &str| Answer::Refused { said: said.to_owned() };
        assert_eq!(blind(said("403 AccessDenied"), "x"), said("403 AccessDenied"));
        for answer in [said("400 MalformedXML"), Answer::accepted()] {
            assert!(matches!(blind(answer, "x"), Answer::Untried { .. }));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_put_back_is_said() {
        let tries = std::cell::Cell::new(0);
        let after = |needed: u32| {
            let tries = &tries;
            move || {
                tries.set(tries.get() + 1);
                std::future::ready(tries.get() >= needed)
            }
        };
        assert_eq!(put_back(Answer::accepted(), "x", Duration::ZERO, after(3)).await, Answer::accepted());
        tries.set(0);
        let left = Answer::Accepted { left: Some("x".into()) };
        assert_eq!(put_back(Answer::accepted(), "x", Duration::ZERO, after(99)).await, left);
        let refused = Answer::Refused { said: "403".into() };
        tries.set(0);
        assert_eq!(put_back(refused.clone(), "x", Duration::ZERO, after(1)).await, refused);
        assert_eq!(tries.get(), 0);
    }
}
