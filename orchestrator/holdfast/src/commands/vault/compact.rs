//! `holdfast vault compact`: archives once, up to the end of the log.

use clap::Args;
use holdfast_vault::{ArchiveError, ArchiveOptions, ArchiveStep, Identities, Recipients, Vault};
use holdfast_wal::Lsn;
use serde::Serialize;

use super::{DatabaseProblem, Failed, Output, Printed, Table, Where, bytes_text, databases, print_json, progress};

/// Put the chunks of a log together to WAL segments and write an index, up to the end of the log.
///
/// Archivers do so all the time; this is for a vault without one, or before its chunks are deleted. It may run beside
/// archivers and be stopped at any moment. Needs an identity that decrypts, and credentials that may create objects.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault compact --vault hospital -n hospital\n  \
    holdfast vault compact --database registration --bucket vault --identity standby.key --recipient age1... --recipient age1...")]
pub(crate) struct Compact {
    /// Only this database.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Whom the segments are encrypted to, once for each; left out, those of the Vault object.
    #[arg(long, value_name = "AGE_RECIPIENT")]
    recipient: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Compacted {
    database: String,
    segments: u64,
    plain_bytes: u64,
    stored_bytes: u64,
    archived: Option<Lsn>,
    index: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    databases: Vec<Compacted>,
    /// Databases of which nothing could be compacted.
    problems: Vec<DatabaseProblem>,
}

impl Compact {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        let Some(identities) = place.identities().await? else {
            return Err(Failed::new("there is no identity to decrypt with", "", "give --identity FILE").into());
        };
        let recipients = match (self.recipient.as_slice(), place.recipients().await?) {
            ([], Some(recipients)) => recipients,
            ([], None) => {
                let to_do =
                    "give --recipient once for each, the escrow key's too: chunks go when segments hold their WAL";
                return Err(Failed::new("nobody is named to encrypt the segments to", "", to_do).into());
            }
            (recipients, _) => Recipients::parse(recipients)?,
        };
        let names = databases(&vault, self.database.as_deref()).await?;
        let mut report = Report::default();
        for name in names {
            match compact(&vault, &name, &identities, &recipients, place.output).await {
                Ok(compacted) => report.databases.push(compacted),
                // The chunks of the others do not wait for it.
                Err(ArchiveError::Vault(error)) => report.problems.push(DatabaseProblem::of_one(&name, error)?),
                Err(error) if error.is_permanent() => {
                    report.problems.push(DatabaseProblem::new(&name, error.to_string(), error.hint()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match place.output {
            Output::Json => print_json(&report)?,
            Output::Table => {
                print(&report.databases);
                report.problems.iter().for_each(DatabaseProblem::print);
            }
        }
        if report.problems.is_empty() { Ok(()) } else { Err(Printed.into()) }
    }
}

async fn compact(
    vault: &Vault,
    name: &str,
    identities: &Identities,
    recipients: &Recipients,
    output: Output,
) -> Result<Compacted, ArchiveError> {
    let database = vault.database(name)?;
    let mut archiver = database.archiver(identities.clone(), recipients.clone(), ArchiveOptions::default()).await?;
    let bar = progress(output, None, "segments");
    let mut done = Compacted { database: name.to_owned(), ..Compacted::default() };
    let mut step = archiver.step().await?;
    while !matches!(step, ArchiveStep::AtEnd(_)) {
        if let ArchiveStep::Segment { end, plain_bytes, stored_bytes } = step {
            done.segments += 1;
            done.plain_bytes += plain_bytes;
            done.stored_bytes += stored_bytes;
            bar.set_position(done.segments);
            bar.set_message(format!("of {} up to {end}", done.database));
        }
        step = archiver.step().await?;
    }
    archiver.finish().await?;
    bar.finish_and_clear();
    done.archived = archiver.archived().map(|(end, _)| end);
    done.index = archiver.index().map(|stored| stored.index.n);
    Ok(done)
}

fn print(all: &[Compacted]) {
    let mut table = Table::new(&["DATABASE", "SEGMENTS", "WAL", "STORED", "ARCHIVED TO", "INDEX"]);
    for done in all {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        table.row([
            done.database.clone(),
            done.segments.to_string(),
            bytes_text(done.plain_bytes),
            bytes_text(done.stored_bytes),
            text(done.archived.map(|end| end.to_string())),
            text(done.index.map(|n| n.to_string())),
        ]);
    }
    print!("{table}");
}
