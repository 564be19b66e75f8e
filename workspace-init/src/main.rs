//! The program: `workspace-init COMMAND [ARGUMENT…]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Ok(told) = std::env::var(workspace_init::canary::VARIABLE) {
        return workspace_init::canary::run(&told);
    }
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    let error = workspace_init::run(&command);
    // Backends look for this line.
    eprintln!("workspace-init: {error}");
    ExitCode::from(workspace_init::FAILED)
}
