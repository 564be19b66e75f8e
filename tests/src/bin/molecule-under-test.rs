//! `molecule`, which tests run as people do.

use std::process::ExitCode;

fn main() -> ExitCode {
    molecule_cli::run()
}
