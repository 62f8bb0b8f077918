//! The one binary: the operator, the roles that it runs beside each database, and the kubectl plugin.

mod cli;
mod commands;
mod role;
mod telemetry;
mod usage;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match usage::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let telemetry = match telemetry::install(arguments.command.is_role()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("holdfast: {error:#}");
            return ExitCode::from(2);
        }
    };
    let result = cli::dispatch(arguments.command).await;
    telemetry.shutdown();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<commands::vault::Printed>() {
                eprintln!("holdfast: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
