//! Both sites prove by themselves that what is stored can be restored, and name what somebody put over it.

use anyhow::{Context, ensure};
use holdfast_api::condition::{reasons, types};
use holdfast_api::{VERIFY_NOW_ANNOTATION, Vault};
use holdfast_lab::BUCKET;
use holdfast_stories::{Complaint, DATABASES, NAMESPACE, Site, Story, VAULT, story};
use kube::api::Api;
use serde_json::json;

const SITES: [Site; 2] = [Site::Primary, Site::Standby];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_verified_and_tampering_is_named() -> anyhow::Result<()> {
    story("verified", async |story| {
        story.open_hospital().await?;
        // Chunks under way are no missing ones, and a log that grows has an end.
        let load = story.load(2)?;
        story.acknowledged(&load, 100).await?;
        for site in SITES {
            verify_now(story, site, "1").await?;
            let message = story.reason::<Vault>(site, VAULT, types::INTACT, reasons::VERIFIED).await?;
            println!("{site}: {message}");
            everything_was_looked_at(story, site).await?;
        }
        load.stop().await?;

        let chunks = story.stored(&format!("{}/v1/db/{}/log/", story.prefix(), DATABASES[0])).await?;
        let hidden = chunks.get(chunks.len() / 2).context("no chunk is stored")?;
        // What a thief of the writer's credentials can do: the object stays, and a delete marker hides it.
        story.lab.cloud().bucket(BUCKET).delete(hidden).await?;
        for site in SITES {
            verify_now(story, site, "2").await?;
            let tampered = Complaint { reason: reasons::TAMPERED_OBJECT, what: hidden, hint: "nothing is lost" };
            story.complains::<Vault>(site, VAULT, types::INTACT, tampered).await?;
            // Recovery does not wait for it: what is stored is read as it was.
            story.becomes::<Vault>(site, VAULT, types::READY).await?;
        }
        Ok(())
    })
    .await
}

/// `kubectl annotate --overwrite vault VAULT holdfast.dev/verify-now=VALUE`, and waits until a pass answers it.
async fn verify_now(story: &Story, site: Site, value: &str) -> anyhow::Result<()> {
    let annotation = format!("{VERIFY_NOW_ANNOTATION}={value}");
    story.lab.site(site).kubectl(&["-n", NAMESPACE, "annotate", "--overwrite", "vault", VAULT, &annotation]).await?;
    let answered = format!("--for=jsonpath={{.status.verification.answered}}={value}");
    story.lab.site(site).kubectl(&["-n", NAMESPACE, "wait", "vault", VAULT, &answered, "--timeout=120s"]).await?;
    Ok(())
}

/// Every database was looked at by the pass that was asked for, at the standby site to the last byte.
async fn everything_was_looked_at(story: &Story, site: Site) -> anyhow::Result<()> {
    let vaults = Api::<Vault>::namespaced(story.client(site).await?, NAMESPACE);
    let found = holdfast_lab::wait::until("the end of the pass", std::time::Duration::from_secs(120), || async {
        let vault = vaults.get(VAULT).await.map_err(|error| error.to_string())?;
        let record = vault.status.and_then(|status| status.verification).unwrap_or_default();
        match record.last_completed >= record.started && record.last_completed.is_some() {
            true => Ok(record),
            false => Err(json!(record).to_string()),
        }
    });
    let record = found.await?;
    let evidence = record.evidence.as_ref().with_context(|| format!("a pass without evidence: {record:?}"))?;
    let stored = story.stored(&format!("{}/v1/evidence/verification/", story.prefix())).await?;
    ensure!(stored.contains(evidence), "{evidence} is not among {stored:?}");
    for name in DATABASES {
        let part = record.databases.iter().find(|part| part.name == name);
        let part = part.with_context(|| format!("{name} was not looked at: {record:?}"))?;
        // The primary site has no private key, and reads headers.
        let as_far_as_it_can = (part.bodies == part.objects) == (site == Site::Standby);
        ensure!(part.objects > 3 && part.findings == 0 && as_far_as_it_can, "{site}: {part:?}");
    }
    Ok(())
}
