//! Parts of Holdfast are killed with -9 while they work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use holdfast_api::condition::types;
use holdfast_api::run::RunPhase;
use holdfast_api::{Failover, StandbyDatabase};
use holdfast_stories::{Gate, NAMESPACE, OPERATOR, Site, Story, part, story, tells_of_success};

/// Of each database five steps, of each service three.
const STEPS: usize = 3 * 5 + 3 * 3;

/// In each of the 24 steps: it has been carried out, and its end is not in the journal yet. (Before and after every single
/// write of the journal and every effect: `orchestrator/recovery/tests/runner.rs`.)
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_killed_at_every_step_of_a_failover() -> anyhow::Result<()> {
    story("operator killed", async |story| {
        let mut gate = Gate::start(&story.lab.cloud().endpoint()).await?;
        story.open_primary().await?;
        story.reach_the_bucket_at(&gate.endpoint())?;
        story.open_standby().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 200).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.order_failover("failover-1").await?;

        let killed_in = kill_at_every_end(story, &mut gate).await?;
        let failover = story.failover_succeeded("failover-1").await?;
        let status = failover.status.context("a failover without status")?;
        let steps: BTreeSet<_> = status.steps.iter().map(|step| step.name.clone()).collect();
        ensure!(steps.len() == STEPS, "{steps:?}");
        let spared: Vec<_> = steps.difference(&killed_in).collect();
        ensure!(spared.is_empty(), "the operator was not killed in {spared:?}");
        // Whole, in order and chained, although dozens of operators wrote it.
        let evidence = status.evidence.context("a failover without evidence")?;
        tells_of_success(&story.journal(&evidence).await?, &status.steps)?;

        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

/// Kills the operator whenever the end of a step is on its way into the journal, until the failover is over. Returns in
/// which steps that was: begun as far as the journal knows, and not ended.
async fn kill_at_every_end(story: &Story, gate: &mut Gate) -> anyhow::Result<BTreeSet<String>> {
    let over = story.over::<Failover>("failover-1", |failover| failover.status.as_ref().map(|status| status.phase));
    tokio::pin!(over);
    let (mut killed_in, mut kills) = (BTreeSet::new(), 0);
    loop {
        let caught = tokio::select! {
            over = &mut over => {
                let phase = over?.status.unwrap_or_default().phase;
                ensure!(phase == RunPhase::Succeeded, "it ended as {phase:?}");
                println!("{kills} operators were killed, in {} steps", killed_in.len());
                return Ok(killed_in);
            }
            caught = gate.caught() => caught.context("the gate is closed")?,
        };
        let killed = kill_the_one(story, Site::Standby, "holdfast-system", OPERATOR).await;
        killed.with_context(|| format!("the operator at the end of {:?}", caught.done))?;
        ensure!(caught.done.is_subset(&caught.running), "{:?} were not begun: {:?}", caught.done, caught.running);
        println!("killed the operator at the end of {:?}", caught.done);
        killed_in.extend(caught.done.iter().cloned());
        kills += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_killed_ten_times_and_a_relay_three_times_under_load() -> anyhow::Result<()> {
    story("agent and relay killed", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        for _ in 0..10 {
            story.acknowledged(&load, 60).await?;
            kill_the_one(story, Site::Primary, NAMESPACE, &part("registration-db", "agent")).await?;
        }
        for _ in 0..3 {
            story.acknowledged(&load, 60).await?;
            kill_the_one(story, Site::Standby, NAMESPACE, &part("registration-db", "relay")).await?;
        }
        story.acknowledged(&load, 60).await?;
        story.becomes::<StandbyDatabase>(Site::Standby, "registration-db", types::FOLLOWING).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 60).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

/// Kills the one process of the pods with these labels. The one that takes a killed one's place is at work before the kubelet
/// has told that it runs, and other databases' writes are acknowledged before it starts: until that is told there is none.
async fn kill_the_one(story: &Story, site: Site, namespace: &str, labels: &str) -> anyhow::Result<()> {
    let killed = holdfast_lab::wait::until("a process to kill", Duration::from_secs(60), || async {
        match story.kill_pod(site, namespace, labels).await {
            Ok(0) => Err("none runs".to_owned()),
            Ok(killed) => Ok(killed),
            Err(error) => Err(error.to_string()),
        }
    });
    let killed = killed.await?;
    ensure!(killed == 1, "{killed} processes were killed");
    Ok(())
}
