//! The third place: an S3 server with Object Lock that both sites reach.

mod bucket;
mod damage;
pub(crate) mod server;

pub use bucket::{Bucket, BucketKind, Entry};

use crate::components::Programs;
use crate::error::Result;
use crate::network::{CLOUD_IP, S3_PORT};
use crate::paths::Paths;
use crate::process::Process;
use crate::site::Site;
use crate::state::{Credentials, State};

/// The bucket that the sites share: versioned, with Object Lock.
pub const BUCKET: &str = "holdfast";

/// The S3 server and the administrator's way into it.
#[derive(Clone, Debug)]
pub struct Cloud {
    paths: Paths,
    programs: Programs,
    admin: Credentials,
}

impl Cloud {
    pub(crate) fn new(paths: &Paths, programs: &Programs, state: &State) -> Self {
        Self { paths: paths.clone(), programs: programs.clone(), admin: state.admin.clone() }
    }

    /// For programs on this machine.
    pub fn endpoint(&self) -> String {
        format!("http://{CLOUD_IP}:{S3_PORT}")
    }

    /// The same server, by the name that pods know.
    pub fn endpoint_in_sites(&self) -> String {
        format!("http://s3.cloud:{S3_PORT}")
    }

    /// What only the lab may do: make buckets, damage objects.
    pub fn admin(&self) -> &Credentials {
        &self.admin
    }

    /// A bucket with the administrator's rights. It need not exist.
    pub fn bucket(&self, name: &str) -> Bucket {
        Bucket::new(&self.endpoint(), name, &self.admin)
    }

    /// A bucket with the rights of whoever has these credentials.
    pub fn bucket_as(&self, name: &str, credentials: &Credentials) -> Bucket {
        Bucket::new(&self.endpoint(), name, credentials)
    }

    /// Makes a bucket. The sites' credentials reach buckets whose names start with `holdfast`, and change no settings.
    pub async fn create_bucket(&self, name: &str, kind: BucketKind) -> Result<Bucket> {
        let bucket = self.bucket(name);
        bucket.create(kind).await?;
        bucket.deny_settings(Site::ALL.map(Site::name)).await?;
        Ok(bucket)
    }

    /// Starts the S3 server on the data that is there, and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        let this = self.clone();
        crate::blocking(move || server::start(&this.paths.cloud(), &this.programs)).await?;
        self.bucket(BUCKET).server_ready().await
    }

    /// `kill -9` of the S3 server. What it has acknowledged must be there after [`Cloud::start`].
    pub async fn stop(&self) -> Result<()> {
        let folder = self.paths.cloud();
        crate::blocking(move || server::stop(&folder)).await
    }

    pub fn is_running(&self) -> bool {
        server::running(&self.paths.cloud()).is_some()
    }

    pub fn process(&self) -> Option<Process> {
        server::running(&self.paths.cloud())
    }
}

pub(crate) use server::{stop, write_config};
