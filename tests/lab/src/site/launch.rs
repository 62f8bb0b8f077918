//! Power on and power off.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fs, io};

use nix::sched::{CloneFlags, unshare};

use crate::components::Programs;
use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, run};
use crate::machine::write_file;
use crate::process::{self, Process};
use crate::site::supervisor::Orders;
use crate::site::{Site, cgroup, config, programs};
use crate::{binary, images, network};

/// Makes the folder of a new site.
pub(crate) fn build(site: Site, folder: &Path, programs: &Programs, store: &Path) -> Result<()> {
    config::write(site, folder)?;
    let binds = images::seed(store, &folder.join("containerd"))?;
    let orders = Orders { site, programs: programs::of_site(site, folder, programs)?, binds };
    let text =
        serde_json::to_vec_pretty(&orders).map_err(io::Error::from).doing(|| "write the site's orders".into())?;
    write_file(&Orders::file(folder), text)
}

/// Starts a site from its folder, new or as an earlier power cut left it. Returns its PID 1.
pub(crate) fn power_on(site: Site, folder: &Path) -> Result<Process> {
    // What only a running system has: sockets, containerd's runtime state.
    for volatile in ["run", "run-containerd"] {
        let path = folder.join(volatile);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
        let private = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&path, private).doing(|| format!("protect {}", path.display()))?;
    }
    cgroup::create(site)?;
    network::make_link(site)?;
    let mut launcher = command(binary()?, ["__site"]);
    run(launcher.arg(folder))?;
    let process = process::adopt(&pidfile(folder), &record(folder)).map_err(|error| {
        let log = fs::read(folder.join("log/supervisor.log")).unwrap_or_default();
        LabError::State(format!("site {site} did not start ({error}):\n{}", crate::exec::tail(&log)))
    })?;
    network::plug(site, process.pid)?;
    Ok(process)
}

/// The part of [`power_on`] that runs as a process of its own: everything started after `unshare` is
/// in the new namespaces, the first process as PID 1. It belongs to no terminal.
pub(crate) fn launch(folder: &Path) -> Result<()> {
    let _ = nix::unistd::setsid();
    let own = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(own).map_err(|error| LabError::Io { what: "make the site's namespaces".into(), source: error.into() })?;
    let mut init = command(binary()?, ["__site-init"]);
    init.arg(folder).current_dir("/");
    process::leave_running(init, &folder.join("log/supervisor.log"), &pidfile(folder))
}

/// Ends every process of the site at once. Its folder, and so its data, stays.
pub(crate) fn power_off(site: Site, folder: &Path) -> Result<()> {
    if let Some(process) = running(folder) {
        process.kill9()?;
    }
    network::remove_link(site);
    cgroup::remove(site);
    Ok(())
}

/// The site's PID 1, if it has power.
pub(crate) fn running(folder: &Path) -> Option<Process> {
    process::recorded(&record(folder))
}

fn record(folder: &Path) -> std::path::PathBuf {
    folder.join("run/init.json")
}

fn pidfile(folder: &Path) -> std::path::PathBuf {
    folder.join("run/init.pid")
}
