//! Opening a Vault object: its spec and its Secrets become a connection to the bucket.

use std::collections::HashMap;
use std::sync::Mutex;

use holdfast_api::condition::reasons;
use holdfast_api::{Vault as VaultObject, VaultSpec};
use holdfast_vault::{CredentialsSource, Identities, Recipients, Vault, VaultConfig};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::{Context, Error};

/// Key of a credentials Secret.
pub const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
/// Key of a credentials Secret.
pub const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
/// Key of an identity Secret.
pub const IDENTITY: &str = "identity";

/// Why a Vault cannot be opened. Objects are named as `namespace/name`.
#[derive(Debug, thiserror::Error)]
pub enum VaultAccessError {
    /// The object does not exist.
    #[error("there is no Vault {vault}. Create it, or correct the name that refers to it")]
    NotFound {
        /// Which one was looked for.
        vault: String,
    },
    /// The Secret of the credentials or a key in it is missing.
    #[error(
        "Secret {secret} {problem}, and Vault {vault} needs it. Create it with the keys AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    CredentialsMissing {
        /// The Secret.
        secret: String,
        /// What is wrong with it.
        problem: String,
        /// Who needs it.
        vault: String,
    },
    /// The Secret of the identity or its key is missing.
    #[error(
        "Secret {secret} {problem}, and Vault {vault} needs it. Create it with the key identity (a line that begins \
         with AGE-SECRET-KEY-1)"
    )]
    IdentityMissing {
        /// The Secret.
        secret: String,
        /// What is wrong with it.
        problem: String,
        /// Who needs it.
        vault: String,
    },
    /// The Vault names no identity, and something here has to decrypt.
    #[error(
        "Vault {vault} has no encryption.identity, so nothing can be decrypted here. Name the Secret that holds the \
         private key of one recipient"
    )]
    NoIdentity {
        /// The object.
        vault: String,
    },
    /// The spec says something that cannot be.
    #[error("Vault {vault}: {message}")]
    Invalid {
        /// The reason for a condition.
        reason: &'static str,
        /// The object.
        vault: String,
        /// What is wrong and what to do.
        message: String,
    },
}

impl VaultAccessError {
    /// The reason for a condition or an event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => reasons::VAULT_NOT_FOUND,
            Self::CredentialsMissing { .. } => reasons::CREDENTIALS_MISSING,
            Self::IdentityMissing { .. } | Self::NoIdentity { .. } => reasons::IDENTITY_MISSING,
            Self::Invalid { reason, .. } => reason,
        }
    }

    /// This Vault names no private key.
    pub fn no_identity(object: &VaultObject) -> Self {
        Self::NoIdentity { vault: named(object) }
    }
}

/// `namespace/name`.
fn named(object: &VaultObject) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// An open vault.
#[derive(Clone)]
pub struct VaultAccess {
    /// The connection to the bucket.
    pub vault: Vault,
    /// To whom everything is encrypted.
    pub recipients: Recipients,
    /// The site's private keys, when it has them.
    pub identities: Option<Identities>,
}

/// Open vaults by namespace and name. One is opened anew when its spec or its Secrets change.
#[derive(Default)]
pub(crate) struct VaultCache(Mutex<HashMap<String, (String, VaultAccess)>>);

impl Context {
    /// The connection to the bucket of a Vault.
    ///
    /// # Errors
    /// [`Error::Vault`] says what is missing; [`Error::Kube`].
    pub async fn vault(&self, namespace: &str, name: &str) -> Result<Vault, Error> {
        Ok(self.open_vault(namespace, name).await?.vault)
    }

    /// The private keys of a Vault, for what reads it.
    ///
    /// # Errors
    /// [`Error::Vault`] when this site has none; [`Error::Kube`].
    pub async fn vault_identities(&self, namespace: &str, name: &str) -> Result<Identities, Error> {
        let object = self.vault_object(namespace, name)?;
        let access = self.open_vault_object(&object).await?;
        Ok(access.identities.ok_or_else(|| VaultAccessError::no_identity(&object))?)
    }

    /// Opens a Vault: reads the object (from the store) and its Secrets (from the API server).
    ///
    /// # Errors
    /// [`Error::Vault`] says what is missing; [`Error::Kube`].
    pub async fn open_vault(&self, namespace: &str, name: &str) -> Result<VaultAccess, Error> {
        let object = self.vault_object(namespace, name)?;
        self.open_vault_object(&object).await
    }

    /// The Vault object, as last watched.
    ///
    /// # Errors
    /// [`VaultAccessError::NotFound`].
    pub fn vault_object(&self, namespace: &str, name: &str) -> Result<std::sync::Arc<VaultObject>, VaultAccessError> {
        let reference = ObjectRef::new(name).within(namespace);
        self.stores
            .vaults
            .get(&reference)
            .ok_or_else(|| VaultAccessError::NotFound { vault: format!("{namespace}/{name}") })
    }

    /// Opens the vault of this very object.
    ///
    /// # Errors
    /// [`Error::Vault`] says what is missing; [`Error::Kube`].
    pub async fn open_vault_object(&self, object: &VaultObject) -> Result<VaultAccess, Error> {
        let namespace = object.namespace().unwrap_or_default();
        let credentials = self.secret(&namespace, &object.spec.credentials.secret_name).await?;
        let identity = match &object.spec.encryption.identity {
            Some(reference) => self.secret(&namespace, &reference.secret_name).await?,
            None => None,
        };
        let version = format!(
            "{:?}/{:?}/{:?}/{:?}",
            object.uid(),
            object.metadata.generation,
            credentials.as_ref().and_then(|s| s.resource_version()),
            identity.as_ref().and_then(|s| s.resource_version()),
        );
        let key = format!("{namespace}/{}", object.name_any());
        if let Some(access) = self.vaults.get(&key, &version) {
            return Ok(access);
        }
        let access = open(object, credentials.as_ref(), identity.as_ref())?;
        self.vaults.put(key, version, access.clone());
        Ok(access)
    }

