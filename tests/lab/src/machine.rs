//! What the lab needs of the machine it runs on, and the Debian packages it installs there.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, poll, run, run_logged, sh};
use crate::paths::{Paths, repository};
use crate::process;
use crate::progress::Progress;

/// Debian packages of the lab and of the tests that use a real PostgreSQL.
const PACKAGES: &[&str] = &[
    "age",
    "awscli",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "coreutils",
    "curl",
    "debootstrap",
    // Fuzz targets link libFuzzer.
    "g++",
    "gcc",
    "iproute2",
    "ipset",
    "iptables",
    "kmod",
    "libc6-dev",
    "mount",
    "nftables",
    "openssl",
    "postgresql-15",
    "postgresql-client-15",
    "procps",
    "runc",
    "tar",
    "util-linux",
    "zstd",
];

/// Kernel parts that a stock Debian kernel loads on demand, or not at all unless asked.
const MODULES: &[&str] = &["overlay", "br_netfilter", "nf_tables", "ip_set", "veth"];

/// The oldest Go that fetches the version that a module asks for by itself.
const GO: (u32, u32) = (1, 21);
/// Two clusters with their databases, and the builds of the set-up, of a machine that is sold with 8.
const MEMORY_GIB: u64 = 7;
/// What Go, cargo, images and programs fill while they are built, and what a running lab needs.
const DISK_TO_BUILD_GIB: u64 = 20;
const DISK_TO_RUN_GIB: u64 = 4;

/// Says everything that is missing in one message, or nothing. Before anything is installed.
pub(crate) fn check(paths: &Paths) -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root: run it with sudo, or in a virtual machine as root".to_owned());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_12(&release) {
        let name = release_name(&release);
        missing.push(format!("Debian 12 (this is {name}): use a Debian 12 machine or virtual machine"));
    }
    if std::env::consts::ARCH != "x86_64" {
        let arch = std::env::consts::ARCH;
        missing.push(format!("an x86_64 processor (this is {arch})"));
    }
    for (program, how) in [
        ("cargo", "install Rust from https://rustup.rs"),
        ("go", GO_HOW),
        ("python3", "apt-get install python3 python3-pip"),
    ] {
        if find_program(program).is_none() {
            missing.push(format!("{program}: {how}"));
        }
    }
    missing.extend(old_go());
    if !bridges_are_filtered() {
        missing.push(
            "a kernel with br_netfilter, which Services and NetworkPolicies need: boot Debian's own \
             (apt-get install linux-image-amd64)"
                .to_owned(),
        );
    }
    missing.extend(little_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()));
    missing.extend(little_disk(paths));
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::Machine(format!("the lab cannot run on this machine. It needs:\n  - {}", missing.join("\n  - "))))
}

const GO_HOW: &str = "install Go 1.21 or newer from https://go.dev/dl; it fetches the version it needs by itself";

fn old_go() -> Option<String> {
    find_program("go")?;
    let said = sh("go", &["version"]).unwrap_or_default();
    let new_enough = go_version(&said).is_some_and(|version| version >= GO);
    (!new_enough).then(|| format!("go (this one says {:?}): {GO_HOW}", said.trim()))
}

/// Major and minor of what `go version` prints.
fn go_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers =
        said.split_whitespace().find_map(|word| word.strip_prefix("go1."))?.split(|c: char| !c.is_ascii_digit());
    Some((1, numbers.next()?.parse().ok()?))
}

const BRIDGE_SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Whether the kernel has br_netfilter, loaded or to be loaded.
fn bridges_are_filtered() -> bool {
    if Path::new(BRIDGE_SETTING).exists() {
        return true;
    }
    // `modprobe` itself may still have to be installed.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = Path::new("/lib/modules").join(release.trim());
    let listed = |file: &str| fs::read_to_string(folder.join(file)).is_ok_and(|text| text.contains("/br_netfilter.ko"));
    listed("modules.dep") || listed("modules.builtin")
}

fn little_memory(meminfo: &str) -> Option<String> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    let gib = kib as f64 / f64::from(1 << 20);
    (gib < MEMORY_GIB as f64)
        .then(|| format!("{MEMORY_GIB} GiB of memory (this machine has {gib:.1}): use a larger one"))
}

