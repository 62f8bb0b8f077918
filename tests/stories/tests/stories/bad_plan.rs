//! Plans that cannot be carried out, and failovers that must not begin.

use anyhow::ensure;
use holdfast_api::condition::{reasons, types};
use holdfast_api::run::RunPhase;
use holdfast_api::{Failover, RecoveryPlan, StandbyDatabase};
use holdfast_stories::{Complaint, DATABASES, PLAN, Site, Story, story};
use serde_json::{Value, json};

use crate::schema;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_plan_is_named_and_only_one_failover_runs() -> anyhow::Result<()> {
    story("bad plans", async |story| {
        story.open_hospital().await?;
        for (name, plan, reason, what, hint) in [
            (
                "x",
                plan(&[("a", &["b"], "billing"), ("b", &["a"], "lab")], "billing-db"),
                reasons::PLAN_CYCLE,
                "a -> b -> a",
                "dependsOn",
            ),
            (
                "y",
                plan(&[("a", &[], "billing")], "nowhere-db"),
                reasons::UNKNOWN_DATABASE,
                "there is no StandbyDatabase hospital/nowhere-db",
                "apply it, or correct spec.databases",
            ),
            (
                "z",
                plan(&[("a", &[], "pharmacy")], "billing-db"),
                reasons::UNKNOWN_WORKLOAD,
                "there is no Deployment hospital/pharmacy",
                "apply it with 0 replicas, or correct its workloads",
            ),
        ] {
            story.create(Site::Standby, "RecoveryPlan", name, plan).await?;
            story
                .complains::<RecoveryPlan>(Site::Standby, name, types::READY, Complaint { reason, what, hint })
                .await?;
        }
        for (name, plan, reason, what, hint) in [
            ("of-unknown", "absent", reasons::UNKNOWN_PLAN, "hospital/absent", "kubectl -n hospital get recoveryplans"),
            ("of-bad", "x", reasons::PLAN_NOT_VALID, "a -> b -> a", "Mend the plan and create another Failover"),
        ] {
            story.create(Site::Standby, "Failover", name, order(plan)).await?;
            story.complains::<Failover>(Site::Standby, name, types::COMPLETE, Complaint { reason, what, hint }).await?;
        }
        schema::refuses(story, "of-unknown").await?;
        // Nothing was begun.
        for database in DATABASES {
            story.becomes::<StandbyDatabase>(Site::Standby, database, types::FOLLOWING).await?;
        }

        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;
        story.lab.site(Site::Primary).kill().await?;
        only_one_of_three_runs(story).await?;
        story.acknowledged(&load, 50).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

/// Two Failovers of one plan that are created at the same moment, and a third one while one of them runs.
async fn only_one_of_three_runs(story: &Story) -> anyhow::Result<()> {
    let twin = |name: &'static str| story.create(Site::Standby, "Failover", name, order(PLAN));
    tokio::try_join!(twin("twin-1"), twin("twin-2"))?;
    story.create(Site::Standby, "Failover", "late", order(PLAN)).await?;
    let phase = |failover: &Failover| failover.status.as_ref().map(|status| status.phase);
    let ended =
        async |name: &'static str| Ok::<_, anyhow::Error>((name, phase(&story.over::<Failover>(name, phase).await?)));
    let (one, other) = tokio::try_join!(ended("twin-1"), ended("twin-2"))?;
    let (winner, loser) = if one.1 == Some(RunPhase::Succeeded) { (one, other) } else { (other, one) };
    ensure!(
        winner.1 == Some(RunPhase::Succeeded) && loser.1 == Some(RunPhase::Refused),
        "one must run and one be refused: {winner:?}, {loser:?}"
    );
    for name in [loser.0, "late"] {
        let follow = format!("kubectl -n hospital get failover {} --watch", winner.0);
        let complaint =
            Complaint { reason: reasons::ANOTHER_FAILOVER_RUNS, what: "carries out plan \"hospital\"", hint: &follow };
        story.complains::<Failover>(Site::Standby, name, types::COMPLETE, complaint).await?;
    }
    Ok(())
}

fn order(plan: &str) -> Value {
    json!({ "plan": { "name": plan }, "type": "Failover", "reason": "A story." })
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
