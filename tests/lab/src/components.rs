//! The clusters' programs, built from the Go module proxy, and the S3 server, from PyPI.
//!
//! `components/<module>/{go.mod,go.sum}` pin every byte that goes in; `tools.go` names what is built, or `main.go` is it. What is
//! built is kept under the hash of those files and of the flags, so a change of a pin builds anew and nothing else does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{IoContext, LabError, Result};
use crate::exec::{mortal, run, run_logged, tail};
use crate::machine::write_file;
use crate::paths::{Paths, repository};
use crate::progress::Progress;

/// A program of a module's own.
const OWN_PROGRAM: &str = "main.go";
/// `GOGC` of Go's compiler: memory for time.
const COLLECT_SELDOM: &str = "200";
const KUBERNETES_VERSION: &str = "1.34.4";

/// One pinned Go module and the programs that are built from it.
struct Module {
    folder: &'static str,
    /// Import path and the name of the program.
    programs: &'static [(&'static str, &'static str)],
    /// With empty caches on two cores.
    about: Duration,
}

const MODULES: &[Module] = &[
    Module {
        folder: "kubernetes",
        programs: &[
            ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
            ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
            ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
            ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
            ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
            ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
        ],
        about: Duration::from_secs(290),
    },
    Module { folder: "etcd", programs: &[("go.etcd.io/etcd/server/v3", "etcd")], about: Duration::from_secs(30) },
    Module { folder: "coredns", programs: &[("holdfast.dev/lab/coredns", "coredns")], about: Duration::from_secs(90) },
    Module {
        folder: "local-path",
        programs: &[("github.com/rancher/local-path-provisioner", "local-path-provisioner")],
        about: Duration::from_secs(95),
    },
    Module {
        folder: "kube-router",
        programs: &[("github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", "kube-router")],
        about: Duration::from_secs(135),
    },
];

/// Where the programs of the clusters are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    folders: Vec<(String, PathBuf)>,
}

impl Programs {
    pub(crate) fn path(&self, program: &str) -> Result<PathBuf> {
        self.folders
            .iter()
            .find(|(name, _)| name == program)
            .map(|(name, folder)| folder.join(name))
            .ok_or_else(|| LabError::State(format!("{program} is not one of the lab's programs")))
    }
}

/// The programs' places, without building them: for commands on a lab that runs.
pub(crate) fn locate(paths: &Paths) -> Result<Programs> {
    let mut programs = Programs::default();
    for module in MODULES {
        let folder = module.built_in(paths)?;
        for (_, program) in module.programs {
            programs.folders.push(((*program).to_owned(), folder.clone()));
        }
    }
    let seaweedfs = seaweedfs_folder(paths)?.join("bin");
    programs.folders.push(("weed".to_owned(), seaweedfs));
    Ok(programs)
}

/// Builds and fetches what is not in the cache yet.
pub(crate) fn prepare(paths: &Paths, progress: &Progress) -> Result<Programs> {
    for module in MODULES {
        module.build(paths, progress)?;
    }
    seaweedfs(paths, progress)?;
    locate(paths)
}

impl Module {
    fn source(&self) -> PathBuf {
        components().join(self.folder)
    }

    fn flags(&self) -> Vec<String> {
        let mut linker = String::from("-s -w");
        if self.folder == "kubernetes" {
            let (major, minor) = ("1", KUBERNETES_VERSION.split('.').nth(1).unwrap_or("0"));
            let base = "k8s.io/component-base/version";
            linker += &format!(
                " -X {base}.gitVersion=v{KUBERNETES_VERSION} -X {base}.gitMajor={major} -X {base}.gitMinor={minor} \
                 -X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES_VERSION}"
            );
        }
        ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags"]
            .map(String::from)
            .into_iter()
            .chain([linker])
            .collect()
    }

    fn built_in(&self, paths: &Paths) -> Result<PathBuf> {
        let mut parts = vec![read(&self.source().join("go.mod"))?, read(&self.source().join("go.sum"))?];
        let own = self.source().join(OWN_PROGRAM);
        if own.is_file() {
            parts.push(read(&own)?);
        }
        parts.extend(self.flags().into_iter().map(String::into_bytes));
        let name = format!("{}-{}", self.folder, digest(&parts));
        Ok(paths.cached("components").join(name))
    }

    fn build(&self, paths: &Paths, progress: &Progress) -> Result<()> {
        let target = self.built_in(paths)?;
        if target.is_dir() {
            return Ok(());
        }
        let partial = target.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).doing(|| format!("create {}", partial.display()))?;

