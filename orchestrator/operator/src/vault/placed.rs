//! Whether a private key stands where it should not, as a condition.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{Conditions, Vault};
use kube::ResourceExt;

use crate::Context;

/// What this site does with a Vault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Users {
    /// Its ProtectedDatabases, by name.
    protects: Vec<String>,
    /// It has StandbyDatabases, which are restored and fed with the private key.
    follows: bool,
}

/// Who uses the Vault here; none while not everything was listed: who is missing then may exist all the same.
pub(super) fn users(vault: &Vault, ctx: &Context) -> Option<Users> {
    if !ctx.stores.were_listed() {
        return None;
    }
    let (namespace, name) = (vault.namespace(), vault.name_any());
    let databases = ctx.stores.protected_databases.state();
    let here = databases.iter().filter(|one| one.namespace() == namespace && one.spec.vault.name == name);
    let mut protects: Vec<String> = here.map(|one| one.name_any()).collect();
    protects.sort();
    let standbys = ctx.stores.standby_databases.state();
    let follows = standbys.iter().any(|one| one.namespace() == namespace && one.spec.vault.name == name);
    Some(Users { protects, follows })
}

/// Whoever takes over a site that protects databases must find nothing there that opens the vault. A site that follows
/// databases needs the key, also when it protects others, or protects them itself since a failover.
pub(super) fn set(conditions: &mut Conditions, vault: &Vault, users: &Users) {
    let Some(identity) = &vault.spec.encryption.identity else {
        let message = "no private key is named here";
        conditions.set(types::KEYS_APART, true, reasons::NO_NEEDLESS_KEY, message);
        return;
    };
    if users.follows || users.protects.is_empty() {
        let message = match users.follows {
            true => "the private key is needed here: StandbyDatabases are restored and fed with it",
            false => "this site protects no database with this Vault",
        };
        conditions.set(types::KEYS_APART, true, reasons::NO_NEEDLESS_KEY, message);
        return;
    }
    let message = format!(
        "this site protects {} and has no StandbyDatabase with this Vault, and Secret {} holds a private key: whoever takes \
         this site over can read all that is stored. To do: remove encryption.identity from this Vault and delete the Secret \
         here; if others may have read it, replace the key (`holdfast keys rotate age`)",
        users.protects.join(", "),
        identity.secret_name
    );
    conditions.set(types::KEYS_APART, false, reasons::KEY_AT_PRIMARY, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::condition::find;
    use serde_json::json;

    fn verdict(identity: bool, protects: &[&str], follows: bool) -> (bool, String) {
        let identity = identity.then(|| json!({"secretName": "holdfast-identity"}));
        let vault: Vault = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v"},
            "spec": {"bucket": "b00", "retentionDays": 1, "credentials": {"secretName": "c"},
                "encryption": {"recipients": ["age1x"], "identity": identity}}
        }))
        .unwrap();
        let mut conditions = Conditions::of(&[], None, jiff::Timestamp::UNIX_EPOCH);
        let protects = protects.iter().map(|name| (*name).to_owned()).collect();
        set(&mut conditions, &vault, &Users { protects, follows });
        let conditions = conditions.into_vec();
        let found = find(&conditions, types::KEYS_APART).unwrap();
        (found.is_warning(), found.message.clone())
    }

    #[test]
    fn a_private_key_beside_the_databases_is_a_warning_unless_the_site_needs_it() {
        let (warning, message) = verdict(true, &["billing", "registration"], false);
        assert!(warning);
        for part in ["billing, registration", "holdfast-identity", "To do: remove encryption.identity"] {
            assert!(message.contains(part), "{part} in {message}");
        }
        for (identity, protects, follows) in [
            (false, &["registration"][..], false),
            // The standby site, before a failover and after it.
            (true, &[], true),
            (true, &["registration"], true),
            // A Vault that nothing uses yet.
            (true, &[], false),
        ] {
            assert!(!verdict(identity, protects, follows).0, "{identity} {protects:?} {follows}");
        }
    }
}
