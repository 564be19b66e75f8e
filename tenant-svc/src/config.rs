//! Settings of tenant-svc.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use molecule_backend_docker::Pool;
use molecule_domain::id::OrganizationId;
use molecule_domain::runtime::RuntimeRegistry;
use molecule_domain::tier::TierTable;
use molecule_service_kit::client::check_url;
use molecule_service_kit::program::{Observable, Startup};
pub use molecule_service_kit::settings::ConfigError;
use molecule_service_kit::settings::{LAUNCHING, Program, Values, secret, setting};
use molecule_service_kit::telemetry::Observed;
use secrecy::SecretString;

const PROGRAM: Program = Program {
    name: "tenant-svc",
    about: "One customer's workspaces, over local Docker",
    prefix: "TENANT_",
    file: "TENANT_CONFIG_FILE",
    settings: &[
        &[
            setting("TENANT_LISTEN", Some("127.0.0.1:7070"), "address of the gRPC API"),
            setting(
                "TENANT_AGENT_LISTEN",
                None,
                "address of the agents' listener; default: port 7071 of the workspaces' gateway",
            ),
            setting(
                "TENANT_AGENT_URL",
                None,
                "where agents reach that listener; default: its address over http",
            ),
            setting(
                "TENANT_AGENT_CA_FILE",
                None,
                "PEM of the only authority that workspaces trust for that URL; default: the public ones. Workspaces have it as /configs/.ca.pem",
            ),
            setting(
                "TENANT_AGENT_PUBLISH",
                Some("127.0.0.1"),
                "host address that agents' ports are published on; none publishes nothing",
            ),
            setting(
                "TENANT_DATA_DIR",
                Some("molecule-data"),
                "folder of the database, the token and the keys",
            ),
            setting(
                "TENANT_NETWORK_POOL",
                Some("10.201.0.0/16"),
                "range that workspaces' networks are taken from, a /24 each",
            ),
            setting(
                "TENANT_WORKSPACE_INIT",
                None,
                "the static workspace-init binary; default: beside this program",
            ),
            setting(
                "TENANT_CONNECT_DEADLINE",
                Some("300"),
                "seconds that an agent has to connect once its instance is up",
            ),
            setting(
                "TENANT_AGENT_SILENCE",
                Some("180"),
                "seconds of silence after which an agent counts as silent",
            ),
            setting("TENANT_RESTART_BUDGET", Some("5"), "how often in a row a runtime may end by itself"),
            setting("TENANT_MAX_CALLS", Some("512"), "calls in flight beyond which more are refused"),
            setting(
                "TENANT_LOG",
                Some("info,molecule_provisioner=info"),
                "what to log, as tracing's EnvFilter reads it",
            ),
            setting("TENANT_LOG_FORMAT", Some("human"), "human or json"),
            setting(
                "TENANT_METRICS_LISTEN",
                None,
                "where Prometheus asks for metrics, over HTTP; none by default",
            ),
            setting("WORKSPACE_ROOTS", None, "folders below which workspaces may bind, separated by ':'"),
            setting("MOLECULE_ORG_ID", None, "organisation of a SaaS tenant; empty: self-hosted"),
            secret("MOLECULE_ORG_TOKEN", "token of that organisation"),
            setting("MOLECULE_ORG_TOKEN_FILE", None, "file that holds that token"),
            setting(
                "CP_PROVISION_URL",
                Some("https://api.moleculesai.app"),
                "the control plane of a SaaS tenant",
            ),
            setting("CP_CA_FILE", None, "PEM of the only authority trusted for it; default: the system's"),
            setting("CP_ALLOW_PLAIN", None, "1 allows http:// to another machine"),
        ],
        &LAUNCHING,
    ],
};

/// Everything that was decided before anything starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the gRPC API.
    pub listen: SocketAddr,
    /// Of a SaaS tenant: its control plane.
    pub saas: Option<Saas>,
    /// Address of the agents' listener, where the operator set one.
    pub agent_listen: Option<SocketAddr>,
    /// Where agents reach it, where the operator set it.
    pub agent_url: Option<String>,
    /// The only authority that workspaces trust for that, as PEM.
    pub agent_ca: Option<String>,
    /// Where agents' ports are published.
    pub agent_publish: Option<IpAddr>,
    /// Folder of everything that is kept.
    pub data_dir: PathBuf,
    /// The range that networks are taken from.
    pub network_pool: Option<Pool>,
    /// The static workspace-init binary.
    pub workspace_init: PathBuf,
    /// How long an agent has to connect.
    pub connect_deadline: Duration,
    /// Silence after which an agent is degraded.
    pub agent_silence: Duration,
    /// How often in a row a runtime may end by itself.
    pub restart_budget: u32,
    /// Calls in flight beyond which more are refused.
    pub max_calls: usize,
    observed: Observed,
    /// Canonical folders below which workspaces may bind.
    pub workspace_roots: Vec<PathBuf>,
    /// The known runtimes.
    pub runtimes: RuntimeRegistry,
    /// What each tier gives.
    pub tiers: TierTable,
    /// The Docker daemon.
    pub docker_host: Option<String>,
    /// What is odd, but no reason to stop.
    pub warnings: Vec<String>,
}

