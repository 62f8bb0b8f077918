//! `holdfast vault verify`: the scrub, by hand.

use std::path::{Path, PathBuf};

use clap::Args;
use holdfast_vault::{
    Budget, Finding, Identities, KeyWalk, Moments, SharedVerdict, Vault, VaultError, Verdict, Verifier, VerifyOptions,
    VerifyState,
};
use serde::Serialize;

use super::{DatabaseProblem, Failed, Output, Printed, Table, Where, bytes_text, databases, print_json, progress};

/// Between two looks at the progress bar.
const STEP: Budget = Budget { bytes: 32 << 20, requests: 256 };

/// Read what is stored and say what is wrong with which object, and what it costs.
///
/// Follows the chain, checks signatures, digests, versions and locks, and, with an identity, decrypts and decompresses. For
/// each damaged object it names the moments that can no longer be restored. All headers are always read; --sample
/// reads the bodies of some objects only. Without a DATABASE journals, plans and evidence are read too. Exit code 1 when
/// something is wrong, or a database cannot be looked at; the others are looked at all the same.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault verify --vault hospital -n hospital\n  \
    holdfast vault verify registration --sample 5 --store file:///mnt/copy --identity escrow.key\n  \
    holdfast vault verify registration --budget-bytes 10GiB --resume scrub.json --vault hospital -n hospital")]
pub(crate) struct Verify {
    /// A database; all of them when left out.
    #[arg(value_name = "DATABASE")]
    database: Option<String>,
    /// Read every body: what happens when neither --sample nor a budget is given.
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// Read the bodies of so many per cent of the objects, chosen by chance.
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
    sample: f64,
    /// Stop after so many bytes (such as 500MiB or 10GiB) and go on from there another time.
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "resume")]
    budget_bytes: Option<u64>,
    /// Stop after so many requests and go on from there another time.
    #[arg(long, value_name = "N", requires = "resume")]
    budget_requests: Option<u64>,
    /// Where this scrub stands; it goes on from there, and the file is removed when it is through.
    #[arg(long, value_name = "FILE", requires = "database")]
    resume: Option<PathBuf>,
    /// Do not ask for the locks (one request an object).
    #[arg(long)]
    no_locks: bool,
    /// Objects read at the same time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    parallel: usize,
}

/// What came of a part of the vault.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    Database(Box<Verdict>),
    Problem(DatabaseProblem),
    /// Journals, plans and evidence.
    Shared {
        shared: SharedVerdict,
    },
}

impl Line {
    fn is_clean(&self) -> bool {
        match self {
            Line::Database(verdict) => verdict.is_clean(),
            Line::Problem(_) => false,
            Line::Shared { shared } => shared.is_clean(),
        }
    }

    fn print(&self, opened: bool) {
        match self {
            Line::Database(verdict) => print!("{}", text(verdict, opened)),
            Line::Problem(problem) => problem.print(),
            Line::Shared { shared } => {
                let (objects, bytes) = (shared.totals.objects, bytes_text(shared.totals.bytes));
                println!("journals, plans and evidence: {objects} objects, {bytes} read");
                print!("{}", findings_text(&shared.findings));
            }
        }
    }
}

