//! A tenant in either mode, so that one suite can ask the same of both: self-hosted over local Docker, or SaaS over
//! two replicas of a control plane.

use std::ops::{Deref, DerefMut};

use molecule_proto::controlplane::v1::Limits;

use crate::controlplane::{Installation, Replica};
use crate::images::{self, Kind, docker};
use crate::tenant::{Setup, Tenant};

/// The programs under test.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// `tenant-under-test`.
    pub tenant: &'static str,
    /// `controlplane-under-test`.
    pub control_plane: &'static str,
}

/// Who launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mode {
    SelfHosted,
    Saas,
}

/// A tenant, with all that it stands on.
#[derive(Debug)]
pub struct Stand {
    /// Who launches.
    pub mode: Mode,
    tenant: Tenant,
    saas: Option<(Installation, Vec<Replica>)>,
    _folder: tempfile::TempDir,
}

impl Stand {
    /// A tenant with a range of networks of its own in either mode. Settings of tenant-svc's that the control plane
    /// has too are given to both.
    pub async fn start(
        programs: Programs,
        mode: Mode,
        subnet: u8,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let docker = docker().await?;
        for kind in Kind::ALL {
            if docker.inspect_image(&kind.image()).await.is_err() {
                images::import(&docker, kind).await?;
            }
        }
        let (setup, saas) = match mode {
            Mode::SelfHosted => (Setup::new(programs.tenant, folder.path(), subnet).await?, None),
            Mode::Saas => {
                let mut installation =
                    Installation::new(programs.control_plane, folder.path(), subnet).await?;
                for (name, value) in env.iter().filter(|(name, _)| *name == "TENANT_RESTART_BUDGET") {
                    installation = installation.with(&name.replace("TENANT", "CONTROLPLANE"), *value);
                }
                let (one, two) = (installation.start("one").await?, installation.start("two").await?);
                let (organization, token) = installation.organization(&one, Limits::default()).await?;
                let setup = installation.tenant(programs.tenant, &[&one, &two], &organization, &token)?;
                (setup, Some((installation, vec![one, two])))
            }
        };
        let setup = env.iter().fold(setup, |setup, (name, value)| setup.with(name, *value));
        Ok(Self { mode, tenant: setup.start().await?, saas, _folder: folder })
    }

    /// The gateway of its workspaces' network.
    pub fn gateway(&self) -> String {
        match &self.saas {
            None => self.tenant.setup.gateway(),
            Some((installation, _)) => installation.gateway(),
        }
    }

    /// Everything that its control plane has stored and logged; nothing where there is none.
    pub async fn known_to_control_plane(&self) -> anyhow::Result<String> {
        let Some((installation, replicas)) = &self.saas else { return Ok(String::new()) };
        let mut text = installation.database.dump().await?;
        for replica in replicas {
            text.push_str(&replica.whole_log());
        }
        Ok(text)
    }

    /// Ends all of it and removes what it has on the machine's daemon.
    pub async fn finish(self) -> anyhow::Result<()> {
        match self.saas {
            None => self.tenant.finish().await,
            Some((installation, replicas)) => {
                self.tenant.stop().await?;
                for replica in replicas {
                    replica.stop().await?;
                }
                installation.finish().await
            }
        }
    }
}

impl Deref for Stand {
    type Target = Tenant;

    fn deref(&self) -> &Tenant {
        &self.tenant
    }
}

impl DerefMut for Stand {
    fn deref_mut(&mut self) -> &mut Tenant {
        &mut self.tenant
    }
}

/// Makes a test of each case in each mode: `in_both_modes! { PROGRAMS; case(subnet), … }`. A case is an
/// `async fn(Stand)`; further settings follow its subnet.
#[macro_export]
macro_rules! in_both_modes {
    ($programs:ident; $($case:ident($subnet:literal $(, $name:literal = $value:literal)*),)*) => {
        mod self_hosted {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let env = [$(($name, $value)),*];
                    let mode = $crate::stand::Mode::SelfHosted;
                    let stand = $crate::stand::Stand::start(super::$programs, mode, $subnet, &env).await.unwrap();
                    Box::pin(super::$case(stand)).await;
                }
            )*
        }

        mod saas {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let env = [$(($name, $value)),*];
                    let mode = $crate::stand::Mode::Saas;
                    let stand = $crate::stand::Stand::start(super::$programs, mode, $subnet, &env).await.unwrap();
                    Box::pin(super::$case(stand)).await;
                }
            )*
        }
    };
}
