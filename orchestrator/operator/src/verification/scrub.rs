//! The scrub of one database, a step at a time. It outlives the connection that it reads with.

use std::time::Duration;

use holdfast_vault::{
    Budget, Finding, FindingKind, Identities, Totals, Vault, VaultError, Verifier, VerifyOptions, VerifyState,
};
use jiff::Timestamp;

/// A scrub that has found so much is over: what it says is clear, and each finding costs memory.
const ENOUGH: usize = 2000;
/// How far the clock of whoever made a backup may be from this site's.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// One database, from its beginning to its end.
#[derive(Debug)]
pub struct Scrub {
    database: String,
    options: VerifyOptions,
    began: Timestamp,
    open: Option<Verifier>,
    /// Where it stood when its connection was lost.
    kept: Option<VerifyState>,
}

impl Scrub {
    /// A scrub of a database of this name that reads the bodies of so many per cent of the objects. Sends nothing.
    pub fn new(database: &str, sample_percent: f64, began: Timestamp) -> Self {
        // One object at a time: the operator is small, and the bucket has better to do.
        let options = VerifyOptions { sample_percent, locks: true, parallel: 1 };
        Self { database: database.to_owned(), options, began, open: None, kept: None }
    }

    /// The database's name in the vault.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether it has a connection to go on with.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Goes on from where it stands with this connection. With `identities` bodies are opened.
    ///
    /// # Errors
    /// As [`Verifier::begin`].
    pub async fn open(&mut self, vault: &Vault, identities: Option<Identities>) -> Result<(), VaultError> {
        let (database, options) = (vault.database(&self.database)?, self.options.clone());
        self.open = Some(match &self.kept {
            Some(state) => Verifier::resume(&database, identities, options, state.clone()).await?,
            None => Verifier::begin(&database, identities, options).await?,
        });
        self.kept = None;
        Ok(())
    }

    /// Goes on for one budget; nothing without a connection. `true`: it is through, or has found enough.
    ///
    /// # Errors
    /// A store that does not answer. The connection is gone then, and the place is kept.
    pub async fn step(&mut self, budget: Budget) -> Result<bool, VaultError> {
        let Some(verifier) = &mut self.open else { return Ok(false) };
        match verifier.step(budget).await {
            Ok(through) => Ok(through || verifier.findings().len() >= ENOUGH),
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    /// Gives the connection up and keeps the place.
    pub fn close(&mut self) {
        if let Some(verifier) = self.open.take() {
            self.kept = Some(verifier.state().clone());
        }
    }

    /// How much was looked at so far.
    pub fn totals(&self) -> Totals {
        self.open.as_ref().map(|verifier| *verifier.totals()).unwrap_or_default()
    }

    /// What is wrong so far, without the costs.
    pub fn findings(&self) -> &[Finding] {
        self.open.as_ref().map_or(&[], |verifier| verifier.findings())
    }

    /// What is wrong, with the costs when all of the database was looked at.
    pub fn result(&self) -> Vec<Finding> {
        let Some(verifier) = &self.open else { return Vec::new() };
        if verifier.findings().len() >= ENOUGH {
            return verifier.findings().to_vec();
        }
        let verdict = verifier.verdict();
        // A backup that was being taken meanwhile has parts that were not listed yet. The next scrub judges it.
        let fresh = |id: &String| {
            let backup = verdict.backups.iter().find(|backup| backup.id == *id);
            backup.is_some_and(|backup| backup.finished > self.began.saturating_sub(SKEW).unwrap_or(Timestamp::MIN))
        };
        let races =
            |finding: &Finding| finding.what == FindingKind::Missing && finding.backup.as_ref().is_some_and(fresh);
        verdict.findings.iter().filter(|finding| !races(finding)).cloned().collect()
    }
}
