//! Settings, from flags, environment variables and a file, in this order of precedence.

mod command_line;
mod deployment;
mod destination;
mod env;
mod fetch;
mod file;
mod limits;
mod networks;
mod options;
mod printed;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use audit_host::{Destinations, LogFormat, Sources, listen_address, settings_file};
use audit_runtime::http::TrustedProxies;
use functions_fetch::FetchSettings;
use functions_server::NetworkLimits;
use functions_server::auth::AuthSettings;
use functions_store::DEFAULT_RESERVE_BYTES;

pub(crate) use self::command_line::{Command, CommandLine, Serve};
pub(crate) use self::deployment::{Deployment, DeploymentClass};
pub(crate) use self::env::{EnvVar, FunctionEnv};
pub(crate) use self::limits::FunctionLimits;
use self::limits::{MAX_MIB, out_of_range, within};
pub(crate) use self::options::Options;

/// Room for some ten thousand results of typical size: the memory of four functions.
const DEFAULT_QUERY_CACHE_MIB: usize = 256;

/// Room for some twenty modules on each of three threads: the memory of one function.
const DEFAULT_KEPT_ENGINES_MIB: usize = 64;

/// With 10 seconds for calls, this fits into the 30 seconds that Kubernetes allows by default.
const DEFAULT_CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// The settings file that is read, if it exists, when none is named.
const DEFAULT_FILE: &str = "functions-host.toml";

/// The port of Convex's own local backend, so that examples for it work unchanged.
const DEFAULT_PORT: u16 = 3210;

const OPERATORS_PORT: u16 = 3211;

const SITE_PORT: u16 = 3212;

/// All settings, with their defaults.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) directory: PathBuf,
    pub(crate) listen: SocketAddr,
    /// The address for operators, if any.
    pub(crate) operators_listen: Option<SocketAddr>,
    /// The address for HTTP actions, if they are served.
    pub(crate) site_listen: Option<SocketAddr>,
    sources: Sources,
    /// Whether the host stops when standard input ends.
    pub(crate) until_input_ends: bool,
    /// The format of the host's own log.
    pub(crate) log_format: LogFormat,
    /// The URL of the trace collector, if traces are exported.
    pub(crate) traces: Option<String>,
    /// Whether audit logs are shown on standard output. By default on a terminal only.
    pub(crate) show_logs: Option<bool>,
    pub(crate) network: NetworkLimits,
    /// How long delivery to the bucket may take at shutdown.
    pub(crate) close_timeout: Duration,
    /// The directory for documents, and for the journal and bucket by default.
    pub(crate) data_dir: PathBuf,
    pub(crate) destinations: Destinations,
    /// The file of log streams, if one is named.
    log_streams: Option<PathBuf>,
    /// The URL of the log stream for development, if one is named.
    dev_log_stream: Option<String>,
    /// Proxies whose forwarded headers are trusted.
    pub(crate) trusted_proxies: TrustedProxies,
    /// How long the sink waits for logs to become durable before a call fails.
    pub(crate) persist_timeout: Duration,
    /// Whether each log names its function and execution.
    pub(crate) provenance: bool,
    pub(crate) outcomes: bool,
    pub(crate) limits: FunctionLimits,
    /// The size of the query result cache, in bytes.
    pub(crate) query_cache_bytes: usize,
    /// How much disk space the store leaves free, in bytes.
    pub(crate) store_reserve_bytes: u64,
    /// Limits and permissions of `fetch`.
    pub(crate) fetch: FetchSettings,
    /// The memory of engines kept for later calls, in bytes.
    pub(crate) kept_engine_bytes: usize,
    /// Whether the process exits when audit logs cannot be made durable before a restart.
    pub(crate) exit_when_stopped: bool,
    pub(crate) deployment: Deployment,
    pub(crate) env: FunctionEnv,
    /// Issuers whose tokens are accepted.
    pub(crate) auth: Vec<AuthSettings>,
}

impl Serve {
    /// Combines flags and the environment, the file, and the defaults, in this order of precedence.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has an unknown member or an invalid value.
    pub(crate) fn settings(self) -> Result<Settings, Box<dyn Error>> {
        let Serve {
            directory,
            config,
            check: _,
            print_config: _,
            until_input_ends,
            sources,
            options,
        } = self;
        let (options, sources) = match settings_file(config, DEFAULT_FILE) {
            Some(file) => {
                let (set, names) = Options::read(&file)?;
                (options.or(set), sources.with_file(&file, names))
            }
            None => (options, sources),
        };
        Ok(Settings { sources, until_input_ends, ..Settings::new(directory, options)? })
    }
}

