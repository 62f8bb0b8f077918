//! The status of a Vault. Pure.

use std::time::Duration;

use holdfast_api::condition::{is_true, reasons, types};
use holdfast_api::{ConditionStatus, Conditions, Vault, VaultStatus};
use jiff::Timestamp;

use super::observe::Observed;

/// How long a vault that was found well may rest before it is checked again; none when it is due.
pub(crate) fn rest(
    status: &VaultStatus,
    generation: Option<i64>,
    now: Timestamp,
    interval: Duration,
) -> Option<Duration> {
    let same = status.observed_generation == generation;
    if !same || !is_true(&status.conditions, types::READY) {
        return None;
    }
    let since = now.duration_since(status.last_checked?);
    let since = Duration::try_from(since).ok()?;
    interval.checked_sub(since).filter(|left| !left.is_zero())
}

/// The status that follows from what was observed.
pub(crate) fn derive(vault: &Vault, observed: &Observed, now: Timestamp) -> VaultStatus {
    let old = vault.status.clone().unwrap_or_default();
    let generation = vault.metadata.generation;
    let mut conditions = Conditions::of(&old.conditions, generation, now);
    set_escrow(&mut conditions, vault);
    let clock_skew_seconds = match observed {
        Observed::Sound { clock_skew_seconds } => {
            conditions.set(
                types::READY,
                true,
                reasons::AVAILABLE,
                "the bucket was reached, written to, and holds what is locked in it",
            );
            conditions.set(
                types::LOCK_ENFORCED,
                true,
                reasons::DELETE_REFUSED,
                "a probe object was stored under lock, and the store refused to delete it",
            );
            *clock_skew_seconds
        }
        Observed::Faulty { reason, message, about_the_lock } => {
            conditions.set(types::READY, false, reason, message.clone());
            if *about_the_lock {
                conditions.set(types::LOCK_ENFORCED, false, reason, message.clone());
            } else {
                let message = "the lock could not be tried; see Ready";
                let unknown = ConditionStatus::Unknown;
                conditions.set(types::LOCK_ENFORCED, unknown, reasons::UNKNOWN, message);
            }
            old.clock_skew_seconds
        }
    };
    VaultStatus {
        observed_generation: generation,
        last_checked: Some(now),
        clock_skew_seconds,
        conditions: conditions.into_vec(),
    }
}

fn set_escrow(conditions: &mut Conditions, vault: &Vault) {
    let count = vault.spec.encryption.recipients.len();
    if count > 1 {
        let message = format!("{count} keys can decrypt");
        conditions.set(types::ESCROW_CONFIGURED, true, reasons::SEVERAL_RECIPIENTS, message);
        return;
    }
    conditions.set(
        types::ESCROW_CONFIGURED,
        false,
        reasons::ONE_RECIPIENT,
        "only one key can decrypt: losing it loses everything stored. Make a second one with `holdfast keys \
         generate`, keep its private half in a safe, and add its public half to encryption.recipients",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::find;
    use serde_json::json;

    fn vault(recipients: usize) -> Vault {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "namespace": "hospital", "generation": 3},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": vec!["age1x"; recipients]}}
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sound() -> Observed {
        Observed::Sound { clock_skew_seconds: Some(-1) }
    }

    #[test]
    fn conditions_follow_the_check() {
        let faulty = |reason: &str, about_the_lock| Observed::Faulty {
            reason: reason.into(),
            message: "m".into(),
            about_the_lock,
        };
        use ConditionStatus::{False, True, Unknown};
        let cases = [
            (sound(), True, reasons::AVAILABLE, True),
            (faulty(reasons::NO_SUCH_BUCKET, false), False, reasons::NO_SUCH_BUCKET, Unknown),
            (faulty(reasons::LOCK_NOT_ENFORCED, true), False, reasons::LOCK_NOT_ENFORCED, False),
        ];
        for (observed, ready, reason, lock) in cases {
            let status = derive(&vault(2), &observed, at(5));
            let found = find(&status.conditions, types::READY).unwrap();
            assert_eq!((found.status, found.reason.as_str()), (ready, reason));
            assert_eq!(found.observed_generation, Some(3));
            let found = find(&status.conditions, types::LOCK_ENFORCED).unwrap();
            assert_eq!(found.status, lock, "{observed:?}");
        }
    }

    #[test]
    fn one_recipient_is_a_warning() {
        for (recipients, warning) in [(1, true), (2, false)] {
            let status = derive(&vault(recipients), &sound(), at(5));
            let found = find(&status.conditions, types::ESCROW_CONFIGURED).unwrap();
            assert_eq!(found.is_warning(), warning);
        }
    }

    #[test]
    fn a_sound_vault_rests_until_the_interval_is_over_or_its_spec_changes() {
        let status = derive(&vault(2), &sound(), at(100));
        let interval = Duration::from_secs(600);
        let cases = [(Some(3), 200, Some(Duration::from_secs(500))), (Some(3), 700, None), (Some(4), 200, None)];
        for (generation, now, expected) in cases {
            assert_eq!(rest(&status, generation, at(now), interval), expected);
        }
        let fault = Observed::Faulty { reason: "x".into(), message: String::new(), about_the_lock: false };
        let failed = derive(&vault(2), &fault, at(100));
        assert_eq!(rest(&failed, Some(3), at(101), interval), None);
    }
}
