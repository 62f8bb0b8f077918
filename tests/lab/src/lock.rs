//! One lab at a time on a machine, whoever starts it: the addresses and interface names are the machine's.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, LabError, Result};

/// Not below anybody's HOME: labs of different users must see each other's.
pub(crate) const LOCK: &str = "/run/lock/holdfast-lab";

/// Held while a lab is being changed, or used by a test. The kernel releases it when the holder dies; a holder that
/// lets go also removes the file.
#[derive(Debug)]
pub(crate) struct LabLock {
    file: File,
    path: PathBuf,
}

impl LabLock {
    /// Takes the lock; when somebody else has it, says so by `on_wait` and waits.
    pub(crate) fn acquire(path: &Path, on_wait: impl Fn(&str)) -> Result<Self> {
        let opening = || format!("open the lock file {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).doing(opening)?;
        }
        loop {
            let mut options = File::options();
            let mut file = options.create(true).read(true).write(true).truncate(false).open(path).doing(opening)?;
            lock(&file, path, &on_wait)?;
            // Whoever waited for a holder that removed the file holds a file that nobody else will open.
            if !is_at(&file, path) {
                continue;
            }
            let writing = || format!("write {}", path.display());
            file.set_len(0).doing(writing)?;
            writeln!(file, "{}", holder()).doing(writing)?;
            return Ok(Self { file, path: path.to_owned() });
        }
    }

    /// A second handle on the same lock: it stays locked until both are closed.
    pub(crate) fn share(&self) -> Result<File> {
        self.file.try_clone().doing(|| "share the lab's lock".into())
    }
}

impl Drop for LabLock {
    fn drop(&mut self) {
        remove(&self.file, &self.path);
    }
}

fn lock(file: &File, path: &Path, on_wait: impl Fn(&str)) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            // Empty for a moment, while its holder writes it.
            let holder = fs::read_to_string(path).unwrap_or_default();
            on_wait(if holder.is_empty() { "another process" } else { holder.trim() });
            file.lock().doing(|| format!("lock {}", path.display()))
        }
        Err(TryLockError::Error(source)) => Err(LabError::Io { what: format!("lock {}", path.display()), source }),
    }
}

/// Removes the lock's file, by one who holds the lock; another one's that has taken its place stays.
pub(crate) fn remove(file: &File, path: &Path) {
    if is_at(file, path) {
        let _ = fs::remove_file(path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(place).ok() == fs::metadata(path).map(place).ok()
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
        let second = second.join().unwrap().unwrap();
        // The file that the first one removed is not the one that the second one holds.
        let name = fs::read_to_string(&second.path).unwrap();
        assert!(name.contains(&std::process::id().to_string()), "{name}");
    }

    #[test]
    fn nothing_is_left_when_nobody_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut locks: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || drop(LabLock::acquire(&path, |_| ()).unwrap()))
            })
            .collect();
        locks.drain(..).for_each(|lock| lock.join().unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_shared_lock_outlives_its_first_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LabLock::acquire(&path, |_| ()).unwrap();
        let other = File::open(&path).unwrap();
        let twin = first.share().unwrap();
        drop(first);
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(twin);
        other.try_lock().unwrap();
    }
}
