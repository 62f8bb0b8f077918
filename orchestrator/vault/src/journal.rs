//! The journal of a run (a failover, a drill): records that are created in order, each naming the one before.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::VaultError;
use crate::fetch::{self, damaged};
use crate::log::incarnation::Incarnation;
use crate::object::{Hash, ObjectError, Subject, decode_header, decode_stored, decode_stored_header, encode_plain};
use crate::store::Created;
use crate::vault::Vault;

/// A record of a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalRecord {
    /// Counted from 0.
    pub n: u64,
    /// The digest of the record before; none in the first.
    pub prev_sha256: Option<Hash>,
    /// The digest of this one (of its header block, which holds the entry's digest and a signature).
    pub sha256: Hash,
    /// What it says.
    pub entry: Value,
    /// When, by the writer's clock.
    pub written_at: Timestamp,
}

/// Why a record was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Somebody else wrote that record: load the journal again and decide afresh.
    #[error("record {n} of run `{run}` was written by somebody else")]
    Conflict {
        /// The run.
        run: String,
        /// The record's number.
        n: u64,
    },
    /// The record before was never written.
    #[error("record {n} of run `{run}` would leave a hole before it")]
    Hole {
        /// The run.
        run: String,
        /// The record's number.
        n: u64,
    },
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl JournalError {
    /// Whether asking again is no use.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Hole { .. } => true,
            Self::Vault(error) => error.is_permanent(),
        }
    }
}

/// The journal of one run. One value writes at a time; a record that was tried keeps its bytes, so that asking again
/// after an error of the store finds it.
pub struct RunJournal {
    vault: Vault,
    run: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who writes; made with the first record, because reading needs no writer key.
    me: Option<Incarnation>,
    /// The digest of the last record known, and its number.
    last: Option<(u64, Hash)>,
    /// A record whose outcome is unknown.
    pending: Option<(u64, Value, Bytes)>,
}

impl std::fmt::Debug for RunJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunJournal").field("run", &self.run).finish_non_exhaustive()
    }
}

impl RunJournal {
    pub(crate) fn new(vault: Vault, run: &str) -> RunJournal {
        RunJournal { vault, run: run.to_owned(), state: Mutex::default() }
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// All records, in order, the chain checked.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] names the first record that does not hold.
    pub async fn load(&self) -> Result<Vec<JournalRecord>, VaultError> {
        let mut state = self.state.lock().await;
        let mut records: Vec<JournalRecord> = Vec::new();
        loop {
            let prev = records.last().map(|record| record.sha256);
            let Some(record) = self.read(records.len() as u64, prev).await? else { break };
            records.push(record);
        }
        state.last = records.last().map(|record| (record.n, record.sha256));
        Ok(records)
    }

    async fn read(&self, n: u64, prev: Option<Hash>) -> Result<Option<JournalRecord>, VaultError> {
        let key = self.vault.keys.run(&self.run, n);
        let Some(object) = fetch::oldest(&*self.vault.store, &key).await? else { return Ok(None) };
        let (decoded, body) = decode_stored(&object).map_err(damaged(&key))?;
        self.vault.trust.check(&decoded).map_err(damaged(&key))?;
        if decoded.header.subject != self.subject(n, prev) {
            let reason = "it is not the record that follows here".to_owned();
            return Err(damaged(&key)(ObjectError::Misplaced { reason }));
        }
        let entry =
            serde_json::from_slice(&body).map_err(|e| damaged(&key)(ObjectError::Header { reason: e.to_string() }))?;
        let (sha256, written_at) = (decoded.hash, decoded.header.created);
        Ok(Some(JournalRecord { n, prev_sha256: prev, sha256, entry, written_at }))
    }

    fn subject(&self, n: u64, prev: Option<Hash>) -> Subject {
        Subject::Journal { run: self.run.clone(), n, prev }
    }

    /// Writes record `n`. When it returns, the record is stored and is this one.
    pub async fn append(&self, n: u64, entry: &Value) -> Result<JournalRecord, JournalError> {
        let mut state = self.state.lock().await;
        let prev = self.digest_before(&mut state, n).await?;
        let key = self.vault.keys.run(&self.run, n);
        let object = match state.pending.take() {
            Some((pending, value, object)) if pending == n && value == *entry => object,
            _ => {
                let me = match state.me.take() {
                    Some(me) => me,
                    None => self.vault.incarnation().await?,
                };
                self.encode(state.me.insert(me), n, prev, entry, &key)?
            }
        };
        state.pending = Some((n, entry.clone(), object.clone()));
        let created = fetch::create_until_known(&*self.vault.store, &key, object.clone()).await;
        if created.map_err(VaultError::from)? == Created::Exists {
            let stored = fetch::oldest(&*self.vault.store, &key).await.map_err(VaultError::from)?;
            if stored.is_none_or(|stored| stored.bytes != object) {
                state.pending = None;
                return Err(JournalError::Conflict { run: self.run.clone(), n });
            }
        }
        state.pending = None;
        let decoded = decode_header(&object).map_err(damaged(&key))?;
        state.last = Some((n, decoded.hash));
        let (sha256, written_at) = (decoded.hash, decoded.header.created);
        Ok(JournalRecord { n, prev_sha256: prev, sha256, entry: entry.clone(), written_at })
    }

    fn encode(
        &self,
        me: &Incarnation,
        n: u64,
        prev: Option<Hash>,
        entry: &Value,
        key: &str,
    ) -> Result<Bytes, VaultError> {
        let body =
            serde_json::to_vec(entry).map_err(|e| damaged(key)(ObjectError::Header { reason: e.to_string() }))?;
        let header = me.header(self.subject(n, prev));
        let (object, _) = encode_plain(header, &body, me.key()).map_err(damaged(key))?;
        Ok(object)
    }

    async fn digest_before(&self, state: &mut State, n: u64) -> Result<Option<Hash>, JournalError> {
        let Some(before) = n.checked_sub(1) else { return Ok(None) };
        if let Some((last, hash)) = state.last
            && last == before
        {
            return Ok(Some(hash));
        }
        let key = self.vault.keys.run(&self.run, before);
        let object = fetch::oldest(&*self.vault.store, &key).await.map_err(VaultError::from)?;
        let Some(object) = object else {
            return Err(JournalError::Hole { run: self.run.clone(), n });
        };
        let decoded = decode_stored_header(&object).map_err(damaged(&key))?;
        self.vault.trust.check(&decoded).map_err(damaged(&key))?;
        Ok(Some(decoded.hash))
    }
}
