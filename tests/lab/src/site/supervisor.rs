//! PID 1 of a site: gives it file systems and an address of its own, starts its programs, starts them
//! again when they die, and reaps what containers leave. It never ends by itself: [`super::launch`]
//! kills it, and the kernel everything else with it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, poll, sh};
use crate::machine::write_file;
use crate::mounts;
use crate::network::CLOUD_IP;
use crate::site::Site;
use crate::site::config::kubeconfig;
use crate::site::programs::{Phase, Program};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A program that ran this long was healthy: its next failure is a first one.
const HEALTHY: Duration = Duration::from_secs(30);

/// What a site's PID 1 is told, as `<folder>/site.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) site: Site,
    pub(crate) programs: Vec<Program>,
    /// What is mounted again elsewhere: from, to.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
}

impl Orders {
    pub(crate) fn file(folder: &Path) -> PathBuf {
        folder.join("site.json")
    }
}

/// Runs as PID 1 of new namespaces until it is killed.
pub(crate) fn run(folder: &Path) -> Result<()> {
    let text = fs::read(Orders::file(folder)).doing(|| "read the site's orders".into())?;
    let orders: Orders =
        serde_json::from_slice(&text).map_err(|error| LabError::State(format!("the site's orders: {error}")))?;
    file_systems(folder, &orders.binds)?;
    write_file(Path::new("/proc/sys/kernel/hostname"), orders.site.name())?;
    network(orders.site)?;
    let supervisor =
        Arc::new(Supervisor { folder: folder.to_owned(), programs: orders.programs, running: Mutex::default() });
    supervisor.start(Phase::First);
    let starter = Arc::clone(&supervisor);
    std::thread::spawn(move || starter.start_with_api());
    supervisor.reap()
}

/// Mounts that end with the site, so that nothing of it appears in the machine's own folders.
fn file_systems(folder: &Path, binds: &[(PathBuf, PathBuf)]) -> Result<()> {
    mounts::detach()?;
    mounts::proc()?;
    mounts::empty("/run", "755", folder)?;
    mounts::overlay("/var", &folder.join("var"), folder)?;
    for (source, target) in binds {
        mounts::bind(source, target)?;
    }
    for created in ["/run/netns", "/run/lock", "/var/log/containers", "/var/lib/cni"] {
        fs::create_dir_all(created).doing(|| format!("create {created}"))?;
    }
    mounts::share()
}

/// The link is moved in from outside right after this process has started.
fn network(site: Site) -> Result<()> {
    let limit = Duration::from_secs(10);
    poll("the site's link", limit, Duration::from_millis(5), || {
        sh("ip", &["link", "show", "dev", "eth0"]).map_err(|error| error.to_string())
    })?;
    for (file, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "1"),
    ] {
        // A kernel without IPv6 has nothing to switch off; the others show at the first pod.
        let _ = fs::write(Path::new("/proc/sys/net").join(file), value);
    }
    let address = format!("{}/24", site.ip());
    sh("ip", &["link", "set", "lo", "up"])?;
    sh("ip", &["address", "add", &address, "dev", "eth0"])?;
    sh("ip", &["link", "set", "eth0", "address", &site.mac(), "up"])?;
    sh("ip", &["route", "add", "default", "via", CLOUD_IP])?;
    Ok(())
}

struct Supervisor {
    folder: PathBuf,
    programs: Vec<Program>,
    /// By process id: which program, since when, and the pause before it is started again.
    running: Mutex<HashMap<i32, Running>>,
}

#[derive(Clone, Copy)]
struct Running {
    program: usize,
    since: Instant,
    pause: Duration,
}

impl Supervisor {
    fn start(&self, phase: Phase) {
        for (index, program) in self.programs.iter().enumerate() {
            if program.phase == phase {
                self.spawn(index, FIRST_PAUSE);
            }
        }
    }

    fn start_with_api(self: Arc<Self>) {
        if let Err(error) = wait_for_api(&kubeconfig(&self.folder)) {
            say(&format!("the API server is not ready, starting the rest anyway: {error}"));
        }
        say("the API server is ready");
        self.start(Phase::WithApi);
    }

    fn spawn(&self, index: usize, pause: Duration) {
        let program = &self.programs[index];
        // Held while spawning, so that a program that ends at once is known when it is reaped.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match self.command(program).and_then(|mut command| command.spawn().doing(|| format!("start {}", program.name)))
        {
            Ok(child) => {
                let known = Running { program: index, since: Instant::now(), pause };
                running.insert(child.id() as i32, known);
                say(&format!("{} started as {}", program.name, child.id()));
            }
            Err(error) => say(&format!("{}: {error}", program.name)),
        }
    }

    fn command(&self, program: &Program) -> Result<Command> {
        let log = self.folder.join("log").join(format!("{}.log", program.name));
        let log = File::options().create(true).append(true).open(&log).doing(|| format!("open {}", log.display()))?;
        let twin = log.try_clone().doing(|| "open a log".into())?;
        let mut command = command(&program.path, &program.arguments);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.folder)
            .envs(program.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(twin);
        Ok(command)
    }

    fn reap(self: Arc<Self>) -> Result<()> {
        loop {
            match waitpid(None, None) {
                Ok(status) => self.ended(status),
                // Nothing to wait for, for now: between a failed start and the next.
                Err(_) => std::thread::sleep(FIRST_PAUSE),
            }
        }
    }

    fn ended(self: &Arc<Self>, status: WaitStatus) {
        let Some(pid) = status.pid() else { return };
        let known = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.remove(&pid.as_raw())
        };
        let Some(known) = known else { return };
        let name = &self.programs[known.program].name;
        let healthy = known.since.elapsed() >= HEALTHY;
        let pause = if healthy { FIRST_PAUSE } else { known.pause };
        say(&format!("{name} ended: {status:?}; starting it again in {pause:?}"));
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            std::thread::sleep(pause);
            this.spawn(known.program, (pause * 2).min(LONGEST_PAUSE));
        });
    }
}

/// To the site's `supervisor.log`.
fn say(line: &str) {
    eprintln!("{} {line}", jiff::Timestamp::now());
}

fn wait_for_api(kubeconfig: &Path) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "start an event loop".into())?;
    runtime.block_on(crate::wait::api_ready(kubeconfig, Duration::from_secs(120)))
}
