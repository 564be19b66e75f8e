//! What a workspace shall be, as it is given in the arguments of `molecule create` and `molecule update`.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use molecule_proto::tenant::v1::{CreateWorkspaceRequest, UpdateWorkspaceRequest};
use molecule_proto::workspace::v1::{MountAccess, Readiness, Tier, WorkspaceMount, WorkspaceSpec};
use prost_types::FieldMask;

use crate::failure::Failure;
use crate::{Create, Update};

type Result<T> = std::result::Result<T, Failure>;

/// The parts of a spec that both commands take in the same way.
#[derive(Debug, Default, Args)]
pub(crate) struct Parts {
    /// KEY=VALUE; may be repeated.
    #[arg(long = "label")]
    labels: Vec<String>,
    /// KEY=VALUE of the runtime's environment; may be repeated.
    #[arg(long)]
    env: Vec<String>,
    /// KEY of a secret, whose value is taken from this command's own environment; may be repeated.
    #[arg(long = "secret")]
    secrets: Vec<String>,
    /// A file for /configs: PATH, or NAME=PATH; may be repeated.
    #[arg(long = "config-file")]
    config_files: Vec<String>,
    /// A host directory for /workspace: PATH or PATH:ro.
    #[arg(long)]
    mount: Option<String>,
    /// The workspace above this one.
    #[arg(long)]
    parent: Option<String>,
    /// What the agent does, for its peers.
    #[arg(long)]
    role: Option<String>,
    /// Count as ready once the process is up, without waiting for an agent.
    #[arg(long)]
    process: bool,
}

/// What an update can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Clear {
    Labels,
    Env,
    Secrets,
    ConfigFiles,
    /// The workspace gets a volume of its own.
    Mount,
    Parent,
    Role,
    /// The runtime declares when it is ready.
    Readiness,
}

impl Clear {
    /// The field's name in the API.
    const fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Env => "env",
            Self::Secrets => "secrets",
            Self::ConfigFiles => "config_files",
            Self::Mount => "mount",
            Self::Parent => "parent_workspace_id",
            Self::Role => "role",
            Self::Readiness => "readiness",
        }
    }
}

/// The request that `molecule create` makes.
pub(crate) fn create(create: Create) -> Result<CreateWorkspaceRequest> {
    let Create { name, runtime, tier, parts, id, request_id, wait: _ } = create;
    let tier = self::tier(&tier)?.into();
    let (spec, _) = parts.read()?;
    Ok(CreateWorkspaceRequest {
        request_id: or_made_up(request_id),
        workspace_id: id,
        spec: Some(WorkspaceSpec { name, runtime, tier, ..spec }),
        validate_only: false,
    })
}

/// The request that `molecule update` makes: its mask names what was given, and nothing else.
pub(crate) fn update(update: Update) -> Result<UpdateWorkspaceRequest> {
    let Update { id, name, runtime, tier, parts, clear, etag, request_id, wait: _ } = update;
    let (mut spec, mut fields) = parts.read()?;
    if let Some(name) = name {
        spec.name = name;
        fields.push("name");
    }
    if let Some(runtime) = runtime {
        spec.runtime = runtime;
        fields.push("runtime");
    }
    if let Some(tier) = tier {
        spec.tier = self::tier(&tier)?.into();
        fields.push("tier");
    }
    for field in clear.into_iter().map(Clear::field) {
        if fields.contains(&field) {
            return Err(Failure::Usage(format!("--clear: {field} is also given, or cleared twice")));
        }
        fields.push(field);
    }
    if fields.is_empty() {
        return Err(Failure::Usage(
            "there is nothing to change: give at least one of --name, --runtime, --tier, --label, --env, --secret, \
             --config-file, --mount, --parent, --role, --process and --clear"
                .to_owned(),
        ));
    }
    Ok(UpdateWorkspaceRequest {
        workspace_id: id,
        spec: Some(spec),
        update_mask: Some(FieldMask { paths: fields.into_iter().map(str::to_owned).collect() }),
        etag,
        request_id: or_made_up(request_id),
        validate_only: false,
    })
}

/// Made up once, so that a retry below the API does nothing twice.
fn or_made_up(request_id: Option<String>) -> String {
    request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
}

fn tier(given: &str) -> Result<Tier> {
    Tier::from_str_name(&format!("TIER_{}", given.to_uppercase()))
        .ok_or_else(|| Failure::Usage(format!("--tier {given}: use T1, T2, T3 or T4")))
}

