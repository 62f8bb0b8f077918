//! The primary site loses its power under load.

use holdfast_stories::{Site, story};

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_under_load_loses_nothing() -> anyhow::Result<()> {
    story("power cut", async |story| {
        story.open_hospital().await?;
        let load = story.load(16)?;
        story.acknowledged(&load, 500).await?;

        story.lab.site(Site::Primary).kill().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;

        story.nothing_is_lost(Site::Standby).await
    })
    .await
}
