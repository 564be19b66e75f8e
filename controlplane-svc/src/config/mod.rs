//! Settings of controlplane-svc.

mod ec2;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use molecule_backend_docker::Pool;
use molecule_domain::runtime::RuntimeRegistry;
use molecule_domain::tier::TierTable;
use molecule_service_kit::program::{Observable, Startup};
pub use molecule_service_kit::settings::ConfigError;
use molecule_service_kit::settings::{LAUNCHING, Program, Setting, Values, secret, setting};
use molecule_service_kit::telemetry::Observed;
use molecule_service_kit::token;
use secrecy::SecretString;

pub use self::ec2::Ec2;
use crate::plans::Plans;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// Containers on a Docker host.
    Docker,
    /// Machines of Amazon's.
    Ec2,
}

const PROGRAM: Program = Program {
    name: "controlplane-svc",
    about: "Launches instances for many organisations, within their limits",
    prefix: "CONTROLPLANE_",
    file: "CONTROLPLANE_CONFIG_FILE",
    settings: &[&SETTINGS, &ec2::SETTINGS, &LAUNCHING],
};

const SETTINGS: [Setting; 18] = [
    setting("CONTROLPLANE_LISTEN", Some("127.0.0.1:7080"), "address of the gRPC APIs"),
    setting("CONTROLPLANE_TLS_CERT_FILE", None, "PEM of the certificate to show; without it, plain text"),
    setting("CONTROLPLANE_TLS_KEY_FILE", None, "PEM of its private key"),
    secret("DATABASE_URL", "postgres://… of the database that all replicas share"),
    setting("CONTROLPLANE_DATABASE_CONNECTIONS", Some("20"), "connections to the database, at most"),
    setting(
        "CONTROLPLANE_OPERATOR_TOKENS_FILE",
        None,
        "file with a line NAME TOKEN for each operator; readable by the owner only",
    ),
    setting(
        "CONTROLPLANE_SEAL_KEY_FILE",
        None,
        "file of 32 random bytes, the same for all replicas, that bootstrap tokens are sealed with",
    ),
    setting(
        "CONTROLPLANE_BACKENDS",
        Some("docker"),
        "where to launch: docker, ec2, or both; new workspaces go to the first unless their plan or organisation says",
    ),
    setting("CONTROLPLANE_PLANS_FILE", None, "TOML file of plans"),
    setting(
        "CONTROLPLANE_NETWORK_POOL",
        Some("10.202.0.0/16"),
        "range that organisations' Docker networks are taken from, a /24 each",
    ),
    setting(
        "CONTROLPLANE_DOCKER_ISOLATION",
        Some("require"),
        "require: launch on Docker only where workspaces are found to be kept apart; trusted: organisations trust \
             each other",
    ),
    setting(
        "CONTROLPLANE_AGENT_PUBLISH",
        Some("127.0.0.1"),
        "address of the Docker host that agents' ports are published on",
    ),
    setting(
        "CONTROLPLANE_WORKSPACE_INIT",
        None,
        "the static workspace-init binary; default: beside this program",
    ),
    setting("CONTROLPLANE_RESTART_BUDGET", Some("5"), "how often in a row a runtime may end by itself"),
    setting("CONTROLPLANE_MAX_CALLS", Some("2048"), "calls in flight beyond which more are refused"),
    setting("CONTROLPLANE_LOG", Some("info"), "what to log, as tracing's EnvFilter reads it"),
    setting("CONTROLPLANE_LOG_FORMAT", Some("human"), "human or json"),
    setting(
        "CONTROLPLANE_METRICS_LISTEN",
        None,
        "where Prometheus asks for metrics, over HTTP; none by default",
    ),
];

