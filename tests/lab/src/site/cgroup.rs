//! The control groups that a site's kubelet puts pods into: one folder in each hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::machine::write_file;
use crate::site::Site;

const ROOT: &str = "/sys/fs/cgroup";

/// What the kubelet wants on the unified hierarchy.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

pub(crate) fn create(site: Site) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(site.cgroup());
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        if is_unified(&hierarchy) {
            delegate(&hierarchy);
            delegate(&folder);
        }
        // Of an old cpuset hierarchy: an empty set would refuse every process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = folder.join(file);
            if own.exists() && !is_unified(&hierarchy) {
                let parent = fs::read(hierarchy.join(file)).doing(|| format!("read {file}"))?;
                write_file(&own, parent)?;
            }
        }
    }
    Ok(())
}

/// Removes what is empty; a group with a process in it stays and the next attempt finds it.
pub(crate) fn remove(site: Site) {
    for hierarchy in all_hierarchies() {
        remove_tree(&hierarchy.join(site.cgroup()));
    }
}

pub(crate) fn exists(site: Site) -> bool {
    all_hierarchies().iter().any(|hierarchy| hierarchy.join(site.cgroup()).exists())
}

fn remove_tree(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Every hierarchy that a kubelet looks at: the unified one alone, or one a controller.
fn hierarchies() -> Vec<PathBuf> {
    let mut all = all_hierarchies();
    if all.len() > 1 {
        // Beside the old hierarchies, the unified one has no controllers, and the kubelet ignores it.
        all.retain(|hierarchy| !is_unified(hierarchy));
    }
    all
}

/// Every hierarchy there is. runc also uses one that the kubelet ignores.
fn all_hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if is_unified(&root) {
        return vec![root];
    }
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn is_unified(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.controllers").exists()
}

/// Passes on what the hierarchy has; a controller that is missing shows when the kubelet starts.
fn delegate(folder: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}
