//! `hospital`: the three services, the load on them, and the verifier.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use holdfast_hospital::load::{Load, LoadOptions, Stats};
use holdfast_hospital::service::{self, DatabaseConfig, ServiceConfig};
use holdfast_hospital::{Service, Site, verify};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use url::Url;

/// A small hospital that must not lose a record.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve registration: issues medical record numbers.
    Registration(ServeArgs),
    /// Serve billing: invoices of patients whom registration knows.
    Billing(ServeArgs),
    /// Serve lab: results of patients whom registration knows.
    Lab(ServeArgs),
    /// Write through the services and keep a ledger of what was acknowledged.
    Load(LoadArgs),
    /// Compare ledgers with what a site holds. Exit code 1: something acknowledged was lost.
    Verify(VerifyArgs),
}

#[derive(Args)]
struct ServeArgs {
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    #[arg(long, env = "DATABASE_HOST")]
    database_host: String,
    #[arg(long, env = "DATABASE_PORT", default_value_t = 5432)]
    database_port: u16,
    #[arg(long, env = "DATABASE_NAME", default_value = "hospital")]
    database_name: String,
    #[arg(long, env = "DATABASE_USER", default_value = "hospital")]
    database_user: String,
    /// Better set in the environment: arguments can be read by every process.
    #[arg(long, env = "DATABASE_PASSWORD", hide_env_values = true)]
    database_password: String,
    /// The most connections for writing.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16)]
    database_connections: usize,
    /// Where registration answers, for billing and lab.
    #[arg(long, env = "REGISTRATION_URL")]
    registration_url: Option<Url>,
    /// How long a client waits for COMMIT until it is told that the outcome is unknown.
    #[arg(long, env = "COMMIT_TIMEOUT_MS", default_value_t = 1500)]
    commit_timeout_ms: u64,
}

#[derive(Args)]
struct LoadArgs {
    /// A site's address (http://HOST, node ports are added), or its three services' addresses,
    /// comma separated. Repeat for each site, in the order to try them.
    #[arg(long = "site", required = true)]
    sites: Vec<Site>,
    /// Where to write the ledger; must not exist.
    #[arg(long)]
    ledger: PathBuf,
    #[arg(long, default_value_t = 16)]
    writers: usize,
    /// Stop after so many patients, each with an invoice and a result.
    #[arg(long)]
    patients: Option<u64>,
    /// Stop after so many seconds; otherwise Ctrl-C stops.
    #[arg(long)]
    seconds: Option<u64>,
    /// How long each writer rests between two patients, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

#[derive(Args)]
struct VerifyArgs {
    /// A ledger to hold the site to; may be repeated.
    #[arg(long = "ledger", required = true)]
    ledgers: Vec<PathBuf>,
    /// The site to read, as for `load`.
    #[arg(long)]
    site: Site,
    /// The moment of the failure (for example 2026-01-31T12:00:00Z): report gaps after it.
    #[arg(long)]
    around: Option<jiff::Timestamp>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Registration(args) => serve(Service::Registration, args).await,
        Command::Billing(args) => serve(Service::Billing, args).await,
        Command::Lab(args) => serve(Service::Lab, args).await,
        Command::Load(args) => load(args).await,
        Command::Verify(args) => verify_site(args).await,
    }
}

async fn serve(role: Service, args: ServeArgs) -> Result<ExitCode> {
    let config = ServiceConfig {
        role,
        database: DatabaseConfig {
            host: args.database_host,
            port: args.database_port,
            name: args.database_name,
            user: args.database_user,
            password: args.database_password,
            connections: args.database_connections,
        },
        registration: args.registration_url,
        commit_timeout: Duration::from_millis(args.commit_timeout_ms),
    };
    service::run(config, args.listen, until_signalled()?).await?;
    Ok(ExitCode::SUCCESS)
}

async fn load(args: LoadArgs) -> Result<ExitCode> {
    let mut options = LoadOptions::new(args.sites, args.writers, args.ledger);
    options.patients = args.patients;
    options.duration = args.seconds.map(Duration::from_secs);
    options.pause = Duration::from_millis(args.pause_ms);
    let signalled = until_signalled()?;
    let load = Load::start(options)?;
    let stop = load.stopper();
    let mut stats = load.stats();
    let show = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = signalled.cancelled() => return stop.cancel(),
                changed = stats.changed() => if changed.is_err() { return },
                _ = every.tick() => eprintln!("{}", line(&stats.borrow())),
            }
        }
    });
    let last = load.wait().await?;
    show.abort();
    println!("{}", line(&last));
    Ok(ExitCode::SUCCESS)
}

fn line(stats: &Stats) -> String {
    let milliseconds = |us: u64| us as f64 / 1000.0;
    let mut text = format!(
        "{:>6.1} s  acknowledged {}  {:.0}/s  p50 {:.1} ms  p95 {:.1} ms  errors {}",
        stats.elapsed.as_secs_f64(),
        stats.acked,
        stats.rate_per_second,
        milliseconds(stats.latency.p50_us),
        milliseconds(stats.latency.p95_us),
        stats.errors,
    );
    if stats.rate_per_second == 0.0
        && let Some(error) = &stats.last_error
    {
        text.push_str(&format!("  ({error})"));
    }
    text
}

async fn verify_site(args: VerifyArgs) -> Result<ExitCode> {
    let around_us = args
        .around
        .map(|moment| u64::try_from(moment.as_microsecond()))
        .transpose()
        .context("--around lies before 1970")?;
    let verdict = verify::verify(&args.ledgers, &args.site, around_us).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{verdict}");
    }
    Ok(if verdict.is_intact() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn until_signalled() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}
