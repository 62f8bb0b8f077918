//! `cargo lab …`

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};

use crate::error::{LabError, Result};
use crate::exec::as_from_a_shell;
use crate::lab::{Existing, Lab, Options, SiteStatus};
use crate::network::Reach;
use crate::paths::{Paths, repository};
use crate::progress::Progress;
use crate::site::{Site, launch, supervisor};
use crate::{cloud, components, guard, machine, setup};

const EXAMPLES: &str = "Examples:
  cargo lab demo                   watch a hospital lose its primary site and carry on
  cargo lab test                   every test: stories on real clusters, and all others beside them
  cargo lab test drill             only tests with `drill` in their name
  cargo lab test vault             the same, and everything in the crate of that name
  cargo lab up                     two clusters and a bucket, to play with
  eval \"$(cargo lab env standby)\"  kubectl talks to the standby site
  cargo lab kill primary           cut the power of a whole site
  cargo lab down                   leave nothing behind";

/// Two real Kubernetes clusters, a bucket with Object Lock, and the faults a hospital fears.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring both sites and the bucket up, setting the machine up first if need be
    Up {
        /// Start anew, without the data of a lab that is running
        #[arg(long)]
        fresh: bool,
        /// Use the binaries of holdfast and hospital as they are
        #[arg(long)]
        no_build: bool,
    },
    /// Take everything down and leave nothing behind
    Down,
    /// Show both sites and the bucket's server
    Status {
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Cut a site's network; it goes on by itself
    Cut {
        site: Site,
        /// Cut it off from the bucket only: its users still reach it
        #[arg(long)]
        cloud_only: bool,
    },
    /// End a network cut
    Heal { site: Site },
    /// Cut a site's power: kill -9 of everything in it
    Kill { site: Site },
    /// Give a site its power back: it starts from its disks
    Restore { site: Site },
    /// Print what a shell must evaluate: the cluster for kubectl, the site's keys to the bucket, and where that is
    Env { site: Site },
    /// Kill the bucket's S3 server (stop), or start it on its data (start)
    Cloud {
        #[arg(value_enum)]
        action: CloudAction,
    },
    /// Fail a hospital over and drill it, with a verdict and a picture
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests: units, then stories on real clusters
    Test {
        /// Only tests whose names contain this; with the name of a crate (`vault`) all of its tests too
        filter: Option<String>,
    },
    /// Print the figures that the documents state
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install and build everything that `up` needs, without starting it
    Setup,
    #[command(name = "__site", hide = true)]
    Site { folder: std::path::PathBuf },
    #[command(name = "__site-init", hide = true)]
    SiteInit { folder: std::path::PathBuf },
    #[command(name = "__cloud", hide = true)]
    CloudProcess { folder: std::path::PathBuf, weed: std::path::PathBuf },
    #[command(name = "__guard", hide = true)]
    Guard,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum CloudAction {
    Stop,
    Start,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        // Before any thread is started: namespaces are made for the whole process.
        Verb::Site { folder } => launch::launch(&folder)?,
        Verb::SiteInit { folder } => supervisor::run(&folder)?,
        Verb::CloudProcess { folder, weed } => cloud::server::launch(&folder, &weed)?,
        Verb::Guard => guard::watch(&Paths::from_env()?)?,
        Verb::Env { site } => print_environment(site)?,
        Verb::Setup => drop(set_up()?),
        Verb::Demo { arguments } => return story("demo", &arguments),
        Verb::Bench { arguments } => return story("bench", &arguments),
        Verb::Test { filter } => return test(filter.as_deref()),
        other => {
            let runtime =
                tokio::runtime::Runtime::new().map_err(|error| LabError::State(format!("no event loop: {error}")))?;
            let done = runtime.block_on(interruptible(other));
            // After Ctrl-C, work that cannot be cancelled is not waited for.
            runtime.shutdown_background();
            done?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C ends the command in an orderly way: a lab that is half up is taken down.
async fn interruptible(verb: Verb) -> Result<()> {
    tokio::select! {
        done = on_lab(verb) => done,
        _ = tokio::signal::ctrl_c() => Err(LabError::State("interrupted".into())),
    }
}

async fn on_lab(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up { fresh, no_build } => up(fresh, !no_build).await,
        Verb::Down => down().await,
        Verb::Status { output } => status(output).await,
        Verb::Cut { site, cloud_only: false } => Lab::attach()?.site(site).cut().await,
        Verb::Cut { site, cloud_only: true } => Lab::attach()?.site(site).cut_from_cloud().await,
        Verb::Heal { site } => Lab::attach()?.site(site).heal().await,
        Verb::Kill { site } => Lab::attach()?.site(site).kill().await,
        Verb::Restore { site } => Lab::attach()?.site(site).restore().await,
        Verb::Cloud { action: CloudAction::Stop } => Lab::attach()?.cloud().stop().await,
        Verb::Cloud { action: CloudAction::Start } => Lab::attach()?.cloud().start().await,
        _ => Ok(()),
    }
}

async fn up(fresh: bool, build: bool) -> Result<()> {
    let start = Instant::now();
    let existing = if fresh { Existing::Replace } else { Existing::Use };
    let mut lab = Lab::up(Options { existing, build, ..Options::default() }).await?;
    let word = if lab.is_owned() { "up" } else { "up already" };
    lab.keep();
    print(format_args!("The lab is {word} ({:.1} s).", start.elapsed().as_secs_f64()));
    print(format_args!("  eval \"$(cargo lab env primary)\"   and kubectl talks to the primary site"));
    print(format_args!("  cargo lab status                  how it is"));
    print(format_args!("  cargo lab down                    to end it"));
    Ok(())
}

async fn down() -> Result<()> {
    let start = Instant::now();
    Lab::sweep(&Progress::new()).await?;
    print(format_args!("The lab is down ({:.1} s).", start.elapsed().as_secs_f64()));
    Ok(())
}

async fn status(output: Format) -> Result<()> {
    let lab = Lab::attach()?;
    let sites = lab.status().await;
    let running = lab.cloud().is_running();
    if output == Format::Json {
        let all = serde_json::json!({
            "sites": sites,
            "cloud": {"running": running, "endpoint": lab.cloud().endpoint(), "bucket": cloud::BUCKET},
        });
        print(format_args!("{all:#}"));
        return Ok(());
    }
    print(format_args!(
        "{:<9} {:<6} {:<14} {:<6} {:<9} {:<7} ADDRESS",
        "PLACE", "POWER", "NETWORK", "API", "NODE", "PODS"
    ));
    for site in &sites {
        print(format_args!("{}", row(site)));
    }
    let server = if running { "on" } else { "off" };
    print(format_args!(
        "{:<9} {server:<6} {:<14} {:<6} {:<9} {:<7} {}",
        "cloud",
        "-",
        "-",
        "-",
        "-",
        lab.cloud().endpoint()
    ));
    Ok(())
}

fn row(site: &SiteStatus) -> String {
    let network = match site.network {
        None => "-",
        Some(Reach::Connected) => "connected",
        Some(Reach::WithoutCloud) => "without cloud",
        Some(Reach::Cut) => "cut",
    };
    let say = |yes: bool, word: &'static str, other: &'static str| if yes { word } else { other };
    format!(
        "{:<9} {:<6} {network:<14} {:<6} {:<9} {:<7} {}",
        site.site.name(),
        say(site.power, "on", "off"),
        say(site.api, "ready", "-"),
        say(site.node_ready, "ready", "not ready"),
        format!("{}/{}", site.pods_ready, site.pods),
        site.address,
    )
}

fn print_environment(site: Site) -> Result<()> {
    let lab = Lab::attach()?;
    let credentials = lab.credentials(site);
    let site = lab.site(site);
    print(format_args!("export KUBECONFIG='{}'", site.kubeconfig().display()));
    print(format_args!("export AWS_ACCESS_KEY_ID='{}'", credentials.access_key));
    print(format_args!("export AWS_SECRET_ACCESS_KEY='{}'", credentials.secret_key));
    // The Vaults' own endpoint is a name that pods know and this machine does not.
    print(format_args!("export AWS_ENDPOINT_URL='{}'", lab.cloud().endpoint()));
    if machine::find_program("kubectl").is_none()
        && let Some(folder) = site.kubectl_program().parent()
    {
        print(format_args!("export PATH=\"$PATH:{}\"", folder.display()));
    }
    Ok(())
}

/// A line for a person or a pipe; a pipe that is closed has read enough.
fn print(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn set_up() -> Result<setup::Setup> {
    let paths = Paths::from_env()?;
    machine::check(&paths)?;
    let progress = Progress::new();
    let _lock = crate::lab::locked(&progress)?;
    setup::prepare(&paths, &progress)
}

/// The demo and the benchmark are programs of their own, which bring the lab up themselves.
fn story(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let path = path_with(&set_up()?.programs)?;
    // Said aloud, because the first build takes minutes. Both run `holdfast` beside themselves.
    let built = finish(&mut cargo(&["build", "--bin", name, "--bin", "holdfast"]))?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let mut command = cargo(&["run", "--quiet", "--bin", name, "--"]);
    finish(command.args(arguments).env("PATH", path))
}

fn test(filter: Option<&str>) -> Result<ExitCode> {
    // Stories refuse by themselves; without a filter there is one for sure, after minutes.
    if filter.is_none() {
        crate::lab::must_be_free(&Paths::from_env()?)?;
    }
    let path = path_with(&set_up()?.programs)?;
    // Stories run this crate's program, which `cargo test` does not build.
    let mut steps = vec![cargo(&["build", "--quiet", "--bin", "holdfast-lab"])];
    let stories = ["test", "--test", "stories"];
    if let Some(filter) = filter {
        let folder = repository().join("orchestrator").join(filter);
        if folder.join("Cargo.toml").is_file() {
            steps.extend(tests_in(&folder, &path)?);
        }
        // Who names a test gets it, also one that is too long for every day.
        steps.push(cargo(&["test", filter, "--", "--include-ignored"]));
        steps.push(cargo(&[&stories[..], &[filter, "--", "--test-threads=1", "--include-ignored"]].concat()));
        return in_turn(steps, &path);
    }
    steps.push(cargo(&["test", "--no-run"]));
    steps.push(cargo(&[&stories[..], &["--no-run"]].concat()));
    let built = in_turn(steps, &path)?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let beside = Beside::start(&path)?;
    let own = cargo(&["test", "--test", OWN_TEST]);
    let told = in_turn(vec![own, cargo(&[&stories[..], &["--", "--test-threads=1"]].concat())], &path);
    let (tested, told) = (beside.finish()?, told?);
    Ok(if told == ExitCode::SUCCESS { tested } else { told })
}

/// The test programs of the crate in a folder, built with the whole workspace: chosen by `--package` the same crates would be
/// built once more, with other features.
fn tests_in(folder: &Path, path: &OsStr) -> Result<Vec<Command>> {
    let mut build = cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    let built = build.env("PATH", path).stderr(Stdio::inherit()).output();
    let built = built.map_err(|source| LabError::Io { what: "start cargo".into(), source })?;
    let manifest = folder.join("Cargo.toml");
    let program = |line: &[u8]| {
        let artifact: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_test = artifact["profile"]["test"] == true && artifact["manifest_path"] == *manifest.to_str()?;
        artifact["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    let programs = built.stdout.split(|byte| *byte == b'\n').filter_map(program);
    let run = |program| {
        let mut run = Command::new(program);
        as_from_a_shell(run.current_dir(folder));
        run
    };
    let programs: Vec<_> = programs.map(run).collect();
    match built.status.success() && !programs.is_empty() {
        true => Ok(programs),
        false => Err(LabError::State(format!("the tests in {} could not be built", folder.display()))),
    }
}

/// The lab's own test, which wants the machine's only lab for itself as stories do, and the one function in it.
const OWN_TEST: &str = "lab";
const OWN_FUNCTION: &str = "a_lab_does_what_stories_rely_on";

/// All tests that need no lab, beside the stories: those wait most of the time, for clusters and for commits.
struct Beside {
    tests: Child,
    log: PathBuf,
}

impl Beside {
    fn start(path: &OsStr) -> Result<Self> {
        let log = repository().join("target/tests-beside-stories.log");
        let failed = |source| LabError::Io { what: format!("write {}", log.display()), source };
        let (out, err) = std::fs::File::create(&log).and_then(|out| Ok((out.try_clone()?, out))).map_err(failed)?;
        print(format_args!("stories now; all other tests run beside them, into {}", log.display()));
        // Stories have a cluster's deadlines to keep.
        let mut tests = Command::new("nice");
        as_from_a_shell(
            tests
                .args(["-n", "5", "cargo", "test", "--no-fail-fast", "--", "--skip", OWN_FUNCTION])
                .current_dir(repository()),
        );
        let tests = tests.env("PATH", path).stdout(out).stderr(err).spawn();
        let tests = tests.map_err(|source| LabError::Io { what: "start cargo".into(), source })?;
        Ok(Self { tests, log })
    }

    /// Waits for the end and shows what they said.
    fn finish(mut self) -> Result<ExitCode> {
        let status = self.tests.wait().map_err(|source| LabError::Io { what: "wait for cargo".into(), source })?;
        let said = std::fs::read(&self.log).unwrap_or_default();
        print(format_args!("{}", String::from_utf8_lossy(&said)));
        Ok(exit_code(status))
    }
}

fn in_turn(steps: Vec<Command>, path: &OsStr) -> Result<ExitCode> {
    for mut step in steps {
        let code = finish(step.env("PATH", path))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tests of other crates start the S3 server and `kubectl` by themselves.
fn path_with(programs: &components::Programs) -> Result<OsString> {
    let own = [programs.path("weed")?, programs.path("kubectl")?];
    let folders = own.iter().filter_map(|program| program.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(folders.chain(std::env::split_paths(&path)))
        .map_err(|error| LabError::State(format!("PATH: {error}")))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    as_from_a_shell(cargo.args(arguments).current_dir(repository()));
    cargo
}

/// Runs with this terminal, and passes the exit code on.
fn finish(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .map_err(|source| LabError::Io { what: format!("start {:?}", command.get_program()), source })?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
