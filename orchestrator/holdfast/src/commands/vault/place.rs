//! Which vault: the arguments that all subcommands share.

use std::env;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_operator::vault_access::{self, ClusterVault};
use holdfast_vault::{CredentialsSource, Identities, Recipients, Vault, VaultConfig};
use url::Url;

use super::output::{Failed, Output};

/// Which vault, and how to print.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which vault")]
pub(crate) struct Where {
    /// Name of a Vault object of the current cluster; its Secrets give credentials and identity.
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["bucket", "store"])]
    vault: Option<String>,
    /// Namespace of the Vault object; the current context's when left out.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The bucket.
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "store")]
    bucket: Option<String>,
    /// Any other store with a vault in it, such as a copy: file:///folder, s3://bucket/path, gs://bucket/path,
    /// az://container/path. Credentials for a cloud come from the environment (AWS_*, GOOGLE_*, AZURE_*).
    #[arg(long, global = true, value_name = "URL")]
    store: Option<Url>,
    /// Everything of the vault is below this prefix.
    #[arg(long, global = true, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// The S3 endpoint, in place of the Vault object's, which may be a name that only its cluster knows. Left out:
    /// AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, then the Vault object's, then AWS itself.
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<Url>,
    /// The region that requests are signed for.
    #[arg(long, global = true, value_name = "REGION", env = "AWS_REGION", default_value = "us-east-1")]
    region: String,
    /// A folder with the files AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; left out, the environment has them.
    #[arg(long, global = true, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// A file of certificates (PEM) that the store's certificate may come from, besides those of the system.
    #[arg(long, global = true, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    ca_file: Option<PathBuf>,
    /// A file of age identities (AGE-SECRET-KEY-1...) that decrypt.
    #[arg(long, global = true, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// For how many days a new object is locked.
    #[arg(long, global = true, value_name = "DAYS", default_value_t = 90, hide = true)]
    retention_days: u32,
    /// How to print.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table", help_heading = "Output")]
    pub(crate) output: Output,
}

impl Where {
    /// The vault; sends no request to it (a Vault object is read from the cluster).
    ///
    /// # Errors
    /// No vault was named, or it cannot be opened: what is missing and what to do.
    pub(crate) async fn open(&self) -> anyhow::Result<Vault> {
        if self.vault.is_some() {
            return Ok(self.in_cluster().await?.access.vault);
        }
        Ok(Vault::open(self.own_config()?)?)
    }

    /// The configuration that [`Where::open`] opens.
    ///
    /// # Errors
    /// As of [`Where::open`].
    // Used by subcommands that need more than a Vault.
    #[allow(dead_code)]
    pub(crate) async fn config(&self) -> anyhow::Result<VaultConfig> {
        if self.vault.is_some() {
            return Ok(self.in_cluster().await?.config);
        }
        self.own_config()
    }

    /// The identities that decrypt: the file's, or those of the Vault object; none when there are none.
    ///
    /// # Errors
    /// The file cannot be read or holds none.
    pub(crate) async fn identities(&self) -> anyhow::Result<Option<Identities>> {
        match (&self.identity, &self.vault) {
            (Some(file), _) => Ok(Some(Identities::from_file(file)?)),
            (None, Some(_)) => Ok(self.in_cluster().await?.access.identities),
            (None, None) => Ok(None),
        }
    }

    /// Whom the Vault object says to encrypt to; none without one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn recipients(&self) -> anyhow::Result<Option<Recipients>> {
        match &self.vault {
            Some(_) => Ok(Some(self.in_cluster().await?.access.recipients)),
            None => Ok(None),
        }
    }

    async fn in_cluster(&self) -> anyhow::Result<ClusterVault> {
        let name = self.vault.as_deref().unwrap_or_default();
        let client = kube::Client::try_default().await.context("no cluster to ask; set KUBECONFIG")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let endpoint = self.endpoint()?;
        vault_access::from_cluster(&client, &namespace, name, endpoint.as_ref().map(Url::as_str)).await.map_err(
            |error| {
                let place = format!("Vault {namespace}/{name}");
                Failed::new(error.to_string(), place, "correct the name or -n, or what the message names").into()
            },
        )
    }

    fn endpoint(&self) -> anyhow::Result<Option<Url>> {
        endpoint(self.endpoint.clone(), |name| env::var(name).ok())
    }

    fn own_config(&self) -> anyhow::Result<VaultConfig> {
        if let Some(url) = &self.store {
            let config = VaultConfig::new(url.as_str(), CredentialsSource::Environment);
            return Ok(VaultConfig { url: Some(url.clone()), prefix: self.prefix.clone(), ..config });
        }
        let Some(bucket) = &self.bucket else {
            let to_do = "give --vault NAME -n NAMESPACE, or --bucket NAME, or --store URL";
            return Err(Failed::new("no vault is named", "", to_do).into());
        };
        Ok(VaultConfig {
            endpoint: self.endpoint()?,
            region: self.region.clone(),
            prefix: self.prefix.clone(),
            retention_days: self.retention_days,
            ca_bundle: self.ca_bundle()?,
            ..VaultConfig::new(bucket, self.credentials_source()?)
        })
    }

    fn ca_bundle(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.ca_file else { return Ok(None) };
        let read = std::fs::read_to_string(file);
        Ok(Some(read.with_context(|| format!("cannot read the CA bundle {}", file.display()))?))
    }

    fn credentials_source(&self) -> anyhow::Result<CredentialsSource> {
        if let Some(folder) = &self.credentials {
            return Ok(CredentialsSource::Directory(folder.clone()));
        }
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let one_of = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"];
        if one_of.iter().any(|name| variable(name).is_some()) {
            return Ok(CredentialsSource::Environment);
        }
        let to_do = "give --credentials DIR, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        Err(Failed::new("there are no credentials for the bucket", "", to_do).into())
    }
}

/// What a person says, else the environment, in the order of the AWS tools.
fn endpoint(said: Option<Url>, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Url>> {
    if said.is_some() {
        return Ok(said);
    }
    let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
    let set = names.into_iter().find_map(|name| variable(name).filter(|url| !url.is_empty()).map(|url| (name, url)));
    let Some((name, url)) = set else { return Ok(None) };
    let to_do = "write it as https://host:port, or unset it";
    url.parse().map(Some).map_err(|error| Failed::new(format!("{name} is not a URL: {error}"), url, to_do).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_said_comes_before_the_environment() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let environment = |s3: Option<&'static str>, all: Option<&'static str>| {
            move |name: &str| if name.ends_with("_S3") { s3 } else { all }.map(str::to_owned)
        };
        let (s3, all) = ("http://s3:8333", "http://all:1");
        let cases = [
            (Some(url("http://said:9")), Some(s3), Some(all), Some(url("http://said:9"))),
            (None, Some(s3), Some(all), Some(url(s3))),
            (None, Some(""), Some(all), Some(url(all))),
            (None, None, None, None),
        ];
        for (said, s3, all, expected) in cases {
            assert_eq!(endpoint(said, environment(s3, all)).unwrap(), expected);
        }
        let error = endpoint(None, environment(None, Some("s3.cloud"))).unwrap_err().to_string();
        assert!(error.contains("AWS_ENDPOINT_URL"), "{error}");
    }
}
