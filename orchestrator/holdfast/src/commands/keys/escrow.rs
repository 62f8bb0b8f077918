//! `holdfast keys escrow`: a sheet of paper for the safe.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::Print;
use super::material::{Kind, Material, fingerprint, write_private};
use super::qr;
use crate::commands::vault::{Failed, Output, print_json};

/// Make a page to print and lock away: the private key as text and QR code, its fingerprint, and how to use it.
///
/// The file holds the private key in the clear: print it on a printer that keeps no copies, and delete it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  holdfast keys new age --out escrow.key\n  \
    holdfast keys escrow escrow.key --title 'General Hospital, vault escrow key' --out sheet.html\n  \
    (print sheet.html, scan its QR code and compare, put it in the safe)\n  shred -u sheet.html escrow.key")]
pub(super) struct Escrow {
    /// The file with the private key.
    #[arg(value_name = "FILE")]
    key: PathBuf,
    /// The page: HTML, or only the QR code when the name ends with .svg. It must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What stands on top of the page: whose key, for which vault.
    #[arg(long, default_value = "Holdfast vault key")]
    title: String,
    #[command(flatten)]
    pub(super) print: Print,
}

impl Escrow {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let material = Material::from_file(&self.key)?;
        let ([secret], [public]) = (&material.secret[..], &material.public[..]) else {
            let what = format!("{} keys are in the file", material.secret.len());
            return Err(
                Failed::new(what, self.key.display().to_string(), "give one key a file: a sheet holds one").into()
            );
        };
        let code = qr::encode(secret)?;
        let only_code = self.out.extension().is_some_and(|extension| extension == "svg");
        let text = if only_code {
            qr::svg(&code, 80)
        } else {
            page(&self.title, material.kind, secret, public, &qr::svg(&code, 80), Timestamp::now())
        };
        write_private(&self.out, &text)?;
        let fingerprint = fingerprint(public);
        match self.print.output {
            Output::Json => print_json(&json!({
                "kind": material.kind, "publicKey": public, "fingerprint": fingerprint, "file": self.out,
            })),
            Output::Table => {
                println!("{}\nfingerprint {fingerprint}", self.out.display());
                println!("Print it, scan the code and compare it with the text, lock it away, and delete the file.");
                Ok(())
            }
        }
    }
}

fn page(title: &str, kind: Kind, secret: &str, public: &str, code: &str, now: Timestamp) -> String {
    let (title, day, fingerprint) = (escape(title), now.strftime("%Y-%m-%d"), fingerprint(public));
    let (what, how) = match kind {
        Kind::Age => (
            "This key decrypts everything that is stored in the vault. Whoever holds this sheet and can read the bucket can \
             read the patients' data.",
            "<li>Write the line above into a file, <code>escrow.key</code>, on a machine that you trust (scan the code, or \
             type it: capital letters and digits; a mistyped line is refused).</li>\
             <li>Check it: <code>holdfast keys show escrow.key</code> prints the fingerprint of this sheet.</li>\
             <li>With Holdfast: put it into the Secret that the Vault names under <code>encryption.identity</code>, key \
             <code>identity</code>, at the site that recovers.</li>\
             <li>Without Holdfast: <code>age --decrypt -i escrow.key</code> opens the body of each object; the page \
             <code>docs/recover-by-hand.md</code> goes from the bucket to a running PostgreSQL.</li>\
             <li>After it was used, make a new key, and rotate: <code>holdfast keys rotate age</code>.</li>",
        ),
        Kind::Writer => (
            "This key vouches for what a site stores in the vault. Whoever holds it and can write to the bucket can end the \
             log of a database. It decrypts nothing.",
            "<li>It is needed again only to go on with the same key at a rebuilt site. A new key does as well: \
             <code>holdfast keys new writer</code>, and <code>holdfast keys rotate writer</code>.</li>\
             <li>Write the line above into a file and put it into the Secret that the Vault names under \
             <code>signing</code>, key <code>writer</code>.</li>\
             <li>If this sheet is lost, revoke the key: <code>holdfast keys revoke writer</code>.</li>",
        ),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>@page{{size:A4;margin:20mm}}body{{font:11pt/1.45 sans-serif;max-width:170mm;margin:0 auto}}\
         h1{{font-size:18pt;margin:0}}code,.key{{font-family:monospace}}.key{{font-size:12pt;word-break:break-all;\
         border:1px solid #000;padding:3mm}}td{{padding-right:6mm;vertical-align:top}}</style></head>\n<body>\n\
         <h1>{title}</h1>\n<p>{what} Keep it in a safe, apart from every backup.</p>\n{code}\
         <p class=\"key\">{secret}</p>\n\
         <table><tr><td>Fingerprint</td><td><b>{fingerprint}</b></td></tr>\
         <tr><td>Public key</td><td class=\"key\" style=\"border:0;padding:0\">{public}</td></tr>\
         <tr><td>Printed</td><td>{day}</td></tr><tr><td>Put away by</td><td>______________________________</td></tr>\
         </table>\n<h2>How to use it</h2>\n<ol>{how}</ol>\n</body></html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::generate_identity;

    #[test]
    fn the_sheet_holds_what_a_person_needs() {
        let (secret, public) = generate_identity();
        let page = page("A & B <vault>", Kind::Age, &secret, &public, "<svg/>", Timestamp::UNIX_EPOCH);
        for part in ["A &amp; B &lt;vault&gt;", &secret, &public, &fingerprint(&public), "1970-01-01", "age --decrypt"]
        {
            assert!(page.contains(part), "{part}");
        }
    }
}
