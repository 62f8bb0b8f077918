//! What the passes found, as the status of a Vault. Pure.

use std::time::Duration;

use holdfast_api::condition::{reasons, types};
use holdfast_api::vault::{VerificationStatus, VerifiedPart};
use holdfast_api::{Condition, ConditionStatus, Conditions, Vault};
use jiff::Timestamp;
use kube::ResourceExt;

use super::due::hours;

/// The Vault as the reconcile may write it: without what the verification writes by itself, as a field manager of its own.
pub fn own_part(mut vault: Vault) -> Vault {
    if let Some(status) = &mut vault.status {
        status.verification = None;
        status.conditions.retain(|condition| condition.type_ != types::INTACT);
    }
    vault
}

/// Every part that was looked at.
pub(super) fn parts(record: &VerificationStatus) -> impl Iterator<Item = &VerifiedPart> {
    record.databases.iter().chain(&record.shared)
}

/// Whether this part is still to be looked at in the pass that is under way.
pub(super) fn is_due(record: &VerificationStatus, part: Option<&VerifiedPart>) -> bool {
    part.and_then(|part| part.completed).is_none_or(|completed| Some(completed) < record.started)
}

/// Takes a database's part over in the place of what was known of it.
pub fn put(record: &mut VerificationStatus, part: VerifiedPart) {
    match record.databases.iter_mut().find(|old| old.name == part.name) {
        Some(old) => *old = part,
        None => record.databases.push(part),
    }
    add_up(record);
}

/// The pass is over; only these databases are there.
pub(super) fn complete(record: &mut VerificationStatus, names: &[String], now: Timestamp) {
    let started = record.started;
    let looked_at = |part: &VerifiedPart| part.completed >= started && part.completed.is_some();
    record.databases.retain(|part| names.contains(&part.name) && looked_at(part));
    record.last_completed = Some(now);
    record.problem = None;
    add_up(record);
}

fn add_up(record: &mut VerificationStatus) {
    let sum = |of: fn(&VerifiedPart) -> i64| parts(record).map(of).sum();
    (record.objects, record.bytes, record.findings) =
        (sum(|part| part.objects), sum(|part| part.bytes), sum(|part| part.findings));
}

/// The condition Intact that follows from the record. `old`: what it was.
pub fn intact(vault: &Vault, record: &VerificationStatus, old: Option<&Condition>, now: Timestamp) -> Condition {
    let (status, reason, message) = verdict(vault, record, now);
    let before: Vec<Condition> = old.cloned().into_iter().collect();
    let mut conditions = Conditions::of(&before, vault.metadata.generation, now);
    conditions.set(types::INTACT, status, &reason, message);
    conditions.into_vec().swap_remove(0)
}

fn verdict(vault: &Vault, record: &VerificationStatus, now: Timestamp) -> (ConditionStatus, String, String) {
    use ConditionStatus::{False, True, Unknown};
    let say = |status, reason: &str, message: String| (status, reason.to_owned(), message);
    if let Some((part, worst)) = parts(record).find_map(|part| Some((part, part.worst.as_ref()?))) {
        return say(False, &worst.code, wrong(vault, record, part, &worst.text()));
    }
    let why = record.problem.as_ref().map(|problem| format!(". {}", problem.text())).unwrap_or_default();
    if vault.spec.verification.suspend {
        let message = "verification.suspend is set: what is stored is not looked at".to_owned();
        return say(Unknown, reasons::SUSPENDED, message);
    }
    let Some(completed) = record.last_completed else {
        let reason = record.problem.as_ref().map_or(reasons::CHECKING, |problem| problem.code.as_str());
        return say(Unknown, reason, format!("the first pass over everything that is stored is not complete{why}"));
    };
    if is_overdue(vault, completed, now) {
        let interval = vault.spec.verification.interval_hours;
        let message = format!(
            "the last complete pass over everything that is stored ended at {}, and one is to begin every {interval} h. \
             Let it read more in a second (verification.mebibytesPerSecond) or less (verification.samplePercent){why}",
            moment(completed)
        );
        return say(Unknown, reasons::VERIFICATION_OVERDUE, message);
    }
    match record.databases.len() {
        0 => say(Unknown, reasons::NOTHING_STORED, "no database is stored here yet".to_owned()),
        databases => say(True, reasons::VERIFIED, sound(record, databases, completed)),
    }
}

/// A pass takes what it takes, and the next one is late when it takes longer than its interval twice.
fn is_overdue(vault: &Vault, completed: Timestamp, now: Timestamp) -> bool {
    let limit = hours(vault.spec.verification.interval_hours) * 2;
    Duration::try_from(now.duration_since(completed)).is_ok_and(|age| age > limit)
}

fn sound(record: &VerificationStatus, databases: usize, completed: Timestamp) -> String {
    let bodies: i64 = parts(record).map(|part| part.bodies).sum();
    let objects = record.objects;
    let plural = if databases == 1 { "" } else { "s" };
    format!(
        "{objects} objects of {databases} database{plural} were found sound, {bodies} of them read to the end, by {}",
        moment(completed)
    )
}

fn wrong(vault: &Vault, record: &VerificationStatus, part: &VerifiedPart, text: &str) -> String {
    let others = record.findings - 1;
    let more = match others {
        ..1 => String::new(),
        _ => format!(
            " {others} more: `holdfast vault verify --vault {} -n {}` names all",
            vault.name_any(),
            vault.namespace().unwrap_or_default()
        ),
    };
    format!("{}: {text}{more}", part.name)
}

fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Problem;
    use serde_json::json;

    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn vault(suspend: bool) -> Vault {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "namespace": "hospital", "generation": 3},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}, "verification": {"suspend": suspend}}
        }))
        .unwrap()
    }

    fn problem(code: &str) -> Problem {
        Problem { code: code.into(), message: "object `k` is so".into(), hint: Some("To do: that.".into()) }
    }

    fn sound(name: &str, completed: i64) -> VerifiedPart {
        VerifiedPart {
            name: name.into(),
            completed: Some(at(completed)),
            objects: 5,
            bodies: 2,
            bytes: 9,
            ..Default::default()
        }
    }

    fn damaged(name: &str, completed: i64) -> VerifiedPart {
        VerifiedPart { findings: 3, worst: Some(problem(reasons::DAMAGED_OBJECT)), ..sound(name, completed) }
    }

    /// A pass that began at 100, over these databases.
    fn record(completed: Option<i64>, databases: Vec<VerifiedPart>) -> VerificationStatus {
        let (started, last_completed) = (Some(at(100)), completed.map(at));
        let mut record = VerificationStatus { started, last_completed, databases, ..VerificationStatus::default() };
        add_up(&mut record);
        record
    }

    #[test]
    fn intact_follows_the_passes() {
        use ConditionStatus::{False, True, Unknown};
        let away = |record| VerificationStatus { problem: Some(problem(reasons::VAULT_UNREACHABLE)), ..record };
        let lab = || vec![sound("lab", 150)];
        for (record, suspend, now, status, reason) in [
            (record(None, vec![]), false, 200, Unknown, reasons::CHECKING),
            (away(record(None, vec![])), false, 200, Unknown, reasons::VAULT_UNREACHABLE),
            (record(Some(200), lab()), false, 300, True, reasons::VERIFIED),
            // Known damage is told at once, and stays known whatever else happens.
            (record(None, vec![sound("a", 150), damaged("lab", 150)]), false, 200, False, reasons::DAMAGED_OBJECT),
            (away(record(Some(200), vec![damaged("lab", 150)])), false, 90 * HOUR, False, reasons::DAMAGED_OBJECT),
            (record(Some(200), vec![damaged("lab", 150)]), true, 300, False, reasons::DAMAGED_OBJECT),
            // A store that is away for a while takes nothing back, and for long it does.
            (away(record(Some(200), lab())), false, 47 * HOUR, True, reasons::VERIFIED),
            (away(record(Some(200), lab())), false, 49 * HOUR, Unknown, reasons::VERIFICATION_OVERDUE),
            (record(Some(200), vec![]), false, 300, Unknown, reasons::NOTHING_STORED),
            (record(Some(200), lab()), true, 300, Unknown, reasons::SUSPENDED),
        ] {
            let found = intact(&vault(suspend), &record, None, at(now));
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{record:?}");
            assert_eq!(found.observed_generation, Some(3));
        }
    }

    #[test]
    fn the_message_names_the_database_the_object_and_how_many_more() {
        let found = intact(&vault(false), &record(None, vec![damaged("lab", 1)]), None, at(5));
        let expected =
            "lab: object `k` is so. To do: that. 2 more: `holdfast vault verify --vault v -n hospital` names all";
        assert_eq!(found.message, expected);
        let overdue = VerificationStatus { problem: Some(problem("x")), ..record(Some(200), vec![sound("lab", 1)]) };
        let found = intact(&vault(false), &overdue, Some(&found), at(49 * HOUR));
        assert!(
            found.message.contains("1970-01-01T00:03:20Z") && found.message.ends_with("To do: that."),
            "{}",
            found.message
        );
        assert_eq!(found.last_transition_time, at(49 * HOUR));
    }

    #[test]
    fn a_pass_goes_on_with_what_is_not_through_and_forgets_what_is_gone() {
        let mut record = record(Some(50), vec![sound("a", 150), sound("b", 40), damaged("gone", 40)]);
        let due: Vec<_> =
            ["a", "b", "new"].map(|name| is_due(&record, record.databases.iter().find(|p| p.name == name))).into();
        assert_eq!(due, [false, true, true]);
        put(&mut record, VerifiedPart { objects: 7, ..sound("b", 160) });
        put(&mut record, VerifiedPart { completed: None, ..damaged("early", 0) });
        assert_eq!((record.objects, record.findings), (5 + 7 + 5 + 5, 6));
        complete(&mut record, &["a".into(), "b".into(), "early".into()], at(170));
        let names: Vec<_> = record.databases.iter().map(|part| part.name.as_str()).collect();
        assert_eq!((names, record.findings, record.objects), (vec!["a", "b"], 0, 12));
        assert_eq!(record.last_completed, Some(at(170)));
    }

    #[test]
    fn the_reconcile_writes_nothing_of_the_verification() {
        let mut vault = vault(false);
        let record = record(Some(200), vec![sound("lab", 150)]);
        let mut conditions = Conditions::of(&[], None, at(0));
        conditions.set(types::READY, true, "x", "").set(types::INTACT, true, "x", "");
        vault.status = Some(holdfast_api::VaultStatus {
            verification: Some(record),
            conditions: conditions.into_vec(),
            ..Default::default()
        });
        let status = own_part(vault).status.unwrap();
        assert_eq!((status.verification, status.conditions.len()), (None, 1));
        assert_eq!(status.conditions[0].type_, types::READY);
    }
}
