//! Restore: a base backup from the vault becomes the data directory of a standby that follows the relay.
//!
//! `<target>/pgdata` is complete in itself: `postgres -D <target>/pgdata` needs nothing else. A restore that was
//! interrupted is wiped and done again; one that has finished left a marker, and its data directory is never touched
//! again, whatever became of the server since.

pub(crate) mod settings;
mod unpack;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use holdfast_vault::{BackupManifest, BackupReader, DatabaseVault, Identities, Vault, VaultError};
use holdfast_wal::Lsn;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::unpack::UnpackError;
use crate::backoff::Backoff;
use crate::config::RestoreConfig;
use crate::problem::{code, vault_problem};
use crate::secret;
use crate::status::Problem;

const DATA_DIRECTORY: &str = "pgdata";
const MARKER: &str = "holdfast-restore.json";
/// Parts on their way from the vault to the disk.
const PARTS_AHEAD: usize = 2;
const SAY_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("there is no complete base backup of `{name}` in the vault{wanted}")]
    NothingToRestore { name: String, wanted: String },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error("{reason}")]
    Secret { reason: String },
    #[error("the restore was told to stop")]
    Stopped,
}

impl RestoreError {
    /// Whether trying again cannot help before something was changed.
    pub fn is_permanent(&self) -> bool {
        match self {
            // The primary's agent may be taking the first backup right now.
            Self::NothingToRestore { .. } => false,
            Self::Vault(error) => error.is_permanent(),
            _ => true,
        }
    }

    /// The same, for a person.
    pub fn problem(&self) -> Problem {
        let (code, hint) = match self {
            Self::NothingToRestore { .. } => (
                code::NOTHING_TO_RESTORE,
                "check the name, and that the ProtectedDatabase at the other site has completed a base backup; it is looked for again",
            ),
            Self::Vault(error) => return vault_problem(error),
            Self::Unpack(_) => (code::DAMAGED_OBJECT, "restore from another backup: name its id"),
            Self::Write { .. } => {
                ("VolumeUnusable", "check the volume's size, its owner (uid 999) and that it can be written")
            }
            Self::Secret { .. } => (code::CREDENTIALS_UNREADABLE, "mount the Secret that password_file names"),
            Self::Stopped => ("Stopped", "start it again; it begins anew"),
        };
        Problem::new(code, self.to_string(), hint)
    }
}

/// What a finished restore leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub name: String,
    pub instance_id: String,
    pub backup: String,
    pub finished: jiff::Timestamp,
}

/// Restores, or finds that it is done. Waits as long as there is nothing to restore from or the vault is away.
pub async fn run(config: RestoreConfig, shutdown: CancellationToken) -> Result<(), RestoreError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return Err(RestoreError::Stopped),
            outcome = attempt(&config) => outcome,
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if error.is_permanent() => return Err(error),
            Err(error) => {
                let problem = error.problem();
                tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(RestoreError::Stopped),
            () = tokio::time::sleep(backoff.delay()) => {}
        }
    }
}

async fn attempt(config: &RestoreConfig) -> Result<(), RestoreError> {
    if let Some(marker) = read_marker(&config.target) {
        tracing::info!(backup = marker.backup, finished = %marker.finished, "restored before; the data directory is left alone");
        return Ok(());
    }
    let identities = Identities::from_file(&config.identity_file)?;
    let database = Vault::open(config.vault.clone())?.database(&config.name)?;
    let manifest = choose(config, &database).await?;
    let password = match &config.primary.password_file {
        None => None,
        Some(path) => Some(secret::read(path).map_err(|reason| RestoreError::Secret { reason })?),
    };
    let pgdata = empty_data_directory(&config.target)?;
    tracing::info!(backup = manifest.meta.id, bytes = manifest.plain_bytes, parts = manifest.parts, "restoring");
    let files = unpack_all(&manifest, database.read_backup(&manifest, identities), pgdata.clone()).await?;
    configure(config, password.as_deref(), &manifest, &pgdata)?;
    finish(config, &manifest, &pgdata)?;
    tracing::info!(backup = manifest.meta.id, files, "restored and verified");
    Ok(())
}

/// The named backup, or the newest that is complete, of those that end in time.
async fn choose(config: &RestoreConfig, database: &DatabaseVault) -> Result<BackupManifest, RestoreError> {
    let nothing = || RestoreError::NothingToRestore { name: config.name.clone(), wanted: wanted(config) };
    let backups = match database.backups().await {
        Err(VaultError::UnknownDatabase { .. }) => return Err(nothing()),
        backups => backups?,
    };
    let fits = |backup: &BackupManifest| fits(config, &backup.meta.id, backup.end);
    backups.into_iter().rev().find(fits).ok_or_else(nothing)
}

fn fits(config: &RestoreConfig, id: &str, end: Lsn) -> bool {
    config.backup.as_ref().is_none_or(|wanted| wanted == id) && config.until.is_none_or(|until| end <= until)
}

/// Which backup fits, for a person.
fn wanted(config: &RestoreConfig) -> String {
    let id = config.backup.iter().map(|id| format!(" with the id {id}"));
    let until = config.until.iter().map(|until| format!(" that ends at {until} or before"));
    id.chain(until).collect()
}

/// Wipes what an interrupted restore left.
fn empty_data_directory(target: &Path) -> Result<PathBuf, RestoreError> {
    let pgdata = target.join(DATA_DIRECTORY);
    match fs::remove_dir_all(&pgdata) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write_error(&pgdata, &error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).recursive(true).create(&pgdata).map_err(|error| write_error(&pgdata, &error))?;
    Ok(pgdata)
}

