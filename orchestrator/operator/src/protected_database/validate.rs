//! Whether what a ProtectedDatabase asks for can be done. Pure.

use std::sync::Arc;

use holdfast_api::condition::{ConditionStatus, find, reasons, types};
use holdfast_api::{ProtectedDatabase, Vault};
use kube::ResourceExt;

use super::observe::Observed;
use crate::claims::Claimant;
use crate::vault_access::VaultAccessError;

/// Why it cannot be done: the reason and the message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// The Vault to write to, or what is wrong.
pub(crate) fn validate(database: &ProtectedDatabase, observed: &Observed) -> Result<Arc<Vault>, Fault> {
    let vault = usable_vault(&observed.vault, observed.is_new)?;
    if let Some(problem) = &observed.secret_problem {
        let namespace = database.namespace().unwrap_or_default();
        let secret = &database.spec.connection.credentials.secret_name;
        return Err(Fault::new(
            reasons::CREDENTIALS_MISSING,
            format!(
                "Secret {namespace}/{secret} {problem}. Create it with the keys username and password of a role \
                 that has REPLICATION"
            ),
        ));
    }
    let me = Claimant::of(database);
    if let Some(winner) = me.loses_to(&observed.same_place) {
        return Err(Fault::new(
            reasons::NAME_TAKEN,
            format!(
                "{} already writes under the name {} in this vault; two databases under one name would fence each \
                 other. Delete this object, or create it again with another spec.name",
                winner.object,
                database.vault_name()
            ),
        ));
    }
    lost_name(&me, &observed.same_name).map_or(Ok(vault), Err)
}

/// The fault of an object whose parts would have the names of another object's parts.
pub(crate) fn lost_name(me: &Claimant, same_name: &[Claimant]) -> Option<Fault> {
    let winner = me.loses_to(same_name)?;
    Some(Fault::new(
        reasons::NAME_TAKEN,
        format!(
            "{} has the same name, and both would make a Deployment of the same name. Delete one of them, or \
             create one again under another name (spec.name or spec.source keeps its name in the vault)",
            winner.object
        ),
    ))
}

/// The Vault, when it exists and was found well. Who has just been created may be waiting for a Vault that comes
/// next in the same file.
pub(crate) fn usable_vault(vault: &Result<Arc<Vault>, VaultAccessError>, is_new: bool) -> Result<Arc<Vault>, Fault> {
    let vault = match vault {
        Ok(vault) => vault,
        Err(error @ VaultAccessError::NotFound { .. }) if is_new => {
            return Err(Fault::new(reasons::CHECKING, error.to_string()));
        }
        Err(error) => return Err(Fault::new(error.reason(), error.to_string())),
    };
    let name = vault.name_any();
    let conditions = vault.status.as_ref().map(|s| s.conditions.as_slice());
    match conditions.and_then(|c| find(c, types::READY)) {
        Some(ready) if ready.status == ConditionStatus::True => Ok(vault.clone()),
        Some(ready) => {
            Err(Fault::new(reasons::VAULT_NOT_READY, format!("Vault {name} is not ready: {}", ready.message)))
        }
        None => Err(Fault::new(reasons::CHECKING, format!("Vault {name} is being checked"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::RoleError;
    use serde_json::json;

    fn database() -> ProtectedDatabase {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ProtectedDatabase",
            "metadata": {"name": "lab", "namespace": "hospital", "uid": "u2", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:10Z"},
            "spec": {"vault": {"name": "v"},
                "connection": {"host": "lab", "credentials": {"secretName": "lab-db"}}}
        }))
        .unwrap()
    }

    fn vault(ready: Option<&str>) -> Arc<Vault> {
        let mut vault = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "namespace": "hospital"},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"]}}
        });
        if let Some(status) = ready {
            vault["status"] = json!({"conditions": [{"type": "Ready", "status": status, "reason": "R",
                "message": "no bucket", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        }
        Arc::new(serde_json::from_value(vault).unwrap())
    }

    fn observed(vault: Result<Arc<Vault>, VaultAccessError>) -> Observed {
        Observed {
            vault,
            secret_problem: None,
            same_place: vec![Claimant::of(&database())],
            same_name: Vec::new(),
            is_new: false,
            agent: Err(RoleError::NotRunning { message: String::new(), is_stuck: false }),
        }
    }

    fn reason(observed: &Observed) -> String {
        validate(&database(), observed).map_or_else(|f| f.reason, |_| "sound".to_owned())
    }

    #[test]
    fn the_vault_must_be_there_and_ready() {
        let missing = VaultAccessError::NotFound { vault: "hospital/v".into() };
        let cases = [
            (Ok(vault(Some("True"))), "sound"),
            (Ok(vault(Some("False"))), reasons::VAULT_NOT_READY),
            (Ok(vault(None)), reasons::CHECKING),
            (Err(missing), reasons::VAULT_NOT_FOUND),
        ];
        for (vault, expected) in cases {
            assert_eq!(reason(&observed(vault)), expected);
        }
    }

    #[test]
    fn a_vault_may_come_a_moment_after_the_database() {
        let mut observed = observed(Err(VaultAccessError::NotFound { vault: "hospital/v".into() }));
        observed.is_new = true;
        assert_eq!(reason(&observed), reasons::CHECKING);
    }

    #[test]
    fn the_secret_must_be_usable() {
        let mut observed = observed(Ok(vault(Some("True"))));
        observed.secret_problem = Some("has no key password".into());
        let fault = validate(&database(), &observed).unwrap_err();
        assert_eq!(fault.reason, reasons::CREDENTIALS_MISSING);
        assert!(fault.message.starts_with("Secret hospital/lab-db has no key password."));
    }

    #[test]
    fn the_older_object_keeps_the_name() {
        let older = Claimant { created: 0, uid: "u1".into(), object: "ProtectedDatabase other/lab".into() };
        let mut rival = observed(Ok(vault(Some("True"))));
        rival.same_place.push(older.clone());
        let fault = validate(&database(), &rival).unwrap_err();
        assert_eq!(fault.reason, reasons::NAME_TAKEN);
        assert!(fault.message.starts_with("ProtectedDatabase other/lab already writes under the name lab"));

        let mut namesake = observed(Ok(vault(Some("True"))));
        namesake.same_name.push(older);
        assert_eq!(reason(&namesake), reasons::NAME_TAKEN);
    }
}
