//! `holdfast vault copy`: a second vault.

use std::sync::Arc;

use clap::Args;
use holdfast_vault::store::UrlStore;
use holdfast_vault::{CopyOptions, CopyReport};
use url::Url;

use super::{Failed, Output, Printed, Where, bytes_text, print_json, progress};

/// Make or bring up to date a second vault in another bucket, in another cloud, or in a folder on a disk.
///
/// Objects keep their keys and every byte; each is read at its oldest version, its signature and digest are checked on the
/// way, and it is created only if nothing stands at its key: what differs is named and left alone. Given again, it
/// copies only what is new. Everything that reads a vault reads the copy too, by --store URL or by `url` in a role's
/// configuration. The copy has no lock of ours: lock the bucket by its own default retention, or keep the disk
/// offline. Exit code 1 when something was not copied or differs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault copy --to file:///mnt/vault-copy --vault hospital -n hospital\n  \
    holdfast vault copy --to gs://second-vault/hospital --bucket vault --credentials /etc/holdfast/s3\n  \
    holdfast vault ls --store file:///mnt/vault-copy --prefix hospital")]
pub(crate) struct Copy {
    /// Where to: file:///folder, s3://bucket/path, gs://bucket/path or az://container/path. Credentials for a cloud come
    /// from the environment (AWS_*, GOOGLE_*, AZURE_*).
    #[arg(long, value_name = "URL")]
    to: Url,
    /// Only this database; may be given several times.
    #[arg(long = "database", value_name = "NAME")]
    databases: Vec<String>,
    /// Read again what was copied before and compare it, instead of comparing sizes.
    #[arg(long)]
    compare: bool,
    /// Objects copied at the same time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    parallel: usize,
}

impl Copy {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let vault = place.open().await?;
        let target = UrlStore::create(&self.to).map_err(|error| {
            let to_do = "give --to a folder that can be written to, or a bucket that is there, as one of these URLs";
            Failed::new(error.to_string(), self.to.as_str(), to_do)
        })?;
        let target = Arc::new(target);
        for name in &self.databases {
            // A name that is mistyped would be a copy of nothing.
            vault.database(name)?.tip().await?;
        }
        let options = CopyOptions { parallel: self.parallel, databases: self.databases, compare: self.compare };
        let bar = progress(place.output, None, "copy");
        let said = |report: &CopyReport| {
            bar.set_position(report.copied + report.present);
            bar.set_message(format!("objects, {} copied now", bytes_text(report.copied_bytes)));
        };
        let report = vault.copy_to(target, &options, said).await;
        bar.finish_and_clear();
        let report = report?;
        if report.copied + report.present == 0 && report.problems.is_empty() {
            let to_do = "check the bucket and --prefix: `holdfast vault ls --long`";
            return Err(Failed::new("nothing stands there that could be copied", "", to_do).into());
        }
        match place.output {
            Output::Json => print_json(&report)?,
            Output::Table => print!("{}", text(&report)),
        }
        if report.problems.is_empty() { Ok(()) } else { Err(Printed.into()) }
    }
}

fn text(report: &CopyReport) -> String {
    let mut text = format!(
        "{} objects copied ({}), {} were there already, {} are only in the copy\n",
        report.copied,
        bytes_text(report.copied_bytes),
        report.present,
        report.only_in_copy
    );
    for key in &report.tampered {
        text.push_str(&format!("TAMPERED: somebody touched `{key}`; its oldest version was copied\n"));
    }
    report.problems.iter().for_each(|problem| text.push_str(&format!("PROBLEM: {problem}\n")));
    if !report.problems.is_empty() {
        text.push_str("what to do: `holdfast vault verify` tells which side is right; keep both as they are\n");
    }
    text
}
