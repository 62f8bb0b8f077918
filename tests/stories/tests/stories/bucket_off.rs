//! The bucket's S3 server goes off under load and comes back.

use std::time::Duration;

use holdfast_stories::{Site, story};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_nothing_is_acknowledged_and_with_it_work_goes_on() -> anyhow::Result<()> {
    story("bucket off", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        story.acknowledged(&load, 300).await?;

        story.lab.cloud().stop().await?;
        // What was stored before it went off may still be on its way to the client.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = load.stats().borrow().acked;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let after = load.stats().borrow().acked;
        anyhow::ensure!(after == before, "{} writes were acknowledged without the bucket", after - before);

        story.lab.cloud().start().await?;
        story.acknowledged(&load, 300).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}
