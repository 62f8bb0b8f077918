//! File systems that only one process and its children see. They end with the last of them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::error::{IoContext, LabError, Result};

const NONE: Option<&str> = None;

/// From now on, what this process mounts shows nowhere else. It must be in a mount namespace of its own.
pub(crate) fn detach() -> Result<()> {
    propagation("/", MsFlags::MS_PRIVATE)
}

/// From now on, namespaces made from this one see what is mounted later, as a kubelet needs it.
pub(crate) fn share() -> Result<()> {
    propagation("/", MsFlags::MS_SHARED)
}

fn propagation(target: &str, how: MsFlags) -> Result<()> {
    mount(NONE, target, NONE, MsFlags::MS_REC | how, NONE).map_err(|error| failed(target, error))
}

pub(crate) fn proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(|error| failed("/proc", error))
}

/// An empty folder in place of `target`, except for `own`, which stays visible if it is inside.
pub(crate) fn empty(target: &str, mode: &str, own: &Path) -> Result<()> {
    let mode = format!("mode={mode}");
    covering(target, own, || {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(mode.as_str()))
    })
}

/// `target` as it is, with all changes kept in `changes`, except for those in `own`.
pub(crate) fn overlay(target: &str, changes: &Path, own: &Path) -> Result<()> {
    let changes = changes.display();
    let layers = format!("lowerdir={target},upperdir={changes}/upper,workdir={changes}/work");
    covering(target, own, || mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(layers.as_str())))
}

/// `source` also at `target`.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .map_err(|error| failed(&target.display().to_string(), error))
}

/// Mounts over `target`; an `own` folder below it is put back by its open handle.
fn covering(target: &str, own: &Path, cover: impl FnOnce() -> Result<(), Errno>) -> Result<()> {
    let handle = File::open(own).doing(|| format!("open {}", own.display()))?;
    cover().map_err(|error| failed(target, error))?;
    if !own.starts_with(target) {
        return Ok(());
    }
    std::fs::create_dir_all(own).doing(|| format!("create {}", own.display()))?;
    bind(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())), own)
}

fn failed(target: &str, error: Errno) -> LabError {
    LabError::Io { what: format!("mount {target}"), source: error.into() }
}
