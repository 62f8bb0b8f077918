//! What is in the bucket, object by object, and what those who could steal from the primary site would have.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::types::{ChecksumMode, ObjectLockMode};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_lab::{Bucket, Site};
use holdfast_vault::{Identities, Recipients};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};

use crate::story::Story;

/// Requests under way at once.
const AT_ONCE: usize = 16;

impl Story {
    /// Fails unless every object of this story in a bucket is there once, was never hidden, is locked against everybody and carries a
    /// checksum. Returns how many there are.
    ///
    /// The lock probe's own objects are left out: it tries to overwrite, to hide and to put without a lock, and a store may
    /// let it add versions and markers on top of what it keeps.
    pub async fn everything_is_locked_once(&self, bucket: &str) -> Result<usize> {
        let bucket = self.lab.cloud().bucket(bucket);
        let probes = format!("{}/v1/probe/", self.prefix());
        let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in bucket.versions(&format!("{}/", self.prefix())).await? {
            if !entry.key.starts_with(&probes) {
                ensure!(!entry.is_delete_marker, "{} was hidden by a delete marker", entry.key);
                objects.entry(entry.key).or_default().push(entry.version);
            }
        }
        let checks = objects.iter().map(|(key, versions)| is_locked_once(&bucket, key, versions));
        stream::iter(checks).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(objects.len())
    }

    /// Fails if any Secret at the primary site opens what is stored. The standby site's identity does: what is tried works.
    pub async fn the_primary_cannot_decrypt(&self) -> Result<()> {
        let recipients = Recipients::parse(self.recipients())?;
        let opens = |value: &str| Identities::parse(value).is_ok_and(|identities| identities.open_for(&recipients));
        let primary = self.secret_values(Site::Primary).await?;
        ensure!(primary.len() >= 7, "too few Secrets to prove anything: {:?}", primary.keys());
        let opened: Vec<_> = primary.iter().filter(|(_, value)| opens(value)).map(|(name, _)| name).collect();
        ensure!(opened.is_empty(), "these Secrets of the primary site open what is stored: {opened:?}");
        let control = self.secret_values(Site::Standby).await?.into_values().any(|value| opens(&value));
        ensure!(control, "nothing at the standby site opens what is stored either");
        Ok(())
    }

    /// Every value of every Secret of a site, by namespace, name and key.
    async fn secret_values(&self, site: Site) -> Result<BTreeMap<String, String>> {
        let secrets = Api::<Secret>::all(self.client(site).await?).list(&ListParams::default()).await?;
        let mut values = BTreeMap::new();
        for secret in secrets {
            let name = [secret.metadata.namespace, secret.metadata.name].map(Option::unwrap_or_default).join("/");
            for (key, value) in secret.data.unwrap_or_default() {
                values.insert(format!("{name}/{key}"), String::from_utf8_lossy(&value.0).trim().to_owned());
            }
        }
        Ok(values)
    }
}

async fn is_locked_once(bucket: &Bucket, key: &str, versions: &[String]) -> Result<()> {
    let [version] = versions else {
        anyhow::bail!("{key} was written {} times", versions.len());
    };
    let request = bucket.client().head_object().bucket(bucket.name()).key(key).version_id(version);
    let head = request.checksum_mode(ChecksumMode::Enabled).send().await.with_context(|| format!("HEAD {key}"))?;
    ensure!(head.object_lock_mode() == Some(&ObjectLockMode::Compliance), "{key}: {:?}", head.object_lock_mode());
    let until = head.object_lock_retain_until_date().with_context(|| format!("{key} has no retain-until date"))?;
    ensure!(until.secs() > jiff::Timestamp::now().as_second(), "the lock of {key} has ended: {until}");
    ensure!(head.checksum_sha256().is_some(), "{key} was stored without a checksum");
    Ok(())
}
