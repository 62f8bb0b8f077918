//! One bucket as a test wants it: look into it, and break things in it.

use std::time::Duration;

use aws_credential_types::Credentials as AwsCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use serde_json::json;

use crate::cloud::damage;
use crate::error::{LabError, Result};
use crate::state::Credentials;
use crate::wait::until;

/// How a bucket protects its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketKind {
    /// Versioning and Object Lock: what a vault needs.
    Locked,
    /// Versioning alone.
    Versioned,
    /// Neither.
    Plain,
}

/// One version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub version: String,
    pub is_latest: bool,
    pub is_delete_marker: bool,
}

#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: String,
}

impl Bucket {
    /// A bucket of any S3 server, addressed by path. It need not exist.
    pub fn new(endpoint: &str, name: &str, credentials: &Credentials) -> Self {
        let keys = AwsCredentials::new(&credentials.access_key, &credentials.secret_key, None, None, "holdfast-lab");
        let http = aws_smithy_http_client::Builder::new().build_http();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2))
            .operation_attempt_timeout(Duration::from_secs(30))
            .build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint)
            .credentials_provider(keys)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .build();
        Self { client: Client::from_conf(config), name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For what this type does not offer.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn server_ready(&self) -> Result<()> {
        until("the S3 server", Duration::from_secs(30), || async {
            match self.client.head_bucket().bucket(&self.name).send().await {
                Ok(_) => Ok(()),
                // An answer about the bucket is an answer.
                Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(()),
                Err(error) => Err(DisplayErrorContext(&error).to_string()),
            }
        })
        .await
    }

    /// Makes the bucket as it should be; one that exists is an error.
    pub async fn create(&self, kind: BucketKind) -> Result<()> {
        self.client
            .create_bucket()
            .bucket(&self.name)
            .set_object_lock_enabled_for_bucket((kind == BucketKind::Locked).then_some(true))
            .send()
            .await
            .map_err(|error| self.failed("could not create the bucket", &error))?;
        if kind == BucketKind::Versioned {
            let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            self.client
                .put_bucket_versioning()
                .bucket(&self.name)
                .versioning_configuration(on)
                .send()
                .await
                .map_err(|error| self.failed("could not switch on versioning", &error))?;
        }
        Ok(())
    }

    /// Puts a policy: these users change no setting of the bucket, as a vault's bucket must have it.
    pub async fn deny_settings(&self, users: impl IntoIterator<Item = &'static str>) -> Result<()> {
        self.deny(users, &["s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:PutBucketPolicy"]).await
    }

    /// Puts a policy: for these users the bucket is lost, with all that is in it.
    pub async fn deny_everything(&self, users: impl IntoIterator<Item = &'static str>) -> Result<()> {
        self.deny(users, &["s3:*"]).await
    }

    async fn deny(&self, users: impl IntoIterator<Item = &'static str>, actions: &[&str]) -> Result<()> {
        let arn = format!("arn:aws:s3:::{}", self.name);
        let deny = |user| {
            json!({
                "Sid": format!("Deny{user}"),
                "Effect": "Deny",
                "Principal": { "AWS": format!("arn:aws:iam::000000000000:user/{user}") },
                "Action": actions,
                "Resource": [arn, format!("{arn}/*")],
            })
        };
        let statements: Vec<_> = users.into_iter().map(deny).collect();
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        let put = self.client.put_bucket_policy().bucket(&self.name).policy(policy.to_string());
        put.send().await.map_err(|error| self.failed("could not put the policy", &error))?;
        Ok(())
    }

    /// Keys that start with `prefix`, in order, without those that are hidden by a delete marker.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("could not list objects", &error))?;
            keys.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
        }
        Ok(keys)
    }

    /// Every version and delete marker below `prefix`, as the server orders them.
    pub async fn versions(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut key, mut version) = (None, None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.name)
                .prefix(prefix)
                .set_key_marker(key)
                .set_version_id_marker(version)
                .send()
                .await
                .map_err(|error| self.failed("could not list versions", &error))?;
            for v in page.versions() {
                entries.push(entry(v.key(), v.version_id(), v.is_latest(), false));
            }
            for m in page.delete_markers() {
                entries.push(entry(m.key(), m.version_id(), m.is_latest(), true));
            }
            if page.is_truncated() != Some(true) {
                return Ok(entries);
            }
            key = page.next_key_marker().map(str::to_owned);
            version = page.next_version_id_marker().map(str::to_owned);
        }
    }

    /// The newest version's content; `None` if there is none or a delete marker hides it.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.client.get_object().bucket(&self.name).key(key).send().await;
        let object = match answer {
            Ok(object) => object,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(&format!("could not read {key}"), &error)),
        };
        let body = object
            .body
            .collect()
            .await
            .map_err(|error| LabError::Store { what: format!("could not read {key}"), message: error.to_string() })?;
        Ok(Some(body.to_vec()))
    }

    /// Puts without any condition: in a versioned bucket a new version on top of what is there.
    pub async fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> Result<()> {
        self.client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .body(ByteStream::from(body.into()))
            .send()
            .await
            .map(drop)
            .map_err(|error| self.failed(&format!("could not write {key}"), &error))
    }

    /// Deletes without a version: in a versioned bucket that puts a delete marker on top.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.client
            .delete_object()
            .bucket(&self.name)
            .key(key)
            .send()
            .await
            .map(drop)
            .map_err(|error| self.failed(&format!("could not delete {key}"), &error))
    }

    /// Flips one bit of the oldest version of an object where the store keeps it, as a failing disk
    /// does: no lock prevents it, and the object's size, lock and version stay as they are.
    pub async fn damage(&self, key: &str) -> Result<()> {
        damage::flip_a_bit(&self.name, key).await
    }

    fn failed<E>(&self, what: &str, error: &aws_sdk_s3::error::SdkError<E>) -> LabError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let message = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => DisplayErrorContext(error).to_string(),
        };
        LabError::Store { what: format!("{what} (bucket {})", self.name), message }
    }
}

fn entry(key: Option<&str>, version: Option<&str>, latest: Option<bool>, marker: bool) -> Entry {
    Entry {
        key: key.unwrap_or_default().to_owned(),
        version: version.unwrap_or_default().to_owned(),
        is_latest: latest.unwrap_or_default(),
        is_delete_marker: marker,
    }
}
