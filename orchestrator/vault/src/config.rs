//! Where a vault is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

/// One vault: a bucket, a prefix in it, and the credentials to reach it. Serialised as JSON in the
/// configuration files of the long-running roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultConfig {
    /// The S3 endpoint; `None` means AWS itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket. It must have versioning and Object Lock.
    pub bucket: String,
    /// Everything of this vault is below this prefix; may be empty.
    #[serde(default)]
    pub prefix: String,
    /// How long each object is locked from the store's present time, in days.
    pub retention_days: u32,
    /// Where the credentials come from.
    pub credentials: CredentialsSource,
}

impl VaultConfig {
    /// The retention as a duration.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(u64::from(self.retention_days) * 24 * 60 * 60)
    }
}

/// Where S3 credentials come from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialsSource {
    /// A folder with the files `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and perhaps
    /// `AWS_SESSION_TOKEN`), as a mounted Secret has them. Read again every minute, so that they can rotate.
    Directory(PathBuf),
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
            Self::Static { access_key_id, .. } => {
                f.debug_struct("Static").field("access_key_id", access_key_id).finish_non_exhaustive()
            }
        }
    }
}
