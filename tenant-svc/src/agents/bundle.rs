//! The bundle that workspace-init fetches: configuration, seeds, environment, secrets, credential.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use molecule_domain::bundle::{Bundle, BundleFile, BundleRequest};
use molecule_domain::error::{Error, ErrorReason};
use molecule_domain::id::{Generation, WorkspaceId};
use molecule_domain::runtime::{Runtime, fill_template};
use molecule_domain::spec::{CONFIG_FILE, PrivateParts};
use molecule_service_kit::seal::Aes;
use molecule_service_kit::token;
use molecule_workspace::WorkspaceRecord;
use molecule_workspace::store::{Redeemed, Redemption};
use secrecy::ExposeSecret;
use tracing::{error, info};

use super::identity::{bearer_token, unauthenticated};
use super::{AgentsState, HttpError};

/// `POST /bootstrap`: with a bootstrap token and a nonce, or with the credential.
pub(crate) async fn bootstrap(
    State(state): State<AgentsState>,
    parts: Parts,
    Json(request): Json<BundleRequest>,
) -> Result<Json<Bundle>, HttpError> {
    let bearer = bearer_token(&parts)?;
    let workspaces = &state.workspaces;
    let (workspace, generation, auth_token) = if let Some(nonce) = request.nonce {
        if !(16..=64).contains(&nonce.len()) {
            return Err(Error::field("nonce", "has 16 to 64 characters").into());
        }
        let (workspace, generation) = redeem(&state, &bearer, &nonce).await?;
        let credential = credential(&state.key, workspace, generation, &nonce);
        (workspace, generation, credential)
    } else {
        let known = workspaces.store.authenticate(&token::hash(&bearer), workspaces.clock.now()).await?;
        let (workspace, generation) = known.ok_or_else(unauthenticated)?;
        (workspace, generation, bearer)
    };
    let found = workspaces.store.load(workspaces.organization, workspace).await?;
    // what waits to replace it may be refused yet
    let found = found.ok_or_else(unauthenticated)?.as_of(generation);
    let (record, private) = (found.record, workspaces.open(workspace, &found.private)?);
    let runtime = workspaces.rules.runtimes.get(&record.spec.runtime).ok_or_else(|| {
        let message = format!("the runtime {:?} is no longer known to tenant-svc", record.spec.runtime);
        Error::new(ErrorReason::WrongState, message)
    })?;
    Ok(Json(Bundle {
        auth_token,
        files: files(&record, &private, runtime),
        env: environment(&record, &private, &state.agents_url),
    }))
}

async fn redeem(
    state: &AgentsState,
    bearer: &str,
    nonce: &str,
) -> Result<(WorkspaceId, Generation), HttpError> {
    let redemption = Redemption { token_hash: token::hash(bearer), nonce: nonce.to_owned() };
    let hash = |workspace, generation| token::hash(credential(&state.key, workspace, generation, nonce));
    let redeemed = state.workspaces.store.redeem(&redemption, Box::new(hash));
    match redeemed.await? {
        Redeemed::Granted(workspace, generation) => {
            info!(%workspace, %generation, "bootstrap token redeemed");
            Ok((workspace, generation))
        }
        Redeemed::Unknown => Err(unauthenticated().into()),
        Redeemed::Refused(workspace, generation) => {
            error!(
                %workspace, %generation,
                "a bootstrap token came twice: somebody else may have it. If the workspace does not connect, restart it"
            );
            Err(Error::new(
                ErrorReason::PermissionDenied,
                "this bootstrap token has been redeemed by another",
            )
            .into())
        }
    }
}

/// The credential of a generation for the nonce that redeemed its token: the same whenever it is asked for.
fn credential(key: &Aes, workspace: WorkspaceId, generation: Generation, nonce: &str) -> String {
    key.derive_token("agent", &format!("credential/{workspace}/{generation}/{nonce}"))
        .expose_secret()
        .to_owned()
}

fn files(record: &WorkspaceRecord, private: &PrivateParts, runtime: &Runtime) -> Vec<BundleFile> {
    let fill = |template: &str| {
        fill_template(template, |name| match name {
            "name" => Some(record.spec.name.replace(['"', '\\', '\n'], " ")),
            "runtime" => Some(record.spec.runtime.clone()),
            "tier" => Some(record.spec.tier.number().to_string()),
            "workspace_id" => Some(record.workspace.to_string()),
            _ => None,
        })
    };
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    if let Some(template) = &runtime.default_config {
        files.insert(CONFIG_FILE, fill(template).into_bytes());
    }
    for seed in &runtime.seeds {
        let copied = seed.copy_of.as_ref().and_then(|of| private.config_files.get(of).cloned());
        if let Some(content) = copied.or_else(|| seed.content.as_deref().map(|text| fill(text).into_bytes()))
        {
            files.insert(&seed.path, content);
        }
    }
    // what the customer brought stands above what comes with the runtime
    files.extend(private.config_files.iter().map(|(path, content)| (path.as_str(), content.clone())));
    let encode = |(path, content): (&str, Vec<u8>)| BundleFile {
        path: path.to_owned(),
        content: BASE64_STANDARD.encode(content),
    };
    files.into_iter().map(encode).collect()
}

fn environment(
    record: &WorkspaceRecord,
    private: &PrivateParts,
    agents_url: &str,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PYTHONPATH".to_owned(), "/app".to_owned())]);
    env.extend(private.secrets.clone());
    env.extend(record.spec.env.clone());
    // reserved names are refused on the way in, and stand last all the same
    env.extend([
        ("WORKSPACE_ID".to_owned(), record.workspace.to_string()),
        ("WORKSPACE_CONFIG_PATH".to_owned(), "/configs".to_owned()),
        ("PLATFORM_URL".to_owned(), agents_url.to_owned()),
        ("MOLECULE_URL".to_owned(), agents_url.to_owned()),
        ("TIER".to_owned(), record.spec.tier.number().to_string()),
    ]);
    env
}
