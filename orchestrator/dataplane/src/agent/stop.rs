//! Why the agent stopped writing, and what follows from it.

use std::time::Duration;

use holdfast_vault::{ClaimError, SealSummary, Tip, VaultError};

use crate::problem::{code, vault_problem};
use crate::status::Problem;

const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What to do next.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Again, after a growing while.
    Retry(Problem),
    /// A person has to change something; look again now and then.
    Refused { problem: Problem, look_again: Duration },
    /// The server is not the one that was claimed for (another timeline, or in recovery): begin anew at once.
    ServerChanged,
    /// Somebody else's object stands where the next one was to be. Ask the chain what it means.
    Lost,
    /// A standby site has sealed the log and not promoted yet.
    TakeoverPending(Box<SealSummary>),
    /// The log is another instance's now, or another incarnation's of this one. For good.
    Fenced(Loss),
}

/// How the log was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Another site was promoted: this database's part is over.
    Promoted { by: String, winner: holdfast_wal::TimelineId },
    /// A newer agent of the same database writes now; the database is as before.
    AnotherWriter { by: String },
}

/// What the chain says to a writer that met a foreign object; pure.
pub(crate) fn meaning(tip: &Tip, instance_id: &str) -> Stop {
    let by = tip.last_seal.as_ref().map_or_else(|| "an unknown seal".to_owned(), describe);
    if tip.lineage.id != instance_id {
        return Stop::Fenced(Loss::Promoted { by, winner: tip.lineage.history.timeline });
    }
    match tip.pending() {
        Some(seal) => Stop::TakeoverPending(Box::new(seal.clone())),
        None => Stop::Fenced(Loss::AnotherWriter { by }),
    }
}

/// A seal in words.
pub(crate) fn describe(seal: &SealSummary) -> String {
    format!("the {} of `{}` at {} ({})", seal.kind, seal.by, seal.at, seal.created)
}

impl From<ClaimError> for Stop {
    fn from(error: ClaimError) -> Self {
        let problem = Problem::new(error.reason(), error.to_string(), error.hint());
        match error {
            ClaimError::Fenced { by, .. } => {
                Stop::Fenced(Loss::Promoted { by: describe(&by), winner: by.lineage.history.timeline })
            }
            ClaimError::TakeoverPending { by } => Stop::TakeoverPending(by),
            ClaimError::Vault(error) => error.into(),
            _ => Stop::Refused { problem, look_again: LOOK_AGAIN },
        }
    }
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        let problem = vault_problem(&error);
        let refused = matches!(problem.code.as_str(), code::SYSTEM_ID_MISMATCH | code::DAMAGED_OBJECT);
        if refused { Stop::Refused { problem, look_again: LOOK_AGAIN } } else { Stop::Retry(problem) }
    }
}
