//! `holdfast vault hold`: makes locks longer.

use std::time::Duration;

use clap::Args;
use holdfast_vault::Vault;
use holdfast_vault::hold::Held;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{DatabaseProblem, Failed, Output, Printed, Where, databases, print_json, progress};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Lock every object for longer, at once: when an attack is suspected, so that nothing expires while it is looked into.
///
/// A lock can only be made longer, by anybody, and nobody can take it back: the storage is paid for until then. Run again
/// it goes on where it was. Needs the right s3:PutObjectRetention.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault hold --days 180 --vault hospital -n hospital\n  \
    holdfast vault hold --until 2027-06-30 --database registration --bucket vault --credentials /etc/holdfast/s3\n  \
    holdfast vault hold --rolling --vault hospital -n hospital")]
pub(crate) struct Hold {
    /// Lock until the end of this day (UTC).
    #[arg(long, value_name = "DATE", conflicts_with_all = ["days", "rolling"], required_unless_present_any = ["days", "rolling"])]
    until: Option<Date>,
    /// Lock for so many days from now, by the store's clock.
    #[arg(long, value_name = "DAYS", conflicts_with = "rolling", value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: Option<u32>,
    /// Lock only what a recovery with the newest base backup needs, for the vault's retention. What archivers do daily.
    #[arg(long)]
    rolling: bool,
    /// Only this database.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

impl Hold {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        place.needs_s3()?;
        let vault = place.open().await?;
        let held = match self.rolling {
            true => self.roll(&vault, place.config().await?.retention()).await?,
            false => self.extend(&vault, place.output).await?,
        };
        match place.output {
            Output::Json => print_json(&held)?,
            Output::Table => print(&held),
        }
        if held.failed > 0 { Err(Printed.into()) } else { Ok(()) }
    }

    async fn extend(&self, vault: &Vault, output: Output) -> anyhow::Result<Held> {
        if let Some(name) = &self.database {
            databases(vault, Some(name)).await?;
        }
        let now = vault.store_time().await?;
        let until = self.until(now)?;
        let path = self.database.as_ref().map(|name| format!("db/{name}/")).unwrap_or_default();
        let bar = progress(output, None, "locking");
        let say = |looked: u64, extended: u64| {
            bar.set_position(looked);
            bar.set_message(format!("{extended} made longer"));
        };
        let held = vault.hold(&path, until, &say).await?;
        bar.finish_and_clear();
        if held.extended + held.already + held.failed == 0 {
            // Nothing was locked, and somebody who suspects an attack must not believe that it was.
            let to_do = "check the bucket and --prefix: `holdfast vault ls --long`";
            return Err(Failed::new("nothing stands there that could be locked", "", to_do).into());
        }
        Ok(held)
    }

    fn until(&self, now: Timestamp) -> anyhow::Result<Timestamp> {
        if let Some(days) = self.days {
            let too_far = |_| Failed::new(format!("{days} days from now is no date"), "--days", "give fewer days");
            return Ok(now.checked_add(DAY * days).map_err(too_far)?);
        }
        let nothing = || Failed::new("neither a date nor days are given", "--until", "give --until or --days");
        let date = self.until.ok_or_else(nothing)?;
        let end = date.tomorrow()?.to_zoned(TimeZone::UTC)?.timestamp();
        if end <= now {
            let what = format!("{date} is over by the store's clock ({now})");
            return Err(Failed::new(what, "--until", "give a day to come").into());
        }
        Ok(end)
    }

    async fn roll(&self, vault: &Vault, keep: Duration) -> anyhow::Result<Held> {
        let names = databases(vault, self.database.as_deref()).await?;
        let mut all = Held::default();
        for name in names {
            let held = async { vault.database(&name)?.hold_recovery(keep).await };
            let held = match held.await {
                Ok(held) => held,
                // The locks of the others do not wait for it.
                Err(error) => {
                    all.failed += 1;
                    all.failures.push(DatabaseProblem::of_one(&name, error)?.line());
                    continue;
                }
            };
            all.until = all.until.into_iter().chain(held.until).min();
            (all.extended, all.already, all.failed) =
                (all.extended + held.extended, all.already + held.already, all.failed + held.failed);
            all.failures.extend(held.failures);
        }
        Ok(all)
    }
}

fn print(held: &Held) {
    let until = held.until.map(|until| format!("; all hold until {until} at least")).unwrap_or_default();
    println!("{} locks made longer, {} were long enough{until}", held.extended, held.already);
    if held.failed > 0 {
        held.failures.iter().for_each(|failure| println!("not locked: {failure}"));
        println!(
            "{} could not be locked. What to do: use credentials with s3:PutObjectRetention, and run it again",
            held.failed
        );
    }
}
