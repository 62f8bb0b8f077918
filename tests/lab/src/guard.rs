//! Takes a lab down when its owner is gone, however it went: by return, panic, Ctrl-C or kill -9.
//!
//! The owner holds one end of a pipe, a process in a session of its own holds the other. When the
//! pipe closes without the word to keep the lab, that process takes it down. It also holds the lab's
//! lock, so that the next owner starts only after that.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use crate::error::{IoContext, Result};
use crate::exec::command;
use crate::paths::Paths;
use crate::{binary, lock, sweep};

const KEEP: &[u8] = b"keep";

#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// `lock` is a handle on the lab's lock.
    pub(crate) fn start(lock: File) -> Result<Self> {
        let mut child = command(binary()?, ["__guard"])
            .stdin(Stdio::piped())
            // Nothing is written to it: this is how the lock is shared.
            .stdout(lock)
            .spawn()
            .doing(|| "start the lab's guard".into())?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Leaves the lab running.
    pub(crate) fn keep(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(KEEP);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// The guard's own process.
pub(crate) fn watch(paths: &Paths) -> Result<()> {
    let _ = nix::unistd::setsid();
    let mut word = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut word);
    if word == KEEP {
        return Ok(());
    }
    let swept = sweep::everything(paths);
    // An owner that was killed has left it.
    if let Ok(held) = std::io::stdout().as_fd().try_clone_to_owned() {
        lock::remove(&File::from(held), Path::new(lock::LOCK));
    }
    swept
}
