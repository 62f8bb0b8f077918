//! `holdfast keys show`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Print;
use super::material::{Kind, Material, fingerprint};
use super::qr;
use crate::commands::vault::{Failed, Output, print_json};

/// Show the public half of a key, with its fingerprint and a QR code. The private half is never shown
/// (`holdfast keys escrow` prints it, to be locked away).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast keys show standby.key\n  holdfast keys show age1... --qr\n  \
    holdfast keys show primary-writer.key --svg primary-writer.svg")]
pub(super) struct Show {
    /// A public key, or a file with a private key.
    #[arg(value_name = "FILE|PUBLIC")]
    key: String,
    /// Print the public key as a QR code.
    #[arg(long)]
    qr: bool,
    /// Write the public key as a QR code to an SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pub(super) print: Print,
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let material = Material::of(&self.key)?;
        if let Some(path) = &self.svg {
            let text = qr::svg(&qr::encode(&material.public.join("\n"))?, 60);
            std::fs::write(path, text).map_err(|error| {
                let place = path.display().to_string();
                Failed::new(
                    format!("cannot write the QR code: {error}"),
                    place,
                    "choose a folder that can be written to",
                )
            })?;
        }
        let has_private = !material.secret.is_empty();
        if self.print.output == Output::Json {
            let keys =
                material.public.iter().map(|public| json!({"publicKey": public, "fingerprint": fingerprint(public)}));
            let keys: Vec<_> = keys.collect();
            return print_json(&json!({ "kind": material.kind, "keys": keys, "hasPrivateKey": has_private }));
        }
        for public in &material.public {
            let what = match material.kind {
                Kind::Age => "age key: decrypts what is stored",
                Kind::Writer => "writer key: vouches for what a site stores",
            };
            println!("kind          {what}\npublic key    {public}\nfingerprint   {}", fingerprint(public));
            println!("private key   {}", if has_private { "in this file, not shown" } else { "not given" });
            if self.qr {
                print!("\n{}", qr::terminal(&qr::encode(public)?));
            }
        }
        Ok(())
    }
}
