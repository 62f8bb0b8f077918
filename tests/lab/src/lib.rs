//! The lab: two real Kubernetes clusters, an S3 server with Object Lock between them, and the faults
//! that a hospital fears, on one Debian machine.
//!
//! ```no_run
//! # async fn story() -> Result<(), holdfast_lab::LabError> {
//! use holdfast_lab::{Lab, Options, Site};
//!
//! let lab = Lab::up(Options::default()).await?;
//! let primary = lab.site(Site::Primary);
//! primary.kubectl(&["get", "nodes"]).await?;
//! primary.kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything a lab makes is gone when [`Lab`] is dropped, also by a panic, and also when the process
//! is killed. Two labs on one machine wait for each other, also when different users start them.

pub mod cli;
pub mod cloud;
mod components;
mod dump;
mod error;
mod exec;
mod guard;
mod images;
mod lab;
mod lock;
mod machine;
mod mounts;
mod network;
mod paths;
mod process;
mod progress;
mod setup;
mod site;
mod site_handle;
mod state;
mod sweep;
mod tunables;
pub mod wait;

use std::path::PathBuf;

pub use cloud::{BUCKET, Bucket, BucketKind, Cloud, Entry};
pub use error::{LabError, Result};
pub use lab::{Existing, Lab, Options, SiteStatus};
pub use network::{CLOUD_IP, Reach, S3_PORT};
pub use process::Process;
pub use progress::{Progress, Step};
pub use site::Site;
pub use site_handle::SiteHandle;
pub use state::Credentials;

/// What a lab has left on this machine; nothing when none is up.
pub fn leftovers() -> Result<Vec<String>> {
    Ok(sweep::leftovers(&paths::Paths::from_env()?))
}

/// This crate's own program: what runs as a site's PID 1. Tests find it beside themselves.
pub(crate) fn binary() -> Result<PathBuf> {
    let missing = || LabError::State("holdfast-lab is not built: run `cargo build --bin holdfast-lab`".into());
    let own = std::env::current_exe().map_err(|_| missing())?;
    if own.file_stem().is_some_and(|name| name == "holdfast-lab") {
        return Ok(own);
    }
    // target/debug/demo, or target/debug/deps/some_test-1234
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("holdfast-lab"))
        .find(|path| path.is_file())
        .ok_or_else(missing)
}

/// Runs what blocks (processes, files) beside the event loop.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LabError::State(format!("a task of the lab failed: {error}")))?
}
