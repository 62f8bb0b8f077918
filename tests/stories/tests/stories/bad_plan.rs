//! Plans that cannot be carried out, and failovers that must not begin.

use holdfast_api::condition::types;
use holdfast_api::{Failover, RecoveryPlan, StandbyDatabase};
use holdfast_stories::{DATABASES, PLAN, Site, story};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_plan_is_named_and_only_one_failover_runs() -> anyhow::Result<()> {
    story("bad plans", async |story| {
        story.open_hospital().await?;
        for (name, plan, problem) in [
            ("cycle", plan(&[("a", &["b"], "billing"), ("b", &["a"], "lab")], "billing-db"), "a -> b -> a"),
            ("no-database", plan(&[("a", &[], "billing")], "nowhere-db"), "nowhere-db"),
            ("no-workload", plan(&[("a", &[], "pharmacy")], "billing-db"), "pharmacy"),
        ] {
            story.create(Site::Standby, "RecoveryPlan", name, plan).await?;
            story.says::<RecoveryPlan>(Site::Standby, name, types::READY, problem).await?;
            story.warning(Site::Standby, "RecoveryPlan", name, problem).await?;
        }

        let order = |plan: &str| json!({ "plan": { "name": plan }, "type": "Failover", "reason": "A story." });
        for (name, plan, problem) in [("of-unknown", "absent", "absent"), ("of-cycle", "cycle", "a -> b -> a")] {
            story.create(Site::Standby, "Failover", name, order(plan)).await?;
            story.says::<Failover>(Site::Standby, name, types::COMPLETE, problem).await?;
            story.warning(Site::Standby, "Failover", name, problem).await?;
        }
        // Nothing was begun.
        for database in DATABASES {
            story.becomes::<StandbyDatabase>(Site::Standby, database, types::FOLLOWING).await?;
        }

        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;
        story.lab.site(Site::Primary).kill().await?;
        story.order_failover("first").await?;
        story.create(Site::Standby, "Failover", "second", order(PLAN)).await?;
        story.says::<Failover>(Site::Standby, "second", types::COMPLETE, "first").await?;
        story.failover_succeeded("first").await?;
        story.acknowledged(&load, 50).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

fn plan(services: &[(&str, &[&str], &str)], standby: &str) -> Value {
    let services: Vec<_> = services
        .iter()
        .map(|(name, depends_on, workload)| {
            json!({
                "name": name,
                "databases": ["db"],
                "dependsOn": depends_on,
                "workloads": [{ "kind": "Deployment", "name": workload, "replicas": 1 }],
            })
        })
        .collect();
    json!({ "databases": [{ "name": "db", "standby": standby }], "services": services })
}
