//! Compares ledgers with what a site holds.

mod judge;
mod read;
mod report;

pub use judge::{Finding, Gap, Percentiles, ServiceVerdict, Verdict, judge};
pub use read::{ReadError, read_site};

use std::path::PathBuf;

use crate::ledger::{self, LedgerError};
use crate::record::Site;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads all ledgers and all records of `site` and judges. `around_us` is the moment of the
/// failure, if known: gaps are then looked for after it only.
pub async fn verify(ledgers: &[PathBuf], site: &Site, around_us: Option<u64>) -> Result<Verdict, VerifyError> {
    let mut entries = Vec::new();
    for path in ledgers {
        entries.extend(ledger::read(path)?);
    }
    let found = read_site(site).await?;
    Ok(judge(&entries, &found, around_us))
}
