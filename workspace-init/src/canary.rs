//! A canary: instead of a workspace, this tries addresses that no workspace may reach, or is one of them. The
//! control plane starts it to find out whether its Docker host keeps organisations apart.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Names what to do: `listen PORT`, or `try ADDRESS:PORT …`.
pub const VARIABLE: &str = "MOLECULE_CANARY";
const PATIENCE: Duration = Duration::from_secs(2);

/// Does as it is told; prints `reached ADDRESS:PORT` for each that answers.
pub fn run(told: &str) -> ExitCode {
    let mut words = told.split_whitespace();
    match words.next() {
        Some("listen") => {
            let port = words.next().and_then(|port| port.parse().ok()).unwrap_or_default();
            match TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))) {
                Ok(listener) => {
                    // whoever comes is let in and sent away
                    listener.incoming().for_each(drop);
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("workspace-init: the canary can't listen: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Some("try") => {
            let tries = words.filter_map(|word| word.parse::<SocketAddr>().ok()).map(|address| {
                std::thread::spawn(move || {
                    TcpStream::connect_timeout(&address, PATIENCE).is_ok().then_some(address)
                })
            });
            for reached in tries.collect::<Vec<_>>().into_iter().filter_map(|one| one.join().ok().flatten()) {
                println!("reached {reached}");
            }
            println!("done");
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}