/// Everything that was decided before anything starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the gRPC APIs.
    pub listen: SocketAddr,
    /// Certificate and key to show, as PEM.
    pub tls: Option<(String, SecretString)>,
    /// Where the database is.
    pub database_url: SecretString,
    /// Connections to it, at most.
    pub database_connections: u32,
    /// Operators' names, and the hashes of their tokens.
    pub operators: Vec<(String, Vec<u8>)>,
    /// The key that bootstrap tokens are sealed with.
    pub seal_key: PathBuf,
    /// Where to launch, the default first.
    pub backends: Vec<BackendKind>,
    /// The EC2 side, where machines are launched.
    pub ec2: Option<Ec2>,
    /// The plans.
    pub plans: Plans,
    /// The range that networks are taken from.
    pub network_pool: Option<Pool>,
    /// Whether the Docker host must keep organisations apart.
    pub docker_isolation: bool,
    /// Where agents' ports are published.
    pub agent_publish: Option<IpAddr>,
    /// The static workspace-init binary.
    pub workspace_init: PathBuf,
    /// How often in a row a runtime may end by itself.
    pub restart_budget: u32,
    /// Calls in flight beyond which more are refused.
    pub max_calls: usize,
    observed: Observed,
    /// The known runtimes.
    pub runtimes: RuntimeRegistry,
    /// What each tier gives.
    pub tiers: TierTable,
    /// The Docker daemon.
    pub docker_host: Option<String>,
    /// What is odd, but no reason to stop.
    pub warnings: Vec<String>,
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

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut required = |name: &str, why: &str| {
            let value = values.get(name).map(str::to_owned);
            value.unwrap_or_else(|| {
                problems.push(format!("{name} is not set: {why}"));
                String::new()
            })
        };
        let database_url = required("DATABASE_URL", "postgres://user:password@host/database").into();
        let seal_key =
            required("CONTROLPLANE_SEAL_KEY_FILE", "make the file with `head -c 32 /dev/urandom`").into();
        required("CONTROLPLANE_OPERATOR_TOKENS_FILE", "without operators there would be no organisations");
        let operators = values.read("CONTROLPLANE_OPERATOR_TOKENS_FILE", &mut problems).unwrap_or_default();
        let plans = values.read("CONTROLPLANE_PLANS_FILE", &mut problems).unwrap_or_default();
        let plans = Plans::parse(&plans).unwrap_or_else(|problem| {
            problems.push(format!("CONTROLPLANE_PLANS_FILE: {problem}"));
            Plans::default()
        });
        let (tiers, warnings) = values.tiers();
        let backends = backends(values.get("CONTROLPLANE_BACKENDS").unwrap_or_default(), &mut problems);
        let ec2 = backends.contains(&BackendKind::Ec2).then(|| ec2::read(values, &mut problems)).flatten();
        let config = Self {
            listen: values.parse("CONTROLPLANE_LISTEN", &mut problems).unwrap_or(([127, 0, 0, 1], 0).into()),
            tls: tls(values, &mut problems),
            database_url,
            database_connections: values
                .parse("CONTROLPLANE_DATABASE_CONNECTIONS", &mut problems)
                .unwrap_or_default(),
            operators: parse_operators(&operators, &mut problems),
            seal_key,
            backends,
            ec2,
            plans,
            network_pool: values.parse("CONTROLPLANE_NETWORK_POOL", &mut problems),
            docker_isolation: match values.get("CONTROLPLANE_DOCKER_ISOLATION") {
                Some("require") | None => true,
                Some("trusted") => false,
                Some(other) => {
                    problems.push(format!(
                        "CONTROLPLANE_DOCKER_ISOLATION: {other:?} is neither require nor trusted"
                    ));
                    true
                }
            },
            agent_publish: values.parse("CONTROLPLANE_AGENT_PUBLISH", &mut problems),
            workspace_init: values.beside_program("CONTROLPLANE_WORKSPACE_INIT", "workspace-init"),
            restart_budget: values.parse("CONTROLPLANE_RESTART_BUDGET", &mut problems).unwrap_or_default(),
            max_calls: values.parse("CONTROLPLANE_MAX_CALLS", &mut problems).unwrap_or_default(),
            observed: values.observed(
                "CONTROLPLANE_LOG",
                "CONTROLPLANE_LOG_FORMAT",
                "CONTROLPLANE_METRICS_LISTEN",
                &mut problems,
            ),
            runtimes: values.runtimes("RUNTIMES_FILE", &mut problems),
            tiers,
            docker_host: values.get("DOCKER_HOST").map(str::to_owned),
            warnings,
        };
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }
}

