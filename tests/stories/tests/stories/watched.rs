//! What a failover leaves for those who look at it later: a trace, and the hash of the page that was followed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use holdfast_api::RecoveryPlan;
use holdfast_lab::wait;
use holdfast_stories::{Collector, NAMESPACE, PLAN, Site, story};
use kube::api::Api;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_one_trace_and_names_the_runbook_it_followed() -> anyhow::Result<()> {
    story("watched", async |story| {
        let collector = Collector::start().await?;
        story.send_traces(Site::Standby).await?;
        story.open_hospital().await?;
        let load = story.load(8)?;
        story.acknowledged(&load, 100).await?;
        let plans = Api::<RecoveryPlan>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
        let plan = plans.get(PLAN).await?.status.context("a plan without status")?;
        let page = story.runbook(PLAN).await?;

        story.lab.site(Site::Primary).kill().await?;
        let failover = story.fail_over("failover-1").await?;
        story.acknowledged(&load, 50).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await?;

        let status = failover.status.context("a failover without status")?;
        for (what, planned, followed) in
            [("plan", plan.hash, status.plan_hash), ("runbook", plan.runbook_hash, status.runbook_hash)]
        {
            let planned = planned.with_context(|| format!("the plan has no hash of its {what}"))?;
            ensure!(followed.as_deref() == Some(planned.as_str()), "{what}: {followed:?} is not {planned}");
            ensure!(page.contains(&planned), "the printed page does not carry the {what}'s hash {planned}:\n{page}");
        }

        let steps: BTreeSet<_> = status.steps.into_iter().map(|step| step.name).collect();
        ensure!(steps.len() >= 20, "{steps:?}");
        wait::until("one trace with a span a step", Duration::from_secs(30), || async {
            let spans = collector.spans();
            let roots: Vec<_> = spans.iter().filter(|span| span.name == "failover").collect();
            let [root] = roots[..] else {
                return Err(format!("{} spans, {} roots", spans.len(), roots.len()));
            };
            let traced = spans.iter().filter(|span| span.trace == root.trace && span.parent == root.id);
            let traced: BTreeSet<_> = traced.map(|span| span.name.clone()).collect();
            let missing: Vec<_> = steps.difference(&traced).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("without a span in the trace: {missing:?}")) }
        })
        .await?;
        Ok(())
    })
    .await
}
