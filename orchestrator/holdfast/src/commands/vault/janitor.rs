//! `holdfast vault janitor`: deletes what has expired.

use std::path::PathBuf;

use clap::Args;
use holdfast_vault::janitor::Sweep;
use holdfast_vault::janitor::decide::Verdict;
use holdfast_vault::store::S3Store;
use holdfast_vault::{CredentialsSource, VaultConfig};
use serde::Serialize;

use super::{Output, Table, Where, bytes_text, print_json, progress};

/// Delete what has expired: the only command that deletes anything in a vault.
///
/// Chunks go when their lock has ended and segments and an index have covered them for a day; base backups and segments
/// when their locks have ended and no kept backup needs them. The newest complete backup and what it needs always stay,
/// as do seals, identities, indexes, plans, journals and evidence. Versions are deleted by their ids, never by a delete
/// marker. Only the store's clock is asked.
///
/// Run it away from the primary site, daily, with credentials that may delete versions and nothing else; what it must
/// read it reads with the vault's other credentials.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault janitor --vault hospital -n hospital --dry-run\n  \
    holdfast vault janitor --bucket vault --credentials /etc/holdfast/reader --delete-credentials /etc/holdfast/janitor")]
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
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    databases: Vec<Sweep>,
}

impl Janitor {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        let config = place.config().await?;
        let credentials = match &self.delete_credentials {
            Some(folder) => CredentialsSource::Directory(folder.clone()),
            None => config.credentials.clone(),
        };
        let deleter = S3Store::new(VaultConfig { credentials, ..config })?;
        let names = match &self.database {
            Some(name) => vec![name.clone()],
            None => vault.databases().await?,
        };
        let bar = progress(place.output, None, "looking at objects");
        let mut report = Report { databases: Vec::new() };
        for name in names {
            let say = |looked: u64, deleted: u64| {
                bar.set_position(looked);
                bar.set_message(format!("of {name}, {deleted} to delete"));
            };
            let sweep = vault.database(&name)?.sweep(&deleter, self.dry_run, &say).await?;
            report.databases.push(sweep);
        }
        bar.finish_and_clear();
        match place.output {
            Output::Json => print_json(&report),
            Output::Table => {
                report.databases.iter().for_each(print);
                Ok(())
            }
        }
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
    let refused = |row: &&holdfast_vault::janitor::Row| {
        matches!(row.verdict, Verdict::Keep(holdfast_vault::janitor::decide::Kept::Refused))
    };
    if sweep.rows.iter().any(|row| refused(&row)) {
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
