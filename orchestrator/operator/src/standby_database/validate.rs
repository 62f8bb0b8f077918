//! Whether what a StandbyDatabase asks for can be done. Pure.

use std::sync::Arc;

use holdfast_api::condition::reasons;
use holdfast_api::{StandbyDatabase, Vault};
use kube::ResourceExt;

use super::observe::Observed;
use crate::claims::Claimant;
use crate::protected_database::{Fault, lost_name, usable_vault};

/// The Vault to restore from, or what is wrong.
pub(crate) fn validate(standby: &StandbyDatabase, observed: &Observed) -> Result<Arc<Vault>, Fault> {
    let vault = usable_vault(&observed.vault, observed.is_new)?;
    if vault.spec.encryption.identity.is_none() {
        return Err(Fault::new(
            reasons::IDENTITY_MISSING,
            format!(
                "Vault {} has no encryption.identity, so nothing can be decrypted here. Name the Secret that \
                 holds the private key of one recipient",
                vault.name_any()
            ),
        ));
    }
    if let Some(problem) = &observed.secret_problem {
        let namespace = standby.namespace().unwrap_or_default();
        let secret = &standby.spec.credentials.secret_name;
        return Err(Fault::new(
            reasons::CREDENTIALS_MISSING,
            format!(
                "Secret {namespace}/{secret} {problem}. Create it with the keys username and password of a role \
                 of the source"
            ),
        ));
    }
    if let Some(problem) = &observed.nothing_to_restore {
        return Err(Fault::new(&problem.code, problem.text()));
    }
    lost_name(&Claimant::of(standby), &observed.same_name).map_or(Ok(vault), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standby_database::status::tests::{observed, problem, standby};
    use crate::vault_access::VaultAccessError;

    fn reason(change: impl FnOnce(&mut Observed)) -> String {
        let mut observed = observed();
        change(&mut observed);
        validate(&standby(), &observed).map_or_else(|f| f.reason, |_| "sound".to_owned())
    }

    #[test]
    fn each_fault_has_its_reason() {
        assert_eq!(reason(|_| {}), "sound");
        assert_eq!(reason(|o| o.secret_problem = Some("does not exist".into())), reasons::CREDENTIALS_MISSING);
        assert_eq!(
            reason(|o| o.nothing_to_restore = Some(problem("NothingToRestoreFrom"))),
            reasons::NOTHING_TO_RESTORE_FROM
        );
        let no_vault = VaultAccessError::NotFound { vault: "hospital/v".into() };
        assert_eq!(reason(|o| o.vault = Err(no_vault)), reasons::VAULT_NOT_FOUND);
        let no_identity = |o: &mut Observed| {
            if let Ok(vault) = &mut o.vault {
                Arc::make_mut(vault).spec.encryption.identity = None;
            }
        };
        assert_eq!(reason(no_identity), reasons::IDENTITY_MISSING);
        let namesake = Claimant { created: 0, uid: "u0".into(), object: "ProtectedDatabase hospital/lab".into() };
        assert_eq!(reason(|o| o.same_name.push(namesake)), reasons::NAME_TAKEN);
    }
}
