//! A site's writer key is exchanged and revoked as `holdfast keys` says, and then it turns out to have been stolen.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_api::StandbyDatabase;
use holdfast_api::condition::types;
use holdfast_lab::wait;
use holdfast_recovery::journal::Entry;
use holdfast_stories::{Complaint, DATABASES, NAMESPACE, Site, Story, VAULT, story};
use holdfast_vault::{Attached, ClaimError, ClaimOptions, Recipients, Vault, WriterKey, WriterPublic};
use holdfast_wal::Lsn;
use serde_json::Value;

const SITES: [Site; 2] = [Site::Primary, Site::Standby];
const NEW_KEY: &str = "primary-2.key";
/// The store's clock counts seconds.
const A_SECOND_PASSES: Duration = Duration::from_millis(2100);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes three minutes: `cargo lab test by_the_steps` runs it"]
async fn by_the_steps_of_holdfast_keys_a_stolen_key_costs_nothing_that_stood_before() -> Result<()> {
    story("stolen key", async |story| {
        story.open_hospital().await?;
        let load = story.load(2)?;
        story.acknowledged(&load, 100).await?;
        let old = WriterKey::parse(&std::fs::read_to_string(story.writer_file(Site::Primary))?)?;

        let new = exchange(story).await?;
        signed_by(story, new).await?;
        story.acknowledged(&load, 100).await?;
        tokio::time::sleep(A_SECOND_PASSES).await;
        revoke(story).await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Primary).await?;

        tokio::time::sleep(A_SECOND_PASSES).await;
        let stolen = DATABASES[0];
        write_with(story, old, stolen).await?;
        // What stood before is rehearsed, and what is left out is named.
        let drill = story.drill("drill-1").await?;
        let evidence = drill.status.and_then(|status| status.evidence).context("a drill without evidence")?;
        let refused = prepared(story, &evidence).await?["refused"].clone();
        let named = refused[stolen].as_str().is_some_and(|why| why.contains("`primary`"));
        ensure!(named && refused.as_object().is_some_and(|all| all.len() == 1), "refused: {refused}");
        println!("{refused}");
        // The standby site says so too, and follows the others.
        let untrusted = Complaint { reason: "Untrusted", what: "writer `primary`", hint: "under a new name" };
        story.complains::<StandbyDatabase>(Site::Standby, stolen, types::FOLLOWING, untrusted).await?;
        for database in &DATABASES[1..] {
            story.becomes::<StandbyDatabase>(Site::Standby, database, types::FOLLOWING).await?;
        }
        Ok(())
    })
    .await
}

/// The steps that a command of `holdfast keys` prints, each without what is said before its command.
async fn steps(story: &Story, command: &str) -> Result<Vec<String>> {
    let vault = format!("kubectl -n {NAMESPACE} get vault {VAULT} -o yaml");
    let printed = story.paste(Site::Primary, &[format!("{vault} | {command} --file - -o json")]).await?;
    let printed: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
    let steps = printed["steps"].as_array().context("no steps")?.iter().filter_map(Value::as_str);
    Ok(steps.map(|step| step.split_once(": ").map_or(step, |(_, command)| command).to_owned()).collect())
}

async fn exchange(story: &Story) -> Result<WriterPublic> {
    story.paste(Site::Primary, &[format!("holdfast keys new writer --out {NEW_KEY}")]).await?;
    let steps = steps(story, &format!("holdfast keys rotate writer {NEW_KEY} --name primary-2")).await?;
    let [everywhere, secret, restart, _revoke_later] = &steps[..] else { bail!("{steps:#?}") };
    for site in SITES {
        story.paste(site, std::slice::from_ref(everywhere)).await?;
    }
    story.paste(Site::Primary, &[secret.replace("FILE", NEW_KEY), restart.clone()]).await?;
    Ok(WriterKey::parse(&std::fs::read_to_string(story.folder().join(NEW_KEY))?)?.public())
}

/// Waits until the new key vouches for the newest epoch of every log.
async fn signed_by(story: &Story, key: WriterPublic) -> Result<()> {
    let vault = story.vault()?;
    let all = wait::until("the new key to vouch for all logs", Duration::from_secs(120), || async {
        for name in DATABASES {
            let database = vault.database(name).map_err(|error| error.to_string())?;
            let tip = database.tip().await.map_err(|error| error.to_string())?;
            if tip.last_seal.and_then(|seal| seal.writer) != Some(key) {
                return Err(format!("{name} is still signed with another"));
            }
        }
        Ok(())
    });
    Ok(all.await?)
}

async fn revoke(story: &Story) -> Result<()> {
    let steps = steps(story, "holdfast keys revoke writer primary --after now").await?;
    let everywhere = steps.first().context("no step")?;
    for site in SITES {
        story.paste(site, std::slice::from_ref(everywhere)).await?;
    }
    Ok(())
}

/// Whoever has the key and the bucket's credentials claims the log.
async fn write_with(story: &Story, key: WriterKey, name: &str) -> Result<()> {
    let database = Vault::with_writer_key(story.vault()?, key).database(name)?;
    let identity = database.identity().await?.context("nobody registered")?;
    let recipients = Recipients::parse(story.recipients())?;
    // The agent writes on meanwhile.
    for _ in 0..20 {
        let flushed = Lsn(database.tip().await?.tip.0 + (1 << 30));
        let (instance_id, by) = ("origin".to_owned(), "a thief".to_owned());
        let (system_id, history) = (identity.system_id, identity.history.clone());
        let attached = Attached { instance_id, system_id, history, flushed, by };
        match database.claim(&attached, &recipients, ClaimOptions::default()).await {
            Ok(_) => return Ok(()),
            Err(ClaimError::Vault(error)) => return Err(error.into()),
            Err(error) => println!("once more: {error}"),
        }
    }
    bail!("the thief did not get in")
}

/// What the drill's first step found.
async fn prepared(story: &Story, evidence: &str) -> Result<Value> {
    let journal = story.journal(evidence).await?;
    let found = journal.into_iter().find_map(|line| match line.entry {
        Entry::Done { step, result } if step.as_str() == "prepare" => Some(result),
        _ => None,
    });
    found.context("the journal has no end of the preparation")
}
