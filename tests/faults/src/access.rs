//! Who may do what: an administrator everything, a writer what a vault's writer may.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::fault::{Fault, Faults};
use crate::server::{ADMIN, WRITER};

/// What a writer of a vault must not do.
const DENIED_TO_WRITERS: &[&str] = &[
    "DeleteObject",
    "DeleteObjects",
    "DeleteBucket",
    "DeleteBucketLifecycle",
    "DeleteBucketPolicy",
    "PutBucketVersioning",
    "PutBucketLifecycleConfiguration",
    "PutBucketPolicy",
    "PutObjectLockConfiguration",
    "PutObjectLegalHold",
];

/// Knows the keys and judges requests.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) faults: Faults,
}

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if self.faults.on(Fault::ExpiredCredentials) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        let known = [ADMIN, WRITER].into_iter().find(|(id, _)| *id == access_key);
        known.map(|(_, secret)| SecretKey::from(secret)).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let denied = DENIED_TO_WRITERS.contains(&context.s3_op().name());
        match context.credentials() {
            None if self.faults.on(Fault::AuthIgnored) => Ok(()),
            None => Err(s3_error!(AccessDenied, "Signature is required")),
            Some(who) if who.access_key == WRITER.0 && denied => Err(s3_error!(AccessDenied, "Access Denied")),
            Some(_) => Ok(()),
        }
    }
}
