//! The SeaweedFS process.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::binary;
use crate::components::Programs;
use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, run};
use crate::machine::write_file;
use crate::mounts;
use crate::network::{CLOUD_IP, S3_PORT};
use crate::process::{self, Process};
use crate::state::{Credentials, State};

/// What a vault needs and no more: to put and read objects and their locks, and to look at the bucket.
const SITE_ACTIONS: [&str; 6] = [
    "Read:holdfast*",
    "Write:holdfast*",
    "List:holdfast*",
    "GetObjectRetention:holdfast*",
    "PutObjectRetention:holdfast*",
    "GetBucketObjectLockConfiguration:holdfast*",
];

/// The store behind S3 serves its parts without asking who it is. No site reaches these ports, and
/// they are unusual so that a test's own server gets the usual ones.
pub(crate) const FILER_PORT: u16 = 27003;
pub(crate) const VOLUME_PORT: u16 = 27002;

/// Writes the identities. The sites' reach buckets whose names start with `holdfast` and cannot make any.
pub(crate) fn write_config(folder: &Path, state: &State) -> Result<()> {
    let data = folder.join("data");
    fs::create_dir_all(&data).doing(|| format!("create {}", data.display()))?;
    let mut identities = vec![identity("admin", &state.admin, &["Admin", "Read", "Write", "List", "Tagging"])];
    for (site, credentials) in &state.sites {
        identities.push(identity(site.name(), credentials, &SITE_ACTIONS));
    }
    write_file(&folder.join("s3.json"), json!({ "identities": identities }).to_string())
}

fn identity(name: &str, credentials: &Credentials, actions: &[&str]) -> serde_json::Value {
    json!({
        "name": name,
        "credentials": [{"accessKey": credentials.access_key, "secretKey": credentials.secret_key}],
        "actions": actions,
    })
}

pub(crate) fn start(folder: &Path, programs: &Programs) -> Result<Process> {
    if let Some(process) = running(folder) {
        return Ok(process);
    }
    let mut launcher = command(binary()?, ["__cloud"]);
    run(launcher.arg(folder).arg(programs.path("weed")?))?;
    process::adopt(&folder.join("weed.pid"), &record(folder))
}

/// The part of [`start`] that runs as a process of its own and ends at once: the server belongs to no
/// terminal and to no test.
pub(crate) fn launch(folder: &Path, weed: &Path) -> Result<()> {
    let _ = nix::unistd::setsid();
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| LabError::Io {
        what: "make a mount namespace for the S3 server".into(),
        source: error.into(),
    })?;
    // It leaves sockets and logs in /tmp.
    mounts::detach()?;
    mounts::empty("/tmp", "1777", lab_root(folder))?;
    let mut server = command(weed, ["mini"]);
    server
        .arg(format!("-dir={}", folder.join("data").display()))
        .arg(format!("-s3.config={}", folder.join("s3.json").display()))
        .args([format!("-ip={CLOUD_IP}"), format!("-ip.bind={CLOUD_IP}")])
        .arg(format!("-s3.port={S3_PORT}"))
        .args([format!("-filer.port={FILER_PORT}"), format!("-volume.port={VOLUME_PORT}")])
        .args(FLAGS)
        .current_dir(folder)
        // It caches as much as it may; the machine also runs two clusters.
        .env("GOMEMLIMIT", "300MiB");
    process::leave_running(server, &folder.join("weed.log"), &folder.join("weed.pid"))
}

/// The lab's folder, from `<root>/work/cloud`.
fn lab_root(folder: &Path) -> &Path {
    folder.ancestors().nth(2).unwrap_or(folder)
}

/// Many small volumes, so that a bucket does not reserve what it never fills; nothing that listens
/// and is not needed; nothing that talks to the world.
const FLAGS: &[&str] = &[
    "-master.port=27001",
    "-admin.port=27004",
    "-volume.max=2000",
    "-master.volumeSizeLimitMB=64",
    "-master.telemetry=false",
    "-s3.autoCreateBucket=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-admin.ui=false",
];

pub(crate) fn stop(folder: &Path) -> Result<()> {
    match running(folder) {
        Some(process) => process.kill9(),
        None => Ok(()),
    }
}

pub(crate) fn running(folder: &Path) -> Option<Process> {
    process::recorded(&record(folder))
}

fn record(folder: &Path) -> PathBuf {
    folder.join("weed.json")
}
