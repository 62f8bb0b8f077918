//! When a vault is looked at again, and how closely. Pure.

use std::time::Duration;

use holdfast_api::condition::{find, types};
use holdfast_api::{ConditionStatus, VaultStatus};
use jiff::Timestamp;

/// How often a healthy vault is asked for its settings and its time.
pub(crate) const REACH_INTERVAL: Duration = Duration::from_secs(600);
/// How soon a failed check is repeated.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often the lock is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How soon a probe that found harm is repeated, so that what a person put right is noticed.
const HARM_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing for so long.
    Rest(Duration),
    /// Ask for the settings and the time.
    Reach,
    /// Probe the lock.
    Probe,
}

/// What is due by what the status says. `asked` is the value of the annotation that asks for a probe.
pub(crate) fn due(status: &VaultStatus, generation: Option<i64>, asked: Option<&str>, now: Timestamp) -> Due {
    let lock = find(&status.conditions, types::LOCK_ENFORCED).map(|c| c.status);
    let ready = find(&status.conditions, types::READY).map(|c| c.status);
    let interval = match lock {
        Some(ConditionStatus::True) => PROBE_INTERVAL,
        Some(ConditionStatus::False) => HARM_INTERVAL,
        // Never tried, or not since the store could not be reached.
        Some(ConditionStatus::Unknown) | None => Duration::ZERO,
    };
    let changed =
        status.observed_generation != generation || (asked.is_some() && asked != status.probe_answered.as_deref());
    if changed || left(status.last_probed, interval, now).is_none() {
        return Due::Probe;
    }
    let interval = if ready == Some(ConditionStatus::True) { REACH_INTERVAL } else { RETRY_INTERVAL };
    match left(status.last_checked, interval, now) {
        Some(left) => Due::Rest(left),
        None => Due::Reach,
    }
}

/// How much of an interval that began then is left; none when it is over.
fn left(since: Option<Timestamp>, interval: Duration, now: Timestamp) -> Option<Duration> {
    // A clock that was set back has waited long enough.
    let passed = Duration::try_from(now.duration_since(since?)).ok()?;
    interval.checked_sub(passed).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Conditions;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Probed at 0 and looked at 1000, both well.
    fn status(ready: ConditionStatus, lock: ConditionStatus) -> VaultStatus {
        let mut conditions = Conditions::of(&[], Some(3), at(0));
        conditions.set(types::READY, ready, "x", "");
        conditions.set(types::LOCK_ENFORCED, lock, "x", "");
        VaultStatus {
            observed_generation: Some(3),
            last_probed: Some(at(0)),
            last_checked: Some(at(1000)),
            probe_answered: Some("a".into()),
            conditions: conditions.into_vec(),
            ..VaultStatus::default()
        }
    }

    #[test]
    fn a_probe_is_due_daily_hourly_after_harm_and_at_once_when_asked_for() {
        use ConditionStatus::{False, True, Unknown};
        let rest = |seconds| Due::Rest(Duration::from_secs(seconds));
        for (status, generation, asked, now, expected) in [
            (VaultStatus::default(), 3, None, 0, Due::Probe),
            (status(True, True), 3, Some("a"), 1001, rest(599)),
            (status(True, True), 3, None, 1001, rest(599)),
            (status(True, True), 3, Some("a"), 1600, Due::Reach),
            (status(True, True), 4, Some("a"), 1001, Due::Probe),
            (status(True, True), 3, Some("b"), 1001, Due::Probe),
            (status(True, True), 3, Some("a"), 86_399, Due::Reach),
            (status(True, True), 3, Some("a"), 86_400, Due::Probe),
            (status(True, False), 3, Some("a"), 1001, rest(599)),
            (status(True, False), 3, Some("a"), 3600, Due::Probe),
            (status(False, False), 3, Some("a"), 1001, rest(4)),
            (status(False, False), 3, Some("a"), 1005, Due::Reach),
            (status(False, Unknown), 3, Some("a"), 1001, Due::Probe),
        ] {
            assert_eq!(
                due(&status, Some(generation), asked, at(now)),
                expected,
                "{generation} {asked:?} {now} {status:?}"
            );
        }
    }
}
