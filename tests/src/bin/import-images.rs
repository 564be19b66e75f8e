//! Imports the demo images, for `cargo xtask up` and `cargo xtask test`.

use molecule_tests::images::{Kind, docker, import};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let docker = docker().await?;
    for kind in Kind::ALL {
        import(&docker, kind).await?;
    }
    Ok(())
}
