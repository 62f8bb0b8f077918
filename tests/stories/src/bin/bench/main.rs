//! The figures that the documents state, each measured in one run on one machine beside what it is compared with.

mod hospital;
mod vault;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measure. Without a name: the hospital.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Commit latency with and without Holdfast, memory of its parts, and the times of a failover
    Hospital(hospital::Arguments),
    /// Sealing, storing and reading beside zstd, age and plain requests
    Vault(vault::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let measured = match Arguments::parse().what.unwrap_or(What::Hospital(hospital::Arguments::default())) {
        What::Hospital(arguments) => hospital::bench(&arguments).await,
        What::Vault(arguments) => vault::bench(&arguments).await,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
