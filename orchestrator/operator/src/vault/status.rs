//! The status of a Vault. Pure.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{CHECK_NOW_ANNOTATION, ConditionStatus, Conditions, Vault, VaultStatus};
use holdfast_vault::{LockProbe, MAX_CLOCK_SKEW, Tried, in_sync};
use jiff::Timestamp;
use kube::ResourceExt;

use super::observe::Observed;
use super::placed::Users;

/// The status that follows from what was observed. `users`: who uses it here, when that is known.
pub(crate) fn derive(vault: &Vault, observed: &Observed, users: Option<&Users>, now: Timestamp) -> VaultStatus {
    let old = vault.status.clone().unwrap_or_default();
    let generation = vault.metadata.generation;
    let mut conditions = Conditions::of(&old.conditions, generation, now);
    set_escrow(&mut conditions, vault);
    if let Some(users) = users {
        super::placed::set(&mut conditions, vault, users);
    }
    super::writers::set(&mut conditions, vault, observed, now);
    let mut new = VaultStatus { observed_generation: generation, last_checked: Some(now), ..old };
    match observed {
        Observed::Sound { clock_skew_seconds, probed } => {
            new.clock_skew_seconds = *clock_skew_seconds;
            set_clock(&mut conditions, *clock_skew_seconds);
            if let Some(probed) = probed {
                new.last_probed = Some(now);
                new.probe_answered = vault.annotations().get(CHECK_NOW_ANNOTATION).cloned();
                new.evidence.clone_from(&probed.evidence);
                set_lock(&mut conditions, &probed.probe);
            }
            set_ready(&mut conditions, probed.as_ref().map(|probed| &probed.probe));
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
        }
    }
    VaultStatus { conditions: conditions.into_vec(), ..new }
}

/// A broken lock is no vault; rights that only disturb are a warning beside a vault that works.
fn set_ready(conditions: &mut Conditions, probe: Option<&LockProbe>) {
    match probe.filter(|probe| probe.lock_is_broken()) {
        Some(probe) => conditions.set(types::READY, false, reasons::LOCK_NOT_ENFORCED, harm(probe)),
        None => {
            let message = "the bucket was reached, and has versioning and Object Lock";
            conditions.set(types::READY, true, reasons::AVAILABLE, message)
        }
    };
}

fn set_lock(conditions: &mut Conditions, probe: &LockProbe) {
    let (tried, skipped) = (probe.attempts.len(), count(probe, "skipped"));
    if probe.harmful().next().is_none() {
        let limits: Vec<_> = probe.attempts.iter().filter(|tried| tried.outcome.name() == "limit").collect();
        let mut message = format!("{} attempts to break the lock were made, and none did harm", tried - skipped);
        for limit in limits {
            message += &format!("; {}: {}", limit.attempt.title(), limit.outcome.detail());
        }
        conditions.set(types::LOCK_ENFORCED, true, reasons::DELETE_REFUSED, message);
        return;
    }
    let reason = if probe.lock_is_broken() { reasons::LOCK_NOT_ENFORCED } else { reasons::EXCESSIVE_RIGHTS };
    conditions.set(types::LOCK_ENFORCED, false, reason, harm(probe));
}

fn count(probe: &LockProbe, outcome: &str) -> usize {
    probe.attempts.iter().filter(|tried| tried.outcome.name() == outcome).count()
}

/// Every attempt that did harm: what, and what to do.
fn harm(probe: &LockProbe) -> String {
    let tell = |tried: &Tried| format!("{}: {}", tried.attempt.title(), tried.outcome.detail());
    let told: Vec<_> = probe.harmful().map(tell).collect();
    format!("with the vault's credentials it was possible to: {} (bucket `{}`)", told.join("; "), probe.bucket)
}

fn set_clock(conditions: &mut Conditions, skew: Option<i64>) {
    match skew {
        Some(skew) if in_sync(skew) => {
            let message = format!("the store's clock is {skew} s from this site's");
            conditions.set(types::CLOCK_IN_SYNC, true, reasons::WITHIN_BOUNDS, message);
        }
        Some(skew) => {
            let message = format!(
                "the store's clock is {skew} s from this site's, more than {} s. Locks are computed from the store's \
                 clock and stay right; most stores refuse every request at 900 s. To do: synchronise this site's clock \
                 (NTP), or the store's",
                MAX_CLOCK_SKEW.as_secs()
            );
            conditions.set(types::CLOCK_IN_SYNC, false, reasons::CLOCK_SKEW, message);
        }
        None => {
            let message = "the store's answers carry no Date";
            conditions.set(types::CLOCK_IN_SYNC, ConditionStatus::Unknown, reasons::UNKNOWN, message);
        }
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
        "only one key can decrypt: losing it loses everything stored. Make a second one with `holdfast keys new \
         age`, keep its private half in a safe, and add its public half to encryption.recipients",
    );
}

