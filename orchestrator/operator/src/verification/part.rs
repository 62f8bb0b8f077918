//! What a scrub found in a part of a vault, in the words of the status. Pure.

use holdfast_api::Problem;
use holdfast_api::common::sentence;
use holdfast_api::condition::reasons;
use holdfast_api::vault::VerifiedPart;
use holdfast_vault::{Finding, FindingKind, Totals, VaultError};
use jiff::Timestamp;

use crate::protection::signed;

/// How many stretches of lost moments are told.
const COSTS: usize = 3;

/// What was found in a part of a vault. `completed`: when all of it had been looked at.
pub fn part(name: &str, totals: &Totals, findings: &[Finding], completed: Option<Timestamp>) -> VerifiedPart {
    VerifiedPart {
        name: name.to_owned(),
        completed,
        objects: signed(totals.objects),
        bodies: signed(totals.bodies),
        bytes: signed(totals.bytes),
        findings: i64::try_from(findings.len()).unwrap_or(i64::MAX),
        worst: worst(findings).map(problem),
    }
}

/// A database of which nothing can be read, when that is what the error says; none when it says nothing of this database.
pub fn of_database_error(name: &str, error: &VaultError, now: Timestamp) -> Option<VerifiedPart> {
    let code = match error {
        VaultError::Store(_) | VaultError::BadConfig { .. } | VaultError::BadKey { .. } => return None,
        VaultError::Damaged { error, .. } => reason(kind_of(error)),
        // Nobody but a person with other means can have put it there.
        VaultError::BadName { .. } => reasons::TAMPERED_OBJECT,
        _ => reasons::DAMAGED_OBJECT,
    };
    let hint = Some(format!("To do: {}", sentence(error.hint())));
    let message = format!("nothing of it can be read: {error}");
    let worst = Some(Problem { code: code.to_owned(), message, hint });
    Some(VerifiedPart { name: name.to_owned(), completed: Some(now), findings: 1, worst, ..VerifiedPart::default() })
}

fn kind_of(error: &holdfast_vault::ObjectError) -> FindingKind {
    match error {
        holdfast_vault::ObjectError::Untrusted(_) => FindingKind::Untrusted,
        _ => FindingKind::Damaged,
    }
}

/// The first of those that cost most: moments, then objects, then only trust.
fn worst(findings: &[Finding]) -> Option<&Finding> {
    let weight = |finding: &&Finding| match finding.what {
        _ if !finding.costs.is_empty() => 0,
        kind if kind.is_loss() => 1,
        FindingKind::Tampered => 2,
        _ => 3,
    };
    findings.iter().min_by_key(weight)
}

fn problem(finding: &Finding) -> Problem {
    let mut message = format!("object `{}` is {}: {}", finding.key, finding.what, finding.detail);
    for cost in finding.costs.iter().take(COSTS) {
        message = format!("{message}; {cost}");
    }
    if finding.costs.len() > COSTS {
        message = format!("{message}; and {} more stretches", finding.costs.len() - COSTS);
    }
    let hint = format!("To do: {}", sentence(finding.what.hint()));
    Problem { code: reason(finding.what).to_owned(), message, hint: Some(hint) }
}

/// The condition's reason.
fn reason(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Damaged => reasons::DAMAGED_OBJECT,
        FindingKind::Missing => reasons::MISSING_OBJECT,
        FindingKind::Untrusted => reasons::UNTRUSTED_OBJECT,
        FindingKind::Tampered => reasons::TAMPERED_OBJECT,
        FindingKind::Unlocked => reasons::UNLOCKED_OBJECT,
        FindingKind::Unreadable => reasons::UNREADABLE_OBJECT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::StoreErrorKind;
    use serde_json::json;

    fn finding(key: &str, what: &str, costs: usize) -> Finding {
        let cost = json!({"from": {"lsn": "0/10"}, "to": {"lsn": "0/20"}, "backup": "b7"});
        serde_json::from_value(json!({"key": key, "what": what, "detail": "d", "costs": vec![cost; costs]})).unwrap()
    }

    #[test]
    fn the_worst_is_what_costs_moments_then_objects_then_trust() {
        let all = [
            finding("u", "unlocked", 0),
            finding("t", "tampered", 0),
            finding("m", "missing", 0),
            finding("d", "damaged", 2),
        ];
        for (count, code) in [
            (1, reasons::UNLOCKED_OBJECT),
            (2, reasons::TAMPERED_OBJECT),
            (3, reasons::MISSING_OBJECT),
            (4, reasons::DAMAGED_OBJECT),
        ] {
            let found = part("lab", &Totals::default(), &all[..count], None);
            assert_eq!((found.findings, found.worst.unwrap().code.as_str()), (count as i64, code));
        }
        assert_eq!(part("lab", &Totals::default(), &[], None).worst, None);
    }

    #[test]
    fn a_finding_names_the_object_the_moments_and_what_to_do() {
        let text = part("lab", &Totals::default(), &[finding("p/k", "damaged", 5)], None).worst.unwrap().text();
        for said in
            ["`p/k` is damaged: d", "backup b7: no restore to moments between", "and 2 more", "To do: keep the bucket"]
        {
            assert!(text.contains(said), "{said} in {text}");
        }
    }

    #[test]
    fn an_error_of_one_database_is_a_finding_and_one_of_the_store_is_none() {
        let error = VaultError::BadName { what: "a database", name: "JUNK".into() };
        let found = of_database_error("JUNK", &error, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((found.findings, found.worst.unwrap().code.as_str()), (1, reasons::TAMPERED_OBJECT));
        let (kind, operation) = (StoreErrorKind::Unreachable, "GetObject");
        let away = holdfast_vault::StoreError { kind, operation, target: "b".into(), detail: String::new() };
        assert_eq!(of_database_error("lab", &away.into(), Timestamp::UNIX_EPOCH), None);
    }
}
