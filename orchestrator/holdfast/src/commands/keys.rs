//! `holdfast keys`: the age key pairs that objects in the vault are encrypted to.

use anyhow::Context;
use clap::{Args, Subcommand};
use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

/// Make the keys that the vault is encrypted to.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key pair in the age format: the recipient is printed, the identity goes to a file.
    ///
    /// The identity decrypts the vault. It belongs at the standby site, and a second one in a safe; never at the
    /// primary site.
    #[command(after_help = "Example:\n  holdfast keys generate --identity standby.key\n  \
        kubectl create secret generic vault-identity --from-file=identity=standby.key")]
    Generate {
        /// Where the identity (the private half) is written; the file must not exist.
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let KeysCommand::Generate { identity: path } = self.command;
        let (identity, recipient) = holdfast_vault::generate_identity();
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(|| {
                format!("cannot create {} (an existing identity is never overwritten)", path.display())
            })?;
        writeln!(file, "{identity}")
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{recipient}");
        Ok(())
    }
}
