//! Taking everything away, whatever state it is in.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::cloud;
use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, poll};
use crate::paths::Paths;
use crate::process::{self, Process};
use crate::site::{Site, cgroup, launch};
use crate::{machine, network, tunables};

const TRASH: &str = "trash-";

/// Ends every process of the lab and removes all it made outside the cache. What is gone already is fine.
pub(crate) fn everything(paths: &Paths) -> Result<()> {
    belongs_to(paths)?;
    machine::finish_installing()?;
    for process in strays(paths) {
        process.kill9()?;
    }
    for site in Site::ALL {
        launch::power_off(site, &paths.site(site))?;
    }
    cloud::stop(&paths.cloud())?;
    network::remove();
    tunables::restore(paths);
    throw_away(paths)?;
    // The kernel takes the last namespaces apart in its own time.
    let what = "the last of the lab to vanish";
    poll(what, Duration::from_secs(10), Duration::from_millis(20), || {
        // Also what a start that was interrupted still managed to start.
        for process in strays(paths) {
            process.kill9().map_err(|error| error.to_string())?;
        }
        for site in Site::ALL {
            cgroup::remove(site);
        }
        match leftovers(paths) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join(", ")),
        }
    })
    .map_err(|error| match error {
        LabError::Timeout { last, .. } => {
            LabError::State(format!("could not take the lab down completely; left: {last}"))
        }
        other => other,
    })
}

/// Another user's lab has the same addresses and interface names, but other folders.
fn belongs_to(paths: &Paths) -> Result<()> {
    match stranger(paths) {
        Some(owner) => Err(LabError::State(format!(
            "another lab is up on this machine, with its files in {owner}: take it down with the same HOME or \
             XDG_CACHE_HOME as it was started with"
        ))),
        None => Ok(()),
    }
}

/// Where the files of a lab are that is up and is not the one of these paths.
pub(crate) fn stranger(paths: &Paths) -> Option<String> {
    network::owner().filter(|owner| !paths.root().display().to_string().starts_with(owner))
}

/// Disks that discard deleted blocks take seconds for a few databases, so the work folder is moved out of
/// the way and removed by a process that nobody waits for.
fn throw_away(paths: &Paths) -> Result<()> {
    let work = paths.work();
    if work.exists() {
        let name = format!("{TRASH}{}-{}", std::process::id(), jiff::Timestamp::now().as_millisecond());
        let trash = paths.cached(&name);
        fs::rename(&work, &trash).doing(|| format!("move {} away", work.display()))?;
    }
    // Also what an earlier one did not get to the end of.
    let entries = fs::read_dir(paths.root()).into_iter().flatten().flatten();
    let trash: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(TRASH))
        .map(|entry| entry.path())
        .collect();
    if !trash.is_empty() {
        command("rm", ["-rf", "--one-file-system", "--"])
            .args(trash)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing(|| "start rm".into())?;
    }
    Ok(())
}

/// What a lab has left on the machine, for people.
pub(crate) fn leftovers(paths: &Paths) -> Vec<String> {
    let mut left = machine::leftovers();
    left.extend(strays(paths).iter().map(|process| format!("process {}", process.pid)));
    for site in Site::ALL {
        if cgroup::exists(site) {
            left.push(format!("control group {}", site.cgroup()));
        }
        if Path::new("/sys/class/net").join(site.link()).exists() {
            left.push(format!("interface {}", site.link()));
        }
    }
    if network::exists() {
        left.push("the bridge or its firewall".to_owned());
    }
    if paths.work().exists() {
        left.push(paths.work().display().to_string());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let work = paths.work().display().to_string();
    left.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|target| target.starts_with(&work))
            .map(|target| format!("mount {target}")),
    );
    left
}

/// Processes that only a lab starts: PID 1 of a site, the S3 server, and what a set-up has begun that was killed. (One that
/// is at work holds the lab's lock, as whoever asks this does.)
fn strays(paths: &Paths) -> Vec<Process> {
    process::all().filter(|pid| is_of_lab(&process::arguments(*pid), paths)).filter_map(Process::now).collect()
}

fn is_of_lab(arguments: &[String], paths: &Paths) -> bool {
    let [program, verb, rest @ ..] = arguments else {
        return false;
    };
    let work = paths.work().display().to_string();
    let names_work = rest.iter().any(|argument| argument.contains(&work));
    let is_site = verb == "__site-init" || verb == "__site";
    let is_server = Path::new(program).starts_with(paths.cached("components"));
    // What is being built has this name until it is complete.
    let unfinished = |argument: &String| argument.contains(".partial") && Path::new(argument).starts_with(paths.root());
    let is_builder = BUILDERS.iter().any(|builder| Path::new(program).ends_with(builder));
    (is_site || is_server) && names_work || is_builder && rest.iter().any(unfinished)
}

/// Programs of the set-up that would not end soon by themselves, each the first of its process namespace.
const BUILDERS: [&str; 3] = ["unshare", "containerd", "go"];

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(line: &str) -> bool {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        is_of_lab(&arguments, &Paths::at("/c/lab"))
    }

    #[test]
    fn only_the_labs_own_processes_are_killed() {
        assert!(judged("/t/debug/holdfast-lab __site-init /c/lab/work/primary"));
        assert!(judged("/c/lab/components/seaweedfs-1/bin/weed mini -dir=/c/lab/work/cloud/data"));
        assert!(judged("containerd --config /c/lab/images/unpacking.partial/containerd.toml"));
        assert!(judged(
            "unshare --pid --fork --kill-child -- debootstrap bookworm /c/lab/images/debian-1.partial/root"
        ));
        assert!(!judged("ls -l /c/lab/images/unpacking.partial"));
        assert!(!judged("containerd --config /etc/containerd/config.toml"));
        assert!(!judged("tail -f /c/lab/work/primary/log/etcd.log"));
        assert!(!judged("/t/debug/holdfast-lab __site-init /other/lab/work/primary"));
        assert!(!judged("/t/debug/holdfast-lab up"));
        assert!(!judged("/c/lab/components/kubernetes-1/kubectl get pods"));
    }
}
