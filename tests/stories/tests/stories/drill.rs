//! A rehearsal while the hospital works.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use holdfast_api::condition::types;
use holdfast_api::run::StepPhase;
use holdfast_api::{Drill, DrillStatus, RecoveryPlan, StandbyDatabase};
use holdfast_lab::wait;
use holdfast_recovery::Line;
use holdfast_recovery::journal::Entry;
use holdfast_stories::{DATABASES, NAMESPACE, OPERATOR, PLAN, Site, Story, story, tells_of_success};
use kube::api::Api;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_restores_everything_in_isolation_and_leaves_nothing() -> anyhow::Result<()> {
    story("drill", async |story| {
        story.open_hospital().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;
        let before = story.cluster_objects(Site::Standby).await?;

        story.order_drill("drill-1").await?;
        let in_step = kill_the_operator_in_a_restore(story).await?;
        let drill = story.drill_succeeded("drill-1").await?;
        let status = drill.status.context("a drill without status")?;
        let evidence = status.evidence.clone().context("a drill without evidence")?;
        let journal = story.journal(&evidence).await?;
        tells_of_success(&journal, &status.steps)?;
        goes_on_after_the_kill(&journal, &in_step)?;
        proves_its_isolation(&status, &journal)?;
        names_what_it_rehearsed(story, &status, &journal).await?;
        leaves_nothing(story, &before).await?;

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

/// A restore takes seconds: the operator dies in the middle of one. Returns the steps that it was in.
async fn kill_the_operator_in_a_restore(story: &Story) -> anyhow::Result<Vec<String>> {
    let drills = Api::<Drill>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
    let in_step = wait::until("a restore to begin", Duration::from_secs(60), || async {
        let status = drills.get("drill-1").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let running = status.steps.iter().filter(|step| step.step == "restore" && step.state == StepPhase::Running);
        let names: Vec<_> = running.map(|step| step.name.clone()).collect();
        if names.is_empty() { Err(format!("{:?}", status.phase)) } else { Ok(names) }
    });
    let in_step = in_step.await?;
    let killed = story.kill_pod(Site::Standby, "holdfast-system", OPERATOR).await?;
    ensure!(killed == 1, "{killed} operators were killed");
    println!("killed the operator in {}", in_step.join(", "));
    Ok(in_step)
}

/// Another operator took over while at least one of these steps had begun and not ended.
fn goes_on_after_the_kill(journal: &[Line], in_step: &[String]) -> anyhow::Result<()> {
    let resumed = journal.iter().position(|line| matches!(line.entry, Entry::Resumed)).context("nobody went on")?;
    let ended_before = |name: &String| journal[..resumed].iter().any(|line| done(&line.entry, name).is_some());
    ensure!(!in_step.iter().all(ended_before), "{in_step:?} had ended before the operator was killed");
    Ok(())
}

fn done<'a>(entry: &'a Entry, name: &str) -> Option<&'a Value> {
    match entry {
        Entry::Done { step, result } if step.as_str() == name => Some(result),
        _ => None,
    }
}

/// The result of a step as the journal has it, in the vault.
fn result<'a>(journal: &'a [Line], name: &str) -> anyhow::Result<&'a Value> {
    journal.iter().find_map(|line| done(&line.entry, name)).with_context(|| format!("the journal has no end of {name}"))
}

/// Status and stored report tell the same: connections that must fail and have failed, and controls that were reached.
fn proves_its_isolation(status: &DrillStatus, journal: &[Line]) -> anyhow::Result<()> {
    ensure!(status.isolated == Some(true) && status.cleaned_up, "{status:?}");
    let proof = result(journal, "isolation")?;
    let reported = &result(journal, "report")?["isolation"];
    ensure!(reported == proof && proof["isolated"] == true, "the report says {reported}, the step said {proof}");
    let probes = proof["probes"].as_array().context("a report without probes")?;
    ensure!(probes.iter().all(|probe| probe["reached"] == probe["mustReach"]), "{probes:?}");
    let (controls, walls): (Vec<_>, Vec<_>) = probes.iter().partition(|probe| probe["mustReach"] == true);
    ensure!(!controls.is_empty(), "no positive control: {probes:?}");
    ensure!(walls.len() >= 3, "too few walls were tried: {probes:?}");
    ensure!(status.isolation.len() == probes.len(), "{:?} is not {probes:?}", status.isolation);
    Ok(())
}

/// Status and journal name the plan and the page as they are.
async fn names_what_it_rehearsed(story: &Story, status: &DrillStatus, journal: &[Line]) -> anyhow::Result<()> {
    let plans = Api::<RecoveryPlan>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
    let plan = plans.get(PLAN).await?.status.context("a plan without status")?;
    let opening = journal.iter().find_map(|line| match &line.entry {
        Entry::Started(opening) => Some(opening),
        _ => None,
    });
    let opening = opening.context("a journal without a beginning")?;
    for (what, planned, shown, stored) in [
        ("plan", plan.hash, &status.plan_hash, &opening.plan_hash),
        ("runbook", plan.runbook_hash, &status.runbook_hash, &opening.runbook_hash),
    ] {
        ensure!(planned.is_some() && planned == *shown, "{what}: {shown:?} is not {planned:?}");
        ensure!(planned.as_ref() == Some(stored), "{what}: the journal has {stored}, not {planned:?}");
    }
    Ok(())
}

/// Not its namespace, not a volume, nothing else that is in no namespace.
async fn leaves_nothing(story: &Story, before: &BTreeSet<String>) -> anyhow::Result<()> {
    // Volumes are removed by the provisioner in its own time.
    let gone = wait::until("what the drill made to be gone", Duration::from_secs(60), || async {
        let after = story.cluster_objects(Site::Standby).await.map_err(|error| format!("{error:#}"))?;
        let left: Vec<_> = after.difference(before).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
    Ok(gone.await?)
}