fn backends(text: &str, problems: &mut Vec<String>) -> Vec<BackendKind> {
    let mut backends = Vec::new();
    for name in text.split(',').map(str::trim) {
        let kind = match name {
            "docker" => BackendKind::Docker,
            "ec2" => BackendKind::Ec2,
            other => {
                problems.push(format!("CONTROLPLANE_BACKENDS: {other:?} is neither docker nor ec2"));
                continue;
            }
        };
        if backends.contains(&kind) {
            problems.push(format!("CONTROLPLANE_BACKENDS names {name} twice"));
        } else {
            backends.push(kind);
        }
    }
    backends
}

fn tls(values: &Values, problems: &mut Vec<String>) -> Option<(String, SecretString)> {
    let certificate = values.read("CONTROLPLANE_TLS_CERT_FILE", problems);
    let key = values.read("CONTROLPLANE_TLS_KEY_FILE", problems);
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key.into())),
        (None, None) => None,
        _ => {
            problems.push(
                "CONTROLPLANE_TLS_CERT_FILE and CONTROLPLANE_TLS_KEY_FILE go together; one of them is not set"
                    .to_owned(),
            );
            None
        }
    }
}

fn parse_operators(text: &str, problems: &mut Vec<String>) -> Vec<(String, Vec<u8>)> {
    let mut operators = Vec::new();
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [name, secret] if secret.len() >= 20 => {
                operators.push(((*name).to_owned(), token::hash(secret)));
            }
            _ => problems.push(format!(
                "CONTROLPLANE_OPERATOR_TOKENS_FILE: line {number} is not NAME TOKEN with a token of 20 characters or more"
            )),
        }
    }
    operators
}

fn describe(values: &Values, config: &Config) -> String {
    let mut text = PROGRAM.describe(values);
    let names: Vec<_> = config.operators.iter().map(|(name, _)| name.as_str()).collect();
    let _ = writeln!(text, "operators: {}", names.join(", "));
    let _ = writeln!(text, "plans: {}", config.plans.names());
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
        let values = PROGRAM.from_list(settings).unwrap();
        Config::from_values(&values).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_and_wrong_is_named_at_once() {
        let told =
            problems(&[("CONTROLPLANE_TLS_KEY_FILE", "/dev/null"), ("CONTROLPLANE_PLANS_FILE", "/no/plans")]);
        for name in [
            "DATABASE_URL",
            "CONTROLPLANE_SEAL_KEY_FILE",
            "CONTROLPLANE_OPERATOR_TOKENS_FILE",
            "CONTROLPLANE_TLS_CERT_FILE",
            "/no/plans",
        ] {
            assert!(told.contains(name), "{name}: {told}");
        }
    }

    #[test]
    fn backends_are_known_and_ec2_needs_its_settings() {
        let told = problems(&[("CONTROLPLANE_BACKENDS", "docker,vmware")]);
        assert!(told.contains("vmware"), "{told}");
        let told = problems(&[
            ("CONTROLPLANE_BACKENDS", "ec2"),
            ("CONTROLPLANE_EC2_IMAGE", "ami-1"),
            ("CONTROLPLANE_BOOT_URL", "http://203.0.113.7"),
            ("CONTROLPLANE_EC2_ROOT_GIB", "0"),
        ]);
        for name in ["EC2_SUBNETS", "EC2_SECURITY_GROUPS", "BOOT_URL", "BOOT_ALLOW_PLAIN", "EC2_ROOT_GIB"] {
            assert!(told.contains(name), "{name}: {told}");
        }
        assert!(!problems(&[]).contains("EC2"));
    }

    #[test]
    fn operators_are_read_line_by_line() {
        let mut problems = Vec::new();
        let text = "# comment\n\nann 0123456789012345678901234567\nbob short\n";
        let operators = parse_operators(text, &mut problems);
        assert_eq!(operators.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ann"]);
        assert!(problems[0].contains("line 4"), "{problems:?}");
    }
}
