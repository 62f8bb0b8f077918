//! `holdfast vault ls`: what is in a vault.

use clap::Args;
use holdfast_vault::{BackupList, DatabaseVault, VaultError};
use jiff::Timestamp;
use serde::Serialize;

use super::{DatabaseProblem, Failed, Output, Printed, Table, Where, bytes_text, databases, print_json};

/// List the databases of a vault: how far each log goes, and what it can be restored to.
///
/// The oldest moment is the end of the oldest backup that is there; `holdfast vault verify` proves that it can be read. With a
/// path or with --long: the objects below it, with versions; a `*` marks a key that somebody touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault ls --vault hospital -n hospital\n  \
    holdfast vault ls registration --vault hospital -n hospital -o json\n  \
    holdfast vault ls db/registration/backup/ --long --store file:///mnt/copy")]
pub(crate) struct Ls {
    /// A database, or a path such as db/registration/backup/.
    #[arg(value_name = "DATABASE|PATH")]
    path: Option<String>,
    /// List objects, not databases.
    #[arg(short, long)]
    long: bool,
    /// List at most so many objects.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

/// One database.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(skip)]
    name: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Found {
    Database(Box<Database>),
    Problem(DatabaseProblem),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Database {
    database: String,
    system_id: String,
    tip: String,
    timeline: u32,
    epoch: u64,
    epoch_opened_by: Option<String>,
    /// A takeover that has not promoted.
    pending_takeover: bool,
    backups: usize,
    /// Manifests that do not count, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backups_left_out: Vec<String>,
    newest_backup: Option<String>,
    /// The end of the oldest backup.
    oldest_restorable: Option<Restorable>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restorable {
    backup: String,
    lsn: String,
    at: Timestamp,
}

impl Ls {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let path = self.path.as_deref().unwrap_or_default();
        if self.long || path.contains('/') {
            return self.objects(place).await;
        }
        let vault = place.open().await?;
        let names = databases(&vault, self.path.as_deref()).await?;
        let mut lines = Vec::new();
        for name in names {
            let found = async { look(&vault.database(&name)?).await };
            let found = match found.await {
                Ok(found) => Found::Database(Box::new(found)),
                // The others are worth seeing.
                Err(error) => Found::Problem(DatabaseProblem::of_one(&name, error)?),
            };
            lines.push(Line { name, found });
        }
        print_databases(place.output, &lines)
    }

    async fn objects(&self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        let path = match self.path.as_deref().unwrap_or_default() {
            "" => String::new(),
            path if path.contains('/') => path.strip_prefix(&vault.root()).unwrap_or(path).to_owned(),
            database => format!("db/{database}/"),
        };
        let (mut walk, mut keys) = (vault.walk_keys(&path, None), Vec::new());
        while keys.len() < self.limit {
            let Some(key) = walk.next().await? else { break };
            keys.push(key);
        }
        if keys.is_empty() {
            let place = format!("{}{path}", vault.root());
            return Err(
                Failed::new("nothing stands there", place, "see `holdfast vault ls --long` for what does").into()
            );
        }
        if place.output == Output::Json {
            return print_json(&keys);
        }
        let mut table = Table::new(&["KEY", "KIND", "SIZE", "STORED", "VERSIONS"]);
        for key in &keys {
            let touched = if key.tampered() { " *" } else { "" };
            let versions = key.newer_versions + key.delete_markers + usize::from(key.version.is_some());
            let stored = key.stored.map(|at| at.to_string()).unwrap_or_default();
            let kind = vault.kind(&key.key).word().to_owned();
            table.row([key.key.clone(), kind, bytes_text(key.size), stored, format!("{versions}{touched}")]);
        }
        print!("{table}");
        if keys.len() == self.limit {
            eprintln!("holdfast: only the first {} objects; give a longer path or --limit", self.limit);
        }
        Ok(())
    }
}

async fn look(database: &DatabaseVault) -> Result<Database, VaultError> {
    let unknown = || VaultError::UnknownDatabase { name: database.name().to_owned() };
    let identity = database.identity().await?.ok_or_else(unknown)?;
    let (tip, BackupList { complete: backups, left_out }) = (database.tip().await?, database.backup_list().await?);
    let oldest = backups.iter().min_by_key(|backup| backup.end);
    Ok(Database {
        database: database.name().to_owned(),
        system_id: identity.system_id.to_string(),
        tip: tip.tip.to_string(),
        timeline: tip.timeline.0,
        epoch: tip.epoch,
        epoch_opened_by: tip.last_seal.as_ref().map(|seal| format!("{} of {}", seal.kind, seal.by)),
        pending_takeover: tip.pending().is_some(),
        backups: backups.len(),
        backups_left_out: left_out.into_iter().map(|(_, error)| error.to_string()).collect(),
        newest_backup: backups.last().map(|backup| backup.meta.id.clone()),
        oldest_restorable: oldest.map(|backup| Restorable {
            backup: backup.meta.id.clone(),
            lsn: backup.end.to_string(),
            at: backup.finished,
        }),
    })
}

fn print_databases(output: Output, lines: &[Line]) -> anyhow::Result<()> {
    if output == Output::Json {
        print_json(&lines)?;
    } else {
        let mut table = Table::new(&["DATABASE", "TIP", "TIMELINE", "EPOCH", "BACKUPS", "OLDEST MOMENT", "SYSTEM"]);
        for line in lines {
            let name = line.name.clone();
            let dash = || "-".to_owned();
            match &line.found {
                Found::Database(found) => {
                    let pending = if found.pending_takeover { " (takeover pending)" } else { "" };
                    let oldest =
                        found.oldest_restorable.as_ref().map_or_else(dash, |o| format!("{} ({})", o.at, o.lsn));
                    let epoch = format!("{}{pending}", found.epoch);
                    let (timeline, backups) = (found.timeline.to_string(), found.backups.to_string());
                    table.row([name, found.tip.clone(), timeline, epoch, backups, oldest, found.system_id.clone()]);
                }
                Found::Problem(_) => table.row([name, dash(), dash(), dash(), dash(), dash(), dash()]),
            }
        }
        print!("{table}");
    }
    let mut damaged = false;
    for line in lines {
        match &line.found {
            Found::Problem(problem) => {
                damaged = true;
                if output == Output::Table {
                    problem.print();
                }
            }
            Found::Database(found) if output == Output::Table => {
                found.backups_left_out.iter().for_each(|why| eprintln!("holdfast: a base backup is left out: {why}"));
            }
            Found::Database(_) => {}
        }
    }
    if damaged { Err(Printed.into()) } else { Ok(()) }
}
