//! `holdfast vault janitor`: deletes what has expired.

use std::path::PathBuf;

use clap::Args;
use holdfast_vault::janitor::Sweep;
use holdfast_vault::janitor::decide::{Kept, Verdict};
use holdfast_vault::store::S3Store;
use holdfast_vault::{CredentialsSource, VaultConfig};
use serde::Serialize;

use super::{DatabaseProblem, Failed, Output, Printed, Table, Where, bytes_text, databases, print_json, progress};

/// Delete what has expired: the only command that deletes anything in a vault.
///
/// Chunks go when their lock has ended and segments and an index have covered them for a day; base backups and segments
/// when their locks have ended and no kept backup needs them. The newest complete backup and what it needs always stay,
/// as do seals, identities, indexes, plans, journals and evidence. Versions are deleted by their ids, never by a delete
/// marker. Only the store's clock is asked.
///
/// Run it away from the primary site, daily, with credentials that may delete versions and nothing else; what it must
/// read it reads with the vault's other credentials. It needs to know which writers to believe: those of the Vault object,
/// or --writers. Exit code 1 when something was refused, touched by somebody or unreadable, or a database could not be
/// looked at; the rest is done all the same.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault janitor --vault hospital -n hospital --dry-run\n  \
    holdfast vault janitor --bucket vault --writers /etc/holdfast/writers.yaml \\\n      \
    --credentials /etc/holdfast/reader --delete-credentials /etc/holdfast/janitor")]
pub(crate) struct Janitor {
    /// Only this database.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Say what would be deleted, and why not the rest; delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// A folder with the files AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of whoever may delete versions; left out, the
    /// vault's own credentials are used.
    #[arg(long, value_name = "DIR")]
    delete_credentials: Option<PathBuf>,
    /// Run although no writers are named: then an index and segments by whoever can write to the bucket say which chunks
    /// may go.
    #[arg(long)]
    trust_anyone: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    databases: Vec<Sweep>,
    /// Databases that were not looked at to the end.
    problems: Vec<DatabaseProblem>,
}

impl Janitor {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        if vault.trust().is_anyone() && !self.trust_anyone {
            let what = "no writers are named: whoever can write to this vault could say what is to be deleted";
            let to_do = "give --writers FILE (or list them in the Vault object), or --trust-anyone";
            return Err(Failed::new(what, "", to_do).into());
        }
        place.needs_s3()?;
        let config = place.config().await?;
        let credentials = match &self.delete_credentials {
            Some(folder) => CredentialsSource::Directory(folder.clone()),
            None => config.credentials.clone(),
        };
        let deleter = S3Store::new(VaultConfig { credentials, ..config })?;
        let names = databases(&vault, self.database.as_deref()).await?;
        let bar = progress(place.output, None, "looking at objects");
        let mut report = Report { databases: Vec::new(), problems: Vec::new() };
        for name in names {
            let say = |looked: u64, deleted: u64| {
                bar.set_position(looked);
                bar.set_message(format!("of {name}, {deleted} to delete"));
            };
            let swept = async { vault.database(&name)?.sweep(&deleter, self.dry_run, &say).await };
            match swept.await {
                Ok(sweep) => report.databases.push(sweep),
                Err(error) => report.problems.push(DatabaseProblem::of_one(&name, error)?),
            }
        }
        bar.finish_and_clear();
        match place.output {
            Output::Json => print_json(&report)?,
            Output::Table => {
                report.databases.iter().for_each(print);
                report.problems.iter().for_each(DatabaseProblem::print);
            }
        }
        if report.needs_a_look() { Err(Printed.into()) } else { Ok(()) }
    }
}

impl Report {
    fn needs_a_look(&self) -> bool {
        !self.problems.is_empty() || !self.databases.iter().all(Sweep::is_clean)
    }
}

fn print(sweep: &Sweep) {
    let mut table = Table::new(&["DATABASE", "WHAT", "OBJECTS", "BYTES", "VERDICT"]);
    for row in &sweep.rows {
        let cells = [sweep.database.clone(), row.kind.to_owned(), row.objects.to_string(), bytes_text(row.bytes)];
        let [database, kind, objects, bytes] = cells;
        table.row([database, kind, objects, bytes, row.verdict.words().to_owned()]);
    }
    print!("{table}");
    let (objects, bytes) = sweep.deleted();
    let done = if sweep.dry_run { "would be deleted" } else { "deleted" };
    println!("{}: {objects} objects, {} {done}; {} requests", sweep.database, bytes_text(bytes), sweep.requests);
    if sweep.rows.iter().any(|row| row.verdict == Verdict::Keep(Kept::Refused)) {
        println!(
            "what to do: the store refused to delete; grant s3:DeleteObjectVersion on this prefix to --delete-credentials"
        );
    }
    for key in &sweep.tampered {
        println!("tampered: {key}; look at its versions with `holdfast vault show {key}`");
    }
    for key in &sweep.unreadable {
        println!("not what its key says: {key}; look at it with `holdfast vault show {key}`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        janitor: Janitor,
    }

    async fn needs_writers(more: &[&str]) -> bool {
        let line = ["holdfast", "--store", "file:///tmp", "--prefix", "none/such"].iter().chain(more);
        let line = Line::try_parse_from(line).unwrap();
        let ended = line.janitor.run(&line.place).await;
        ended.is_err_and(|error| error.to_string().contains("no writers are named"))
    }

    #[tokio::test]
    async fn it_does_not_run_on_anybodys_word() {
        let writer = holdfast_vault::WriterKey::generate().public().to_string();
        assert!(needs_writers(&[]).await);
        assert!(!needs_writers(&["--writer", &writer]).await);
        assert!(!needs_writers(&["--trust-anyone"]).await);
    }
}
