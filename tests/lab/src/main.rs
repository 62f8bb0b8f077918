//! `cargo lab`: see [`holdfast_lab`].

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_lab::cli::main()
}
