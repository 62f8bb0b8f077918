//! Recovery without the operator: the same seals, put by a person. The runbook tells when.

use anyhow::{Context, bail};
use clap::Args;
use holdfast_vault::{DatabaseVault, Identities, Promotion, Taken, TakeoverOptions, TakerState, Vault, VaultConfig};
use holdfast_wal::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::role;

/// Which log.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// JSON file with the vault's endpoint, region, bucket, prefix, retentionDays and credentials directory.
    #[arg(long, value_name = "FILE")]
    vault: PathBuf,
    /// The database's name in the vault.
    #[arg(long, value_name = "NAME")]
    database: String,
    /// Where this takeover is remembered, so that every command can be repeated. Keep it until the end.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
}

impl LogArguments {
    fn log(&self) -> anyhow::Result<DatabaseVault> {
        let config: VaultConfig = role::config(&self.vault)?;
        Ok(Vault::open(config)?.database(&self.database)?)
    }
}

/// What a takeover by hand must remember between its commands.
#[derive(Serialize, Deserialize)]
struct Remembered {
    database: String,
    taker: TakerState,
    taken: Option<Taken>,
}

/// Seal a database's log by hand: from then on no commit of the old primary is acknowledged.
///
/// Prints where the log ends. May be repeated with the same state file. To abandon it, stop here: the old
/// primary's agent can take the log back.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  holdfast takeover --vault vault.json --database registration --state taker.json")]
pub(crate) struct Takeover {
    #[command(flatten)]
    log: LogArguments,
    /// How long a busy primary may keep the tail before the command gives up (repeat it then), in seconds.
    #[arg(long, default_value_t = 30)]
    timeout_seconds: u64,
}

impl Takeover {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let log = self.log.log()?;
        let mut remembered = recall_or_begin(&self.log)?;
        let options = TakeoverOptions { patience: Duration::from_secs(self.timeout_seconds) };
        let taken = log.takeover(&remembered.taker, &options).await?;
        println!("sealed {} at {} (epoch {} is pending)", self.log.database, taken.sealed, taken.epoch);
        remembered.taken = Some(taken);
        remember(&self.log.state, &remembered)
    }
}

/// Put the promote seal by hand: the point of no return. Promote PostgreSQL only after it has succeeded.
///
/// It is put at the end of the last complete record at or below the takeover seal, and the standby must have
/// replayed to there.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  holdfast promote-seal --vault vault.json --database registration --state taker.json \\\n    \
    --identity standby.key --replayed $(psql -XAtc 'select pg_last_wal_replay_lsn()') \\\n    --new-timeline 2 --instance by-hand-1"
)]
pub(crate) struct PromoteSeal {
    #[command(flatten)]
    log: LogArguments,
    /// The age identity that decrypts the vault.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// `pg_last_wal_replay_lsn()` of the standby.
    #[arg(long, value_name = "LSN")]
    replayed: Lsn,
    /// The timeline that PostgreSQL will choose: one above the highest it knows.
    #[arg(long, value_name = "N")]
    new_timeline: u32,
    /// A name for this copy of the database, never used before; the copy's agent is given the same as its instanceId.
    #[arg(long, value_name = "ID")]
    instance: String,
}

impl PromoteSeal {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let log = self.log.log()?;
        let remembered = recall(&self.log)?;
        let Some(taken) = &remembered.taken else {
            bail!("{} holds no takeover that was won; run `holdfast takeover` first", self.log.state.display());
        };
        let floor = log.floor(Identities::from_file(&self.identity)?, self.replayed, taken.sealed).await?;
        if self.replayed < floor {
            bail!(
                "the standby has replayed to {} and must replay to {floor}; wait, look again, and repeat",
                self.replayed
            );
        }
        let promotion =
            Promotion { start: floor, instance_id: self.instance, new_timeline: TimelineId(self.new_timeline) };
        let promoted = log.promote(&remembered.taker, taken, &promotion).await?;
        println!("promote seal stored at {}; epoch {} is open: promote PostgreSQL now", promoted.start, promoted.epoch);
        Ok(())
    }
}

fn recall_or_begin(arguments: &LogArguments) -> anyhow::Result<Remembered> {
    if arguments.state.exists() {
        return recall(arguments);
    }
    let database = arguments.database.clone();
    let begun = Remembered { database, taker: TakerState::generate("by hand".to_owned()), taken: None };
    remember(&arguments.state, &begun)?;
    Ok(begun)
}

fn recall(arguments: &LogArguments) -> anyhow::Result<Remembered> {
    let remembered: Remembered = role::config(&arguments.state)?;
    if remembered.database != arguments.database {
        let (state, other) = (arguments.state.display(), remembered.database);
        bail!("{state} belongs to the takeover of {other:?}; give each database a state file of its own");
    }
    Ok(remembered)
}

/// Replaces the file as a whole, so that a crash leaves the old one or the new one.
fn remember(path: &Path, remembered: &Remembered) -> anyhow::Result<()> {
    let (folder, new) = (path.parent().unwrap_or(Path::new("")), path.with_extension("new"));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(remembered)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
