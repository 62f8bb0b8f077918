//! `holdfast keys new`.

use std::path::PathBuf;

use clap::Args;
use holdfast_vault::{WriterKey, generate_identity};
use jiff::Timestamp;
use serde_json::json;

use super::Print;
use super::material::{Kind, fingerprint, write_private};
use crate::commands::vault::{Output, print_json};

/// Make a key. The private half goes to a file that only its owner can read; the public half is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast keys new age --out standby.key\n  \
    kubectl create secret generic holdfast-identity --from-file=identity=standby.key\n  \
    holdfast keys new writer --out primary-writer.key\n  \
    kubectl create secret generic holdfast-writer --from-file=writer=primary-writer.key")]
pub(super) struct New {
    /// What the key is for.
    kind: Kind,
    /// Where the private half is written; the file must not exist. Left out, it is printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) print: Print,
}

impl New {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (secret, public) = match self.kind {
            Kind::Age => generate_identity(),
            Kind::Writer => {
                let key = WriterKey::generate();
                (key.secret(), key.public().to_string())
            }
        };
        let file =
            format!("# made by `holdfast keys new`, {:.0}\n# public key: {public}\n{secret}\n", Timestamp::now());
        if let Some(path) = &self.out {
            write_private(path, &file)?;
        }
        match (self.print.output, &self.out) {
            (Output::Json, out) => print_json(&json!({
                "kind": self.kind, "publicKey": public, "fingerprint": fingerprint(&public),
                "file": out, "secret": out.is_none().then_some(&secret),
            })),
            (Output::Table, None) => {
                print!("{file}");
                Ok(())
            }
            // The public key alone, so that a script can take it.
            (Output::Table, Some(_)) => {
                println!("{public}");
                Ok(())
            }
        }
    }
}
