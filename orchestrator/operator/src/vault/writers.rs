//! Whom a Vault believes, as a condition. Pure.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{Conditions, Vault};
use jiff::Timestamp;

use super::observe::Observed;

/// Whether only named writers are believed. Everybody is a warning, and no obstacle.
pub(super) fn set(conditions: &mut Conditions, vault: &Vault, observed: &Observed, now: Timestamp) {
    let writers = &vault.spec.writers;
    if writers.is_empty() {
        let message = "whoever can write to the bucket is believed. Make a key at each site with `holdfast keys new writer`, \
                       name its Secret in signing, and list the public keys of all sites under writers";
        conditions.set(types::WRITERS_TRUSTED, false, reasons::ANY_WRITER, message);
        return;
    }
    if let Observed::Faulty { reason, message, .. } = observed
        && [reasons::WRITER_NOT_LISTED, reasons::WRITER_KEY_MISSING].contains(&reason.as_str())
    {
        conditions.set(types::WRITERS_TRUSTED, false, reason, message.clone());
        return;
    }
    let (revoked, valid): (Vec<_>, Vec<_>) =
        writers.iter().partition(|writer| writer.not_after.is_some_and(|not_after| not_after <= now));
    if valid.is_empty() {
        let message = "every writer is revoked: nothing that is stored from now on counts. Make a new key with `holdfast \
                       keys new writer` and list it under writers in the Vaults of all sites";
        conditions.set(types::WRITERS_TRUSTED, false, reasons::WRITER_REVOKED, message);
        return;
    }
    let names = |of: &[&holdfast_api::vault::Writer]| of.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut message = format!("{} are believed", names(&valid));
    if !revoked.is_empty() {
        message = format!("{message}; {} only for what was stored before they were revoked", names(&revoked));
    }
    conditions.set(types::WRITERS_TRUSTED, true, reasons::NAMED_WRITERS, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::find;
    use serde_json::{Value, json};

    fn verdict(writers: Value, observed: &Observed) -> (bool, String, String) {
        let vault: Vault = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v"},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}, "writers": writers}
        }))
        .unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let mut conditions = Conditions::of(&[], None, now);
        set(&mut conditions, &vault, observed, now);
        let conditions = conditions.into_vec();
        let found = find(&conditions, types::WRITERS_TRUSTED).unwrap();
        (found.is_warning(), found.reason.clone(), found.message.clone())
    }

    fn writer(name: &str, not_after: Option<&str>) -> Value {
        json!({"name": name, "publicKey": "x", "notAfter": not_after})
    }

    #[test]
    fn everybody_is_a_warning_and_named_writers_are_none() {
        let sound = Observed::Sound { clock_skew_seconds: None, probed: None };
        let (past, future) = (Some("1970-01-01T00:10:00Z"), Some("1970-01-01T01:00:00Z"));
        for (writers, warning, reason, named) in [
            (json!([]), true, reasons::ANY_WRITER, "keys new writer"),
            (json!([writer("a", None)]), false, reasons::NAMED_WRITERS, "a are believed"),
            (json!([writer("a", future)]), false, reasons::NAMED_WRITERS, "a are believed"),
            (json!([writer("a", past), writer("b", None)]), false, reasons::NAMED_WRITERS, "; a only for"),
            (json!([writer("a", past)]), true, reasons::WRITER_REVOKED, "every writer is revoked"),
        ] {
            let (is_warning, why, message) = verdict(writers, &sound);
            assert_eq!((is_warning, why.as_str()), (warning, reason));
            assert!(message.contains(named), "{message}");
        }
        let unlisted = Observed::Faulty {
            reason: reasons::WRITER_NOT_LISTED.into(),
            message: "not listed".into(),
            about_the_lock: false,
        };
        let (is_warning, why, message) = verdict(json!([writer("a", None)]), &unlisted);
        assert_eq!((is_warning, why.as_str(), message.as_str()), (true, reasons::WRITER_NOT_LISTED, "not listed"));
    }
}
