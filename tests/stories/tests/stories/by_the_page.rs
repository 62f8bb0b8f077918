//! A person who has nothing but a page, and pastes what it says.

use anyhow::{Context, ensure};
use holdfast_api::condition::types;
use holdfast_api::run::RunPhase;
use holdfast_api::{Drill, Failover, ProtectedDatabase};
use holdfast_stories::{DATABASES, NAMESPACE, PLAN, Site, blocks, story, story_on_empty_clusters};
use kube::api::{Api, ListParams};

const README: &str = include_str!("../../../../README.md");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes four minutes: `cargo lab test by_the_page` runs it"]
async fn the_readme_leads_from_empty_clusters_to_a_failover() -> anyhow::Result<()> {
    story_on_empty_clusters("the readme", async |story| {
        let set_up = blocks(README, "**Keys.**", "**Rehearse,**")?;
        let printed = story.paste(Site::Primary, &set_up).await?;
        let mrn = printed.split("\"mrn\":").nth(1).context("no patient was registered")?;
        let mrn: String = mrn.chars().take_while(char::is_ascii_digit).collect();
        ensure!(printed.contains("# Runbook: recover hospital"), "{printed}");
        // "Every block can be repeated."
        story.paste(Site::Primary, &set_up).await?;

        let rehearse = blocks(README, "**Rehearse,**", "**Lose the site")?;
        // A terminal of its own begins where the README stands: at the standby site.
        let printed = story.paste(Site::Standby, &rehearse).await?;
        ensure!(printed.contains("drill-1") && printed.contains("Succeeded"), "{printed}");

        let look = blocks(README, "## Look into the vault", "## Where to read on")?.concat();
        let list: Vec<_> = look.lines().filter(|line| line.contains("VAULT=") || line.contains("vault ls ")).collect();
        let env = "eval \"$(cargo lab env standby)\"\n".to_owned();
        let printed = story.paste(Site::Standby, &[env, list.join("\n")]).await?;
        ensure!(DATABASES.iter().all(|database| printed.contains(database)), "{printed}");

        let lose = blocks(README, "**Lose the site", "## Look into the vault")?;
        let printed = story.paste(Site::Standby, &lose).await?;
        ensure!(printed.contains("failover-1") && printed.contains(&format!("\"mrn\":{mrn}")), "{printed}");

        // The old site comes back, and stays fenced.
        story.paste(Site::Standby, &["cargo lab restore primary\n".to_owned()]).await?;
        for database in DATABASES {
            story.becomes::<ProtectedDatabase>(Site::Primary, database, types::FENCED).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes four minutes: `cargo lab test by_the_page` runs it"]
async fn the_runbook_leads_through_two_rehearsals_and_a_failover() -> anyhow::Result<()> {
    story("the runbook", async |story| {
        story.open_hospital().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;
        let page = story.runbook(PLAN).await?;

        let head = blocks(&page, "# Runbook", "## What is protected")?;
        let rehearse = blocks(&page, "## 5. Rehearse", "## 6. By hand")?;
        story.paste(Site::Standby, &[head.clone(), rehearse.clone()].concat()).await?;
        // The second rehearsal is another one, and not the result of the first.
        story.paste(Site::Standby, &rehearse).await?;
        let client = story.client(Site::Standby).await?;
        let drills = Api::<Drill>::namespaced(client.clone(), NAMESPACE).list(&ListParams::default()).await?.items;
        let done = |drill: &&Drill| drill.status.as_ref().is_some_and(|status| status.phase == RunPhase::Succeeded);
        ensure!(drills.len() == 2 && drills.iter().filter(done).count() == 2, "{drills:#?}");

        story.lab.site(Site::Primary).kill().await?;
        let before = blocks(&page, "## 1. Before", "## 2. Fail over")?;
        let fail_over = blocks(&page, "## 2. Fail over", "## 3. When a step fails")?;
        let printed = story.paste(Site::Standby, &[head, before, fail_over].concat()).await?;
        for step in ["takeover", "promote-seal", "promote", "protect", "start", "probe", "traffic"] {
            ensure!(printed.lines().any(|line| line.contains(&format!("/{step} Done"))), "no {step} in\n{printed}");
        }
        let failovers = Api::<Failover>::namespaced(client, NAMESPACE).list(&ListParams::default()).await?.items;
        let name = failovers.first().and_then(|failover| failover.metadata.name.as_deref()).context("no Failover")?;
        ensure!(failovers.len() == 1 && name.starts_with(PLAN) && name != format!("{PLAN}-1"), "{name}");

        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_leads_by_hand_where_no_operator_runs() -> anyhow::Result<()> {
    story("by hand", async |story| {
        story.open_hospital().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 100).await?;
        let page = story.runbook(PLAN).await?;
        story.lab.site(Site::Primary).kill().await?;

        let head = blocks(&page, "# Runbook", "## What is protected")?;
        let stop = blocks(&page, "## 6. By hand", "### Files, once")?;
        let files = blocks(&page, "### Files, once", "### Database")?;
        let sections: Vec<_> = page.split("### Database ").skip(1).collect();
        ensure!(sections.len() == DATABASES.len(), "{} databases", sections.len());
        let (mut before, mut open) = (Vec::new(), Vec::new());
        for section in sections {
            // The operator's standbys still run: "use that one and leave out both blocks above and step e".
            let steps = blocks(&format!("{section}\n### "), "a. Restore", "\n### ")?;
            let [_follow, _start, instead, take_over, replayed, promote, _protect] = &steps[..] else {
                anyhow::bail!("{} blocks: {section}", steps.len());
            };
            before.extend([instead.clone(), FORWARDED.to_owned(), take_over.clone(), until_it_stays(replayed)]);
            open.push(promote.clone());
        }
        let services = blocks(&format!("{page}\n## "), "### Services, in this order", "\n## ")?;
        let end_of_forwards = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n".to_owned();
        let walk = [vec![end_of_forwards], head, stop, files, before, open, services].concat();
        let walk: Vec<_> = walk.iter().map(|block| story.filled_in(Site::Standby, block)).collect();
        let printed = story.paste(Site::Standby, &walk).await?;
        for database in DATABASES {
            ensure!(printed.contains(&format!("sealed {database} at ")), "{printed}");
        }
        ensure!(printed.matches("promote seal stored").count() == DATABASES.len(), "{printed}");

        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await
    })
    .await
}

/// A person waits until kubectl says that it forwards.
const FORWARDED: &str = "sleep 3\n";

/// "Repeat it until the answer stays the same."
fn until_it_stays(block: &str) -> String {
    format!(
        "repeat() {{\n{block}}}\nbefore=; until [ \"$(repeat)\" = \"$before\" ]; do before=$(repeat); sleep 2; done; echo \"$before\"\n"
    )
}
