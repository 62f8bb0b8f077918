//! Kernel settings of the whole machine that a kubelet changes: put back when the lab is down.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::machine::write_file;
use crate::paths::Paths;

const CHANGED: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Two kubelets and their containers watch more files than the default allows.
const RAISED: &[(&str, u64)] = &[("fs/inotify/max_user_instances", 1024), ("fs/inotify/max_user_watches", 131_072)];

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn record(paths: &Paths) -> PathBuf {
    paths.work().join("tunables.json")
}

/// Remembers what is set now, and raises what two clusters need.
pub(crate) fn save(paths: &Paths) -> Result<()> {
    let names = CHANGED.iter().copied().chain(RAISED.iter().map(|(name, _)| *name));
    let now: BTreeMap<&str, String> =
        names.filter_map(|name| Some((name, fs::read_to_string(path(name)).ok()?.trim().to_owned()))).collect();
    let text =
        serde_json::to_vec_pretty(&now).map_err(std::io::Error::from).doing(|| "write kernel settings".into())?;
    write_file(&record(paths), text)?;
    for (name, wanted) in RAISED {
        let low = now.get(name).and_then(|value| value.parse().ok()).is_some_and(|v: u64| v < *wanted);
        if low {
            write_file(&path(name), wanted.to_string())?;
        }
    }
    Ok(())
}

/// Puts back what differs; nothing when nothing was saved.
pub(crate) fn restore(paths: &Paths) {
    let Ok(text) = fs::read(record(paths)) else {
        return;
    };
    let saved: BTreeMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
    for (name, value) in saved {
        let path = path(&name);
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
            let _ = fs::write(path, value);
        }
    }
}