/// Free space where things are built and kept: the cache and the repository, which are often on one disk.
fn little_disk(paths: &Paths) -> Vec<String> {
    let built = paths.cached("components").is_dir() && repository().join("target/debug").is_dir();
    let needed = if built { DISK_TO_RUN_GIB } else { DISK_TO_BUILD_GIB };
    let mut places = vec![paths.root().to_owned(), repository()];
    places.dedup_by_key(|place| existing(place).and_then(|place| fs::metadata(place).ok()).map(|m| device(&m)));
    let short = |place: &PathBuf| {
        let free = statvfs(existing(place)?).ok()?;
        let gib = (free.blocks_available() * free.fragment_size()) >> 30;
        let (place, where_else) = (place.display(), "make room, or set XDG_CACHE_HOME to a larger disk");
        (gib < needed).then(|| format!("{needed} GiB of free disk at {place} (there are {gib}): {where_else}"))
    };
    places.iter().filter_map(short).collect()
}

fn device(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(metadata)
}

/// The path, or the nearest folder above it that exists already.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.exists())
}

/// Installs the packages that are missing and loads the kernel's parts.
pub(crate) fn prepare(paths: &Paths, progress: &Progress) -> Result<()> {
    check(paths)?;
    finish_installing()?;
    let missing = missing_packages()?;
    if !missing.is_empty() {
        install(paths, progress, &missing)?;
    }
    if find_program("pip3").is_none() && sh("python3", &["-m", "pip", "--version"]).is_err() {
        install(paths, progress, &["python3-pip"])?;
    }
    for module in MODULES {
        // Built into some kernels; what is really missing shows below.
        let _ = sh("modprobe", &["-q", module]);
    }
    if !Path::new(BRIDGE_SETTING).exists() {
        return Err(LabError::Machine("br_netfilter cannot be loaded: `modprobe br_netfilter` says why".into()));
    }
    Ok(())
}

fn install(paths: &Paths, progress: &Progress, packages: &[&str]) -> Result<()> {
    let what = format!("installing {} Debian packages", packages.len());
    let step = progress.step(what, Some(Duration::from_secs(40)));
    step.detail(packages.join(" "));
    fs::create_dir_all(paths.root()).doing(|| format!("create {}", paths.root().display()))?;
    let log = paths.root().join("apt.log");
    let _quiet = QuietInstall::begin()?;
    let mut shell = command("sh", ["-c", INSTALL, INSTALLER, POLICY, NO_CLUSTER]);
    // A Ctrl-C at the terminal does not reach it.
    shell.args(packages).env("DEBIAN_FRONTEND", "noninteractive").process_group(0);
    run_logged(&mut shell, &log)?;
    step.done();
    Ok(())
}

/// How an installation is known among the processes.
const INSTALLER: &str = "holdfast-lab-install";
/// Unlike everything else of the set-up it goes on when the lab is killed, because an interrupted dpkg has to be mended
/// by hand; then it also takes [`QuietInstall`]'s files away.
const INSTALL: &str = "policy=$1 no_cluster=$2; shift 2
trap 'grep -qs \"Holdfast lab\" \"$policy\" && rm -f \"$policy\"; rm -f \"$no_cluster\"' EXIT
apt-get -o DPkg::Lock::Timeout=300 -q update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \"$@\"";

/// Waits for an installation that a killed lab has left, and removes what one left that was killed itself.
pub(crate) fn finish_installing() -> Result<()> {
    if is_installing() {
        Progress::new().say("waiting for apt-get, which a lab that was killed has left …");
        poll("apt-get to end", Duration::from_secs(600), Duration::from_millis(200), || match is_installing() {
            true => Err("it is still installing".into()),
            false => Ok(()),
        })?;
    }
    policy_file_removed();
    Ok(())
}

fn is_installing() -> bool {
    process::all().any(|pid| process::arguments(pid).iter().any(|argument| argument == INSTALLER))
}

/// What an installation that was killed has left, for people.
pub(crate) fn leftovers() -> Vec<String> {
    let ours = fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
    let mut left: Vec<_> = ours.then(|| POLICY.to_owned()).into_iter().collect();
    left.extend(Path::new(NO_CLUSTER).exists().then(|| NO_CLUSTER.to_owned()));
    left.extend(is_installing().then(|| "apt-get".to_owned()));
    left
}

