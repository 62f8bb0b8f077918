//! `holdfast runbook PLAN`: the page that whoever is on call follows.

use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Print the runbook of a recovery plan, written from the live cluster.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  holdfast runbook hospital -n hospital\n  holdfast runbook hospital -n hospital --output runbook.md"
)]
pub(crate) struct Runbook {
    /// Name of the RecoveryPlan.
    plan: String,
    /// Namespace of the RecoveryPlan; the current context's when left out.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Write it into this file instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Runbook {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let client =
            kube::Client::try_default().await.context("no cluster to ask; set KUBECONFIG to the standby site's")?;
        let namespace = self.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let page = holdfast_operator::runbook::from_cluster(client, &namespace, &self.plan).await?;
        match self.output {
            Some(path) => std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display())),
            None => {
                print!("{page}");
                Ok(())
            }
        }
    }
}