impl Verify {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        if !(0.0..=100.0).contains(&self.sample) {
            let what = format!("a sample of {} per cent", self.sample);
            return Err(Failed::new(what, "--sample", "give a number from 0 to 100").into());
        }
        let (vault, identities) = (place.open().await?, place.identities().await?);
        let names = databases(&vault, self.database.as_deref()).await?;
        let mut lines = Vec::new();
        for name in &names {
            match self.scrub(&vault, name, identities.clone(), place.output).await {
                Ok(Some(verdict)) => lines.push(Line::Database(Box::new(verdict))),
                Ok(None) => return Ok(()),
                // The others are worth looking at.
                Err(error) => match error.downcast::<VaultError>() {
                    Ok(error) => lines.push(Line::Problem(DatabaseProblem::of_one(name, error)?)),
                    Err(error) => return Err(error),
                },
            }
        }
        if self.database.is_none() {
            lines.push(Line::Shared { shared: self.shared(&vault, place.output).await? });
        }
        match place.output {
            Output::Json => print_json(&lines)?,
            Output::Table => lines.iter().for_each(|line| line.print(identities.is_some())),
        }
        if lines.iter().all(Line::is_clean) { Ok(()) } else { Err(Printed.into()) }
    }

    async fn shared(&self, vault: &Vault, output: Output) -> anyhow::Result<SharedVerdict> {
        let bar = progress(output, None, "verify journals, plans and evidence");
        let options =
            VerifyOptions { locks: !self.no_locks, parallel: self.parallel.max(1), ..VerifyOptions::default() };
        let mut verifier = vault.shared_verifier(options);
        while !verifier.step(STEP).await? {
            bar.set_position(verifier.totals().objects);
        }
        bar.finish_and_clear();
        Ok(verifier.verdict())
    }

    /// Scrubs one database; none when the budget ended it.
    async fn scrub(
        &self,
        vault: &Vault,
        name: &str,
        identities: Option<Identities>,
        output: Output,
    ) -> anyhow::Result<Option<Verdict>> {
        let options =
            VerifyOptions { sample_percent: self.sample, locks: !self.no_locks, parallel: self.parallel.max(1) };
        let database = vault.database(name)?;
        let mut verifier = match self.kept()? {
            Some(state) => Verifier::resume(&database, identities, options, state).await?,
            None => Verifier::begin(&database, identities, options).await?,
        };
        let steps = count(vault.walk_keys(&format!("db/{name}/"), None), output).await?;
        let bar = progress(output, steps, "verify");
        let end = Budget {
            bytes: verifier.totals().bytes.saturating_add(self.budget_bytes.unwrap_or(u64::MAX)),
            requests: verifier.totals().requests.saturating_add(self.budget_requests.unwrap_or(u64::MAX)),
        };
        loop {
            let totals = *verifier.totals();
            let left = Budget {
                bytes: STEP.bytes.min(end.bytes.saturating_sub(totals.bytes)),
                requests: STEP.requests.min(end.requests.saturating_sub(totals.requests)),
            };
            if left.bytes == 0 || left.requests == 0 {
                bar.finish_and_clear();
                self.said_where(&verifier, output)?;
                return Ok(None);
            }
            let stepped = verifier.step(left).await;
            self.keep(verifier.state())?;
            let totals = verifier.totals();
            bar.set_position(totals.objects);
            bar.set_message(format!("{}, {:.3} GB/s", bytes_text(totals.bytes), totals.gb_per_second()));
            if stepped? {
                break;
            }
        }
        bar.finish_and_clear();
        if let Some(path) = &self.resume {
            std::fs::remove_file(path).map_err(|error| Self::resume_failed("removed", path, &error))?;
        }
        Ok(Some(verifier.verdict()))
    }

    fn kept(&self) -> anyhow::Result<Option<VerifyState>> {
        let Some(path) = self.resume.as_deref().filter(|path| path.exists()) else { return Ok(None) };
        let state = || -> anyhow::Result<VerifyState> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
        let read = state().map_err(|error| {
            let what = format!("this is not where a scrub stood: {error}");
            Failed::new(what, path.display().to_string(), "give another file, or remove it to begin anew")
        });
        Ok(Some(read?))
    }

    /// Replaces the file as a whole, so that a crash leaves the old one or the new one.
    fn keep(&self, state: &VerifyState) -> anyhow::Result<()> {
        let Some(path) = &self.resume else { return Ok(()) };
        let (new, bytes) = (path.with_extension("new"), serde_json::to_vec(state)?);
        let written = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path));
        Ok(written.map_err(|error| Self::resume_failed("written", path, &error))?)
    }

    fn resume_failed(what: &str, path: &Path, error: &std::io::Error) -> Failed {
        let to_do = "give a file in a folder that can be written to as --resume";
        Failed::new(format!("where the scrub stands cannot be {what}: {error}"), path.display().to_string(), to_do)
    }

    fn said_where(&self, verifier: &Verifier, output: Output) -> anyhow::Result<()> {
        let (totals, findings) = (verifier.totals(), verifier.findings());
        if output == Output::Json {
            print_json(&serde_json::json!({ "through": false, "findings": findings, "totals": totals }))?;
        } else {
            print!("{}", findings_text(findings));
            println!("the budget is used: {} objects, {}; not through", totals.objects, bytes_text(totals.bytes));
            println!("give the same command again to go on");
        }
        if findings.is_empty() { Ok(()) } else { Err(Printed.into()) }
    }
}

/// How many objects there are, for the progress bar alone.
async fn count(mut walk: KeyWalk, output: Output) -> anyhow::Result<Option<u64>> {
    if progress(output, None, "").is_hidden() {
        return Ok(None);
    }
    let mut keys = 0;
    while walk.next().await?.is_some() {
        keys += 1;
    }
    Ok(Some(keys))
}

fn text(verdict: &Verdict, opened: bool) -> String {
    let totals = &verdict.totals;
    let mut text = format!(
        "{}: {} objects, {} read ({:.3} GB/s), {} bodies, {} opened, {} locks, {} requests\n",
        verdict.database,
        totals.objects,
        bytes_text(totals.bytes),
        totals.gb_per_second(),
        totals.bodies,
        totals.opened,
        totals.locks,
        totals.requests
    );
    if !opened {
        text.push_str("  no identity was given: what is encrypted was not opened\n");
    }
    if totals.locks == 0 {
        text.push_str("  no locks were read: this store has none, or they were not asked for\n");
    }
    for window in &verdict.restorable {
        text.push_str(&format!("  can be restored: moments from {} to {}\n", window.from, window.to));
    }
    if verdict.restorable.is_empty() {
        text.push_str("  NOTHING can be restored: there is no complete backup with its WAL\n");
    }
    verdict.lost.iter().for_each(|lost| text.push_str(&format!("  LOST: {lost}\n")));
    text.push_str(&findings_text(&verdict.findings));
    if verdict.is_clean() {
        text.push_str("  nothing is wrong\n");
    }
    text
}

fn findings_text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["FOUND", "OBJECT", "DETAIL"]);
    for finding in findings {
        table.row([finding.what.to_string().to_uppercase(), finding.key.clone(), finding.detail.clone()]);
        let costs = finding.costs.iter().map(Moments::to_string);
        costs.for_each(|cost| table.row([String::new(), format!("  costs: {cost}"), String::new()]));
    }
    let mut kinds: Vec<_> = findings.iter().map(|finding| finding.what).collect();
    kinds.sort_by_key(ToString::to_string);
    kinds.dedup();
    let hints = kinds.iter().map(|kind| format!("  {kind}: what to do: {}\n", kind.hint()));
    format!("{table}{}", hints.collect::<String>())
}

/// Bytes, with K, M, G or T for powers of 1024; `iB` and `B` may follow.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].trim_end_matches('B').trim_end_matches('i') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("write it as 500MiB or 10GiB".to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| "write it as 500MiB or 10GiB".to_owned())?;
    count.checked_mul(1 << shift).ok_or_else(|| "too much".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("7", 7), ("500MiB", 500 << 20), ("10G", 10 << 30), ("1KB", 1024)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "1X", "99999999999999999999", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
