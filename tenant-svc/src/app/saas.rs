//! A SaaS tenant: the control plane launches; nothing is ever launched here.

use std::sync::Arc;

use anyhow::Context;
use molecule_service_kit::client::{Bearer, channel};

use super::{Base, Side};
use crate::config::{Config, Saas};
use crate::control_plane::ControlPlane;

pub(super) fn side(saas: &Saas, config: &Config, base: &Base) -> anyhow::Result<Side> {
    let channel =
        channel(&saas.url, saas.authority.as_deref(), saas.allow_plain).context("CP_PROVISION_URL")?;
    let bearer = Bearer::new(&saas.token).context("MOLECULE_ORG_TOKEN holds what no token does")?;
    let address = config.agent_url.clone().unwrap_or_default();
    let control_plane = ControlPlane::new(
        channel,
        bearer,
        saas.organization,
        address,
        Arc::clone(&base.key),
        Arc::clone(&base.clock),
    );

    Ok(Side {
        organization: saas.organization,
        provider: Arc::new(control_plane),
        agents_at: config.agent_listen.context("TENANT_AGENT_LISTEN is not set")?,
        agents_url: config.agent_url.clone().context("TENANT_AGENT_URL is not set")?,
        // workspaces are wherever the control plane launches them; their credentials tell who they are
        admit: Arc::new(|_| true),
        work: Box::pin(std::future::ready(())),
    })
}
