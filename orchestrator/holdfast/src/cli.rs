//! The command line.

use anyhow::Context;
use clap::{Parser, Subcommand};
use holdfast_dataplane::{agent, archiver, relay, restore};
use holdfast_operator::OperatorConfig;
use std::{net::SocketAddr, path::PathBuf};

use crate::commands::{by_hand, crd::Crd, isolation_probe::IsolationProbe, keys::Keys, runbook::Runbook, vault::Vault};
use crate::role;

/// Disaster recovery for the databases and services of a hospital.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Vault(Box<Vault>),
    Runbook(Runbook),
    Keys(Keys),
    Crd(Crd),
    Takeover(by_hand::Takeover),
    PromoteSeal(by_hand::PromoteSeal),
    /// Run the operator: watches the custom resources of a cluster and does what they say.
    Operator {
        /// Address of `/healthz` and `/metrics`.
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        /// The namespace that the operator runs in.
        #[arg(long, env = "POD_NAMESPACE", default_value = "holdfast-system")]
        namespace: String,
        /// Image of the pods that the operator starts; its own image when left out.
        #[arg(long, env = "HOLDFAST_IMAGE")]
        image: Option<String>,
    },
    /// Run an agent: receives a database's WAL, stores it in the vault and acknowledges it.
    Agent(RoleArguments),
    /// Run a relay: serves a database's WAL from the vault to hot standbys.
    Relay(RoleArguments),
    /// Run an archiver: puts a database's log together to WAL segments and writes indexes, at a site that can decrypt.
    Archiver(RoleArguments),
    /// Restore the newest base backup into a data directory that follows a relay.
    Restore(RoleArguments),
    /// Prove from inside a drill that production cannot be reached, and that the proof can fail.
    #[command(hide = true)]
    IsolationProbe(IsolationProbe),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RoleArguments {
    /// JSON file with the configuration of this role (the operator writes one; docs/architecture.md shows each).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Command {
    /// Roles run in pods and log for machines; the rest is for a person.
    pub(crate) fn is_role(&self) -> bool {
        matches!(self, Self::Operator { .. } | Self::Agent(_) | Self::Relay(_) | Self::Archiver(_) | Self::Restore(_))
    }
}

/// Runs one command to its end.
///
/// # Errors
/// Whatever stopped it, as one line that says what is wrong and what to do.
pub(crate) async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Crd(crd) => crd.run(),
        Command::Keys(keys) => keys.run().await,
        Command::Vault(vault) => vault.run().await,
        Command::Runbook(runbook) => runbook.run().await,
        Command::Takeover(takeover) => takeover.run().await,
        Command::PromoteSeal(seal) => seal.run().await,
        Command::Operator { listen, namespace, image } => {
            let config = OperatorConfig { listen, namespace, image };
            holdfast_operator::run(config, role::until_told_to_stop()?).await.context("the operator stopped")
        }
        Command::Agent(role) => {
            let config = role::config(&role.config)?;
            agent::run(config, role::until_told_to_stop()?).await.context("the agent stopped")
        }
        Command::Relay(role) => {
            let config = role::config(&role.config)?;
            relay::run(config, role::until_told_to_stop()?).await.context("the relay stopped")
        }
        Command::Archiver(role) => {
            let config = role::config(&role.config)?;
            archiver::run(config, role::until_told_to_stop()?).await.context("the archiver stopped")
        }
        Command::Restore(role) => {
            let config = role::config(&role.config)?;
            let restored = restore::run(config, role::until_told_to_stop()?).await;
            if let Err(error) = &restored {
                role::last_word(&error.problem())?;
            }
            restored.context("the restore stopped")
        }
        Command::IsolationProbe(probe) => probe.run().await,
    }
}
