//! Which vault: the arguments that all subcommands share.

use std::env;
use std::path::PathBuf;

use clap::Args;
use holdfast_operator::vault_access::{self, ClusterVault};
use holdfast_vault::{
    CredentialsSource, DEFAULT_CHUNK_RETENTION_DAYS, Identities, Recipients, TrustedWriter, Vault, VaultConfig,
    VaultError,
};
use url::Url;

use super::output::{About, Failed, Output, read_file};

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
    /// Believe this writer: its public key (holdfast-writer1...), or NAME=KEY; once for each. Without --writer and --writers
    /// whoever can write to the bucket is believed. A Vault object has its own list.
    #[arg(long, global = true, value_name = "[NAME=]KEY", value_parser = writer, conflicts_with = "vault")]
    writer: Vec<TrustedWriter>,
    /// A YAML or JSON file with the writers to believe, as they stand under `writers` in a Vault: name, publicKey, and
    /// notAfter for a key that was revoked.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "vault")]
    writers: Option<PathBuf>,
    /// A file with the site's writer key (HOLDFAST-WRITER-KEY-1...), which vouches for what is written.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "vault")]
    writer_key: Option<PathBuf>,
    /// For how many days a new object is locked.
    #[arg(long, global = true, value_name = "DAYS", default_value_t = 90, hide = true)]
    retention_days: u32,
    /// For how many days a chunk of the log is locked: as all others who use this vault have it.
    #[arg(long, global = true, value_name = "DAYS", default_value_t = DEFAULT_CHUNK_RETENTION_DAYS, conflicts_with = "vault")]
    chunk_retention_days: u32,
    /// How to print.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table", help_heading = "Output")]
    pub(crate) output: Output,
}

impl Where {
    /// Which vault, for an error that does not name it.
    pub(crate) fn about(&self) -> About {
        let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let prefix = if self.prefix.is_empty() { String::new() } else { format!(", prefix {}", self.prefix) };
        let place = match (&self.vault, &self.store, &self.bucket) {
            (Some(name), ..) => format!("Vault {namespace}{name}"),
            (_, Some(url), _) => format!("{url}{prefix}"),
            (_, _, Some(bucket)) => {
                let endpoint = self.endpoint.as_ref().map(|url| format!(" at {url}")).unwrap_or_default();
                format!("bucket {bucket}{endpoint}{prefix}")
            }
            _ => return About::the_command_line(),
        };
        About { place, object: self.vault.is_some() }
    }

