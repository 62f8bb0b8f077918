//! `holdfast vault`: what a person does with a vault. One file a subcommand.

mod check;
mod compact;
mod conformance;
mod copy;
mod cost;
mod hold;
mod janitor;
mod ls;
mod output;
mod place;
mod show;
mod verify;

use clap::{Args, Subcommand};

pub(crate) use output::{
    About, DatabaseProblem, Failed, Output, Printed, Table, bytes_text, print_json, progress, read_file, report,
};
pub(crate) use place::{Where, databases};

/// Look into a vault, check it, copy it.
///
/// Which vault: a Vault object of the current cluster (`--vault NAME -n NAMESPACE`), a bucket (`--bucket`, with
/// credentials from a folder or from the environment), or any other store (`--store URL`, such as a copy in a folder).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault ls --vault hospital -n hospital\n  \
    holdfast vault ls --bucket vault --endpoint https://s3.example.org --credentials /etc/holdfast/s3\n  \
    holdfast vault ls --store file:///mnt/copy -o json\n\n\
    Errors go to standard error, as what is wrong, where, and what to do; with `-o json` as one line:\n  \
    {\"error\":{\"what\":\"...\",\"where\":\"...\",\"toDo\":\"...\"}}\n\n\
    Exit code 1: something is wrong, or could not be done. 2: the command line makes no sense.")]
pub(crate) struct Vault {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: VaultCommand,
}

#[derive(Debug, Subcommand)]
enum VaultCommand {
    Check(check::Check),
    Compact(compact::Compact),
    Conformance(conformance::Conformance),
    Cost(cost::Cost),
    Hold(hold::Hold),
    Janitor(janitor::Janitor),
    Copy(copy::Copy),
    Ls(ls::Ls),
    Show(show::Show),
    Verify(verify::Verify),
}

impl Vault {
    /// Runs one subcommand to its end. A failure is printed here, as text or as JSON.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (output, about) = (self.place.output, self.place.about());
        let result = match self.command {
            VaultCommand::Check(check) => check.run(&self.place).await,
            VaultCommand::Compact(compact) => compact.run(&self.place).await,
            VaultCommand::Conformance(conformance) => conformance.run(&self.place).await,
            VaultCommand::Cost(cost) => cost.run(&self.place).await,
            VaultCommand::Hold(hold) => hold.run(&self.place).await,
            VaultCommand::Janitor(janitor) => janitor.run(&self.place).await,
            VaultCommand::Copy(copy) => copy.run(&self.place).await,
            VaultCommand::Ls(ls) => ls.run(&self.place).await,
            VaultCommand::Show(show) => show.run(&self.place).await,
            VaultCommand::Verify(verify) => verify.run(&self.place).await,
        };
        result.map_err(|error| output::report(output, &about, error))
    }
}
