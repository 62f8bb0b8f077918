//! A hospital loses its primary site under load and carries on at the other.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use holdfast_api::run::{RunPhase, Step, StepPhase};
use holdfast_api::{Drill, Failover};
use holdfast_hospital::Service;
use holdfast_hospital::load::{Load, Stats};
use holdfast_hospital::verify::Verdict;
use holdfast_hospital::{ledger, verify};
use holdfast_lab::Existing;
use holdfast_stories::{
    Mark, NAMESPACE, PLAN, Report, Site, Story, Timeline, View, addresses, epoch_us, options, spans,
};
use indicatif::{ProgressBar, ProgressStyle};
use kube::api::Api;

/// Watch a hospital lose its primary site under load and carry on at the other with nothing lost.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end, and say what to try next.
    #[arg(long)]
    keep: bool,
    /// How many writers the load has.
    #[arg(long, default_value_t = 8)]
    writers: usize,
    /// Replace a lab that `cargo lab up` or an earlier `--keep` has left running, with its data.
    #[arg(long)]
    fresh: bool,
    /// How long to watch the load before the power is cut, in seconds.
    #[arg(long, default_value_t = 20)]
    watch: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = tokio::select! {
        told = demo(&arguments) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match told {
        Ok(verdict) if verdict.is_intact() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<Verdict> {
    let screen = Screen::new();
    screen.chapter("The lab: two Kubernetes clusters and a bucket with Object Lock");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/demo");
    let mut options = options();
    if arguments.fresh {
        options.existing = Existing::Replace;
    }
    let mut story = Story::begin_in(&folder, options).await?;
    let told = tell(&mut story, arguments, &screen).await;
    if told.is_err() {
        let folder = story.folder().join("failure");
        if story.lab.dump(&folder).await.is_ok() {
            eprintln!("what both sites looked like is in {}", folder.display());
        }
    }
    if arguments.keep {
        story.lab.keep();
        print_next();
    }
    told
}

async fn tell(story: &mut Story, arguments: &Arguments, screen: &Screen) -> Result<Verdict> {
    screen.chapter("The hospital opens: registration, billing and lab, each with a PostgreSQL of its own");
    let opening = screen.wait("each database is backed up and streamed into the vault");
    story.open_primary().await?;
    opening.finish("the primary site is protected");
    let opening = screen.wait("each database is restored from the vault at the standby site");
    story.open_standby().await?;
    opening.finish("the standby site follows, and the recovery plan is ready");

    screen.chapter(&format!("{} writers at work", arguments.writers));
    let load = story.load(arguments.writers)?;
    watch(story, &load, screen, Duration::from_secs(arguments.watch)).await?;

    let mut memory = story.peak_memory(Site::Primary).await?;
    screen.chapter("The primary site loses its power");
    let begun_us = now_us();
    story.lab.site(Site::Primary).kill().await?;
    let cut_us = now_us();
    screen.say(&format!("acknowledged so far: {}", load.stats().borrow().acked));
    tokio::time::sleep(Duration::from_secs(2)).await;

    screen.chapter("kubectl apply -f failover.yaml, at the standby site");
    let ordered_us = now_us();
    story.order_failover("failover-1").await?;
    let failover = follow_failover(story, screen).await?;
    story.acknowledged(&load, 100).await?;
    watch(story, &load, screen, Duration::from_secs(5)).await?;

    screen.chapter("The verdict");
    load.stop().await?;
    let around = Some(begun_us);
    let verdict = verify::verify(story.ledgers(), &addresses(Site::Standby)?, around).await?;
    screen.say(&verdict.to_string());

    screen.chapter("A drill, while the hospital works");
    let load = story.load(arguments.writers)?;
    story.order_drill("drill-1").await?;
    let drill = follow_drill(story, screen).await;
    load.stop().await?;
    let verdict = verify::verify(story.ledgers(), &addresses(Site::Standby)?, around).await?;
    screen.say(&summary(&verdict));
    memory.join(story.peak_memory(Site::Standby).await?);
    screen.say(&memory.line());

    // Also when the drill has failed.
    let report = Report {
        timeline: timeline(story, &failover, begun_us.min(cut_us), ordered_us)?,
        failover,
        drill: drill.as_ref().ok().cloned(),
        verdict: verdict.clone(),
    };
    let page = report.write(story.folder())?;
    screen.say(&format!("the report, with a picture: {}", page.display()));
    drill.map(|_| verdict)
}

fn timeline(story: &Story, failover: &Failover, cut_us: u64, ordered_us: u64) -> Result<Timeline> {
    let steps = failover.status.as_ref().map(|status| spans(&status.steps)).unwrap_or_default();
    let end_us = steps.iter().map(|step| step.to_us).max().unwrap_or(ordered_us);
    let mut timeline = Timeline {
        from_us: cut_us.saturating_sub(8_000_000),
        to_us: end_us + 6_000_000,
        marks: vec![
            Mark { name: "power cut".to_owned(), at_us: cut_us },
            Mark { name: "kubectl apply failover".to_owned(), at_us: ordered_us },
            Mark { name: "every service is open".to_owned(), at_us: end_us },
        ],
        steps,
        ..Timeline::default()
    };
    for path in story.ledgers() {
        timeline.acked_from(&ledger::read(path)?);
    }
    Ok(timeline)
}

/// Shows load, replication and vault for a while.
async fn watch(story: &Story, load: &Load, screen: &Screen, time: Duration) -> Result<()> {
    let (primary, standby) = (story.client(Site::Primary).await?, story.client(Site::Standby).await?);
    let until = Instant::now() + time;
    let stats = load.stats();
    let live = screen.live();
    while Instant::now() < until {
        let view = View::of(&primary, &standby).await;
        live.show(&figures(&stats.borrow(), &view));
        tokio::time::sleep(live.pause).await;
    }
    live.finish();
    Ok(())
}

fn figures(stats: &Stats, view: &View) -> Vec<String> {
    let ms = |us: u64| us as f64 / 1000.0;
    let mut lines = vec![format!(
        "acknowledged {:>6}   {:>4.0}/s   commit p50 {:.0} ms p95 {:.0} ms   vault: {}",
        stats.acked,
        stats.rate_per_second,
        ms(stats.commit.p50_us),
        ms(stats.commit.p95_us),
        view.vault
    )];
    for database in &view.databases {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        lines.push(format!(
            "  {:<16} {:<13} in the vault up to {:<11} replayed {:<11} behind {:<6} epoch {}",
            database.name,
            if database.protected { "protected" } else { "not protected" },
            or(&database.durable_lsn),
            or(&database.replayed_lsn),
            database.replay_lag_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s")),
            database.epoch.map_or("-".to_owned(), |epoch| epoch.to_string()),
        ));
    }
    lines
}

async fn follow_failover(story: &Story, screen: &Screen) -> Result<Failover> {
    let api = Api::<Failover>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
    let mut steps = Steps::default();
    loop {
        let failover = api.get("failover-1").await?;
        if let Some(status) = &failover.status {
            steps.show(screen, &status.steps);
            match status.phase {
                RunPhase::Succeeded => {
                    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} s"));
                    screen.say(&format!(
                        "databases writable after {} (target 5 s), services serving after {} (target 20 s)",
                        seconds(status.writable_after_seconds),
                        seconds(status.serving_after_seconds)
                    ));
                    return Ok(failover);
                }
                phase if phase.is_over() => bail!("the failover ended: {}", holdfast_stories::conditions(&failover)),
                _ => {}
            }
        }
        steps.check_patience()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn follow_drill(story: &Story, screen: &Screen) -> Result<Drill> {
    let api = Api::<Drill>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
    let mut steps = Steps::default();
    loop {
        let drill = api.get("drill-1").await?;
        if let Some(status) = &drill.status {
            steps.show(screen, &status.steps);
            match status.phase {
                RunPhase::Succeeded => {
                    for probe in &status.isolation {
                        let must = if probe.must_reach { "must be reached" } else { "must not be reached" };
                        screen.say(&format!("  {} ({}): {must}: {}", probe.name, probe.target, probe.outcome));
                    }
                    return Ok(drill);
                }
                phase if phase.is_over() => bail!("the drill ended: {}", holdfast_stories::conditions(&drill)),
                _ => {}
            }
        }
        steps.check_patience()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Says each step once, when it is done, and each problem once.
struct Steps {
    done: usize,
    said: Vec<String>,
    problems: Vec<String>,
    since: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self { done: 0, said: Vec::new(), problems: Vec::new(), since: Instant::now() }
    }
}

impl Steps {
    fn show(&mut self, screen: &Screen, steps: &[Step]) {
        let mut done: Vec<_> = steps.iter().filter(|step| step.state == StepPhase::Done).collect();
        done.sort_by_key(|step| step.finished_at);
        for step in done {
            if !self.said.contains(&step.name) {
                self.said.push(step.name.clone());
                let seconds = step.duration_ms.unwrap_or(0) as f64 / 1000.0;
                let message = step.message.as_deref().unwrap_or("");
                screen.say(&format!("  {:<32} {seconds:>6.2} s  {message}", step.name));
                self.since = Instant::now();
            }
        }
        self.done = self.said.len();
        for step in steps.iter().filter(|step| matches!(step.state, StepPhase::Retrying | StepPhase::Failed)) {
            let text = format!("  {} {:?}: {}", step.name, step.state, step.message.as_deref().unwrap_or(""));
            if !self.problems.contains(&text) {
                screen.say(&text);
                self.problems.push(text);
            }
        }
    }

    fn check_patience(&self) -> Result<()> {
        if self.since.elapsed() > Duration::from_secs(180) {
            bail!("no step was finished for three minutes; {} are done", self.done);
        }
        Ok(())
    }
}

fn summary(verdict: &Verdict) -> String {
    let gaps: Vec<_> = Service::ALL
        .into_iter()
        .map(|service| {
            let gap = verdict.services[service.index()].gap;
            format!("{service} {:.1} s", gap.map_or(0.0, |gap| gap.length_us() as f64 / 1e6))
        })
        .collect();
    format!("writes acknowledged: {}   lost: {}   longest gap: {}", verdict.acknowledged, verdict.lost, gaps.join(", "))
}

fn print_next() {
    println!(
        "
Both sites are still there. Try:
  eval \"$(cargo lab env standby)\"
  kubectl -n {NAMESPACE} get vaults,standbydatabases,recoveryplans,failovers,drills
  kubectl -n {NAMESPACE} get failover failover-1 -o yaml
  kubectl -n {NAMESPACE} describe recoveryplan {PLAN}
  kubectl -n {NAMESPACE} get events --sort-by=.lastTimestamp
  cargo lab restore primary          the old site comes back, finds the seal, and stays fenced
  eval \"$(cargo lab env primary)\"
  kubectl -n {NAMESPACE} get protecteddatabases
  cargo lab down                     ends it"
    );
}

fn now_us() -> u64 {
    epoch_us(jiff::Timestamp::now())
}

/// Bars on a terminal, lines elsewhere.
struct Screen {
    terminal: bool,
    started: Instant,
}

struct Waiting {
    bar: Option<ProgressBar>,
    started: Instant,
}

struct Live {
    bar: Option<ProgressBar>,
    /// Lines that stay are shown less often.
    pause: Duration,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), started: Instant::now() }
    }

    fn chapter(&self, title: &str) {
        let seconds = self.started.elapsed().as_secs();
        println!("\n[{:02}:{:02}] {title}", seconds / 60, seconds % 60);
    }

    fn say(&self, text: &str) {
        println!("{text}");
    }

    fn wait(&self, what: &str) -> Waiting {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            println!("{what} …");
        }
        Waiting { bar, started: Instant::now() }
    }

    fn live(&self) -> Live {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Live { bar, pause: Duration::from_secs(if self.terminal { 1 } else { 5 }) }
    }
}

impl Waiting {
    fn finish(self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        println!("{what} ({:.1} s)", self.started.elapsed().as_secs_f64());
    }
}

impl Live {
    fn show(&self, lines: &[String]) {
        match &self.bar {
            Some(bar) => bar.set_message(lines.join("\n")),
            None => println!("{}", lines.join("\n")),
        }
    }

    fn finish(self) {
        // What was shown last stays.
        if let Some(bar) = self.bar {
            bar.finish();
        }
    }
}
