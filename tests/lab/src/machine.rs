//! What the lab needs of the machine it runs on, and the Debian packages it installs there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, run, run_logged, sh};
use crate::paths::Paths;
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

/// Says everything that is missing in one message, or nothing.
pub(crate) fn check() -> Result<()> {
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
        ("go", "install Go 1.21 or newer from https://go.dev/dl; it fetches the version it needs by itself"),
        ("python3", "apt-get install python3 python3-pip"),
    ] {
        if find_program(program).is_none() {
            missing.push(format!("{program}: {how}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::Machine(format!("the lab cannot run on this machine. It needs:\n  - {}", missing.join("\n  - "))))
}

/// Installs the packages that are missing and loads the kernel's parts.
pub(crate) fn prepare(paths: &Paths, progress: &Progress) -> Result<()> {
    check()?;
    policy_file_removed();
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
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        return Err(LabError::Machine(
            "this kernel has no br_netfilter, which Services and NetworkPolicies need: \
             boot Debian's own kernel (package linux-image-amd64)"
                .into(),
        ));
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
    run_logged(apt().args(["update", "-q"]), &log)?;
    run_logged(apt().args(["install", "-y", "--no-install-recommends"]).args(packages), &log)?;
    step.done();
    Ok(())
}

fn apt() -> std::process::Command {
    let mut apt = command("apt-get", ["-o", "DPkg::Lock::Timeout=300"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
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
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
