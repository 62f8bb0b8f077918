//! The journal of a run, in the vault.

use holdfast_recovery::journal::{Journal, JournalError, Record};
use holdfast_vault::{JournalError as VaultJournalError, RunJournal, VaultError};

/// A [`RunJournal`] as the runner's journal.
pub struct VaultJournal(pub RunJournal);

impl Journal for VaultJournal {
    async fn load(&self) -> Result<Vec<Record>, JournalError> {
        let records = self.0.load().await.map_err(|e| vault_error(&e))?;
        let parse = |record: holdfast_vault::JournalRecord| {
            serde_json::from_value(record.entry).map_err(|e| {
                let run = self.0.run();
                JournalError::Damaged(format!("record {} of run {run} is not understood: {e}", record.n))
            })
        };
        records.into_iter().map(parse).collect()
    }

    async fn append(&self, n: u64, record: &Record) -> Result<(), JournalError> {
        let value = serde_json::to_value(record).map_err(|e| JournalError::Damaged(e.to_string()))?;
        match self.0.append(n, &value).await {
            Ok(_) => Ok(()),
            // A hole means that this process has not seen what stands before: load and decide afresh.
            Err(VaultJournalError::Conflict { n, .. } | VaultJournalError::Hole { n, .. }) => {
                Err(JournalError::Conflict { n })
            }
            Err(VaultJournalError::Vault(error)) => Err(vault_error(&error)),
        }
    }
}

/// Only damage is final: wrong credentials or a missing bucket are mended by a person while the run waits.
fn vault_error(error: &VaultError) -> JournalError {
    match error {
        VaultError::Damaged { .. } => JournalError::Damaged(format!("{error}; {}", error.hint())),
        other => JournalError::Unavailable(format!("{other}; {}", other.hint())),
    }
}