impl Settings {
    fn new(directory: PathBuf, options: Options) -> Result<Settings, Box<dyn Error>> {
        let data_dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from("audit-data"));
        let limits = FunctionLimits::new(&options)?;
        let network = limits::network(&options)?;
        let fetch = fetch::fetch(&options)?;
        let query_cache = within!(options.query_cache_mib, 0..=MAX_MIB)?;
        let kept_engines = within!(options.kept_engines_mib, 0..=MAX_MIB)?;
        let reserve = within!(options.store_reserve_mib, 0..=MAX_MIB as u64)?;
        for (name, text) in [
            ("deployment_name", &options.deployment_name),
            ("deployment_region", &options.deployment_region),
        ] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(format!("{name} is empty: leave it out for its default").into());
            }
        }
        let default = Deployment::default();
        let name = options.deployment_name.as_ref().unwrap_or(&default.name);
        let destinations = destination::destinations(&options, name, &data_dir)?;
        let close_timeout = limits::positive_ms("close_timeout_ms", options.close_timeout_ms)?
            .unwrap_or(DEFAULT_CLOSE_TIMEOUT);
        let deployment = Deployment {
            name: options.deployment_name.unwrap_or(default.name),
            region: options.deployment_region,
            class: options.deployment_class.unwrap_or(default.class),
        };
        let listen =
            options.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)));
        let beside = |name, set: &Option<String>, default| {
            listen_beside(name, set.as_deref(), listen, default)
        };
        let operators = (IpAddr::from(Ipv4Addr::LOCALHOST), OPERATORS_PORT);
        let operators_listen = beside("operators_listen", &options.operators_listen, operators)?;
        // On the IP address of `listen`, since HTTP actions are called by the same clients.
        let site_listen = beside("site_listen", &options.site_listen, (listen.ip(), SITE_PORT))?;
        let variables = options.env_table.into_iter().chain(options.env);
        Ok(Settings {
            directory,
            listen,
            operators_listen,
            site_listen,
            sources: Sources::default(),
            until_input_ends: false,
            log_format: options.log_format.unwrap_or_default(),
            // OpenTelemetry takes an empty variable for one that is not set.
            traces: options.traces.filter(|url| !url.is_empty()),
            show_logs: options.show_logs,
            network,
            close_timeout,
            data_dir,
            destinations,
            log_streams: options.log_streams,
            dev_log_stream: options.dev_log_stream,
            trusted_proxies: options
                .trusted_proxies
                .unwrap_or_else(TrustedProxies::none)
                .with_header(options.client_address_header.unwrap_or_default()),
            persist_timeout: Duration::from_millis(destination::persist_timeout_ms(
                options.persist_timeout_ms,
            )),
            provenance: options.provenance.unwrap_or(false),
            outcomes: options.outcomes.unwrap_or(false),
            limits,
            query_cache_bytes: query_cache.unwrap_or(DEFAULT_QUERY_CACHE_MIB) << 20,
            store_reserve_bytes: reserve.map_or(DEFAULT_RESERVE_BYTES, |mib| mib << 20),
            fetch,
            kept_engine_bytes: kept_engines.unwrap_or(DEFAULT_KEPT_ENGINES_MIB) << 20,
            exit_when_stopped: options.exit_when_stopped.unwrap_or(false),
            deployment,
            env: FunctionEnv(variables.map(|EnvVar { name, value }| (name, value)).collect()),
            auth: options.auth,
        })
    }
}

/// An address beside `listen`. `None` if it is set to `none`.
fn listen_beside(
    name: &str,
    set: Option<&str>,
    listen: SocketAddr,
    default: (IpAddr, u16),
) -> Result<Option<SocketAddr>, String> {
    match set {
        Some("none") => Ok(None),
        Some(address) => {
            let address = listen_address(address);
            address.map(Some).map_err(|why| format!("{name}: {why}, or `none`"))
        }
        // A free port if `listen` takes one, so that two hosts never collide.
        None if listen.port() == 0 => Ok(Some(SocketAddr::from((default.0, 0)))),
        None => Ok(Some(SocketAddr::from(default))),
    }
}
