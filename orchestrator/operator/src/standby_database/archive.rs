//! What an archiver says of itself, as a status and as the condition Archiving. Pure.

use holdfast_api::condition::{reasons, types};
use holdfast_api::standby_database::Archive;
use holdfast_api::{ConditionStatus, Conditions};
use holdfast_dataplane::status::{ArchiverState, ArchiverStatus};

use super::observe::Observed;
use crate::protection::{problem, signed};

/// The archiver's words as the status of its standby.
pub(super) fn archive(said: &ArchiverStatus) -> Archive {
    Archive {
        state: format!("{:?}", said.state),
        archived_lsn: said.archived.map(|lsn| lsn.to_string()),
        indexed_lsn: said.indexed.map(|lsn| lsn.to_string()),
        index: said.index.map(signed),
        index_behind_minutes: said.index.map(|_| signed((said.index_behind_seconds / 60.0) as u64)),
        held_until: said.held_until,
    }
}

/// Sets Archiving. A drill's copy has no archiver and no such condition.
pub(super) fn set(conditions: &mut Conditions, observed: &Observed) {
    let said = match &observed.archiver {
        None => {
            conditions.remove(types::ARCHIVING);
            return;
        }
        Some(Err(error)) => {
            let problem = error.problem(reasons::ARCHIVER_UNREACHABLE);
            conditions.set(types::ARCHIVING, ConditionStatus::Unknown, &problem.code, problem.text());
            return;
        }
        Some(Ok(said)) => said,
    };
    match wrong(said, observed) {
        Some((reason, message)) => conditions.set(types::ARCHIVING, false, &reason, message),
        None if said.state == ArchiverState::Starting => {
            conditions.set(types::ARCHIVING, false, reasons::STARTING, "it looks for the newest index")
        }
        None => {
            let message = "segments and indexes follow the log; chunks may expire behind them";
            conditions.set(types::ARCHIVING, true, reasons::IN_SEGMENTS, message)
        }
    };
}

/// The reason and the message of what is wrong.
fn wrong(said: &ArchiverStatus, observed: &Observed) -> Option<(String, String)> {
    let told = said.problem.as_ref().map(|told| (told.code.clone(), problem(told).text()));
    match said.state {
        ArchiverState::Damaged | ArchiverState::Refused | ArchiverState::Retrying => {
            let silent = || (reasons::RETRYING.to_owned(), format!("the archiver is in state {:?}", said.state));
            return Some(told.unwrap_or_else(silent));
        }
        ArchiverState::Starting | ArchiverState::Archiving => {}
    }
    if let Some(limit_seconds) = half_a_life(observed)
        && said.index_behind_seconds > limit_seconds
    {
        let message = format!(
            "the log has run on beyond the newest index for more than {} h, half the lifetime of its chunks: soon nobody \
             builds on what is not indexed, and what expires is in no segment. Look at the archiver's log, and give it \
             more CPU if it cannot keep up",
            limit_seconds / 3600.0
        );
        return Some((reasons::ARCHIVER_BEHIND.to_owned(), message));
    }
    said.hold_problem.as_ref().map(|told| (told.code.clone(), problem(told).text()))
}

/// Half the lifetime of chunks in seconds, when the Vault is known.
fn half_a_life(observed: &Observed) -> Option<f64> {
    let vault = observed.vault.as_ref().ok()?;
    Some(f64::from(vault.spec.chunk_retention_days()) * 24.0 * 3600.0 / 2.0)
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::observed;
    use super::*;
    use crate::role::RoleError;
    use holdfast_api::condition::find;
    use holdfast_dataplane::status::Problem;
    use holdfast_wal::Lsn;
    use jiff::Timestamp;

    fn said(state: ArchiverState) -> ArchiverStatus {
        ArchiverStatus { state, ..ArchiverStatus::default() }
    }

    #[test]
    fn archiving_follows_the_archiver() {
        use ConditionStatus::{False, True, Unknown};
        let problem = |code: &str| Some(Problem::new(code, "object k", "keep it"));
        let silent = |is_stuck| RoleError::NotRunning { message: "m".into(), is_stuck };
        let behind = |seconds| ArchiverStatus { index_behind_seconds: seconds, ..said(ArchiverState::Archiving) };
        let damaged = ArchiverStatus { problem: problem("DamagedObject"), ..said(ArchiverState::Damaged) };
        let unheld = ArchiverStatus { hold_problem: problem("VaultUnreachable"), ..said(ArchiverState::Archiving) };
        // The Vault of the test keeps everything for one day.
        for (archiver, status, reason) in [
            (Ok(said(ArchiverState::Archiving)), True, reasons::IN_SEGMENTS),
            (Ok(said(ArchiverState::Starting)), False, reasons::STARTING),
            (Ok(said(ArchiverState::Retrying)), False, reasons::RETRYING),
            (Ok(damaged), False, "DamagedObject"),
            (Ok(behind(12.0 * 3600.0 - 1.0)), True, reasons::IN_SEGMENTS),
            (Ok(behind(12.0 * 3600.0 + 1.0)), False, reasons::ARCHIVER_BEHIND),
            (Ok(unheld), False, "VaultUnreachable"),
            (Err(silent(false)), Unknown, reasons::STARTING),
            (Err(silent(true)), Unknown, reasons::POD_NOT_RUNNING),
        ] {
            let observed = Observed { archiver: Some(archiver), ..observed() };
            let mut conditions = Conditions::of(&[], Some(1), Timestamp::UNIX_EPOCH);
            set(&mut conditions, &observed);
            let conditions = conditions.into_vec();
            let found = find(&conditions, types::ARCHIVING).unwrap();
            assert_eq!((found.status, found.reason.as_str()), (status, reason));
        }
    }

    #[test]
    fn a_drill_has_no_archiver_and_no_such_condition() {
        let mut conditions = Conditions::of(&[], Some(1), Timestamp::UNIX_EPOCH);
        conditions.set(types::ARCHIVING, true, "x", "");
        set(&mut conditions, &Observed { archiver: None, ..observed() });
        assert_eq!(conditions.into_vec(), []);
    }

    #[test]
    fn the_status_tells_how_far_in_steps_that_do_not_flicker() {
        let told = archive(&ArchiverStatus {
            archived: Some(Lsn(0x100_0000)),
            index: Some(4),
            index_behind_seconds: 179.9,
            ..said(ArchiverState::Archiving)
        });
        assert_eq!((told.state.as_str(), told.archived_lsn.as_deref()), ("Archiving", Some("0/1000000")));
        assert_eq!((told.index, told.index_behind_minutes), (Some(4), Some(2)));
    }
}
