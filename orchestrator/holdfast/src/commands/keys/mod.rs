//! `holdfast keys`: the age keys that the vault is encrypted to, and the writer keys that vouch for what is in it.
//! One file a subcommand.

mod change;
mod escrow;
mod list;
mod manifest;
mod material;
mod new;
mod qr;
mod show;

use clap::{Args, Subcommand};

use crate::commands::vault::{About, Output, report};

/// Make, show, rotate and revoke the keys of a vault, and find out which keys it depends on.
///
/// Two kinds: an age key decrypts (its private half belongs at the standby site, and a second one in a safe, never at the
/// primary site); a writer key vouches for what a site stores (each site has one of its own).
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    New(new::New),
    Show(show::Show),
    Escrow(escrow::Escrow),
    Rotate(change::Rotate),
    Revoke(change::Revoke),
    List(Box<list::List>),
}

/// How to print.
#[derive(Debug, Args)]
struct Print {
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", help_heading = "Output")]
    output: Output,
}

impl Keys {
    /// Runs one subcommand to its end. A failure is printed here, as text or as JSON.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let about = match &self.command {
            KeysCommand::List(list) => list.place.about(),
            _ => About::the_command_line(),
        };
        let (output, result) = match self.command {
            KeysCommand::New(new) => (new.print.output, new.run()),
            KeysCommand::Show(show) => (show.print.output, show.run()),
            KeysCommand::Escrow(escrow) => (escrow.print.output, escrow.run()),
            KeysCommand::Rotate(rotate) => (rotate.print.output, rotate.run()),
            KeysCommand::Revoke(revoke) => (revoke.print.output, revoke.run()),
            KeysCommand::List(list) => (list.place.output, list.run().await),
        };
        result.map_err(|error| report(output, &about, error))
    }
}