        let names: Vec<&str> = self.programs.iter().map(|(_, program)| *program).collect();
        let what = format!("building {} from Go modules", names.join(", "));
        let step = progress.step(what, Some(self.about));
        step.detail("fetching modules");
        let log = paths.root().join(format!("build-{}.log", self.folder));
        write_file(&log, "")?;
        run_logged(self.go("mod").args(["download", "-x"]), &log)?;
        let imports = self.programs.iter().map(|(import, _)| *import);
        let packages = run(self.go("list").arg("-deps").args(imports.clone()))?;
        step.set_total(packages.lines().count() as u64);

        let mut go = self.go("build");
        go.arg("-v").args(self.flags()).arg("-o").arg(&partial).args(imports);
        let mut output = String::new();
        let mut child = go.stderr(Stdio::piped()).spawn().doing(|| "start go build".into())?;
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(|line| line.ok()) {
                step.advance(&line);
                output.push_str(&line);
                output.push('\n');
            }
        }
        let status = child.wait().doing(|| "wait for go build".into())?;
        if !status.success() {
            return Err(LabError::Command {
                command: format!("go build {}", names.join(" ")),
                status: status.to_string(),
                output: tail(output.as_bytes()),
            });
        }
        self.rename_programs(&partial)?;
        fs::rename(&partial, &target).doing(|| format!("create {}", target.display()))?;
        let _ = fs::remove_file(log);
        step.done();
        Ok(())
    }

    /// Go names a program after the last part of its import path, a version apart.
    fn rename_programs(&self, folder: &Path) -> Result<()> {
        for (import, program) in self.programs {
            let built = folder.join(go_name(import));
            if built.file_name() != Some(program.as_ref()) {
                let wanted = folder.join(program);
                fs::rename(&built, &wanted).doing(|| format!("create {}", wanted.display()))?;
            }
        }
        Ok(())
    }

    fn go(&self, verb: &str) -> Command {
        let mut go = mortal("go", [verb]);
        go.current_dir(self.source()).env("CGO_ENABLED", "0").env("GOGC", COLLECT_SELDOM);
        go
    }
}

fn go_name(import: &str) -> &str {
    let is_version = |part: &str| {
        part.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    import.rsplit('/').find(|part| !is_version(part)).unwrap_or(import)
}

fn components() -> PathBuf {
    repository().join("tests/lab/components")
}

fn requirements() -> PathBuf {
    components().join("seaweedfs/requirements.txt")
}

fn seaweedfs_folder(paths: &Paths) -> Result<PathBuf> {
    let name = format!("seaweedfs-{}", digest(&[read(&requirements())?]));
    Ok(paths.cached("components").join(name))
}

fn seaweedfs(paths: &Paths, progress: &Progress) -> Result<()> {
    let target = seaweedfs_folder(paths)?;
    if target.is_dir() {
        return Ok(());
    }
    let step = progress.step("fetching SeaweedFS", Some(Duration::from_secs(10)));
    let partial = target.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).doing(|| format!("create {}", partial.display()))?;
    let mut pip = mortal("python3", ["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--no-compile"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .arg("--target")
        .arg(&partial)
        .arg("--requirement")
        .arg(requirements());
    run(&mut pip)?;
    fs::rename(&partial, &target).doing(|| format!("create {}", target.display()))?;
    step.done();
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(|| format!("read {}", path.display()))
}

/// A short name for the contents of several files; part boundaries count.
pub(crate) fn digest<P: AsRef<[u8]>>(parts: &[P]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.as_ref().len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..8])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_at_the_end_of_an_import_path_is_not_the_programs_name() {
        assert_eq!(go_name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(go_name("k8s.io/kubernetes/cmd/kubelet"), "kubelet");
        assert_eq!(go_name("example.org/vault"), "vault");
    }

    #[test]
    fn what_is_built_is_kept_by_pins_and_flags() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
    }

    #[test]
    fn every_module_is_pinned() {
        for module in MODULES {
            for file in ["go.mod", "go.sum"] {
                assert!(module.source().join(file).is_file(), "{}/{file}", module.folder);
            }
            if module.source().join(OWN_PROGRAM).is_file() {
                continue;
            }
            let tools = fs::read_to_string(module.source().join("tools.go")).unwrap();
            for (import, _) in module.programs {
                assert!(tools.contains(&format!("\"{import}\"")), "{import}");
            }
        }
        let pins = fs::read_to_string(requirements()).unwrap();
        assert!(pins.contains("--hash=sha256:"));
    }

    #[test]
    fn the_version_that_is_stamped_is_the_version_that_is_pinned() {
        let module = fs::read_to_string(components().join("kubernetes/go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES_VERSION}")));
    }
}
