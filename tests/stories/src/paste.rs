//! What a person pastes into a terminal: the blocks of a page, as they are printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_lab::Site;

use crate::install::{SAFE_KEY, beside_us, writer_file};
use crate::story::Story;

/// What one paste may take: a whole walk with its waits.
const LIMIT_SECONDS: &str = "1500";

/// Stands in for cargo: the alias `lab` of `.cargo/config.toml` runs what is built, and nothing is built.
const CARGO: &str = "#!/bin/sh\ncase $1 in lab) shift; exec holdfast-lab \"$@\" ;; build) exit 0 ;; esac\necho \"no such command here: $*\" >&2\nexit 1\n";

/// The bash blocks of a page between two texts, without the fences.
///
/// # Errors
/// A text is not there, or there is no block between them.
pub fn blocks(page: &str, from: &str, to: &str) -> Result<Vec<String>> {
    let (_, rest) = page.split_once(from).with_context(|| format!("the page has no {from:?}"))?;
    let (part, _) = rest.split_once(to).with_context(|| format!("the page has no {to:?} after {from:?}"))?;
    let blocks = part.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let blocks: Vec<_> = blocks.map(str::to_owned).collect();
    ensure!(!blocks.is_empty(), "the page has no block between {from:?} and {to:?}");
    Ok(blocks)
}

impl Story {
    /// Pastes blocks into one terminal at this site, one after another, in the story's folder, where `manifests` is. Returns
    /// what they printed. A person watches what ends with `--watch` until it has succeeded; here that is waited for.
    ///
    /// # Errors
    /// A command fails; the error has everything that was printed.
    pub async fn paste(&self, site: Site, blocks: &[String]) -> Result<String> {
        let programs = self.folder().join("bin");
        fs::create_dir_all(&programs).with_context(|| format!("creating {}", programs.display()))?;
        let shim = programs.join("cargo");
        fs::write(&shim, CARGO).with_context(|| format!("writing {}", shim.display()))?;
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755))?;
        // A copy: a page may set the context's namespace.
        let kubeconfig = self.folder().join(format!("{}.kubeconfig", site.name()));
        if !kubeconfig.exists() {
            fs::copy(self.lab.site(site).kubeconfig(), &kubeconfig).context("copying the kubeconfig")?;
        }
        let kubectl = self.lab.site(site).kubectl_program().parent().map(Path::to_path_buf);
        let holdfast = beside_us("holdfast")?.parent().map(Path::to_path_buf);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let first = [Some(programs), holdfast, kubectl].into_iter().flatten();
        let path = std::env::join_paths(first.chain(std::env::split_paths(&inherited)))?;

        let script: Vec<_> = blocks.iter().map(|block| script(block)).collect();
        let mut terminal = Command::new("timeout");
        terminal.args([LIMIT_SECONDS, "bash", "-e", "-o", "pipefail", "-c", &script.join("\n")]);
        terminal.current_dir(self.folder()).env("PATH", path).env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || terminal.output()).await?.context("running bash")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}:\n{printed}\n{said}", output.status);
        println!("{printed}");
        Ok(printed)
    }

    /// Where the private writer key of a site is.
    pub fn writer_file(&self, site: Site) -> PathBuf {
        self.folder().join(writer_file(site))
    }

    /// A block of the runbook's way by hand, with what a person at this site puts in for its placeholders, the key from the
    /// safe among it. The files are in this story's folder.
    pub fn filled_in(&self, site: Site, block: &str) -> String {
        let credentials = self.lab.credentials(site);
        let endpoint = self.lab.cloud().endpoint_in_sites();
        let file = |name: &str| self.folder().join(name).display().to_string();
        let table = [
            ("WRITERKEYFILE", self.writer_file(site).display().to_string()),
            ("KEYFILE", file(SAFE_KEY)),
            ("'ID'", format!("'{}'", credentials.access_key)),
            ("'SECRET'", format!("'{}'", credentials.secret_key)),
            ("'PASSWORD'", format!("'{}'", self.holdfast_password())),
            ("/root/recover", file("by-hand")),
            (&endpoint, self.lab.cloud().endpoint()),
        ];
        table.iter().fold(block.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// A block with the line that a person would see it after, and its watches replaced.
fn script(block: &str) -> String {
    let lines = block.lines().map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["kubectl", "get", kind, name, .., "--watch"] => {
            format!("kubectl wait {kind} {name} --for=jsonpath='{{.status.phase}}'=Succeeded --timeout=5m")
        }
        _ => line.to_owned(),
    });
    let lines: Vec<_> = lines.collect();
    // What failed is the last that was begun.
    format!("cat >&2 <<'THE BLOCK'\n\n$ {}\nTHE BLOCK\n{}", block.trim_end(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_as_they_are_printed() {
        let page =
            "## a\n\n```sh\nfirst\n```\n\ntext\n\n```sh\ncat <<END\n  x\nEND\n```\n\n## b\n\n```sh\nlater\n```\n";
        assert_eq!(blocks(page, "## a", "## b").unwrap(), ["first\n", "cat <<END\n  x\nEND\n"]);
        assert!(blocks(page, "## b", "## c").is_err());
        let watched = script("kubectl get drill $DRILL -o wide --watch\n");
        assert!(watched.ends_with("kubectl wait drill $DRILL --for=jsonpath='{.status.phase}'=Succeeded --timeout=5m"));
    }
}
