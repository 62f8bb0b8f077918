//! The primary site loses the bucket, which comes back, and then is cut off from everything and stays up.

use std::time::Duration;

use holdfast_api::ProtectedDatabase;
use holdfast_api::condition::{reasons, types};
use holdfast_hospital::load::Load;
use holdfast_stories::{DATABASES, Site, Story, story};

#[tokio::test(flavor = "multi_thread")]
async fn with_the_bucket_off_nothing_is_acknowledged_and_a_primary_that_is_cut_off_stays_fenced() -> anyhow::Result<()>
{
    story("network cut", async |story| {
        story.open_hospital().await?;
        let load = story.load(8)?;
        story.acknowledged(&load, 300).await?;
        the_bucket_goes_off_and_on(story, &load).await?;

        let primary = story.lab.site(Site::Primary);
        primary.cut().await?;
        story.fail_over("failover-1").await?;
        story.acknowledged(&load, 100).await?;

        // Somebody inside the old site still tries to work there: the service is up, and cannot promise anything.
        anyhow::ensure!(story.answers_inside(Site::Primary).await?, "registration is down at the old site");
        let answer = story.register_inside(Site::Primary).await?;
        anyhow::ensure!(answer != 201, "the old primary acknowledged a write after the seal");

        primary.heal().await?;
        for database in DATABASES {
            let why =
                story.reason::<ProtectedDatabase>(Site::Primary, database, types::FENCED, reasons::FENCED).await?;
            anyhow::ensure!(!why.is_empty());
            story.event(Site::Primary, "ProtectedDatabase", database, reasons::FENCED).await?;
        }
        anyhow::ensure!(story.answers_inside(Site::Primary).await?, "registration is down at the old site");
        let answer = story.register_inside(Site::Primary).await?;
        anyhow::ensure!(answer != 201, "the old primary acknowledged a write after it was reached again");

        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await?;
        // The same request where the hospital works now: it was not refused for its form.
        anyhow::ensure!(story.register_inside(Site::Standby).await? == 201);
        Ok(())
    })
    .await
}

/// Its S3 server: what hangs meanwhile goes on afterwards.
async fn the_bucket_goes_off_and_on(story: &Story, load: &Load) -> anyhow::Result<()> {
    story.lab.cloud().stop().await?;
    // What was stored before it went off may still be on its way to the client.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = load.stats().borrow().acked;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = load.stats().borrow().acked;
    anyhow::ensure!(after == before, "{} writes were acknowledged without the bucket", after - before);
    story.lab.cloud().start().await?;
    story.acknowledged(load, 300).await
}