/// Mirrors `dpkg-query`'s idea of an installed package.
fn missing_packages() -> Result<Vec<&'static str>> {
    let mut query = command("dpkg-query", ["-W", "-f", "${db:Status-Status} ${Package}\n"]);
    // It fails when a package is unknown; what it printed about the others is still good.
    let output = query.output().doing(|| "start dpkg-query".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: std::collections::HashSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(PACKAGES.iter().copied().filter(|package| !installed.contains(package)).collect())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Put here by the Holdfast lab while it installs packages.\nexit 101\n";
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/holdfast-lab.conf";

/// While it lives, packages start no service and PostgreSQL makes no cluster of its own.
struct QuietInstall;

impl QuietInstall {
    fn begin() -> Result<Self> {
        let guard = Self;
        if !Path::new(POLICY).exists() {
            write_file(Path::new(POLICY), POLICY_TEXT)?;
            run(&mut command("chmod", ["0755", POLICY]))?;
        }
        let drop_in = Path::new(NO_CLUSTER);
        if let Some(folder) = drop_in.parent() {
            fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))?;
        }
        write_file(drop_in, "create_main_cluster = false\n")?;
        Ok(guard)
    }
}

impl Drop for QuietInstall {
    fn drop(&mut self) {
        policy_file_removed();
    }
}

/// Also clears what an installation that was killed left behind.
fn policy_file_removed() {
    if fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT) {
        let _ = fs::remove_file(POLICY);
    }
    let _ = fs::remove_file(NO_CLUSTER);
}

pub(crate) fn write_file(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text).doing(|| format!("write {}", path.display()))
}

/// The first file of that name on `PATH`, or in the folders of the administrator's programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn is_debian_12(release: &str) -> bool {
    field(release, "ID") == Some("debian") && field(release, "VERSION_ID") == Some("12")
}

fn release_name(release: &str) -> &str {
    field(release, "PRETTY_NAME").unwrap_or(std::env::consts::OS)
}

fn field<'a>(release: &'a str, name: &str) -> Option<&'a str> {
    release.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_12_is_debian_12() {
        let bookworm = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert!(is_debian_12(bookworm));
        assert!(!is_debian_12(&bookworm.replace("12", "13")));
        assert!(!is_debian_12("ID=ubuntu\nVERSION_ID=\"24.04\"\n"));
        assert!(!is_debian_12(""));
        assert_eq!(release_name(bookworm), "Debian GNU/Linux 12 (bookworm)");
    }

    #[test]
    fn what_go_says_is_its_version() {
        for (said, version) in [
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("go version go1.19 linux/amd64", Some((1, 19))),
            ("go version go1.22rc1 linux/amd64", Some((1, 22))),
            ("go: command not found", None),
        ] {
            assert_eq!(go_version(said), version, "{said}");
        }
    }

    #[test]
    fn too_little_memory_is_said_in_gib() {
        assert_eq!(little_memory("MemTotal:        8029996 kB\nMemFree: 1 kB\n"), None);
        let said = little_memory("MemTotal:        4029996 kB\n").unwrap();
        assert!(said.contains("this machine has 3.8"), "{said}");
    }

    #[test]
    fn an_installation_takes_its_files_away_however_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, no_cluster) = (folder.path().join("policy"), folder.path().join("no-cluster"));
        let bin = folder.path().join("apt-get");
        write_file(&bin, "#!/bin/sh\nexit 3\n").unwrap();
        run(command("chmod", ["0755"]).arg(&bin)).unwrap();
        for (text, stays) in [(POLICY_TEXT, false), ("#!/bin/sh\nexit 101\n", true)] {
            write_file(&policy, text).unwrap();
            write_file(&no_cluster, "").unwrap();
            let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
            let mut shell = command("sh", ["-c", INSTALL, "a-test"]);
            shell.arg(&policy).arg(&no_cluster).arg("some-package").env("PATH", path);
            assert!(run(&mut shell).is_err());
            assert_eq!((policy.exists(), no_cluster.exists()), (stays, false));
        }
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