#[cfg(test)]
mod tests {
    use super::super::observe::Probed;
    use super::*;
    use holdfast_api::condition::find;
    use serde_json::{Value, json};

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

    fn probe(attempt: &str, outcome: Value) -> LockProbe {
        let mut tried = json!({"attempt": attempt});
        tried.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "bucket": "b00", "ended": "2026-11-24T12:00:00Z", "probe": "k", "lockedUntil": "2026-11-25T12:00:00Z",
            "clockSkewSeconds": -1, "attempts": [tried]
        }))
        .unwrap()
    }

    fn probed(attempt: &str, outcome: &str) -> Observed {
        let outcome =
            json!({"outcome": outcome, "said": "403 AccessDenied", "what": "it worked", "remedy": "forbid it"});
        let probed = Probed { probe: probe(attempt, outcome), evidence: Some("p/v1/evidence/k".into()) };
        Observed::Sound { clock_skew_seconds: Some(-1), probed: Some(Box::new(probed)) }
    }

    fn sound() -> Observed {
        probed("delete-version", "refused")
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
            (probed("put-unlocked", "limit"), True, reasons::AVAILABLE, True),
            (probed("put-policy", "harmful"), True, reasons::AVAILABLE, False),
            (probed("delete-batch", "harmful"), False, reasons::LOCK_NOT_ENFORCED, False),
            (faulty(reasons::NO_SUCH_BUCKET, false), False, reasons::NO_SUCH_BUCKET, Unknown),
            (faulty(reasons::LOCK_NOT_ENFORCED, true), False, reasons::LOCK_NOT_ENFORCED, False),
        ];
        for (observed, ready, reason, lock) in cases {
            let status = derive(&vault(2), &observed, Some(&Users::default()), at(5));
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
            let status = derive(&vault(recipients), &sound(), Some(&Users::default()), at(5));
            let found = find(&status.conditions, types::ESCROW_CONFIGURED).unwrap();
            assert_eq!(found.is_warning(), warning);
        }
    }

    #[test]
    fn harm_names_the_attempt_and_what_to_do() {
        let status = derive(&vault(2), &probed("put-policy", "harmful"), Some(&Users::default()), at(5));
        let found = find(&status.conditions, types::LOCK_ENFORCED).unwrap();
        assert_eq!(found.reason, reasons::EXCESSIVE_RIGHTS);
        for part in ["put a bucket policy", "it worked", "To do: forbid it", "`b00`"] {
            assert!(found.message.contains(part), "{part} in {}", found.message);
        }
        assert_eq!(status.evidence.as_deref(), Some("p/v1/evidence/k"));
    }

    #[test]
    fn a_look_without_a_probe_keeps_what_the_last_probe_found() {
        let mut vault = vault(2);
        vault.metadata.annotations = Some([(CHECK_NOW_ANNOTATION.to_owned(), "1".to_owned())].into());
        let first = derive(&vault, &probed("put-policy", "harmful"), Some(&Users::default()), at(5));
        vault.status = Some(first.clone());
        let reached = Observed::Sound { clock_skew_seconds: Some(90), probed: None };
        let second = derive(&vault, &reached, Some(&Users::default()), at(50));
        assert_eq!((second.last_probed, second.last_checked), (Some(at(5)), Some(at(50))));
        assert_eq!((second.probe_answered.as_deref(), &second.evidence), (Some("1"), &first.evidence));
        let lock = find(&second.conditions, types::LOCK_ENFORCED).unwrap();
        assert_eq!(lock.reason, reasons::EXCESSIVE_RIGHTS);
        let clock = find(&second.conditions, types::CLOCK_IN_SYNC).unwrap();
        assert_eq!((clock.status, clock.reason.as_str()), (ConditionStatus::False, reasons::CLOCK_SKEW));
    }
}
