//! Images made from scratch: a static binary in an otherwise empty image, imported through the Engine API.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::TryStreamExt;

/// The repository of every image made here.
pub const REPOSITORY: &str = "molecule-demo";

/// A kind of image, as real ones are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs as root.
    Root,
    /// `USER 1000`.
    User,
    /// Starts as root, chowns `/configs`, drops to a user.
    Drop,
    /// Ends at once with code 7.
    Crash,
    /// Says when it began, for benchmarks.
    Stamp,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Root, Self::User, Self::Drop, Self::Crash, Self::Stamp];

    /// The image's tag.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Drop => "drop",
            Self::Crash => "crash",
            Self::Stamp => "stamp",
        }
    }

    /// The image's reference.
    pub fn image(self) -> String {
        format!("{REPOSITORY}:{}", self.tag())
    }

    fn instructions(self) -> Vec<&'static str> {
        match self {
            Self::Root => vec![r#"ENTRYPOINT ["/demo-agent"]"#],
            Self::User => vec![r#"ENTRYPOINT ["/demo-agent"]"#, "USER 1000"],
            Self::Drop => vec![r#"ENTRYPOINT ["/demo-agent", "drop", "1000"]"#, r#"CMD ["/demo-agent"]"#],
            Self::Crash => vec![r#"ENTRYPOINT ["/demo-agent", "exit", "7"]"#],
            Self::Stamp => vec![r#"ENTRYPOINT ["/demo-agent", "stamp"]"#],
        }
    }
}

/// Where `cargo xtask` puts the static binaries.
pub fn static_binary(name: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("MOLECULE_STATIC_BINARIES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/init"),
        PathBuf::from,
    );
    let path = folder.join(name);
    ensure!(path.exists(), "{} is missing: run `cargo xtask static` first", path.display());
    Ok(path.canonicalize()?)
}

/// Imports one image, over what has its name.
pub async fn import(docker: &Docker, kind: Kind) -> anyhow::Result<()> {
    let agent = std::fs::read(static_binary("demo-agent")?)?;
    let mut root = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(agent.len() as u64);
    header.set_mode(0o755);
    root.append_data(&mut header, "demo-agent", agent.as_slice())?;
    for folder in ["tmp/", "configs/", "workspace/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if folder == "tmp/" { 0o1777 } else { 0o755 });
        root.append_data(&mut header, folder, std::io::empty())?;
    }
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(kind.tag())
        .changes(kind.instructions().into_iter().map(str::to_owned).collect())
        .build();
    let body = bollard::body_full(root.into_inner()?.into());
    docker
        .create_image(Some(options), Some(body), None)
        .try_collect::<Vec<_>>()
        .await
        .with_context(|| format!("importing {}", kind.image()))?;
    Ok(())
}

/// Connects to the daemon that `DOCKER_HOST` names.
pub async fn docker() -> anyhow::Result<Docker> {
    let docker = Docker::connect_with_defaults()?.negotiate_version().await;
    docker.context("no Docker daemon answers: run the tests through `cargo xtask test`, which starts one")
}

/// The machine's address on Docker's own bridge, which containers of any network reach. The daemon itself tells of a
/// gateway only where the bridge was there before it.
pub fn bridge() -> anyhow::Result<std::net::Ipv4Addr> {
    let shown = std::process::Command::new("ip").args(["-4", "-o", "addr", "show", "docker0"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    let address = shown.split("inet ").nth(1).and_then(|rest| rest.split('/').next());
    Ok(address.context("Docker's bridge docker0 has no address")?.parse()?)
}