impl Parts {
    /// A spec of these parts, and the names of the fields that were given.
    fn read(self) -> Result<(WorkspaceSpec, Vec<&'static str>)> {
        let Self { labels, env, secrets, config_files, mount, parent, role, process } = self;
        let given = [
            ("labels", !labels.is_empty()),
            ("env", !env.is_empty()),
            ("secrets", !secrets.is_empty()),
            ("config_files", !config_files.is_empty()),
            ("mount", mount.is_some()),
            ("parent_workspace_id", parent.is_some()),
            ("role", role.is_some()),
            ("readiness", process),
        ];
        let spec = WorkspaceSpec {
            labels: pairs("--label", &labels)?,
            parent_workspace_id: parent.unwrap_or_default(),
            role: role.unwrap_or_default(),
            config_files: contents(&config_files)?,
            env: pairs("--env", &env)?,
            secrets: values(&secrets)?,
            mount: mount.map(self::mount),
            readiness: if process { Readiness::Process } else { Readiness::Unspecified }.into(),
            ..WorkspaceSpec::default()
        };
        Ok((spec, given.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect()))
    }
}

fn values(secrets: &[String]) -> Result<BTreeMap<String, String>> {
    let value = |name: &String| match std::env::var(name) {
        Ok(value) => Ok((name.clone(), value)),
        Err(_) => {
            Err(Failure::Usage(format!("--secret {name}: set {name} in the environment of this command")))
        }
    };
    secrets.iter().map(value).collect()
}

fn contents(files: &[String]) -> Result<BTreeMap<String, Vec<u8>>> {
    let content = |file: &String| {
        let (name, path) =
            file.split_once('=').unwrap_or_else(|| (file.rsplit('/').next().unwrap_or(file), file));
        let content =
            std::fs::read(path).map_err(|error| Failure::Usage(format!("--config-file {path}: {error}")))?;
        Ok((name.to_owned(), content))
    };
    files.iter().map(content).collect()
}

fn mount(given: String) -> WorkspaceMount {
    match given.strip_suffix(":ro") {
        Some(path) => WorkspaceMount { access: MountAccess::ReadOnly.into(), host_path: path.to_owned() },
        None => WorkspaceMount { access: MountAccess::ReadWrite.into(), host_path: given },
    }
}

fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::Usage(format!("{flag} {text}: use KEY=VALUE"))),
    };
    given.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{Cli, Command, TenantCommand};

    const ID: &str = "0197f3f0-0000-7000-8000-000000000001";

    fn asked(arguments: &[&str]) -> Result<UpdateWorkspaceRequest> {
        let line = ["molecule", "update", ID].iter().chain(arguments);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Tenant(TenantCommand::Update(given)) => update(*given),
            other => panic!("{other:?}"),
        }
    }

    fn fields(request: &UpdateWorkspaceRequest) -> Vec<&str> {
        request.update_mask.as_ref().unwrap().paths.iter().map(String::as_str).collect()
    }

    #[test]
    fn an_update_names_what_is_given_and_nothing_else() {
        let folder = std::env::temp_dir().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("config.yaml");
        std::fs::write(&file, "name: again\n").unwrap();
        let request =
            asked(&["--config-file", &file.display().to_string(), "--secret", "PATH", "--etag", "7"])
                .unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(fields(&request), ["secrets", "config_files"]);
        assert_eq!((request.workspace_id.as_str(), request.etag.as_str()), (ID, "7"));
        assert!(!request.request_id.is_empty(), "a retry below the API does nothing twice");
        let spec = request.spec.unwrap();
        assert_eq!(spec.config_files["config.yaml"], b"name: again\n");
        assert_eq!(spec.secrets["PATH"], std::env::var("PATH").unwrap());

        let request = asked(&["--name", "new", "--tier", "t3", "--mount", "/srv:ro", "--process"]).unwrap();
        assert_eq!(fields(&request), ["mount", "readiness", "name", "tier"]);
        let spec = request.spec.unwrap();
        assert_eq!((spec.name.as_str(), spec.tier()), ("new", Tier::T3));
        assert_eq!(spec.mount.unwrap().access(), MountAccess::ReadOnly);
        assert_eq!(fields(&asked(&["--role", ""]).unwrap()), ["role"], "an empty one is given too");
    }

    #[test]
    fn what_is_cleared_is_named_and_empty() {
        let request = asked(&["--clear", "env", "--clear", "config-files", "--label", "team=blue"]).unwrap();
        assert_eq!(fields(&request), ["labels", "env", "config_files"]);
        assert_eq!(request.spec.unwrap().env, BTreeMap::new());
        let both = asked(&["--clear", "env", "--env", "A=B"]).unwrap_err();
        assert!(both.code() == 2 && both.to_string().contains("env"), "{both}");
    }

    #[test]
    fn an_update_of_nothing_names_every_option() {
        let refused = asked(&[]).unwrap_err();
        assert_eq!(refused.code(), 2);
        let refused = refused.to_string();
        let cli = Cli::command();
        let arguments = cli.find_subcommand("update").unwrap().get_arguments();
        let changes_nothing = ["etag", "request-id", "wait", "timeout", "help"];
        for option in arguments.filter_map(clap::Arg::get_long).filter(|one| !changes_nothing.contains(one)) {
            assert!(refused.contains(&format!("--{option}")), "--{option} is missing: {refused}");
        }
    }
}