    /// A Secret, if it exists.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
        self.api::<Secret>(namespace)
            .get_opt(name)
            .await
            .map_err(Error::kube(format!("read Secret {namespace}/{name}")))
    }
}

impl VaultCache {
    fn get(&self, key: &str, version: &str) -> Option<VaultAccess> {
        let open = self.0.lock().unwrap_or_else(|e| e.into_inner());
        open.get(key).filter(|(v, _)| v == version).map(|(_, access)| access.clone())
    }

    fn put(&self, key: String, version: String, access: VaultAccess) {
        let mut open = self.0.lock().unwrap_or_else(|e| e.into_inner());
        open.insert(key, (version, access));
    }
}

/// The configuration that reaches the bucket of this spec with these credentials.
///
/// # Errors
/// When the endpoint is not a URL.
pub fn vault_config(spec: &VaultSpec, credentials: CredentialsSource) -> Result<VaultConfig, String> {
    let endpoint = match &spec.endpoint {
        Some(text) => Some(
            text.parse().map_err(|e| format!("endpoint {text} is not a URL ({e}). Write it as https://host:port"))?,
        ),
        None => None,
    };
    Ok(VaultConfig {
        endpoint,
        region: spec.region.clone(),
        bucket: spec.bucket.clone(),
        prefix: spec.prefix.clone(),
        retention_days: spec.retention_days,
        credentials,
    })
}

fn open(
    object: &VaultObject,
    credentials: Option<&Secret>,
    identity: Option<&Secret>,
) -> Result<VaultAccess, VaultAccessError> {
    let invalid = |reason, message| VaultAccessError::Invalid { reason, vault: named(object), message };
    let keys = credential_keys(object, credentials)?;
    let config = vault_config(&object.spec, keys).map_err(|m| invalid(reasons::INVALID_SPEC, m))?;
    let vault = Vault::open(config).map_err(|e| invalid(reasons::INVALID_SPEC, e.to_string()))?;
    let recipients = Recipients::parse(&object.spec.encryption.recipients)
        .map_err(|e| invalid(reasons::BAD_RECIPIENT, e.to_string()))?;
    let identities = match &object.spec.encryption.identity {
        Some(reference) => Some(identities(object, &reference.secret_name, identity)?),
        None => None,
    };
    Ok(VaultAccess { vault, recipients, identities })
}

fn credential_keys(object: &VaultObject, secret: Option<&Secret>) -> Result<CredentialsSource, VaultAccessError> {
    let name = &object.spec.credentials.secret_name;
    let missing = |problem: String| VaultAccessError::CredentialsMissing {
        secret: format!("{}/{name}", object.namespace().unwrap_or_default()),
        problem,
        vault: named(object),
    };
    let value = |key: &str| secret_text(secret, key).map_err(missing);
    Ok(CredentialsSource::Static { access_key_id: value(ACCESS_KEY_ID)?, secret_access_key: value(SECRET_ACCESS_KEY)? })
}

fn identities(object: &VaultObject, name: &str, secret: Option<&Secret>) -> Result<Identities, VaultAccessError> {
    let missing = |problem: String| VaultAccessError::IdentityMissing {
        secret: format!("{}/{name}", object.namespace().unwrap_or_default()),
        problem,
        vault: named(object),
    };
    let text = secret_text(secret, IDENTITY).map_err(missing)?;
    Identities::parse(&text).map_err(|e| missing(format!("cannot be used ({e})")))
}

/// The endpoint of this Vault is not a URL.
pub fn invalid_endpoint(object: &VaultObject, message: String) -> VaultAccessError {
    VaultAccessError::Invalid { reason: reasons::INVALID_SPEC, vault: named(object), message }
}

/// The value of a key of a Secret as text without surrounding white space, or what is wrong with it.
///
/// # Errors
/// A phrase that follows "Secret NAME": `does not exist`, `has no key X`, ...
pub fn secret_text(secret: Option<&Secret>, key: &str) -> Result<String, String> {
    let secret = secret.ok_or_else(|| "does not exist".to_owned())?;
    let value = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| format!("has no key {key}"))?;
    let text = String::from_utf8(value.0.clone()).map_err(|_| format!("has a key {key} that is not text"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("has an empty key {key}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_secret_says_what_is_wrong_with_it() {
        let data = [("a", &b" x \n"[..]), ("empty", b" "), ("binary", &[0xff])];
        let secret = Secret {
            data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.to_vec()))).collect()),
            ..Secret::default()
        };
        assert_eq!(secret_text(Some(&secret), "a"), Ok("x".into()));
        let cases = [
            ("b", "has no key b"),
            ("empty", "has an empty key empty"),
            ("binary", "has a key binary that is not text"),
        ];
        for (key, problem) in cases {
            assert_eq!(secret_text(Some(&secret), key), Err(problem.into()));
        }
        assert_eq!(secret_text(None, "a"), Err("does not exist".into()));
    }
}
