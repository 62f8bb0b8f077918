//! `holdfast isolation-probe`: run in a pod of a drill.

use anyhow::bail;
use clap::Args;
use holdfast_operator::drill::isolation;

use crate::role;

/// Try connections that must fail, and others that must not.
#[derive(Debug, Args)]
pub(crate) struct IsolationProbe {
    /// An address of production; a connection that is made there fails the drill.
    #[arg(long = "must-fail", value_name = "HOST:PORT")]
    must_fail: Vec<String>,
    /// An address that the drill needs: the positive control, without which refused connections prove nothing.
    #[arg(long = "must-pass", value_name = "HOST:PORT")]
    must_pass: Vec<String>,
}

impl IsolationProbe {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let report = isolation::probe(self.must_fail, self.must_pass).await;
        println!("{}", serde_json::to_string(&report)?);
        role::last_word(&report)?;
        if !report.isolated() {
            bail!("not isolated, or the positive control failed");
        }
        Ok(())
    }
}
