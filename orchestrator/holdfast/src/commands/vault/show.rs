//! `holdfast vault show`: one object, one backup, or the journal of one run.

use clap::Args;
use holdfast_vault::{BackupManifest, Description, LockLine, Vault};
use serde_json::Value;

use super::{Failed, Output, Printed, Table, Where, bytes_text, print_json};

/// Show one object: its header, whether it holds, its versions and its lock. Or a backup, or the journal of a run.
///
/// WAL and what a backup holds are never shown. Exit code 1 when something is wrong with the object.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    holdfast vault show db/registration/log/0000000000000001/0000000003000000 --vault hospital -n hospital\n  \
    holdfast vault show 20261124T030000Z-7c1f --vault hospital -n hospital\n  \
    holdfast vault show RUN-UID --store file:///mnt/copy -o json")]
pub(crate) struct Show {
    /// A key (with or without the vault's prefix), the id of a backup, or the uid of a run.
    #[arg(value_name = "KEY|BACKUP|RUN")]
    what: String,
}

impl Show {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        let what = self.what.trim_matches('/');
        if what.contains('/') {
            return show_object(&vault, what, place.output).await;
        }
        if let Some((database, backup)) = find_backup(&vault, what).await? {
            return show_backup(&database, &backup, place.output);
        }
        show_run(&vault, what, place.output).await
    }
}

async fn show_object(vault: &Vault, what: &str, output: Output) -> anyhow::Result<()> {
    let root = vault.root();
    let key = if what.starts_with(&root) { what.to_owned() } else { format!("{root}{what}") };
    let Some(found) = vault.describe(&key).await? else {
        return Err(Failed::new("nothing stands there", key, "see `holdfast vault ls --long` for what does").into());
    };
    match output {
        Output::Json => print_json(&found)?,
        Output::Table => print!("{}", text(&found)?),
    }
    if found.problem.is_some() { Err(Printed.into()) } else { Ok(()) }
}

fn text(found: &Description) -> anyhow::Result<String> {
    let mut table = Table::new(&["Key", &found.key]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("Kind", found.kind.word().to_owned());
    row("Size", bytes_text(found.size));
    row("Stored", found.stored.map(|at| at.to_string()).unwrap_or_default());
    row(
        "Lock",
        match &found.lock {
            LockLine::Locked { until, compliance: true } => format!("COMPLIANCE until {until}"),
            LockLine::Locked { until, .. } => format!("GOVERNANCE until {until}: an administrator can lift it"),
            LockLine::Unlocked => "none".to_owned(),
            LockLine::Unknown => "unknown: these credentials may not ask".to_owned(),
        },
    );
    row(
        "Holds",
        match &found.problem {
            None => "yes: signature, digests, place and writer".to_owned(),
            Some(problem) => format!("NO: {problem}"),
        },
    );
    for (n, version) in found.versions.iter().enumerate() {
        let stored = version.stored.map(|at| at.to_string()).unwrap_or_default();
        let what = match (version.delete_marker, n) {
            (true, _) => ", a delete marker: tampering",
            (false, 0) => "",
            (false, _) => ", put over it: tampering",
        };
        row("Version", format!("{} {stored}{what}", version.id));
    }
    if let Some(hash) = &found.hash {
        row("Header SHA-256", hash.to_string());
    }
    let mut text = table.to_string();
    for (name, value) in [("Header", &found.header), ("Body", &found.body)] {
        if let Some(value) = value {
            text.push_str(&format!("{name}:\n{}\n", serde_json::to_string_pretty(value)?));
        }
    }
    Ok(text)
}

async fn find_backup(vault: &Vault, id: &str) -> anyhow::Result<Option<(String, BackupManifest)>> {
    for database in vault.databases().await? {
        // A folder that no database can have has no backup either.
        let Ok(named) = vault.database(&database) else { continue };
        let backups = named.backups().await?;
        if let Some(found) = backups.into_iter().find(|backup| backup.meta.id == id) {
            return Ok(Some((database, found)));
        }
    }
    Ok(None)
}

fn show_backup(database: &str, backup: &BackupManifest, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let mut json = serde_json::to_value(backup)?;
        json["database"] = database.into();
        return print_json(&json);
    }
    let mut table = Table::new(&["Backup", &backup.meta.id]);
    let rows = [
        ("Database", database.to_owned()),
        ("PostgreSQL", backup.meta.server_version.clone()),
        ("Began", backup.meta.started.to_string()),
        ("Finished", backup.finished.to_string()),
        ("WAL needed", format!("{} to {} on timeline {}", backup.meta.start, backup.end, backup.meta.timeline)),
        ("Parts", backup.parts.to_string()),
        ("Size", format!("{}, stored as {}", bytes_text(backup.plain_bytes), bytes_text(backup.stored_bytes))),
    ];
    rows.into_iter().for_each(|(name, value)| table.row([name.to_owned(), value]));
    print!("{table}");
    Ok(())
}

async fn show_run(vault: &Vault, run: &str, output: Output) -> anyhow::Result<()> {
    let records = vault.journal(run)?.load().await?;
    if records.is_empty() {
        let to_do = "give a key with slashes, the id of a backup, or the uid of a Failover or Drill";
        return Err(Failed::new(format!("no backup and no run is named `{run}`"), "", to_do).into());
    }
    if output == Output::Json {
        let json = |r: &holdfast_vault::JournalRecord| serde_json::json!({ "n": r.n, "writtenAt": r.written_at, "sha256": r.sha256, "entry": r.entry });
        return print_json(&records.iter().map(json).collect::<Vec<Value>>());
    }
    for record in records {
        println!("{}  {}  {}", record.n, record.written_at, serde_json::to_string(&record.entry)?);
    }
    Ok(())
}