/// How a SaaS tenant reaches its control plane.
#[derive(Clone, Debug)]
pub struct Saas {
    /// Its organisation.
    pub organization: OrganizationId,
    /// That organisation's token.
    pub token: SecretString,
    /// Where the control plane is.
    pub url: String,
    /// The only authority trusted for it, as PEM.
    pub authority: Option<String>,
    /// Whether plain text may go to another machine.
    pub allow_plain: bool,
}

impl Observable for Config {
    fn observed(&self) -> &Observed {
        &self.observed
    }
}

impl Config {
    /// Reads flags, environment and file.
    pub fn from_process() -> Result<Startup<Self>, ConfigError> {
        let (values, check) = PROGRAM.from_process()?;
        let config = Self::from_values(&values)?;
        if check {
            return Ok(Startup::Print(describe(&values, &config)));
        }
        Ok(Startup::Run(Box::new(config)))
    }

    /// From a plain list of settings, as tests have it; all else is default.
    pub fn from_settings(settings: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::from_values(&PROGRAM.from_list(settings)?)
    }

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let get = |name: &str| values.get(name);
        let saas = saas(values, &mut problems);
        let (tiers, warnings) = values.tiers();
        let runtimes = values.runtimes("RUNTIMES_FILE", &mut problems);
        let mut roots = Vec::new();
        for root in get("WORKSPACE_ROOTS").unwrap_or_default().split(':').filter(|root| !root.is_empty()) {
            match Path::new(root).canonicalize() {
                Ok(root) if root.is_dir() => roots.push(root),
                Ok(_) => problems.push(format!("WORKSPACE_ROOTS: {root} is not a folder")),
                Err(error) => problems.push(format!("WORKSPACE_ROOTS: {root}: {error}")),
            }
        }
        let listen = values.parse("TENANT_LISTEN", &mut problems);
        let agent_listen: Option<SocketAddr> =
            get("TENANT_AGENT_LISTEN").and_then(|_| values.parse("TENANT_AGENT_LISTEN", &mut problems));
        if let (Some(listen), Some(agents)) = (listen, agent_listen)
            && listen == agents
        {
            problems
                .push(format!("TENANT_LISTEN and TENANT_AGENT_LISTEN are both {listen}; they must differ"));
        }
        let config = Self {
            listen: listen.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            saas,
            agent_listen,
            agent_url: get("TENANT_AGENT_URL").map(|url| url.trim_end_matches('/').to_owned()),
            agent_ca: values.read("TENANT_AGENT_CA_FILE", &mut problems),
            agent_publish: match get("TENANT_AGENT_PUBLISH") {
                Some("none") => None,
                _ => values.parse("TENANT_AGENT_PUBLISH", &mut problems),
            },
            data_dir: get("TENANT_DATA_DIR").unwrap_or_default().into(),
            network_pool: values.parse("TENANT_NETWORK_POOL", &mut problems),
            workspace_init: values.beside_program("TENANT_WORKSPACE_INIT", "workspace-init"),
            connect_deadline: values.seconds("TENANT_CONNECT_DEADLINE", &mut problems),
            agent_silence: values.seconds("TENANT_AGENT_SILENCE", &mut problems),
            restart_budget: values.parse("TENANT_RESTART_BUDGET", &mut problems).unwrap_or_default(),
            max_calls: values.parse("TENANT_MAX_CALLS", &mut problems).unwrap_or_default(),
            observed: values.observed(
                "TENANT_LOG",
                "TENANT_LOG_FORMAT",
                "TENANT_METRICS_LISTEN",
                &mut problems,
            ),
            workspace_roots: roots,
            runtimes,
            tiers,
            docker_host: get("DOCKER_HOST").map(str::to_owned),
            warnings,
        };
        if let Some(url) = &config.agent_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            problems.push(format!("TENANT_AGENT_URL: {url:?} must begin with http:// or https://"));
        }
        if config.agent_ca.is_some()
            && !config.agent_url.as_ref().is_some_and(|url| url.starts_with("https:"))
        {
            problems.push(
                "TENANT_AGENT_CA_FILE: it is of no use without a TENANT_AGENT_URL that begins with https://"
                    .to_owned(),
            );
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }
}

