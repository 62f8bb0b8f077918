//! Commit latency with and without Holdfast, memory of its parts, and the times of a failover: both clusters, the
//! bucket and the load on one machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_hospital::Service;
use holdfast_hospital::ledger::{self, Entry};
use holdfast_hospital::verify::{Percentiles, verify};
use holdfast_stories::{Site, Story, addresses, epoch_us, options};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each load is measured, in seconds.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
}

const SECONDS: u64 = 20;

impl Default for Arguments {
    fn default() -> Self {
        Arguments { seconds: SECONDS }
    }
}

/// One load's figures.
struct Measured {
    commit: Percentiles,
    request: Percentiles,
    per_second: f64,
}

pub(crate) async fn bench(arguments: &Arguments) -> Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    let mut story = Story::begin_in(&folder, options()).await?;
    let time = Duration::from_secs(arguments.seconds);

    eprintln!("the hospital without Holdfast …");
    story.open_unprotected().await?;
    let mut measured = Vec::new();
    for writers in [1, 16] {
        measured.push(("without", writers, measure(&mut story, writers, time).await?));
    }
    eprintln!("the hospital with Holdfast …");
    story.open_hospital().await?;
    for writers in [1, 16] {
        measured.push(("with", writers, measure(&mut story, writers, time).await?));
    }
    println!(
        "{:<9}{:>8}  {:>22}  {:>22}  {:>9}",
        "Holdfast", "writers", "commit p50 / p95 ms", "request p50 / p95 ms", "writes/s"
    );
    for (holdfast, writers, figures) in &measured {
        println!(
            "{holdfast:<9}{writers:>8}  {:>22}  {:>22}  {:>9.0}",
            pair(&figures.commit),
            pair(&figures.request),
            figures.per_second
        );
    }

    // Of the whole run so far, the load at full speed included.
    let mut memory = story.peak_memory(Site::Primary).await?;
    memory.join(story.peak_memory(Site::Standby).await?);

    let load = story.load(16)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let cut_us = epoch_us(jiff::Timestamp::now());
    story.lab.site(Site::Primary).kill().await?;
    let failover = story.fail_over("failover-1").await?;
    story.acknowledged(&load, 200).await?;
    load.stop().await?;
    let status = failover.status.context("a failover without status")?;
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} s"));
    println!(
        "\nfailover: writable after {} (target 5 s), serving after {} (target 20 s)",
        seconds(status.writable_after_seconds),
        seconds(status.serving_after_seconds)
    );
    let verdict = verify(story.ledgers(), &addresses(Site::Standby)?, Some(cut_us)).await?;
    for service in Service::ALL {
        let gap = verdict.services[service.index()].gap.map_or(0.0, |gap| gap.length_us() as f64 / 1e6);
        println!("  {:<14}gap {gap:.2} s", service.name());
    }
    memory.join(story.peak_memory(Site::Standby).await?);
    println!("\n{}", memory.line());
    println!("\nwrites acknowledged {}, lost {} (target 0)", verdict.acknowledged, verdict.lost);
    anyhow::ensure!(verdict.is_intact(), "{verdict}");
    Ok(())
}

async fn measure(story: &mut Story, writers: usize, time: Duration) -> Result<Measured> {
    let load = story.load_at_full_speed(writers)?;
    tokio::time::sleep(time).await;
    load.stop().await?;
    let path = story.ledgers().last().context("a load without a ledger")?;
    let (mut commits, mut requests) = (Vec::new(), Vec::new());
    for entry in ledger::read(path)? {
        if let Entry::Acked { latency_us, commit_us, .. } = entry {
            commits.push(commit_us);
            requests.push(latency_us);
        }
    }
    Ok(Measured {
        per_second: commits.len() as f64 / time.as_secs_f64(),
        commit: Percentiles::of(commits),
        request: Percentiles::of(requests),
    })
}

fn pair(figures: &Percentiles) -> String {
    format!("{:.1} / {:.1}", figures.p50_us as f64 / 1000.0, figures.p95_us as f64 / 1000.0)
}
