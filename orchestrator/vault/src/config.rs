//! Where a vault is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::trust::TrustedWriter;

/// The retention of chunks where nothing else is said, in days.
pub const DEFAULT_CHUNK_RETENTION_DAYS: u32 = 7;

/// One vault: a bucket, a prefix in it, and the credentials to reach it. Serialised as JSON in the
/// configuration files of the long-running roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultConfig {
    /// Another store than an S3 bucket under lock, such as a copy: `file:///folder`, `s3://bucket/path`, `gs://...`,
    /// `az://...` ([`crate::store::UrlStore`]). Endpoint, region, bucket and credentials are not looked at then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// The S3 endpoint; `None` means AWS itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// The region that requests are signed for.
    #[serde(default = "default_region")]
    pub region: String,
    /// The bucket. It must have versioning and Object Lock. Empty only with a `url`.
    #[serde(default)]
    pub bucket: String,
    /// Everything of this vault is below this prefix; may be empty.
    #[serde(default)]
    pub prefix: String,
    /// How long each object but a chunk is locked from the store's present time, in days.
    #[serde(default = "default_retention_days")]
    pub retention_days: u32,
    /// How long a chunk of the log is locked, in days: segments take its place. Never more than `retention_days`.
    #[serde(default = "default_chunk_retention_days")]
    pub chunk_retention_days: u32,
    /// Where the credentials come from.
    #[serde(default)]
    pub credentials: CredentialsSource,
    /// Certificates (PEM) of authorities that the store's certificate may come from, besides those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// The writers whose objects are believed; empty: everybody who can write to the bucket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<TrustedWriter>,
    /// The proxy that the store is reached through; none: the one that the environment names, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The file of the site's own writer key, for what writes. Read again for each incarnation, so that it can rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_key_file: Option<PathBuf>,
}

impl VaultConfig {
    /// A bucket in AWS, with the usual retentions.
    pub fn new(bucket: impl Into<String>, credentials: CredentialsSource) -> VaultConfig {
        VaultConfig {
            url: None,
            endpoint: None,
            region: default_region(),
            bucket: bucket.into(),
            prefix: String::new(),
            retention_days: default_retention_days(),
            chunk_retention_days: DEFAULT_CHUNK_RETENTION_DAYS,
            credentials,
            ca_bundle: None,
            writers: Vec::new(),
            proxy: None,
            writer_key_file: None,
        }
    }

    /// The retention of all but chunks.
    pub fn retention(&self) -> Duration {
        days(self.retention_days)
    }

    /// The lifetime of a chunk: the least time that it is locked.
    pub fn chunk_retention(&self) -> Duration {
        days(self.chunk_retention_days.min(self.retention_days))
    }
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 60 * 60)
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_retention_days() -> u32 {
    90
}

fn default_chunk_retention_days() -> u32 {
    DEFAULT_CHUNK_RETENTION_DAYS
}

/// A way out of a site that only a proxy has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Where it is. Requests by HTTPS go through it by `CONNECT`, so that it sees no more than the store's name.
    pub url: Url,
    /// Hosts that are reached without it, as in `NO_PROXY`: names, domains (`.example.org`), addresses and networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
}

/// Where S3 credentials come from.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialsSource {
    /// A folder with the files `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and perhaps
    /// `AWS_SESSION_TOKEN`), as a mounted Secret has them. Read again every minute, so that they can rotate.
    Directory(PathBuf),
    /// The environment, as the AWS tools read it: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and perhaps
    /// `AWS_SESSION_TOKEN`; else `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`.
    #[default]
    Environment,
    /// A token that the cluster gives the pod, traded for credentials that last about an hour.
    WebIdentity {
        /// The role.
        role_arn: String,
        /// The file of the token. Read again for each trade, so that it can rotate.
        token_file: PathBuf,
        /// The service that trades; none: that of AWS in the vault's region.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sts_endpoint: Option<Url>,
    },
    /// Keys that are lent for a while, with the token that makes them valid.
    Temporary {
        /// The access key id.
        access_key_id: String,
        /// The secret.
        secret_access_key: String,
        /// The session token.
        session_token: String,
    },
    /// The keys themselves. For tests and the command line.
    Static {
        /// The access key id.
        access_key_id: String,
        /// The secret.
        secret_access_key: String,
    },
}

impl fmt::Debug for CredentialsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Environment => f.write_str("Environment"),
            Self::WebIdentity { role_arn, token_file, .. } => f
                .debug_struct("WebIdentity")
                .field("role_arn", role_arn)
                .field("token_file", token_file)
                .finish_non_exhaustive(),
            Self::Temporary { access_key_id, .. } => {
                f.debug_struct("Temporary").field("access_key_id", access_key_id).finish_non_exhaustive()
            }
            Self::Static { access_key_id, .. } => {
                f.debug_struct("Static").field("access_key_id", access_key_id).finish_non_exhaustive()
            }
        }
    }
}
