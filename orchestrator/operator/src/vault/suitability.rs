//! Whether a Vault's store keeps what Holdfast builds on: tried once for a bucket and prefix, not at every look.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_api::condition::{is_true, types};
use holdfast_api::{CHECK_NOW_ANNOTATION, Vault};
use holdfast_vault::VaultError;
use kube::ResourceExt;

/// How soon a store that was refused is tried again by itself. A changed spec and the annotation that asks for a check do not
/// wait.
const AGAIN: Duration = Duration::from_secs(60 * 60);

/// Where a vault is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    endpoint: Option<String>,
    bucket: String,
    prefix: String,
}

/// What was asked for when a store was refused: the spec's generation, and the annotation that asks for a check.
type Asked = (Option<i64>, Option<String>);

#[derive(Clone, Debug)]
enum Found {
    Suitable,
    Refused { error: VaultError, asked: Asked, at: Instant },
}

/// What the checks of stores found, since the operator started.
#[derive(Debug, Default)]
pub(crate) struct Suitability(Mutex<HashMap<Place, Found>>);

/// What is known of a store.
#[derive(Debug)]
pub(super) enum Known {
    /// It was tried.
    Suitable,
    /// It was tried, and nothing has changed since.
    Refused(VaultError),
    /// It is to be tried.
    Nothing,
}

fn place(vault: &Vault) -> Place {
    let spec = &vault.spec;
    Place { endpoint: spec.endpoint.clone(), bucket: spec.bucket.clone(), prefix: spec.prefix.clone() }
}

fn asked(vault: &Vault) -> Asked {
    (vault.metadata.generation, vault.annotations().get(CHECK_NOW_ANNOTATION).cloned())
}

impl Suitability {
    /// What is known of a Vault's store, from memory or from the Vault's own status.
    pub(super) fn known(&self, vault: &Vault, now: Instant) -> Known {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place(vault)).cloned();
        match found {
            Some(Found::Suitable) => Known::Suitable,
            Some(Found::Refused { error, asked: then, at })
                if then == asked(vault) && now.saturating_duration_since(at) < AGAIN =>
            {
                Known::Refused(error)
            }
            Some(Found::Refused { .. }) => Known::Nothing,
            // An operator that starts again: this very spec was found good before.
            None => match &vault.status {
                Some(status)
                    if status.observed_generation == vault.metadata.generation
                        && is_true(&status.conditions, types::READY) =>
                {
                    Known::Suitable
                }
                _ => Known::Nothing,
            },
        }
    }

    /// Remembers what a check of a Vault's store found.
    pub(super) fn remember(&self, vault: &Vault, refused: Option<&VaultError>, now: Instant) {
        let found = match refused {
            None => Found::Suitable,
            Some(error) => Found::Refused { error: error.clone(), asked: asked(vault), at: now },
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place(vault), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::reasons;
    use holdfast_api::{Conditions, VaultStatus};
    use serde_json::json;

    fn vault(generation: i64, bucket: &str, asked: Option<&str>) -> Vault {
        let mut vault: Vault = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "namespace": "h", "generation": generation},
            "spec": {"bucket": bucket, "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}}
        }))
        .unwrap();
        vault.annotations_mut().extend(asked.map(|value| (CHECK_NOW_ANNOTATION.to_owned(), value.to_owned())));
        vault
    }

    fn word(known: &Known) -> &'static str {
        match known {
            Known::Suitable => "suitable",
            Known::Refused(_) => "refused",
            Known::Nothing => "nothing",
        }
    }

    #[test]
    fn a_store_is_tried_once_and_a_refused_one_again_when_something_changed() {
        let (memory, now) = (Suitability::default(), Instant::now());
        let known = |vault: &Vault, after: u64| word(&memory.known(vault, now + Duration::from_secs(after)));
        assert_eq!(known(&vault(1, "good", None), 0), "nothing");
        memory.remember(&vault(1, "good", None), None, now);
        assert_eq!(known(&vault(2, "good", Some("x")), 9999), "suitable");
        let error = VaultError::ConditionNotHonoured { bucket: "bad".into() };
        memory.remember(&vault(1, "bad", None), Some(&error), now);
        for (vault, after, expected) in [
            (vault(1, "bad", None), 5, "refused"),
            (vault(1, "bad", None), 3600, "nothing"),
            (vault(2, "bad", None), 5, "nothing"),
            (vault(1, "bad", Some("now")), 5, "nothing"),
            (vault(1, "other", None), 5, "nothing"),
        ] {
            assert_eq!(known(&vault, after), expected, "{:?} {after}", vault.metadata);
        }
    }

    #[test]
    fn an_operator_that_starts_again_does_not_try_a_vault_that_is_ready() {
        let mut vault = vault(3, "b", None);
        let mut conditions = Conditions::of(&[], Some(3), jiff::Timestamp::UNIX_EPOCH);
        conditions.set(types::READY, true, reasons::AVAILABLE, "");
        let status =
            VaultStatus { observed_generation: Some(3), conditions: conditions.into_vec(), ..VaultStatus::default() };
        vault.status = Some(status);
        let memory = Suitability::default();
        assert_eq!(word(&memory.known(&vault, Instant::now())), "suitable");
        vault.metadata.generation = Some(4);
        assert_eq!(word(&memory.known(&vault, Instant::now())), "nothing");
    }
}
