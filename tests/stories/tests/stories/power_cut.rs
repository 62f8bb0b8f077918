//! The primary site loses its power under load, and gets it back when the hospital works elsewhere.

use std::time::Duration;

use anyhow::ensure;
use holdfast_api::ProtectedDatabase;
use holdfast_api::condition::{reasons, types};
use holdfast_lab::{BUCKET, wait};
use holdfast_stories::{DATABASES, NAMESPACE, Site, Story, part, story};
use serde_json::Value;
use uuid::Uuid;

use crate::watched::Watch;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_that_is_watched_loses_nothing_and_the_old_site_stays_fenced() -> anyhow::Result<()> {
    story("power cut", async |story| {
        story.open_hospital().await?;
        let load = story.load(16)?;
        story.acknowledged(&load, 500).await?;
        let watch = Watch::begin(story).await?;

        let primary = story.lab.site(Site::Primary);
        primary.kill().await?;
        let failover = story.fail_over("failover-1").await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await?;
        watch.saw(story, failover).await?;

        // Its databases and agents come up as if nothing had happened.
        primary.restore().await?;
        is_fenced(story).await?;
        for database in DATABASES {
            nobody_can_commit(story, database).await?;
        }
        started_again_it_stays_fenced(story).await?;
        nobody_can_commit(story, DATABASES[0]).await?;

        story.nothing_is_lost(Site::Standby).await?;
        story.the_primary_cannot_decrypt().await?;
        let objects = story.everything_is_locked_once(BUCKET).await?;
        ensure!(objects > 100, "only {objects} objects were looked at");
        println!("{objects} objects, each once, locked and with a checksum");
        Ok(())
    })
    .await
}

/// The agents have found the seal, say so, and have closed their databases.
async fn is_fenced(story: &Story) -> anyhow::Result<()> {
    for database in DATABASES {
        wait::until(&format!("the fence of {database}"), Duration::from_secs(120), || async {
            let of = story.reason::<ProtectedDatabase>(Site::Primary, database, types::FENCED, reasons::FENCED);
            let said = of.await.map_err(|error| error.to_string())?;
            if said.contains("The database refuses writes") { Ok(()) } else { Err(said) }
        })
        .await?;
        story.event(Site::Primary, "ProtectedDatabase", database, reasons::FENCED).await?;
    }
    Ok(())
}

/// The old database refuses writes, and whoever insists waits for an acknowledgement that never comes.
async fn nobody_can_commit(story: &Story, database: &str) -> anyhow::Result<()> {
    let pod = format!("{database}-0");
    let psql = ["exec", "-n", NAMESPACE, &pod, "-c", "postgres", "--", "timeout", "4", "psql", "-U", "postgres", "-c"];
    let said = async |sql: &str| {
        let answer = story.lab.site(Site::Primary).kubectl(&[&psql[..], &[sql]].concat()).await;
        answer.map_or_else(|error| error.to_string(), |told| format!("accepted: {told}"))
    };
    let refused = said("CREATE TABLE after_the_seal ()").await;
    ensure!(refused.contains("read-only transaction"), "{database}: {refused}");
    // A name of its own each time: what waits for the vault is there locally.
    let table = format!("by_force_{}", Uuid::new_v4().simple());
    let waits = said(&format!("BEGIN READ WRITE; CREATE TABLE {table} (); COMMIT")).await;
    ensure!(waits.contains("exit code 124"), "{database}: a commit after the seal was not left waiting: {waits}");
    Ok(())
}

/// An agent that stops for good stops again when its pod is started anew, and stores nothing.
async fn started_again_it_stays_fenced(story: &Story) -> anyhow::Result<()> {
    let before = incarnations(story).await?;
    for database in DATABASES {
        let killed = story.kill_pod(Site::Primary, NAMESPACE, &part(database, "agent")).await?;
        ensure!(killed == 1, "{killed} agents of {database} were killed");
    }
    wait::until("the new agents to find the seal", Duration::from_secs(60), || async {
        let after = incarnations(story).await.map_err(|error| format!("{error:#}"))?;
        let changed = before.iter().zip(&after).all(|(before, after)| before != after);
        if changed { Ok(()) } else { Err("an agent was not started again".to_owned()) }
    })
    .await?;
    for database in DATABASES {
        story.reason::<ProtectedDatabase>(Site::Primary, database, types::FENCED, reasons::FENCED).await?;
    }
    Ok(())
}

/// The agents' own ids; an error while one is not fenced.
async fn incarnations(story: &Story) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for database in DATABASES {
        let text = story.served(Site::Primary, NAMESPACE, &part(database, "agent"), "status").await?;
        let status: Value = serde_json::from_str(&text)?;
        ensure!(status["state"] == "Fenced", "{database}: {status}");
        all.push(status["incarnation"].as_str().unwrap_or_default().to_owned());
    }
    Ok(all)
}
