//! A Debian root file system with PostgreSQL, from Debian's own packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::components::digest;
use crate::error::{IoContext, Result};
use crate::exec::{command, mortal, run, run_logged, sh};
use crate::images::archive::{self, ImageConfig};
use crate::paths::Paths;
use crate::progress::Progress;

/// Raise it when the steps below change.
const RECIPE: &str = "1";
const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const PACKAGES: &str = "postgresql-15,ca-certificates";
/// The user that the pods of PostgreSQL run as; the usual number for that image elsewhere.
const POSTGRES_ID: &str = "999";

/// Not needed by a server: documents, caches, and LLVM, which PostgreSQL does without when it is absent.
const PRUNED: &[&str] = &[
    "etc/postgresql",
    "usr/lib/postgresql/15/lib/bitcode",
    "usr/lib/postgresql/15/lib/llvmjit.so",
    "usr/lib/postgresql/15/lib/llvmjit_types.bc",
    "usr/lib/x86_64-linux-gnu/libLLVM-14.so.1",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/postgresql/15/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/lib/postgresql/15",
    "var/log",
];

/// The image `postgres:15` and, for our own images, the root file system it was made of.
pub(crate) struct Debian {
    pub(crate) archive: PathBuf,
    pub(crate) root: PathBuf,
}

/// Builds both unless they are in the cache.
pub(crate) fn prepare(paths: &Paths, progress: &Progress) -> Result<Debian> {
    let key = digest(&[RECIPE, SUITE, PACKAGES, &PRUNED.concat()]);
    let folder = paths.cached("images").join(format!("debian-{key}"));
    let debian = Debian { archive: folder.join("postgres.tar"), root: folder.join("root") };
    if folder.is_dir() {
        return Ok(debian);
    }
    let step = progress.step("building the PostgreSQL image", Some(Duration::from_secs(110)));
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let root = partial.join("root");
    fs::create_dir_all(&root).doing(|| format!("create {}", root.display()))?;
    step.detail("debootstrap");
    bootstrap(&root, &paths.cached("images").join("debootstrap.log"))?;
    step.detail("adjusting");
    adjust(&root)?;
    step.detail("packing");
    pack(&partial)?;
    fs::rename(&partial, &folder).doing(|| format!("create {}", folder.display()))?;
    step.done();
    Ok(debian)
}

fn bootstrap(root: &Path, log: &Path) -> Result<()> {
    let _ = fs::remove_file(log);
    let include = format!("--include={PACKAGES}");
    let mut debootstrap = mortal("debootstrap", ["--variant=minbase", &include, SUITE]);
    debootstrap.arg(root).arg(MIRROR);
    // debootstrap does not read apt's configuration.
    if let Some(proxy) = apt_proxy() {
        debootstrap.env("http_proxy", proxy);
    }
    run_logged(&mut debootstrap, log)
}

fn apt_proxy() -> Option<String> {
    let text = sh("apt-config", &["dump", "--format", "%v%n", "Acquire::http::Proxy"]).ok()?;
    let proxy = text.lines().next()?.trim();
    (!proxy.is_empty()).then(|| proxy.to_owned())
}

/// Gives `postgres` its well-known number and removes what a container has no use for.
fn adjust(root: &Path) -> Result<()> {
    let old = sh("stat", &["-c", "%u:%g", &display(&root.join("var/lib/postgresql"))])?;
    let chroot = |args: &[&str]| run(command("chroot", [root]).args(args));
    chroot(&["groupmod", "-g", POSTGRES_ID, "postgres"])?;
    chroot(&["usermod", "-u", POSTGRES_ID, "postgres"])?;
    let from = format!("--from={}", old.trim());
    let owner = format!("{POSTGRES_ID}:{POSTGRES_ID}");
    chroot(&["chown", "-R", &from, &owner, "/var", "/run", "/etc"])?;
    for path in PRUNED {
        let path = root.join(path);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    for folder in ["var/log", "var/cache/apt"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    }
    Ok(())
}

fn pack(folder: &Path) -> Result<()> {
    let layer = folder.join("layer.tar");
    let mut tar = command("tar", ["--numeric-owner", "--sort=name", "--exclude=./dev/*"]);
    tar.arg("-C").arg(folder.join("root")).arg("-cf").arg(&layer).arg(".");
    run(&mut tar)?;
    let config = ImageConfig {
        env: vec![
            "PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "LANG=C.UTF-8".into(),
        ],
        ..ImageConfig::default()
    };
    let archive = folder.join("postgres.tar");
    archive::write(&archive, "docker.io/library/postgres:15", &layer, &config)?;
    fs::remove_file(&layer).doing(|| format!("remove {}", layer.display()))
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
