//! A rehearsal while the hospital works.

use anyhow::Context;
use holdfast_api::StandbyDatabase;
use holdfast_api::condition::types;
use holdfast_stories::{DATABASES, Site, story, tells_of_success};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_restores_everything_in_isolation_and_leaves_nothing() -> anyhow::Result<()> {
    story("drill", async |story| {
        story.open_hospital().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;

        let drill = story.drill("drill-1").await?;
        let status = drill.status.context("a drill without status")?;
        anyhow::ensure!(status.isolated == Some(true) && status.cleaned_up, "{status:?}");
        let control = status.isolation.iter().filter(|probe| probe.must_reach);
        anyhow::ensure!(control.count() > 0, "no positive control: {:?}", status.isolation);
        let walls = status.isolation.iter().filter(|probe| !probe.must_reach);
        anyhow::ensure!(walls.count() >= 3, "too few walls were tried: {:?}", status.isolation);

        let namespace = status.namespace.context("a drill without a namespace")?;
        let namespaces = Api::<Namespace>::all(story.client(Site::Standby).await?);
        anyhow::ensure!(namespaces.get_opt(&namespace).await?.is_none(), "{namespace} is still there");
        let evidence = status.evidence.context("a drill without evidence")?;
        tells_of_success(&story.journal(&evidence).await?, &status.steps)?;

        // Production has not noticed.
        story.acknowledged(&load, 100).await?;
        for database in DATABASES {
            story.becomes::<StandbyDatabase>(Site::Standby, database, types::FOLLOWING).await?;
        }
        load.stop().await?;
        story.nothing_is_lost(Site::Primary).await
    })
    .await
}
