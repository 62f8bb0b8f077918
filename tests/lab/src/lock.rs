//! One lab at a time on a machine: the addresses and interface names are the machine's.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::Path;

use crate::error::{IoContext, LabError, Result};

/// Held while a lab is being changed, or used by a test. The kernel releases it when the holder dies.
#[derive(Debug)]
pub(crate) struct LabLock {
    file: File,
}

impl LabLock {
    /// Takes the lock; when somebody else has it, says so once by `on_wait` and waits.
    pub(crate) fn acquire(path: &Path, on_wait: impl FnOnce(&str)) -> Result<Self> {
        let opening = || format!("open the lock file {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).doing(opening)?;
        }
        let mut file = File::options().create(true).read(true).write(true).truncate(false).open(path).doing(opening)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Empty for a moment, while its holder writes it.
                let holder = fs::read_to_string(path).unwrap_or_default();
                on_wait(if holder.is_empty() { "another process" } else { holder.trim() });
                file.lock().doing(|| format!("lock {}", path.display()))?;
            }
            Err(TryLockError::Error(source)) => {
                return Err(LabError::Io { what: format!("lock {}", path.display()), source });
            }
        }
        let writing = || format!("write {}", path.display());
        file.set_len(0).doing(writing)?;
        writeln!(file, "{}", holder()).doing(writing)?;
        Ok(Self { file })
    }

    /// A second handle on the same lock: it stays locked until both are closed.
    pub(crate) fn share(&self) -> Result<File> {
        self.file.try_clone().doing(|| "share the lab's lock".into())
    }
}

fn holder() -> String {
    let program = std::env::args().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    format!("process {} ({})", std::process::id(), name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_second_waits_with_a_message_until_the_first_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LabLock::acquire(&path, |_| panic!("nobody holds it")).unwrap();
        let (told, hears) = mpsc::channel();
        let second =
            std::thread::spawn(move || LabLock::acquire(&path, |holder| told.send(holder.to_owned()).unwrap()));
        let holder = hears.recv().unwrap();
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn a_shared_lock_outlives_its_first_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LabLock::acquire(&path, |_| ()).unwrap();
        let twin = first.share().unwrap();
        drop(first);
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(twin);
        other.try_lock().unwrap();
    }
}
