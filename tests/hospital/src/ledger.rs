//! What was attempted and what was acknowledged, on disk.
//!
//! One JSON object a line. An acknowledgement counts only when its line, and every line before it,
//! is on disk; so the ledger never claims less than the load generator has counted. One thread
//! writes, with one fsync for everything that has arrived meanwhile.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::record::Service;

const BATCH: usize = 512;

/// One line of a ledger. Times are microseconds since 1970, never running backwards in one ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The first line of a run.
    Begin { at_us: u64, sites: Vec<String>, writers: usize },
    /// A write is about to be sent for the first time.
    Attempt { at_us: u64, service: Service, id: Uuid },
    /// A service said that the write is committed.
    Acked {
        at_us: u64,
        service: Service,
        id: Uuid,
        mrn: i64,
        /// From sending the request that was answered to its answer.
        latency_us: u64,
        /// The database's part of it: COMMIT alone.
        commit_us: u64,
        /// Which of the sites, counted from 0.
        site: usize,
    },
    /// A request was sent and got no answer, or the answer that the outcome is unknown.
    Unknown { at_us: u64, service: Service, id: Uuid, site: usize, why: String },
    /// A service refused the write for good.
    Refused { at_us: u64, service: Service, id: Uuid, site: usize, why: String },
}

/// Why a ledger could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot create the ledger {path}: {source}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot write the ledger {path}: {source}; the load stops, for what cannot be recorded cannot be judged")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the ledger's writer has stopped")]
    Stopped,
    #[error("cannot read the ledger {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("line {line} of the ledger {path} is damaged: {detail}")]
    Damaged { path: PathBuf, line: usize, detail: String },
}

/// Takes entries for a ledger; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: mpsc::Sender<Entry>,
}

/// The writing thread's end: wait for it after every [`Ledger`] was dropped.
#[derive(Debug)]
pub struct LedgerEnd {
    finished: oneshot::Receiver<Result<(), LedgerError>>,
}

impl Ledger {
    /// Creates the file (an existing one is refused) and starts writing. `on_disk` is called in the
    /// writing thread for each entry, in order, once it is on disk.
    pub fn create(path: &Path, on_disk: impl FnMut(&Entry) + Send + 'static) -> Result<(Self, LedgerEnd), LedgerError> {
        let error = |source| LedgerError::Create { path: path.to_owned(), source };
        let file = File::create_new(path).map_err(error)?;
        let (entries, receiver) = mpsc::channel(BATCH * 2);
        let (done, finished) = oneshot::channel();
        let owned = path.to_owned();
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                let result = write_all(file, receiver, on_disk);
                let result = result.map_err(|source| LedgerError::Write { path: owned, source });
                // Nobody waits when the load was dropped half way.
                drop(done.send(result));
            })
            .map_err(error)?;
        Ok((Self { entries }, LedgerEnd { finished }))
    }

    /// Hands an entry over; waits while the disk is behind.
    pub async fn append(&self, entry: Entry) -> Result<(), LedgerError> {
        let sent = self.entries.send(entry).await;
        sent.map_err(|_| LedgerError::Stopped)
    }
}

impl LedgerEnd {
    /// Waits until everything is on disk and the file is closed.
    pub async fn wait(self) -> Result<(), LedgerError> {
        self.finished.await.unwrap_or(Err(LedgerError::Stopped))
    }
}

fn write_all(
    mut file: File,
    mut entries: mpsc::Receiver<Entry>,
    mut on_disk: impl FnMut(&Entry),
) -> std::io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = Vec::new();
    while entries.blocking_recv_many(&mut batch, BATCH) > 0 {
        for entry in &batch {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_data()?;
        for entry in batch.drain(..) {
            on_disk(&entry);
        }
        lines.clear();
    }
    Ok(())
}

/// Reads a ledger. A last line without its end (the load generator was killed) is left out.
pub fn read(path: &Path) -> Result<Vec<Entry>, LedgerError> {
    let error = |source| LedgerError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    parse(BufReader::new(file), path)
}

fn parse(mut reader: impl BufRead, path: &Path) -> Result<Vec<Entry>, LedgerError> {
    const LINE_LIMIT: u64 = 64 * 1024;
    let mut entries = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = reader.by_ref().take(LINE_LIMIT);
        limited.read_until(b'\n', &mut line).map_err(|source| LedgerError::Read { path: path.to_owned(), source })?;
        let too_long = line.len() as u64 == LINE_LIMIT;
        let Some(text) = line.strip_suffix(b"\n").or(too_long.then_some(&line[..])) else {
            return Ok(entries);
        };
        let entry = serde_json::from_slice(text).map_err(|error| LedgerError::Damaged {
            path: path.to_owned(),
            line: entries.len() + 1,
            detail: error.to_string(),
        })?;
        entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn attempt(at_us: u64) -> Entry {
        Entry::Attempt { at_us, service: Service::Lab, id: Uuid::from_u128(at_us.into()) }
    }

    #[tokio::test]
    async fn what_was_appended_is_read_back_in_order_and_was_reported_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let on_disk = move |entry: &Entry| sink.lock().unwrap().push(entry.clone());
        let (ledger, end) = Ledger::create(&path, on_disk).unwrap();
        let entries: Vec<_> = (0..2000).map(attempt).collect();
        for entry in &entries {
            ledger.append(entry.clone()).await.unwrap();
        }
        drop(ledger);
        end.wait().await.unwrap();
        assert_eq!(read(&path).unwrap(), entries);
        assert_eq!(*seen.lock().unwrap(), entries);
    }

    #[test]
    fn an_existing_ledger_is_not_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let result = Ledger::create(file.path(), |_| {});
        assert!(matches!(result, Err(LedgerError::Create { .. })));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_damaged_line_is_named() {
        let good = serde_json::to_string(&attempt(1)).unwrap();
        let torn = format!("{good}\n{}", &good[..10]);
        let path = Path::new("l");
        assert_eq!(parse(torn.as_bytes(), path).unwrap(), [attempt(1)]);

        let damaged = format!("{good}\nnonsense\n{good}\n");
        let error = parse(damaged.as_bytes(), path).unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { line: 2, .. }));
    }
}