/// Parts come from the vault and go to the disk at the same time; returns how many files were verified.
async fn unpack_all(
    manifest: &BackupManifest,
    mut reader: BackupReader,
    pgdata: PathBuf,
) -> Result<usize, RestoreError> {
    let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
    let unpacking = tokio::task::spawn_blocking(move || {
        let unpacked = unpack::unpack(Parts { receiver, part: Bytes::new() }, &pgdata)?;
        let files = unpacked.verify()?;
        Ok::<_, UnpackError>((files, unpacked.bytes))
    });
    let mut progress = Progress { done: 0, of: manifest.plain_bytes, said: Instant::now() };
    let mut failed = None;
    loop {
        match reader.next().await {
            Ok(Some(part)) => {
                progress.add(part.len());
                if sender.send(Ok(part)).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                // The unpacking must not take a cut stream for a whole one.
                let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking.await.map_err(|error| UnpackError::Archive { reason: error.to_string() })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(unpacked?.0)
}

struct Progress {
    done: u64,
    of: u64,
    said: Instant,
}

impl Progress {
    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            tracing::info!(done_bytes = self.done, of_bytes = self.of, "restoring");
        }
    }
}

/// The parts as one blocking stream.
struct Parts {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.receiver.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let take = self.part.len().min(buffer.len());
        self.part.copy_to_slice(&mut buffer[..take]);
        Ok(take)
    }
}

/// Makes it a standby that follows the relay.
fn configure(
    config: &RestoreConfig,
    password: Option<&str>,
    manifest: &BackupManifest,
    pgdata: &Path,
) -> Result<(), RestoreError> {
    for name in ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"] {
        keep_aside(&pgdata.join(name))?;
    }
    for name in ["recovery.signal", "postmaster.pid", "postmaster.opts"] {
        remove(&pgdata.join(name))?;
    }
    let extra = pgdata.join("holdfast.d");
    DirBuilder::new().mode(0o700).recursive(true).create(&extra).map_err(|error| write_error(&extra, &error))?;
    let files = [
        ("postgresql.conf", settings::POSTGRESQL_CONF.to_owned()),
        ("holdfast.conf", settings::holdfast_conf(config, password, &manifest.meta.settings)),
        ("postgresql.auto.conf", String::new()),
        ("pg_hba.conf", settings::PG_HBA_CONF.to_owned()),
        ("pg_ident.conf", String::new()),
        ("standby.signal", String::new()),
    ];
    files.iter().try_for_each(|(name, text)| write(&pgdata.join(name), text.as_bytes()))
}

fn keep_aside(path: &Path) -> Result<(), RestoreError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".source");
    match fs::rename(path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path, &error)),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path, &error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &[u8]) -> Result<(), RestoreError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(|error| write_error(path, &error))?;
    file.write_all(text).map_err(|error| write_error(path, &error))
}

/// Everything reaches the disk before the marker does.
fn finish(config: &RestoreConfig, manifest: &BackupManifest, pgdata: &Path) -> Result<(), RestoreError> {
    sync_file_system(pgdata)?;
    let marker = Marker {
        name: config.name.clone(),
        instance_id: config.instance_id.clone(),
        backup: manifest.meta.id.clone(),
        finished: jiff::Timestamp::now(),
    };
    let text = serde_json::to_vec_pretty(&marker)
        .map_err(|error| RestoreError::Write { path: marker_path(&config.target), reason: error.to_string() })?;
    let draft = config.target.join(format!("{MARKER}.new"));
    write(&draft, &text)?;
    sync_file_system(pgdata)?;
    fs::rename(&draft, marker_path(&config.target)).map_err(|error| write_error(&draft, &error))?;
    sync_file_system(pgdata)
}

fn sync_file_system(path: &Path) -> Result<(), RestoreError> {
    let directory = File::open(path).map_err(|error| write_error(path, &error))?;
    nix::unistd::syncfs(&directory).map_err(|error| write_error(path, &io::Error::from(error)))
}

fn marker_path(target: &Path) -> PathBuf {
    target.join(MARKER)
}

fn read_marker(target: &Path) -> Option<Marker> {
    serde_json::from_slice(&fs::read(marker_path(target)).ok()?).ok()
}

fn write_error(path: &Path, error: &io::Error) -> RestoreError {
    RestoreError::Write { path: path.to_owned(), reason: error.to_string() }
}

/// Unpacks and verifies, for `fuzz/`.
pub(crate) fn fuzz_unpack(archive: &[u8], into: &Path) {
    if let Ok(unpacked) = unpack::unpack(archive, into) {
        let _ = unpacked.verify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_fits_that_is_the_named_one_and_ends_in_time() {
        let config = |backup: Option<&str>, until: Option<u64>| -> RestoreConfig {
            serde_json::from_value(serde_json::json!({
                "vault": { "region": "r", "bucket": "b00", "prefix": "p", "retentionDays": 1,
                    "credentials": { "directory": "/none" } },
                "identity_file": "/none", "name": "lab", "target": "/none", "backup": backup, "until": until.map(Lsn),
                "primary": { "host": "relay", "port": 5433 }, "instance_id": "uid",
            }))
            .expect("a configuration")
        };
        for (config, told, fitting) in [
            (config(None, None), "", [true, true]),
            (config(Some("a"), None), " with the id a", [true, false]),
            (config(None, Some(0x20)), " that ends at 0/20 or before", [true, false]),
            (config(Some("b"), Some(0x20)), " with the id b that ends at 0/20 or before", [false, false]),
        ] {
            assert_eq!(wanted(&config), told);
            // The second was still being taken when a drill that stops at 0/20 began.
            assert_eq!([fits(&config, "a", Lsn(0x20)), fits(&config, "b", Lsn(0x21))], fitting, "{told}");
        }
    }
}
