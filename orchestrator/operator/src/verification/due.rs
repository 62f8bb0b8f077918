//! When the next pass begins. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use holdfast_api::condition::{find, types};
use holdfast_api::vault::VerificationStatus;
use holdfast_api::{VERIFY_NOW_ANNOTATION, Vault};
use jiff::Timestamp;
use kube::ResourceExt;

/// How soon a vault is looked at again in which nothing was stored.
const EMPTY_INTERVAL: Duration = Duration::from_secs(5 * 60);
const FOR_NOW: Duration = Duration::from_secs(5);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing for so long.
    Rest(Duration),
    /// Begin a pass.
    Begin,
    /// Go on with the pass that is under way.
    GoOn,
}

/// What is due by what is recorded.
pub(super) fn due(vault: &Vault, record: &VerificationStatus, now: Timestamp) -> Due {
    let is_known = vault.status.as_ref().is_some_and(|status| find(&status.conditions, types::READY).is_some());
    if vault.spec.verification.suspend || !is_known {
        return Due::Rest(FOR_NOW);
    }
    let Some(started) = record.started else { return Due::Begin };
    if record.last_completed.is_none_or(|completed| completed < started) {
        return Due::GoOn;
    }
    let asked = vault.annotations().get(VERIFY_NOW_ANNOTATION);
    if asked.is_some() && asked != record.answered.as_ref() {
        return Due::Begin;
    }
    let interval = if record.databases.is_empty() { EMPTY_INTERVAL } else { interval(vault) };
    // A clock that was set back has waited long enough.
    let passed = Duration::try_from(now.duration_since(started)).unwrap_or(interval);
    match interval.saturating_sub(passed) {
        Duration::ZERO => Due::Begin,
        left => Due::Rest(left),
    }
}

/// Up to a tenth shorter than the spec says, always the same for one Vault, so that many do not read at the same time.
fn interval(vault: &Vault) -> Duration {
    let mut hasher = DefaultHasher::new();
    vault.uid().hash(&mut hasher);
    let whole = hours(vault.spec.verification.interval_hours);
    whole - (whole / 10).mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

/// So many hours.
pub(super) fn hours(hours: u32) -> Duration {
    Duration::from_secs(u64::from(hours) * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::vault::VerifiedPart;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn vault(suspend: bool, asked: Option<&str>) -> Vault {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "uid": "u", "annotations": asked.map(|asked| json!({VERIFY_NOW_ANNOTATION: asked}))},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}, "verification": {"intervalHours": 10, "suspend": suspend}},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x", "message": "",
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
        }))
        .unwrap()
    }

    /// A pass from 1000 to `completed`.
    fn record(completed: Option<i64>) -> VerificationStatus {
        VerificationStatus {
            started: Some(at(1000)),
            last_completed: completed.map(at),
            answered: Some("a".into()),
            databases: vec![VerifiedPart::default()],
            ..VerificationStatus::default()
        }
    }

    #[test]
    fn a_pass_follows_the_other_by_the_interval_or_at_once_when_asked_for() {
        let (never, empty) =
            (VerificationStatus::default(), VerificationStatus { databases: vec![], ..record(Some(1001)) });
        let (under_way, first, done) = (record(Some(900)), record(None), record(Some(1500)));
        let resting = |due: Due| matches!(due, Due::Rest(_));
        assert_eq!(due(&vault(false, None), &never, at(0)), Due::Begin);
        assert_eq!(due(&vault(false, None), &first, at(1001)), Due::GoOn);
        assert_eq!(due(&vault(false, Some("b")), &under_way, at(99_999)), Due::GoOn, "a long pass goes on to its end");
        assert_eq!(due(&vault(false, Some("b")), &done, at(1501)), Due::Begin);
        assert!(resting(due(&vault(false, Some("a")), &done, at(1501))));
        assert!(resting(due(&vault(false, None), &done, at(1000 + 9 * 3600 - 1))), "at most a tenth sooner");
        assert_eq!(due(&vault(false, None), &done, at(1000 + 10 * 3600)), Due::Begin);
        assert_eq!(due(&vault(false, None), &empty, at(1300)), Due::Begin);
        for record in [&never, &under_way, &done] {
            assert!(resting(due(&vault(true, Some("b")), record, at(99_999))), "suspended");
        }
        let mut unknown = vault(false, None);
        unknown.status = None;
        assert!(resting(due(&unknown, &never, at(0))), "the Vault itself was not looked at yet");
    }
}
