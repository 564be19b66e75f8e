//! Measures the control plane: admissions against pgbench doing the same writes on the same server, what steady
//! workspaces cost, how soon watchers hear, and what forwarding adds to a create. Prints tables in Markdown.
//!
//! `bench-controlplane` needs `MOLECULE_TEST_POSTGRES`, a Docker daemon, and the services beside it;
//! `bench-controlplane account N` is a process of its own that plays an account with N machines.

mod admissions;
mod forwarding;
mod idle;
mod steady;
mod watchers;

use std::time::Duration;

use anyhow::bail;

/// The range of networks that all of it uses.
pub(crate) const SUBNET: u8 = 99;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["account", count] => steady::account(count.parse()?).await,
        [] => {
            admissions::measure().await?;
            steady::measure().await?;
            watchers::measure().await?;
            forwarding::measure().await
        }
        other => bail!("unknown arguments: {other:?}"),
    }
}

pub(crate) fn beside(name: &str) -> anyhow::Result<String> {
    Ok(std::env::current_exe()?.with_file_name(name).display().to_string())
}

pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
