//! Opening a Vault object: its spec and its Secrets become a connection to the bucket.

use std::collections::HashMap;
use std::sync::Mutex;

use holdfast_api::condition::reasons;
use holdfast_api::vault::Writer;
use holdfast_api::{Vault as VaultObject, VaultSpec};
use holdfast_vault::{CredentialsSource, Identities, Proxy, Recipients, TrustedWriter, Vault, VaultConfig, WriterKey};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};

use crate::roles::TOKEN_FILE;
use crate::{Context, Error};

/// Key of a credentials Secret.
pub const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
/// Key of a credentials Secret.
pub const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
/// Key of a credentials Secret, when the keys are lent for a while.
pub const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// Key of an identity Secret.
pub const IDENTITY: &str = "identity";
/// Key of a Secret with a writer key.
pub const WRITER: &str = "writer";

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
    /// The identity opens nothing that is stored for these recipients.
    #[error(
        "Secret {secret} holds no private key of any recipient of Vault {vault}: what is stored could not be opened here. \
         Put the identity into the Secret whose public key (`holdfast keys show FILE`) is among encryption.recipients, \
         or add that public key there"
    )]
    BadIdentity {
        /// The Secret.
        secret: String,
        /// Who needs it.
        vault: String,
    },
    /// The Secret of the writer key or its key is missing.
    #[error(
        "Secret {secret} {problem}, and Vault {vault} signs with it. Create it with the key writer (a line that begins \
         with HOLDFAST-WRITER-KEY-1; `holdfast keys new writer` makes one)"
    )]
    WriterKeyMissing {
        /// The Secret.
        secret: String,
        /// What is wrong with it.
        problem: String,
        /// Who needs it.
        vault: String,
    },
    /// The Vault believes named writers only, and this site is none of them: all that it stored would not count.
    #[error(
        "Vault {vault} believes its writers only, and this site {problem}. List this site's public key under writers in \
         the Vaults of all sites"
    )]
    WriterNotListed {
        /// What is missing.
        problem: String,
        /// The object.
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
            Self::BadIdentity { .. } => reasons::BAD_IDENTITY,
            Self::WriterKeyMissing { .. } => reasons::WRITER_KEY_MISSING,
            Self::WriterNotListed { .. } => reasons::WRITER_NOT_LISTED,
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
        let credentials = match &object.spec.credentials.secret_name {
            Some(name) => self.secret(&namespace, name).await?,
            None => None,
        };
        let identity = match &object.spec.encryption.identity {
            Some(reference) => self.secret(&namespace, &reference.secret_name).await?,
            None => None,
        };
        let signing = match &object.spec.signing {
            Some(reference) => self.secret(&namespace, &reference.secret_name).await?,
            None => None,
        };
        let version = format!(
            "{:?}/{:?}/{:?}/{:?}/{:?}",
            object.uid(),
            object.metadata.generation,
            credentials.as_ref().and_then(|s| s.resource_version()),
            identity.as_ref().and_then(|s| s.resource_version()),
            signing.as_ref().and_then(|s| s.resource_version()),
        );
        let key = format!("{namespace}/{}", object.name_any());
        if let Some(access) = self.vaults.get(&key, &version) {
            return Ok(access);
        }
        let source = credentials_source(object, credentials.as_ref())?;
        let access = open(object, source, identity.as_ref(), signing.as_ref())?;
        listed(object, &access.vault)?;
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

/// A Vault of a cluster, opened for a person's command.
#[derive(Clone)]
pub struct ClusterVault {
    /// How it was opened.
    pub config: VaultConfig,
    /// The open vault.
    pub access: VaultAccess,
}

/// Opens a Vault with the rights of whoever asks the cluster: reads the object and its Secrets. `endpoint` takes the place
/// of the object's own, which may be a name that only the cluster knows.
///
/// # Errors
/// [`Error::Vault`] says what is missing; [`Error::Kube`].
pub async fn from_cluster(
    client: &Client,
    namespace: &str,
    name: &str,
    endpoint: Option<&str>,
) -> Result<ClusterVault, Error> {
    let objects: Api<VaultObject> = Api::namespaced(client.clone(), namespace);
    let found = objects.get_opt(name).await.map_err(Error::kube(format!("read Vault {namespace}/{name}")))?;
    let mut object = found.ok_or_else(|| VaultAccessError::NotFound { vault: format!("{namespace}/{name}") })?;
    if let Some(endpoint) = endpoint {
        object.spec.endpoint = Some(endpoint.to_owned());
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret =
        async |name: &str| secrets.get_opt(name).await.map_err(Error::kube(format!("read Secret {namespace}/{name}")));
    let credentials = match &object.spec.credentials.secret_name {
        Some(name) => Some(credential_keys(&object, name, secret(name).await?.as_ref())?),
        None => None,
    };
    // A person has no token of the cluster's. Who may take the role says the environment, as the AWS tools read it.
    let credentials = credentials.unwrap_or(CredentialsSource::Environment);
    let identity = match &object.spec.encryption.identity {
        Some(reference) => secret(&reference.secret_name).await?,
        None => None,
    };
    let signing = match &object.spec.signing {
        Some(reference) => secret(&reference.secret_name).await?,
        None => None,
    };
    let access = open(&object, credentials.clone(), identity.as_ref(), signing.as_ref())?;
    let config = vault_config(&object.spec, credentials).map_err(|message| invalid_endpoint(&object, message))?;
    Ok(ClusterVault { config, access })
}

/// The configuration that reaches the bucket of this spec with these credentials.
///
/// # Errors
/// When the endpoint is not a URL, or a writer's key is none.
pub fn vault_config(spec: &VaultSpec, credentials: CredentialsSource) -> Result<VaultConfig, String> {
    let endpoint = match &spec.endpoint {
        Some(text) => Some(
            text.parse().map_err(|e| format!("endpoint {text} is not a URL ({e}). Write it as https://host:port"))?,
        ),
        None => None,
    };
    Ok(VaultConfig {
        url: None,
        endpoint,
        region: spec.region.clone(),
        bucket: spec.bucket.clone(),
        prefix: spec.prefix.clone(),
        retention_days: spec.retention_days,
        chunk_retention_days: spec.chunk_retention_days(),
        credentials,
        ca_bundle: spec.tls.as_ref().map(|tls| tls.ca_bundle.clone()),
        writers: spec.writers.iter().map(trusted).collect::<Result<_, _>>()?,
        proxy: spec.proxy.as_ref().map(proxy).transpose()?,
        writer_key_file: None,
    })
}

fn proxy(proxy: &holdfast_api::vault::Proxy) -> Result<Proxy, String> {
    let url = &proxy.url;
    let url = url.parse().map_err(|e| format!("proxy {url} is not a URL ({e}). Write it as http://host:port"))?;
    Ok(Proxy { url, no_proxy: proxy.no_proxy.clone() })
}

fn trusted(writer: &Writer) -> Result<TrustedWriter, String> {
    let public_key = writer.public_key.parse().map_err(|e| format!("writer {}: {e}", writer.name))?;
    Ok(TrustedWriter { name: writer.name.clone(), public_key, not_after: writer.not_after })
}

fn open(
    object: &VaultObject,
    credentials: CredentialsSource,
    identity: Option<&Secret>,
    signing: Option<&Secret>,
) -> Result<VaultAccess, VaultAccessError> {
    let invalid = |reason, message| VaultAccessError::Invalid { reason, vault: named(object), message };
    let config = vault_config(&object.spec, credentials).map_err(|m| invalid(reasons::INVALID_SPEC, m))?;
    let mut vault = Vault::open(config).map_err(|e| invalid(crate::vault::reason(&e), e.to_string()))?;
    if let Some(key) = writer_key(object, signing)? {
        vault = vault.with_writer_key(key);
    }
    let recipients = Recipients::parse(&object.spec.encryption.recipients)
        .map_err(|e| invalid(reasons::BAD_RECIPIENT, e.to_string()))?;
    let identities = match &object.spec.encryption.identity {
        Some(reference) => Some(identities(object, &reference.secret_name, identity)?),
        None => None,
    };
    if let (Some(identities), Some(reference)) = (&identities, &object.spec.encryption.identity)
        && !identities.open_for(&recipients)
    {
        let secret = format!("{}/{}", object.namespace().unwrap_or_default(), reference.secret_name);
        return Err(VaultAccessError::BadIdentity { secret, vault: named(object) });
    }
    Ok(VaultAccess { vault, recipients, identities })
}

/// Where the operator's own credentials for this Vault come from.
fn credentials_source(object: &VaultObject, secret: Option<&Secret>) -> Result<CredentialsSource, VaultAccessError> {
    let invalid = |message| invalid_endpoint(object, message);
    match (&object.spec.credentials.secret_name, web_identity(&object.spec).map_err(invalid)?) {
        (Some(name), None) => credential_keys(object, name, secret),
        (None, Some(web_identity)) => Ok(web_identity),
        _ => Err(invalid("credentials are either secretName or webIdentity".to_owned())),
    }
}

/// The role of this spec, taken with the token that the pod finds at [`TOKEN_FILE`]; none when the spec names no role.
///
/// # Errors
/// When the endpoint of the STS is not a URL.
pub fn web_identity(spec: &VaultSpec) -> Result<Option<CredentialsSource>, String> {
    let Some(web) = &spec.credentials.web_identity else { return Ok(None) };
    let endpoint = |text: &String| text.parse().map_err(|e| format!("stsEndpoint {text} is not a URL ({e})"));
    Ok(Some(CredentialsSource::WebIdentity {
        role_arn: web.role_arn.clone(),
        token_file: TOKEN_FILE.into(),
        sts_endpoint: web.sts_endpoint.as_ref().map(endpoint).transpose()?,
    }))
}

fn credential_keys(
    object: &VaultObject,
    name: &str,
    secret: Option<&Secret>,
) -> Result<CredentialsSource, VaultAccessError> {
    let missing = |problem: String| VaultAccessError::CredentialsMissing {
        secret: format!("{}/{name}", object.namespace().unwrap_or_default()),
        problem,
        vault: named(object),
    };
    let value = |key: &str| secret_text(secret, key).map_err(missing);
    let (access_key_id, secret_access_key) = (value(ACCESS_KEY_ID)?, value(SECRET_ACCESS_KEY)?);
    let is_lent = secret.and_then(|secret| secret.data.as_ref()).is_some_and(|data| data.contains_key(SESSION_TOKEN));
    Ok(match is_lent {
        true => CredentialsSource::Temporary { access_key_id, secret_access_key, session_token: value(SESSION_TOKEN)? },
        false => CredentialsSource::Static { access_key_id, secret_access_key },
    })
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

fn writer_key(object: &VaultObject, secret: Option<&Secret>) -> Result<Option<WriterKey>, VaultAccessError> {
    let Some(reference) = &object.spec.signing else { return Ok(None) };
    let missing = |problem: String| VaultAccessError::WriterKeyMissing {
        secret: format!("{}/{}", object.namespace().unwrap_or_default(), reference.secret_name),
        problem,
        vault: named(object),
    };
    let text = secret_text(secret, WRITER).map_err(missing)?;
    WriterKey::parse(&text).map(Some).map_err(|e| missing(format!("cannot be used ({e})")))
}

/// What a site that is not listed stored, nobody would believe: better said now than at the first failover. Whether its
/// key is revoked, the store's time decides when something is written.
fn listed(object: &VaultObject, vault: &Vault) -> Result<(), VaultAccessError> {
    let (trust, key) = (vault.trust(), vault.writer_key().ok().flatten());
    let problem = match key.as_ref().map(WriterKey::public) {
        _ if trust.is_anyone() => return Ok(()),
        Some(public) if trust.entry(public).is_some() => return Ok(()),
        Some(public) => format!("signs with {public}, which is none of them"),
        None => "has no writer key (signing is not set)".to_owned(),
    };
    Err(VaultAccessError::WriterNotListed { problem, vault: named(object) })
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

    fn secret(key: &str, value: &str) -> Secret {
        let data = [(key.to_owned(), ByteString(value.as_bytes().to_vec()))];
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    /// The reason of what is wrong, or that nothing is.
    fn opened(spec: serde_json::Value, identity: Option<&Secret>, signing: Option<&Secret>) -> String {
        let mut all = serde_json::json!({"endpoint": "http://s3:8333", "bucket": "b00", "retentionDays": 7,
            "credentials": {"secretName": "keys"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = VaultObject::new("v", serde_json::from_value(all).unwrap());
        let mut keys = secret(ACCESS_KEY_ID, "id");
        keys.data.as_mut().unwrap().extend(secret(SECRET_ACCESS_KEY, "secret").data.unwrap());
        let access = credentials_source(&object, Some(&keys))
            .and_then(|source| open(&object, source, identity, signing))
            .and_then(|access| listed(&object, &access.vault).map(|()| access));
        access.map_or_else(|error| error.reason().to_owned(), |_| "sound".to_owned())
    }

    #[test]
    fn an_identity_that_opens_nothing_is_found_at_set_up() {
        let ((own, recipient), (stranger, _)) =
            (holdfast_vault::generate_identity(), holdfast_vault::generate_identity());
        let spec = serde_json::json!({"encryption": {"recipients": [recipient], "identity": {"secretName": "i"}}});
        let cases = [
            (Some(own.clone()), "sound"),
            (Some(stranger.clone()), reasons::BAD_IDENTITY),
            // After a rotation the old one stays beside the new one.
            (Some(format!("{stranger}\n{own}\n")), "sound"),
            (None, reasons::IDENTITY_MISSING),
        ];
        for (identity, expected) in cases {
            let identity = identity.map(|text| secret(IDENTITY, &text));
            assert_eq!(opened(spec.clone(), identity.as_ref(), None), expected);
        }
    }

    #[test]
    fn a_site_that_nobody_would_believe_is_found_at_set_up() {
        let (own, other) = (WriterKey::generate(), WriterKey::generate());
        let (_, recipient) = holdfast_vault::generate_identity();
        let spec = |writers: &[&WriterKey], signs: bool| {
            let entry = |(n, key): (usize, &&WriterKey)| serde_json::json!({"name": format!("w{n}"), "publicKey": key.public()});
            let writers: Vec<_> = writers.iter().enumerate().map(entry).collect();
            let signing = signs.then(|| serde_json::json!({"secretName": "w"}));
            serde_json::json!({"encryption": {"recipients": [recipient]}, "writers": writers, "signing": signing})
        };
        let key = secret(WRITER, &own.secret());
        let cases = [
            (spec(&[], false), None, "sound"),
            (spec(&[], true), Some(&key), "sound"),
            (spec(&[&other, &own], true), Some(&key), "sound"),
            (spec(&[&other], true), Some(&key), reasons::WRITER_NOT_LISTED),
            (spec(&[&own], false), None, reasons::WRITER_NOT_LISTED),
            (spec(&[&own], true), None, reasons::WRITER_KEY_MISSING),
        ];
        for (spec, signing, expected) in cases {
            assert_eq!(opened(spec.clone(), None, signing), expected, "{spec}");
        }
        let nonsense = serde_json::json!({"encryption": {"recipients": [recipient]},
            "writers": [{"name": "w", "publicKey": "holdfast-writer1nonsense"}]});
        assert_eq!(opened(nonsense, None, None), reasons::INVALID_SPEC);
    }

    #[test]
    fn credentials_are_keys_lent_keys_or_a_role() {
        let spec = |credentials: serde_json::Value| {
            let spec = serde_json::json!({"bucket": "b00", "retentionDays": 7, "credentials": credentials,
                "encryption": {"recipients": ["age1x"]}, "proxy": {"url": "http://proxy:3128", "noProxy": [".lan"]}});
            VaultObject::new("v", serde_json::from_value(spec).unwrap())
        };
        let mut keys = secret(ACCESS_KEY_ID, "id");
        keys.data.as_mut().unwrap().extend(secret(SECRET_ACCESS_KEY, "s").data.unwrap());
        let by_secret = spec(serde_json::json!({"secretName": "keys"}));
        let found = credentials_source(&by_secret, Some(&keys)).unwrap();
        assert!(matches!(found, CredentialsSource::Static { .. }), "{found:?}");
        keys.data.as_mut().unwrap().extend(secret(SESSION_TOKEN, "t").data.unwrap());
        let found = credentials_source(&by_secret, Some(&keys)).unwrap();
        assert!(
            matches!(&found, CredentialsSource::Temporary { session_token, .. } if session_token == "t"),
            "{found:?}"
        );
        keys.data.as_mut().unwrap().extend(secret(SESSION_TOKEN, " ").data.unwrap());
        let error = credentials_source(&by_secret, Some(&keys)).unwrap_err();
        assert!(error.to_string().contains("has an empty key AWS_SESSION_TOKEN"), "{error}");

        let role = serde_json::json!({"roleArn": "arn:aws:iam::1:role/w", "stsEndpoint": "http://sts:1/"});
        let by_role = spec(serde_json::json!({"webIdentity": role}));
        let found = credentials_source(&by_role, None).unwrap();
        let CredentialsSource::WebIdentity { role_arn, token_file, sts_endpoint } = &found else { panic!("{found:?}") };
        assert_eq!(
            (role_arn.as_str(), token_file.as_path()),
            ("arn:aws:iam::1:role/w", std::path::Path::new(TOKEN_FILE))
        );
        assert_eq!(sts_endpoint.as_ref().unwrap().as_str(), "http://sts:1/");
        let config = vault_config(&by_role.spec, found).unwrap();
        let proxy = config.proxy.unwrap();
        assert_eq!((proxy.url.as_str(), proxy.no_proxy), ("http://proxy:3128/", vec![".lan".to_owned()]));
        let neither = credentials_source(&spec(serde_json::json!({})), None).unwrap_err();
        assert_eq!(neither.reason(), reasons::INVALID_SPEC);
    }

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
