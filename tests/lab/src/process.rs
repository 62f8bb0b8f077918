//! Processes that outlive the command that started them.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};
use crate::exec::poll;

/// A process by number and time of start, so that a number that was given again is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    started: u64,
}

impl Process {
    /// The process with this number now, if there is one that has not ended.
    pub(crate) fn now(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = state_and_start(&stat)?;
        let ended = match state {
            'X' => true,
            // Its first thread has ended; others may still hold files and sockets.
            'Z' => fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() <= 1),
            _ => false,
        };
        (!ended).then_some(Self { pid, started })
    }

    pub fn is_alive(&self) -> bool {
        Self::now(self.pid) == Some(*self)
    }

    /// `kill -9`, and waits until it is gone. One that is gone already is fine.
    pub(crate) fn kill9(&self) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let what = format!("process {} to end after kill -9", self.pid);
        poll(&what, Duration::from_secs(20), Duration::from_millis(5), || {
            if self.is_alive() { Err("it is still there".into()) } else { Ok(()) }
        })
    }
}

/// Of `/proc/PID/stat`, whose second field may contain anything.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Numbers of all processes.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(crate) fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// Starts `command` with its output appended to `log`, in the session of its own that the caller
/// has made, and leaves its number in `pidfile`. Meant for a process that ends right after.
pub(crate) fn leave_running(mut command: Command, log: &Path, pidfile: &Path) -> Result<()> {
    let doing = || format!("open {}", log.display());
    let file = File::options().create(true).append(true).open(log).doing(doing)?;
    let twin = file.try_clone().doing(doing)?;
    let child = command.stdout(file).stderr(twin).spawn().doing(|| format!("start {command:?}"))?;
    crate::machine::write_file(pidfile, child.id().to_string())
}

/// What [`leave_running`] left, completed with the time of start for whoever asks later.
pub(crate) fn adopt(pidfile: &Path, record: &Path) -> Result<Process> {
    let doing = || format!("find the process of {}", pidfile.display());
    let text = fs::read_to_string(pidfile).doing(doing)?;
    let pid = text.trim().parse().map_err(io::Error::other).doing(doing)?;
    let process = Process::now(pid).ok_or_else(|| io::Error::other("it ended at once")).doing(doing)?;
    let json = serde_json::to_vec(&process).map_err(io::Error::from).doing(doing)?;
    crate::machine::write_file(record, json)?;
    Ok(process)
}

/// The process that [`adopt`] recorded, if it is alive.
pub(crate) fn recorded(record: &Path) -> Option<Process> {
    let process: Process = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    process.is_alive().then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_confuse() {
        let fields = (4..=24).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = format!("12 (a) b (c)) S {fields}");
        // The third field is the state, the twenty-second the time of start.
        assert_eq!(state_and_start(&stat), Some(('S', 22)));
    }

    #[test]
    fn a_process_is_alive_until_it_is_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::now(child.id() as i32).unwrap();
        assert!(process.is_alive());
        // A zombie counts as gone, although nobody has waited for it yet.
        process.kill9().unwrap();
        assert!(!process.is_alive());
        process.kill9().unwrap();
        child.wait().unwrap();
    }
}
