//! Where credentials come from: files, the environment, a web identity. All but given keys may rotate.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider};

use super::tls::Connections;
use super::web_identity::WebIdentity;
use crate::config::{CredentialsSource, VaultConfig};
use crate::error::VaultError;

/// How long credentials from files are used before they are read again.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(60);
/// No file of credentials is longer.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// The provider for a vault's source of credentials. What is missing is better said now than by the first request.
pub(super) fn provider(
    config: &VaultConfig,
    connections: &Connections,
) -> Result<SharedCredentialsProvider, VaultError> {
    let missing = |detail| VaultError::BadCredentials { bucket: config.bucket.clone(), detail };
    let web = |role_arn: String, token_file: PathBuf, endpoint: Option<String>| {
        let endpoint = endpoint.unwrap_or_else(|| format!("https://sts.{}.amazonaws.com", config.region));
        WebIdentity::new(role_arn, token_file, endpoint, connections.clone()).map_err(missing)
    };
    match &config.credentials {
        CredentialsSource::Static { access_key_id, secret_access_key } => {
            let keys = Credentials::new(access_key_id, secret_access_key, None, None, "holdfast");
            Ok(SharedCredentialsProvider::new(keys))
        }
        CredentialsSource::Temporary { access_key_id, secret_access_key, session_token } => {
            let token = Some(session_token.clone());
            let keys = Credentials::new(access_key_id, secret_access_key, token, None, "holdfast");
            Ok(SharedCredentialsProvider::new(keys))
        }
        CredentialsSource::Directory(directory) => {
            let files = CredentialFiles { directory: directory.clone() };
            files.read().map_err(missing)?;
            Ok(SharedCredentialsProvider::new(files))
        }
        CredentialsSource::WebIdentity { role_arn, token_file, sts_endpoint } => {
            let endpoint = sts_endpoint.as_ref().map(|url| url.as_str().to_owned());
            Ok(SharedCredentialsProvider::new(web(role_arn.clone(), token_file.clone(), endpoint)?))
        }
        CredentialsSource::Environment => match of_environment(variable).map_err(missing)? {
            FromEnvironment::Keys(keys) => Ok(SharedCredentialsProvider::new(keys)),
            FromEnvironment::Web { role_arn, token_file, endpoint } => {
                Ok(SharedCredentialsProvider::new(web(role_arn, token_file, endpoint)?))
            }
        },
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the environment says, as the AWS tools read it.
#[derive(Debug)]
enum FromEnvironment {
    Keys(Credentials),
    Web { role_arn: String, token_file: PathBuf, endpoint: Option<String> },
}

fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<FromEnvironment, String> {
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let keys = Credentials::new(id, secret, variable("AWS_SESSION_TOKEN"), None, "holdfast");
            return Ok(FromEnvironment::Keys(keys));
        }
        (Some(_), None) => return Err("the environment has AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY".to_owned()),
        (None, Some(_)) => return Err("the environment has AWS_SECRET_ACCESS_KEY and no AWS_ACCESS_KEY_ID".to_owned()),
        (None, None) => {}
    }
    match (variable("AWS_ROLE_ARN"), variable("AWS_WEB_IDENTITY_TOKEN_FILE")) {
        (Some(role_arn), Some(file)) => {
            Ok(FromEnvironment::Web { role_arn, token_file: file.into(), endpoint: variable("AWS_ENDPOINT_URL_STS") })
        }
        _ => Err("the environment has neither AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, nor AWS_ROLE_ARN with \
                  AWS_WEB_IDENTITY_TOKEN_FILE"
            .to_owned()),
    }
}

/// Reads credentials from a mounted Secret, again and again.
#[derive(Debug)]
struct CredentialFiles {
    directory: PathBuf,
}

impl CredentialFiles {
    fn read(&self) -> Result<Credentials, String> {
        let id = read_file(&self.directory.join("AWS_ACCESS_KEY_ID"))?;
        let secret = read_file(&self.directory.join("AWS_SECRET_ACCESS_KEY"))?;
        let token = self.directory.join("AWS_SESSION_TOKEN");
        let token = if token.exists() { Some(read_file(&token)?) } else { None };
        let expires = SystemTime::now() + CREDENTIALS_LIFE;
        Ok(Credentials::new(id, secret, token, Some(expires), "holdfast"))
    }
}

/// A small file's text, without white space around it. What is said of a failure names the file, never its content.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let said = |why: String| format!("{}: {why}", path.display());
    let len = std::fs::metadata(path).map_err(|e| said(e.to_string()))?.len();
    if len > MAX_FILE_LEN {
        return Err(said(format!("{len} bytes, too long for credentials")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| said(e.to_string()))?;
    let text = text.trim();
    if text.is_empty() { Err(said("it is empty".to_owned())) } else { Ok(text.to_owned()) }
}

impl ProvideCredentials for CredentialFiles {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::ready(self.read().map_err(CredentialsError::not_loaded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_environment_is_read_as_the_aws_tools_read_it() {
        let read = |pairs: &[(&str, &str)]| {
            let map: HashMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            of_environment(move |name| map.get(name).cloned())
        };
        let keys = [("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
        let web = [("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")];
        let Ok(FromEnvironment::Keys(found)) = read(&keys) else { panic!("keys") };
        assert_eq!((found.access_key_id(), found.session_token()), ("i", Some("t")));
        let both: Vec<_> = keys.iter().chain(&web).copied().collect();
        assert!(matches!(read(&both), Ok(FromEnvironment::Keys(_))), "keys go before a web identity");
        assert!(matches!(read(&web), Ok(FromEnvironment::Web { endpoint: None, .. })));
        assert!(read(&keys[..1]).unwrap_err().contains("no AWS_SECRET_ACCESS_KEY"));
        assert!(read(&keys[1..2]).unwrap_err().contains("no AWS_ACCESS_KEY_ID"));
        assert!(read(&web[..1]).unwrap_err().contains("AWS_WEB_IDENTITY_TOKEN_FILE"));
    }
}