/// The settings of a SaaS tenant; none where `MOLECULE_ORG_ID` is empty. Half of them is a mistake, and so are
/// those of the other mode.
fn saas(values: &Values, problems: &mut Vec<String>) -> Option<Saas> {
    let token = match (values.get("MOLECULE_ORG_TOKEN"), values.get("MOLECULE_ORG_TOKEN_FILE")) {
        (Some(_), Some(_)) => {
            problems
                .push("MOLECULE_ORG_TOKEN and MOLECULE_ORG_TOKEN_FILE are both set; unset one".to_owned());
            None
        }
        (Some(token), None) => Some(token.to_owned()),
        (None, _) => values.read("MOLECULE_ORG_TOKEN_FILE", problems).map(|text| text.trim().to_owned()),
    };
    if values.get("MOLECULE_ORG_ID").is_none() {
        if token.is_some() {
            problems.push(
                "MOLECULE_ORG_TOKEN is set and MOLECULE_ORG_ID is not: set both for a SaaS tenant, or neither to run \
                 self-hosted"
                    .to_owned(),
            );
        }
        return None;
    }
    if token.is_none() {
        problems.push(
            "MOLECULE_ORG_ID is set and MOLECULE_ORG_TOKEN (or MOLECULE_ORG_TOKEN_FILE) is not: set both for a SaaS \
             tenant, or neither to run self-hosted"
                .to_owned(),
        );
    }
    for (name, what) in
        [("TENANT_AGENT_LISTEN", "listen for agents"), ("TENANT_AGENT_URL", "be reached by agents")]
    {
        if values.get(name).is_none() {
            problems.push(format!("{name} is not set: with MOLECULE_ORG_ID it must say where to {what}"));
        }
    }
    for name in ["DOCKER_HOST", "WORKSPACE_ROOTS"] {
        if values.get(name).is_some() {
            problems.push(format!(
                "MOLECULE_ORG_ID and {name} are both set: a SaaS tenant launches nothing itself; unset one of them"
            ));
        }
    }
    let authority = values.read("CP_CA_FILE", problems);
    let (url, allow_plain) = (
        values.get("CP_PROVISION_URL").unwrap_or_default().to_owned(),
        values.get("CP_ALLOW_PLAIN") == Some("1"),
    );
    if let Err(error) = check_url(&url, allow_plain) {
        problems.push(format!("CP_PROVISION_URL: {error}"));
    }
    let organization = values.parse("MOLECULE_ORG_ID", problems)?;
    Some(Saas { organization, token: token?.into(), url, authority, allow_plain })
}

fn describe(values: &Values, config: &Config) -> String {
    let mode = if config.saas.is_some() { "SaaS" } else { "self-hosted" };
    let mut text = format!("mode: {mode}\n{}", PROGRAM.describe(values));
    let _ = writeln!(text, "runtimes: {}", config.runtimes.names());
    for warning in &config.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &[(&str, &str)]) -> String {
        Config::from_settings(settings).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_good() {
        let config = Config::from_settings(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
        assert_eq!(config.agent_publish, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(problems(&[("TENANT_LISTN", "x")]).contains("TENANT_LISTN"));
        assert!(problems(&[("TENANT_LISTEN", "x")]).contains("TENANT_LISTEN"));
        assert!(problems(&[("TENANT_NETWORK_POOL", "10.0.0.0/30")]).contains("TENANT_NETWORK_POOL"));
        assert!(problems(&[("WORKSPACE_ROOTS", "/no/such")]).contains("/no/such"));
        let both = problems(&[("TENANT_LISTEN", "127.0.0.1:1"), ("TENANT_AGENT_LISTEN", "127.0.0.1:1")]);
        assert!(both.contains("TENANT_LISTEN") && both.contains("TENANT_AGENT_LISTEN"), "{both}");
        assert!(problems(&[("TENANT_AGENT_CA_FILE", "/no/ca.pem")]).contains("/no/ca.pem"));
        let unused = problems(&[("TENANT_AGENT_CA_FILE", "/dev/null")]);
        assert!(unused.contains("TENANT_AGENT_URL"), "{unused}");
    }

    const SAAS: [(&str, &str); 4] = [
        ("MOLECULE_ORG_ID", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("MOLECULE_ORG_TOKEN", "secret"),
        ("TENANT_AGENT_LISTEN", "10.0.0.1:7071"),
        ("TENANT_AGENT_URL", "https://agents.example"),
    ];

    #[test]
    fn a_saas_tenant_is_set_up_whole_or_not_at_all() {
        let config = Config::from_settings(&SAAS).unwrap();
        let saas = config.saas.unwrap();
        assert_eq!(saas.url, "https://api.moleculesai.app");
        for left_out in 0..SAAS.len() {
            let mut settings = SAAS.to_vec();
            let (name, _) = settings.remove(left_out);
            let told = problems(&settings);
            assert!(told.contains(name) && told.contains("MOLECULE_ORG_ID"), "{told}");
        }
    }

    #[test]
    fn a_saas_tenant_launches_nothing_itself() {
        let with = |name, value| [&SAAS[..], &[(name, value)]].concat();
        for (name, value) in [("DOCKER_HOST", "unix:///x"), ("WORKSPACE_ROOTS", "/tmp")] {
            let told = problems(&with(name, value));
            assert!(told.contains(name) && told.contains("MOLECULE_ORG_ID"), "{told}");
        }
        assert!(problems(&with("CP_PROVISION_URL", "http://10.0.0.9:1")).contains("CP_PROVISION_URL"));
        assert!(Config::from_settings(&with("CP_PROVISION_URL", "http://127.0.0.1:1")).is_ok());
    }
}
