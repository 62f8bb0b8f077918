//! Parts of Holdfast are killed with -9 while they work.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_api::Failover;
use holdfast_api::StandbyDatabase;
use holdfast_api::condition::types;
use holdfast_api::run::RunPhase;
use holdfast_stories::{NAMESPACE, Site, story};
use kube::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_killed_at_every_step_of_a_failover() -> anyhow::Result<()> {
    story("operator killed", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        story.acknowledged(&load, 300).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.order_failover("failover-1").await?;

        let api = Api::<Failover>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
        let mut killed_at = BTreeSet::new();
        let mut kills = 0;
        loop {
            let status = api.get("failover-1").await?.status.unwrap_or_default();
            if status.phase.is_over() {
                anyhow::ensure!(status.phase == RunPhase::Succeeded, "{status:?}");
                break;
            }
            let begun = status.steps.iter().filter(|step| step.started_at.is_some()).map(|step| step.name.clone());
            let fresh: Vec<_> = begun.filter(|name| !killed_at.contains(name)).collect();
            let operator = "app.kubernetes.io/component=operator";
            // A step counts only when a living operator was killed in it: the next one may not have started yet.
            if !fresh.is_empty() && story.kill_pod(Site::Standby, "holdfast-system", operator).await? > 0 {
                println!("killed the operator at {}", fresh.join(", "));
                killed_at.extend(fresh);
                kills += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{kills} operators were killed, at {} steps", killed_at.len());
        anyhow::ensure!(
            killed_at.len() >= 12 && kills >= 6,
            "killed {kills} times, at these steps only: {killed_at:?}"
        );
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_killed_ten_times_under_load() -> anyhow::Result<()> {
    story("agent killed", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        for _ in 0..10 {
            story.acknowledged(&load, 60).await?;
            let killed = story.kill_pod(Site::Primary, NAMESPACE, &part("registration-db", "agent")).await?;
            anyhow::ensure!(killed == 1, "{killed} processes were killed");
        }
        story.acknowledged(&load, 60).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 60).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_killed_under_load() -> anyhow::Result<()> {
    story("relay killed", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        for _ in 0..3 {
            story.acknowledged(&load, 100).await?;
            let killed = story.kill_pod(Site::Standby, NAMESPACE, &part("registration-db", "relay")).await?;
            anyhow::ensure!(killed == 1, "{killed} processes were killed");
        }
        story.acknowledged(&load, 100).await?;
        story.becomes::<StandbyDatabase>(Site::Standby, "registration-db", types::FOLLOWING).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 60).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

fn part(database: &str, component: &str) -> String {
    format!("holdfast.dev/name={database},app.kubernetes.io/component={component}")
}