    /// # Errors
    /// The vault is in a folder or another store that has no versions, no locks and no clock.
    pub(crate) fn needs_s3(&self) -> Result<(), Failed> {
        let Some(url) = &self.store else { return Ok(()) };
        let what = "a vault opened by --store has neither versions nor locks nor a clock that this could look at";
        Err(Failed::new(what, url.as_str(), "give --bucket, or --vault; `holdfast vault verify` reads this one"))
    }

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
        let client = kube::Client::try_default().await.map_err(|error| {
            let to_do = "set KUBECONFIG, or give --bucket with --credentials, or --store";
            Failed::new(format!("there is no cluster to ask for the Vault object: {error}"), "", to_do)
        })?;
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
        let config = match (&self.store, &self.bucket) {
            (Some(url), _) => {
                let config = VaultConfig::new(url.as_str(), CredentialsSource::Environment);
                VaultConfig { url: Some(url.clone()), ..config }
            }
            (None, Some(bucket)) => VaultConfig {
                endpoint: self.endpoint()?,
                region: self.region.clone(),
                retention_days: self.retention_days,
                ca_bundle: self.ca_bundle()?,
                ..VaultConfig::new(bucket, self.credentials_source()?)
            },
            (None, None) => {
                let to_do = "give --vault NAME -n NAMESPACE, or --bucket NAME, or --store URL";
                return Err(Failed::new("no vault is named", "", to_do).into());
            }
        };
        Ok(VaultConfig {
            prefix: self.prefix.clone(),
            chunk_retention_days: self.chunk_retention_days,
            writers: self.trusted_writers()?,
            writer_key_file: self.writer_key.clone(),
            ..config
        })
    }

    fn trusted_writers(&self) -> anyhow::Result<Vec<TrustedWriter>> {
        let mut writers = self.writer.clone();
        if let Some(file) = &self.writers {
            let place = || file.display().to_string();
            let to_do = "give a list with name, publicKey and perhaps notAfter for each, as under `writers` in a Vault";
            let text = read_file(file, "--writers")?;
            // A parser repeats what it finds, and that may be a private key.
            let listed = serde_norway::from_str::<Vec<serde_json::Map<_, _>>>(&text)
                .map_err(|_| Failed::new("this is no list of writers", place(), to_do))?;
            let listed: Vec<TrustedWriter> = serde_json::from_value(listed.into())
                .map_err(|error| Failed::new(format!("this is no list of writers: {error}"), place(), to_do))?;
            if listed.is_empty() {
                // Nobody on a list would mean everybody.
                return Err(Failed::new("no writer is on this list", place(), to_do).into());
            }
            writers.extend(listed);
        }
        Ok(writers)
    }

    fn ca_bundle(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.ca_file else { return Ok(None) };
        Ok(Some(read_file(file, "--ca-file")?))
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

/// The database that was named, or all there are: one at least.
///
/// # Errors
/// The named one is not there, or there is none at all: the prefix may be mistyped, and then nothing would be looked at for
/// ever.
pub(crate) async fn databases(vault: &Vault, named: Option<&str>) -> anyhow::Result<Vec<String>> {
    if let Some(name) = named {
        let found = vault.database(name)?.identity().await;
        return match found {
            Ok(None) => Err(VaultError::UnknownDatabase { name: name.to_owned() }.into()),
            // Whoever looks at it has more to say about that.
            Ok(Some(_)) | Err(VaultError::Damaged { .. }) => Ok(vec![name.to_owned()]),
            Err(error) => Err(error.into()),
        };
    }
    let names = vault.databases().await?;
    if names.is_empty() {
        let to_do = "check the bucket and --prefix; a ProtectedDatabase that has started appears here";
        return Err(Failed::new("there is no database in this vault", "", to_do).into());
    }
    Ok(names)
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

/// A writer on the command line.
fn writer(text: &str) -> Result<TrustedWriter, String> {
    let (name, key) = text.split_once('=').unwrap_or((text, text));
    let public_key = key.parse().map_err(|error: holdfast_vault::VaultError| error.to_string())?;
    Ok(TrustedWriter { name: name.to_owned(), public_key, not_after: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use holdfast_vault::WriterKey;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        place: Where,
    }

    fn config(arguments: &[&str]) -> anyhow::Result<VaultConfig> {
        let line = ["holdfast", "--credentials", "/nowhere"].iter().chain(arguments);
        Line::try_parse_from(line)?.place.own_config()
    }

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

    #[test]
    fn whom_to_believe_is_said_on_the_command_line_or_in_a_file() {
        let [north, south] = [WriterKey::generate().public(), WriterKey::generate().public()];
        let file = std::env::temp_dir().join(format!("holdfast-writers-{}", std::process::id()));
        let text = format!("- name: south\n  publicKey: {south}\n  notAfter: 2026-11-24T14:02:00Z\n");
        std::fs::write(&file, text).unwrap();
        let (path, named) = (file.display().to_string(), format!("north={north}"));
        for place in [["--bucket", "b"], ["--store", "file:///tmp"]] {
            let line = [place.as_slice(), &["--writer", &named, "--writers", &path, "--chunk-retention-days", "3"]];
            let config = config(&line.concat()).unwrap();
            let names: Vec<_> = config.writers.iter().map(|w| (w.name.as_str(), w.not_after.is_some())).collect();
            assert_eq!((names, config.chunk_retention_days), (vec![("north", false), ("south", true)], 3));
            assert_eq!(config.writers[0].public_key, north);
        }
        assert!(config(&["--bucket", "b"]).unwrap().writers.is_empty());
        std::fs::write(&file, "[]").unwrap();
        for refused in [["--writers", &path], ["--writer", "north"], ["--writers", "/nowhere/at/all"]] {
            assert!(config(&[["--bucket", "b"], refused].concat()).is_err(), "{refused:?}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}
