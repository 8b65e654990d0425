//! What can be set: by flags, by the environment, by a file; the first of these that says something
//! decides.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use audit_runtime::http::{ClientAddressHeader, TrustedProxies};
use audit_sink_s3::{Compression, JournalSettings};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::server::NetworkLimits;

/// Some ten thousand results of usual size, and no more than four functions may take.
const DEFAULT_QUERY_CACHE_MIB: usize = 256;

/// With the 10 seconds for calls it fits into the 30 that Kubernetes allows by default.
const DEFAULT_CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// The file that is read when none is named, if it exists.
const DEFAULT_FILE: &str = "functions-host.toml";

/// What the command line says.
#[derive(Debug, Parser)]
#[command(name = "functions-host", version, about = ABOUT, after_help = AFTER_HELP)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ABOUT: &str = "A host for JavaScript and TypeScript functions whose reads and writes are audited: no result is handed out \
    and no change commits before its audit logs are durable.";

const AFTER_HELP: &str = "Begin with `functions-host demo`. Then `functions-host serve convex` serves the functions in the directory \
    `convex` on http://127.0.0.1:3210, to which ConvexHttpClient, ConvexClient and curl can talk:\n\n  \
    curl http://127.0.0.1:3210/api/query -d '{\"path\":\"messages:list\",\"args\":{}}'";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play clients against a host of its own, and show in its audit logs that each promise holds
    Demo,
    /// Serve the functions in a directory, over HTTP and WebSocket, until stopped
    Serve(Box<Serve>),
}

/// The command `serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_AFTER_HELP, next_line_help = true)]
pub struct Serve {
    /// The directory of the functions: .ts and .js files, schema.ts, crons.ts, convex.config.ts.
    /// Read again when it changes
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// A file with settings. [default: functions-host.toml in the current directory, if it exists]
    #[arg(long, value_name = "FILE", env = "FUNCTIONS_HOST_CONFIG")]
    pub config: Option<PathBuf>,

    /// What else is set.
    #[command(flatten)]
    pub options: Options,
}

const SERVE_AFTER_HELP: &str = "\
The file has the same settings, with `_` for `-`, and what is too long or too secret for a command line. Flags go before the environment,
the environment before the file. Paths in it begin at the file.

  listen = \"0.0.0.0:3210\"
  bucket = \"s3://my-audit-logs/production\"
  trusted_proxies = \"10.0.0.0/8\"

  [env]                               # what functions find in process.env
  MAIL_KEY = \"...\"

  [[auth]]                            # whose tokens are believed; more than one may be
  issuer = \"https://auth.example.com\"
  audience = \"my-app\"
  jwks = \"jwks.json\"                  # or public_key = \"key.pem\", or secret_file = \"hs256.secret\"";

impl CommandLine {
    /// Reads a command line. No value stands in an error or in the help: it may be a secret.
    ///
    /// # Errors
    ///
    /// If it cannot be understood, or asks for help.
    pub fn read(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<CommandLine, clap::Error> {
        let hide =
            |command: clap::Command| command.mut_args(|argument| argument.hide_env_values(true));
        let command = CommandLine::command().mut_subcommand("serve", hide);
        let matches = command.try_get_matches_from(arguments).map_err(without_values)?;
        CommandLine::from_arg_matches(&matches).map_err(without_values)
    }

    /// The variables of the environment that are read.
    pub fn variables() -> Vec<OsString> {
        let command = CommandLine::command();
        let arguments =
            command.find_subcommand("serve").into_iter().flat_map(|c| c.get_arguments());
        arguments.filter_map(|argument| argument.get_env().map(ToOwned::to_owned)).collect()
    }
}

fn without_values(mut error: clap::Error) -> clap::Error {
    let hidden = || ContextValue::String("…".to_owned());
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if error.get(kind).is_some() {
            error.insert(kind, hidden());
        }
    }
    // An argument that stands for itself; one that begins with a dash is a name.
    let is_name = |value: &ContextValue| matches!(value, ContextValue::String(name) if name.starts_with('-') || name.starts_with('<'));
    if error
        .get(ContextKind::InvalidArg)
        .is_some_and(|argument| matches!(argument, ContextValue::String(_)) && !is_name(argument))
    {
        error.insert(ContextKind::InvalidArg, hidden());
    }
    error
}

/// Where a file cannot be understood, and why, without the values that stand there.
fn fault(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    let shows_value = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    let message = match (shows_value.iter().any(|prefix| message.starts_with(prefix)), expected) {
        (true, Some(expected)) => format!("a value is invalid, expected {expected}"),
        (true, None) => "a value is invalid".to_owned(),
        (false, _) => message.to_owned(),
    };
    let Some(span) = error.span() else { return message };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    // The name of a setting, if the line begins with one: nothing else of the file is shown.
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    let name = text[begin..].split(['=', '\n']).next().unwrap_or_default().trim();
    let is_setting = CommandLine::command().find_subcommand("serve").is_some_and(|serve| {
        serve.get_arguments().any(|argument| argument.get_id().as_str() == name)
    });
    if is_setting {
        format!("line {line}: {name}: {message}")
    } else {
        format!("line {line}: {message}")
    }
}

/// What can be set by a flag, a variable of the environment or a member of the file, each of the
/// same name.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where to listen. Port 0 takes a free one. [default: 127.0.0.1:3210]
    #[arg(long, env = "LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Where operators look: /livez, /readyz, /healthz, /healthz?verbose and /metrics; or `none`.
    /// They tell paths and addresses, so give it an address that clients cannot reach. [default:
    /// 127.0.0.1:3211, or a free port where `listen` takes one]
    #[arg(long, env = "OPERATORS_LISTEN", value_name = "ADDRESS")]
    pub operators_listen: Option<String>,

    /// Show each audit log on standard output once it is durable. Bodies are personal data.
    /// [default: whether standard output is a terminal]
    #[arg(long, env = "AUDIT_SHOW_LOGS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub show_logs: Option<bool>,

    /// How much memory all requests together may take, in MiB: what arrives, and what calls take
    /// once they are parsed. Engines and the cache of results come on top. More is answered 503.
    /// [default: 512]
    #[arg(long, env = "REQUEST_MEMORY_MIB", value_name = "MIB")]
    pub request_memory_mib: Option<usize>,

    /// How many values the JSON of one request may have. More is answered 413. [default: 1000000]
    #[arg(long, env = "MAX_REQUEST_VALUES", value_name = "COUNT")]
    pub max_request_values: Option<usize>,

    /// How many connections there may be. More are answered 503. [default: the limit of open files
    /// less 256 (or half of it), which are kept for the journal, the bucket and the store]
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "COUNT")]
    pub max_connections: Option<usize>,

    /// How many connections there may be from one address (of IPv6, one /64) that is no trusted
    /// proxy's. More are answered 429. [default: 256]
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_connections_per_address: Option<usize>,

    /// How long the headers of a request may take, and a connection be idle before them, in
    /// milliseconds. [default: 30000]
    #[arg(long, env = "HEADER_TIMEOUT_MS", value_name = "MS")]
    pub header_timeout_ms: Option<u64>,

    /// How long the body of a request may take to arrive, in milliseconds. [default: 60000]
    #[arg(long, env = "BODY_TIMEOUT_MS", value_name = "MS")]
    pub body_timeout_ms: Option<u64>,

    /// How long a WebSocket may say nothing at first, in milliseconds. [default: 10000]
    #[arg(long, env = "FIRST_MESSAGE_TIMEOUT_MS", value_name = "MS")]
    pub first_message_timeout_ms: Option<u64>,

    /// How long a client may give no sign of life, in milliseconds: answers to pings count, and
    /// that it takes what it is sent. [default: 60000]
    #[arg(long, env = "IDLE_TIMEOUT_MS", value_name = "MS")]
    pub idle_timeout_ms: Option<u64>,

    /// How long calls and sessions in flight have to end once the host is told to stop, in
    /// milliseconds. [default: 10000]
    #[arg(long, env = "DRAIN_TIMEOUT_MS", value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,

    /// How long logs then have to arrive in the bucket before the process ends, with the code 3, in
    /// milliseconds. [default: 15000]
    #[arg(long, env = "CLOSE_TIMEOUT_MS", value_name = "MS")]
    pub close_timeout_ms: Option<u64>,

    /// The directory for documents, journal and bucket, where no other place is given for them.
    /// Made if it does not exist. [default: audit-data]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where the audit logs go: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix,
    /// file:///path, or `none`: then they are checked and thrown away. Credentials and regions come
    /// from the provider's usual environment variables. [default: the directory `bucket` in the
    /// data directory]
    #[arg(long, env = "AUDIT_BUCKET", value_name = "URL")]
    pub bucket: Option<String>,

    /// The directory of the journal, in which logs are durable before they are on their way to the
    /// bucket; or `none`, and each call waits for the bucket itself. [default: the directory
    /// `journal` in the data directory]
    #[arg(long, env = "AUDIT_JOURNAL", value_name = "DIR")]
    pub journal: Option<String>,

    /// Networks of the proxies whose X-Forwarded-For and X-Request-Id are believed, for example
    /// 10.0.0.0/8. [default: none]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "NETWORKS", value_parser = networks)]
    #[serde(deserialize_with = "networks_of_file")]
    pub trusted_proxies: Option<TrustedProxies>,

    /// The header in which they write the client's address: X-Forwarded-For, Forwarded (RFC 7239),
    /// or another that holds an address, as X-Real-IP. No other header counts. [default:
    /// x-forwarded-for]
    #[arg(long, env = "CLIENT_ADDRESS_HEADER", value_name = "HEADER", value_parser = header)]
    #[serde(deserialize_with = "header_of_file")]
    pub client_address_header: Option<ClientAddressHeader>,

    /// With a journal: how late a log may be in the bucket, in milliseconds. [default: 5000]
    #[arg(long, env = "AUDIT_CUT_AFTER_MS", value_name = "MS")]
    pub cut_after_ms: Option<u64>,

    /// Without a journal: how long a log waits for others to share an object with, in milliseconds.
    /// [default: 50 for a bucket that charges for each request, 0 for a directory]
    #[arg(long, env = "AUDIT_LINGER_MS", value_name = "MS")]
    pub linger_ms: Option<u64>,

    /// How long a call waits for its logs to be durable before it fails, in milliseconds. [default:
    /// 10000]
    #[arg(long, env = "AUDIT_PERSIST_TIMEOUT_MS", value_name = "MS")]
    pub persist_timeout_ms: Option<u64>,

    /// How objects are compressed. [default: zstd]
    #[arg(long, env = "AUDIT_COMPRESSION", value_name = "KIND")]
    pub compression: Option<CompressionName>,

    /// Add to each log which execution of which function it comes from. [default: false]
    #[arg(long, env = "AUDIT_PROVENANCE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub provenance: Option<bool>,

    /// How long the JavaScript of a query or mutation may run, in milliseconds. [default: 1000]
    #[arg(long, env = "FUNCTION_TIMEOUT_MS", value_name = "MS")]
    pub function_timeout_ms: Option<u64>,

    /// How long the JavaScript of an action may run, in milliseconds. [default: 600000]
    #[arg(long, env = "ACTION_TIMEOUT_MS", value_name = "MS")]
    pub action_timeout_ms: Option<u64>,

    /// How much memory one function may take, in MiB. [default: 64]
    #[arg(long, env = "FUNCTION_MEMORY_MIB", value_name = "MIB")]
    pub function_memory_mib: Option<usize>,

    /// How much memory the cache of queries' results may take, with their arguments and sealed
    /// logs, in MiB. What is used least goes first; 0 keeps nothing. [default: 256]
    #[arg(long, env = "QUERY_CACHE_MIB", value_name = "MIB")]
    pub query_cache_mib: Option<usize>,

    /// End the process in order, with the code 4, when audit logs cannot be made durable before a
    /// restart, as after a failed sync of the journal: for a supervisor that starts it again.
    /// [default: false]
    #[arg(long, env = "AUDIT_EXIT_WHEN_STOPPED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub exit_when_stopped: Option<bool>,

    /// The name that functions find in the metadata of their deployment. [default: local]
    #[arg(long, env = "DEPLOYMENT_NAME", value_name = "NAME")]
    pub deployment_name: Option<String>,

    /// The region that functions find there, such as aws-us-east-1. [default: null]
    #[arg(long, env = "DEPLOYMENT_REGION", value_name = "REGION")]
    pub deployment_region: Option<String>,

    /// The class that functions find there. [default: s16]
    #[arg(long, env = "DEPLOYMENT_CLASS", value_name = "CLASS")]
    pub deployment_class: Option<DeploymentClass>,

    /// A variable that functions find in process.env. May be given more than once. A command line
    /// can be seen by others on the same computer: secrets belong into the file
    #[arg(long, value_name = "NAME=VALUE")]
    #[serde(skip)]
    pub env: Vec<EnvVar>,

    /// The table `env` of the file.
    #[arg(skip)]
    #[serde(rename = "env", deserialize_with = "env_table")]
    pub env_table: Vec<EnvVar>,

    /// Whose tokens are believed.
    #[arg(skip)]
    pub auth: Vec<AuthSettings>,
}

/// How objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum CompressionName {
    Zstd,
    Gzip,
    None,
}

/// The classes of deployments that Convex names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "their meaning is Convex's")]
pub enum DeploymentClass {
    S16,
    S256,
    D1024,
    D2048,
}

impl DeploymentClass {
    /// As functions see it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentClass::S16 => "s16",
            DeploymentClass::S256 => "s256",
            DeploymentClass::D1024 => "d1024",
            DeploymentClass::D2048 => "d2048",
        }
    }
}

/// A variable for functions. Its value is nobody else's business.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: String,
    value: String,
}

impl EnvVar {
    fn new(name: &str, value: &str) -> Result<EnvVar, String> {
        let mut letters = name.chars();
        let begins =
            letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            // What stands there may be a value by mistake.
            return Err(
                "the name of a variable has letters, digits and `_`, and no digit first".to_owned()
            );
        }
        Ok(EnvVar { name: name.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for EnvVar {
    type Err = String;

    fn from_str(text: &str) -> Result<EnvVar, String> {
        let (name, value) = text.split_once('=').ok_or("a variable is NAME=VALUE")?;
        EnvVar::new(name, value)
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=..", self.name)
    }
}

/// One issuer of tokens, and what its tokens are verified with: exactly one of the three files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// What `iss` must be.
    pub issuer: String,
    /// What must be in `aud`.
    pub audience: String,
    /// A JSON Web Key Set with public keys, for RS256, ES256 or EdDSA.
    #[serde(default)]
    pub jwks: Option<PathBuf>,
    /// A PEM file with one public key, for RS256, ES256 or EdDSA.
    #[serde(default)]
    pub public_key: Option<PathBuf>,
    /// A file with a shared secret, for HS256.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}

/// Names no part of the text: a setting may hold anything by mistake.
fn networks(text: &str) -> Result<TrustedProxies, String> {
    text.parse()
        .map_err(|_| "a list of networks is expected, such as 10.0.0.0/8,192.0.2.1".to_owned())
}

fn header(text: &str) -> Result<ClientAddressHeader, String> {
    text.parse().map_err(|_| "the name of a header is expected, such as forwarded".to_owned())
}

fn header_of_file<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<ClientAddressHeader>, D::Error> {
    header(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn networks_of_file<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<TrustedProxies>, D::Error> {
    networks(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn env_table<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<EnvVar>, D::Error> {
    let table = BTreeMap::<String, String>::deserialize(from)?;
    table.iter().map(|(name, value)| EnvVar::new(name, value).map_err(D::Error::custom)).collect()
}

/// All settings, with their defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the functions.
    pub directory: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where operators look, if they may.
    pub operators_listen: Option<SocketAddr>,
    /// Whether audit logs are shown. By default on a terminal.
    pub show_logs: Option<bool>,
    /// What clients may take.
    pub network: NetworkLimits,
    /// How long logs have to arrive in the bucket at the end.
    pub close_timeout: Duration,
    /// Where documents are, and what has no other place.
    pub data_dir: PathBuf,
    /// Where the audit logs go.
    pub destination: Destination,
    /// Whose forwarded headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// How long a call waits for its logs to be durable: what the sink itself waits.
    pub persist_timeout: Duration,
    /// Whether each log says where it comes from.
    pub provenance: bool,
    /// What functions may use.
    pub limits: FunctionLimits,
    /// What the cache of queries' results may hold, in bytes.
    pub query_cache_bytes: usize,
    /// Whether to end when audit logs cannot be made durable before a restart.
    pub exit_when_stopped: bool,
    /// What functions learn of their deployment.
    pub deployment: Deployment,
    /// What functions find in `process.env`.
    pub env: FunctionEnv,
    /// Whose tokens are believed.
    pub auth: Vec<AuthSettings>,
}

/// Where the audit logs go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Nowhere.
    None,
    /// To a bucket.
    Bucket {
        /// Its URL.
        url: String,
        /// How it is written to.
        settings: Box<audit_sink_s3::Settings>,
    },
}

/// What one function may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionLimits {
    /// How long the JavaScript of a query or mutation runs.
    pub time: Duration,
    /// How long that of an action runs.
    pub action_time: Duration,
    /// Its memory, in bytes.
    pub memory_bytes: usize,
}

impl Default for FunctionLimits {
    fn default() -> FunctionLimits {
        FunctionLimits {
            time: Duration::from_secs(1),
            action_time: Duration::from_secs(600),
            memory_bytes: 64 << 20,
        }
    }
}

/// What functions learn of their deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// Its region, if it has one.
    pub region: Option<String>,
    /// Its class.
    pub class: DeploymentClass,
}

impl Default for Deployment {
    fn default() -> Deployment {
        Deployment { name: "local".to_owned(), region: None, class: DeploymentClass::S16 }
    }
}

/// Variables for functions. Shows their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FunctionEnv(pub BTreeMap<String, String>);

impl fmt::Debug for FunctionEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Options {
    /// What a file says.
    fn read(path: &Path) -> Result<Options, Box<dyn Error>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("the settings file {} cannot be read: {error}", path.display())
        })?;
        let mut options = toml::from_str::<Options>(&text).map_err(|error| {
            format!("the settings file {}, {}", path.display(), fault(&text, &error))
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let at_file = |path: &mut PathBuf| *path = base.join(&*path);
        options.data_dir.iter_mut().for_each(at_file);
        for AuthSettings { issuer: _, audience: _, jwks, public_key, secret_file } in
            &mut options.auth
        {
            [jwks, public_key, secret_file].into_iter().flatten().for_each(at_file);
        }
        if let Some(journal) = options.journal.as_mut().filter(|journal| *journal != "none") {
            let joined = base.join(&*journal).into_os_string().into_string();
            *journal =
                joined.map_err(|path| format!("the path {} is not UTF-8", path.display()))?;
        }
        Ok(options)
    }

    /// These, and what `other` says where these say nothing.
    fn or(self, other: Options) -> Options {
        let mut env_table = other.env_table;
        env_table.extend(other.env);
        env_table.extend(self.env_table);
        Options {
            listen: self.listen.or(other.listen),
            operators_listen: self.operators_listen.or(other.operators_listen),
            show_logs: self.show_logs.or(other.show_logs),
            request_memory_mib: self.request_memory_mib.or(other.request_memory_mib),
            max_request_values: self.max_request_values.or(other.max_request_values),
            max_connections: self.max_connections.or(other.max_connections),
            max_connections_per_address: self
                .max_connections_per_address
                .or(other.max_connections_per_address),
            header_timeout_ms: self.header_timeout_ms.or(other.header_timeout_ms),
            body_timeout_ms: self.body_timeout_ms.or(other.body_timeout_ms),
            first_message_timeout_ms: self
                .first_message_timeout_ms
                .or(other.first_message_timeout_ms),
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            drain_timeout_ms: self.drain_timeout_ms.or(other.drain_timeout_ms),
            close_timeout_ms: self.close_timeout_ms.or(other.close_timeout_ms),
            data_dir: self.data_dir.or(other.data_dir),
            bucket: self.bucket.or(other.bucket),
            journal: self.journal.or(other.journal),
            trusted_proxies: self.trusted_proxies.or(other.trusted_proxies),
            client_address_header: self.client_address_header.or(other.client_address_header),
            cut_after_ms: self.cut_after_ms.or(other.cut_after_ms),
            linger_ms: self.linger_ms.or(other.linger_ms),
            persist_timeout_ms: self.persist_timeout_ms.or(other.persist_timeout_ms),
            compression: self.compression.or(other.compression),
            exit_when_stopped: self.exit_when_stopped.or(other.exit_when_stopped),
            provenance: self.provenance.or(other.provenance),
            function_timeout_ms: self.function_timeout_ms.or(other.function_timeout_ms),
            action_timeout_ms: self.action_timeout_ms.or(other.action_timeout_ms),
            function_memory_mib: self.function_memory_mib.or(other.function_memory_mib),
            query_cache_mib: self.query_cache_mib.or(other.query_cache_mib),
            deployment_name: self.deployment_name.or(other.deployment_name),
            deployment_region: self.deployment_region.or(other.deployment_region),
            deployment_class: self.deployment_class.or(other.deployment_class),
            env: self.env,
            env_table,
            auth: if self.auth.is_empty() { other.auth } else { self.auth },
        }
    }
}

impl Serve {
    /// All settings: of the flags and the environment, then of the file, then the defaults. Makes
    /// the directory of a bucket that is one by default.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, has a member that does not exist, or a value that makes no
    /// sense.
    pub fn settings(self) -> Result<Settings, Box<dyn Error>> {
        let Serve { directory, config, options } = self;
        let file =
            config.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()));
        let options = match file {
            Some(file) => options.or(Options::read(&file)?),
            None => options,
        };
        Settings::new(directory, options)
    }
}

impl Settings {
    fn new(directory: PathBuf, options: Options) -> Result<Settings, Box<dyn Error>> {
        let data_dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from("audit-data"));
        let destination = Destination::new(&options, &data_dir)?;
        let defaults = FunctionLimits::default();
        let limits = FunctionLimits {
            time: positive_ms("function_timeout_ms", options.function_timeout_ms)?
                .unwrap_or(defaults.time),
            action_time: positive_ms("action_timeout_ms", options.action_timeout_ms)?
                .unwrap_or(defaults.action_time),
            memory_bytes: match options.function_memory_mib {
                None => defaults.memory_bytes,
                Some(mib @ 1..=MAX_FUNCTION_MEMORY_MIB) => mib << 20,
                Some(mib) => {
                    let most = MAX_FUNCTION_MEMORY_MIB;
                    return Err(format!(
                        "function_memory_mib is {mib}, and must be at least 1 and at most {most}"
                    )
                    .into());
                }
            },
        };
        let network = network(&options)?;
        let close_timeout = positive_ms("close_timeout_ms", options.close_timeout_ms)?
            .unwrap_or(DEFAULT_CLOSE_TIMEOUT);
        let deployment = Deployment::default();
        let deployment = Deployment {
            name: options.deployment_name.unwrap_or(deployment.name),
            region: options.deployment_region,
            class: options.deployment_class.unwrap_or(deployment.class),
        };
        let listen =
            options.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)));
        let operators_listen = operators_listen(options.operators_listen.as_deref(), listen)?;
        let variables = options.env_table.into_iter().chain(options.env);
        Ok(Settings {
            directory,
            listen,
            operators_listen,
            show_logs: options.show_logs,
            network,
            close_timeout,
            data_dir,
            destination,
            trusted_proxies: options
                .trusted_proxies
                .unwrap_or_else(TrustedProxies::none)
                .with_header(options.client_address_header.unwrap_or_default()),
            persist_timeout: Duration::from_millis(persist_timeout_ms(options.persist_timeout_ms)),
            provenance: options.provenance.unwrap_or(false),
            limits,
            query_cache_bytes: options
                .query_cache_mib
                .unwrap_or(DEFAULT_QUERY_CACHE_MIB)
                .saturating_mul(1 << 20),
            exit_when_stopped: options.exit_when_stopped.unwrap_or(false),
            deployment,
            env: FunctionEnv(variables.map(|EnvVar { name, value }| (name, value)).collect()),
            auth: options.auth,
        })
    }
}

/// Where Convex's own local backend listens, so that examples for it work as they are.
const DEFAULT_PORT: u16 = 3210;

const OPERATORS_PORT: u16 = 3211;

fn operators_listen(set: Option<&str>, listen: SocketAddr) -> Result<Option<SocketAddr>, String> {
    match set {
        Some("none") => Ok(None),
        Some(address) => address
            .parse()
            .map(Some)
            .map_err(|_| "operators_listen is no address with a port, nor `none`".to_owned()),
        // A free port beside a free port: two hosts never meet.
        None => {
            let port = if listen.port() == 0 { 0 } else { OPERATORS_PORT };
            Ok(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        }
    }
}

fn network(options: &Options) -> Result<NetworkLimits, String> {
    let defaults = NetworkLimits::default();
    let count = |name: &str, set: Option<usize>, least: usize, most: usize| match set {
        Some(set) if !(least..=most).contains(&set) => {
            Err(format!("{name} is {set}, and must be at least {least} and at most {most}"))
        }
        set => Ok(set),
    };
    let most = u32::MAX as usize;
    let mib = count("request_memory_mib", options.request_memory_mib, 64, 1 << 20)?;
    let values = count("max_request_values", options.max_request_values, 1_000, most)?;
    let connections = count("max_connections", options.max_connections, 1, most)?;
    let per_address =
        count("max_connections_per_address", options.max_connections_per_address, 1, most)?;
    let time = |name, set, default| Ok::<_, String>(positive_ms(name, set)?.unwrap_or(default));
    Ok(NetworkLimits {
        request_memory_bytes: mib.map_or(defaults.request_memory_bytes, |mib| mib << 20),
        max_request_values: values.unwrap_or(defaults.max_request_values),
        max_connections: connections,
        max_connections_per_address: per_address.unwrap_or(defaults.max_connections_per_address),
        header_timeout: time(
            "header_timeout_ms",
            options.header_timeout_ms,
            defaults.header_timeout,
        )?,
        body_timeout: time("body_timeout_ms", options.body_timeout_ms, defaults.body_timeout)?,
        first_message_timeout: time(
            "first_message_timeout_ms",
            options.first_message_timeout_ms,
            defaults.first_message_timeout,
        )?,
        idle_timeout: time("idle_timeout_ms", options.idle_timeout_ms, defaults.idle_timeout)?,
        drain_timeout: time("drain_timeout_ms", options.drain_timeout_ms, defaults.drain_timeout)?,
    })
}

/// 4 GiB is what an engine of 32-bit offsets can make use of.
const MAX_FUNCTION_MEMORY_MIB: usize = 4_096;

/// One day.
const MAX_TIME_MS: u64 = 24 * 60 * 60 * 1_000;

fn positive_ms(name: &str, ms: Option<u64>) -> Result<Option<Duration>, String> {
    match ms {
        None => Ok(None),
        Some(ms @ 1..=MAX_TIME_MS) => Ok(Some(Duration::from_millis(ms))),
        Some(ms) => {
            Err(format!("{name} is {ms}, and must be at least 1 and at most {MAX_TIME_MS}"))
        }
    }
}

fn persist_timeout_ms(set: Option<u64>) -> u64 {
    set.unwrap_or(10_000)
}

impl Destination {
    fn new(options: &Options, data_dir: &Path) -> Result<Destination, Box<dyn Error>> {
        let url = match options.bucket.as_deref() {
            Some("none") => return Ok(Destination::None),
            Some(url) => url.to_owned(),
            None => format!("file://{}", made(&data_dir.join("bucket"))?),
        };
        let defaults = audit_sink_s3::Settings::default();
        let is_directory = url.starts_with("file:") || url.starts_with("memory:");
        let journal = match options.journal.as_deref() {
            Some("none") => None,
            Some(directory) => Some(PathBuf::from(directory)),
            None => Some(data_dir.join("journal")),
        };
        let settings = audit_sink_s3::Settings {
            compression: match options.compression {
                None => defaults.compression,
                Some(CompressionName::Zstd) => Compression::Zstd,
                Some(CompressionName::Gzip) => Compression::Gzip,
                Some(CompressionName::None) => Compression::None,
            },
            linger_ms: options.linger_ms.unwrap_or(if is_directory {
                0
            } else {
                defaults.linger_ms
            }),
            persist_timeout_ms: persist_timeout_ms(options.persist_timeout_ms),
            journal: journal.map(|directory| {
                let defaults = JournalSettings::new(directory);
                let cut_after_ms = options.cut_after_ms.unwrap_or(defaults.cut_after_ms);
                JournalSettings { cut_after_ms, ..defaults }
            }),
            ..defaults
        };
        settings.check()?;
        Ok(Destination::Bucket { url, settings: Box::new(settings) })
    }
}

/// The absolute path of a directory, which exists when this returns.
fn made(directory: &Path) -> Result<String, Box<dyn Error>> {
    let failed = |error| format!("the directory {} cannot be used: {error}", directory.display());
    crate::serve::make_private(directory).map_err(failed)?;
    let path = directory.canonicalize().map_err(failed)?;
    let path = path.to_str().ok_or_else(|| format!("the path {} is not UTF-8", path.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings of a command line, with a data directory and, if there is one, a file.
    fn settings(file: Option<&str>, flags: &[&str]) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut line = vec!["functions-host", "serve", "convex"];
        line.extend(flags);
        let path = directory.path().join("set.toml");
        if let Some(file) = file {
            std::fs::write(&path, file).unwrap();
            line.extend(["--config", path.to_str().unwrap()]);
        }
        if !file.is_some_and(|file| file.contains("data_dir")) {
            line.extend(["--data-dir", data.to_str().unwrap()]);
        }
        let CommandLine { command } = CommandLine::read(line).map_err(|error| error.to_string())?;
        let Command::Serve(serve) = command else { panic!("that was serve") };
        serve.settings().map_err(|error| error.to_string())
    }

    fn bucket(settings: &Settings) -> (&str, &audit_sink_s3::Settings) {
        match &settings.destination {
            Destination::Bucket { url, settings } => (url, settings),
            Destination::None => panic!("no bucket"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn nothing_need_be_set() {
        let settings = settings(None, &[]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:3210");
        assert_eq!(settings.limits, FunctionLimits::default());
        assert_eq!(settings.deployment, Deployment::default());
        assert!(!settings.provenance && settings.auth.is_empty() && settings.env.0.is_empty());
        let (url, sink) = bucket(&settings);
        assert!(url.starts_with("file:///") && url.ends_with("/data/bucket"), "{url}");
        assert!(sink.journal.as_ref().unwrap().directory.ends_with("data/journal"));
        assert_eq!((sink.linger_ms, sink.persist_timeout_ms), (0, 10_000));
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let file = r#"
            listen = "0.0.0.0:80"
            bucket = "memory:///"
            journal = "none"
            compression = "gzip"
            trusted_proxies = "10.0.0.0/8"
            client_address_header = "Forwarded"
            provenance = true
            function_timeout_ms = 5
            function_memory_mib = 2
            query_cache_mib = 3
            drain_timeout_ms = 4
            close_timeout_ms = 5
            deployment_name = "file"
            deployment_class = "s256"
            [env]
            A = "file"
            B = "file"
        "#;
        let flags = [
            "--listen=127.0.0.1:81",
            "--provenance=false",
            "--drain-timeout-ms=6",
            "--env",
            "B=flag",
            "--env",
            "C=a=b",
        ];
        let settings = settings(Some(file), &flags).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:81");
        let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
        let proxies = proxies.with_header(ClientAddressHeader::Forwarded);
        assert_eq!(settings.trusted_proxies, proxies);
        assert!(!settings.provenance);
        assert_eq!(settings.limits.time, Duration::from_millis(5));
        assert_eq!(settings.limits.memory_bytes, 2 << 20);
        assert_eq!(settings.query_cache_bytes, 3 << 20);
        assert_eq!(settings.network.drain_timeout, Duration::from_millis(6));
        assert_eq!(settings.close_timeout, Duration::from_millis(5));
        assert_eq!(settings.deployment.name, "file");
        assert_eq!(settings.deployment.class, DeploymentClass::S256);
        let env: Vec<_> =
            settings.env.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=file", "B=flag", "C=a=b"]);
        let (url, sink) = bucket(&settings);
        assert_eq!(url, "memory:///");
        assert_eq!((sink.compression, &sink.journal), (Compression::Gzip, &None));
    }

    #[test]
    fn no_bucket_can_be_asked_for() {
        let settings = settings(None, &["--bucket", "none"]).unwrap();
        assert!(matches!(settings.destination, Destination::None));
    }

    #[test]
    fn paths_in_the_file_begin_at_the_file() {
        let file = r#"
            data_dir = "kept"
            journal = "journal"
            bucket = "memory:///"
            [[auth]]
            issuer = "https://issuer"
            audience = "app"
            jwks = "keys.json"
        "#;
        let settings = settings(Some(file), &[]).unwrap();
        let (_, sink) = bucket(&settings);
        let jwks = settings.auth[0].jwks.clone().unwrap();
        for path in [settings.data_dir.clone(), sink.journal.clone().unwrap().directory, jwks] {
            assert!(path.is_absolute(), "{path:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |file: &str, flags: &[&str], says: &str| {
            let error = settings(Some(file), flags).unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        refused("lisen = '127.0.0.1:1'", &[], "unknown field `lisen`");
        refused("[[auth]]\nissuer = 'a'\naudience = 'b'\njwk = 'c'", &[], "unknown field `jwk`");
        refused("trusted_proxies = 'nowhere'", &[], "line 1: trusted_proxies: a list of networks");
        refused(
            "compression = 'lz4'",
            &[],
            "line 1: compression: a value is invalid, expected one of",
        );
        refused("[env]\n1A = 'x'", &[], "the name of a variable");
        refused(
            "client_address_header = 'a b'",
            &[],
            "line 1: client_address_header: the name of a header",
        );
        refused("", &["--env", "novalue"], "NAME=VALUE");
        refused("function_timeout_ms = 0", &[], "function_timeout_ms is 0");
        refused("function_memory_mib = 0", &[], "function_memory_mib is 0");
        refused("persist_timeout_ms = 0", &[], "persist_timeout_ms");
        let missing = CommandLine::try_parse_from([
            "functions-host",
            "serve",
            "x",
            "--config",
            "/nowhere/set.toml",
        ]);
        let Command::Serve(serve) = missing.unwrap().command else { panic!("that was serve") };
        assert!(serve.settings().unwrap_err().to_string().contains("/nowhere/set.toml"));
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let settings = settings(Some("[env]\nA = 'hidden'"), &["--env", "B=hidden"]).unwrap();
        assert!(!format!("{settings:?}").contains("hidden"));
        let line =
            CommandLine::try_parse_from(["functions-host", "serve", "x", "--env", "B=hidden"])
                .unwrap();
        assert!(!format!("{line:?}").contains("hidden"));
    }

    #[test]
    fn no_error_shows_a_value() {
        const SECRET: &str = "hunter2-marker";
        let of_every_type = |value: &str| {
            let mut files: Vec<_> = CommandLine::command()
                .find_subcommand("serve")
                .unwrap()
                .get_arguments()
                .map(|argument| format!("{} = {value}", argument.get_id()))
                .collect();
            files.extend([
                format!("unknown = {value}"),
                format!("[env]\nA = {value}"),
                format!("[env]\nA = 'x'\nA = {value}"),
                format!("[env]\nA.B = {value}"),
                format!("env = {value}"),
                format!("[[auth]]\nissuer = {value}"),
                format!("[[auth]]\nissuer = 'a'\naudience = 'b'\nunknown = {value}"),
                format!("auth = {value}"),
            ]);
            files
        };
        let values = [
            format!("\"{SECRET}\""),
            format!("\"\"\"\nlisten = {SECRET}\n\"\"\""),
            format!("[\"{SECRET}\"]"),
            format!("{{ {SECRET} = \"{SECRET}\", b = \"{SECRET}\" }}"),
            SECRET.to_owned(),
            format!("\"{SECRET}"),
            format!("\"{SECRET}\\q\""),
            format!("\"{SECRET}\" \"{SECRET}\""),
        ];
        let mut refused = 0;
        for file in values.iter().flat_map(|value| of_every_type(value)) {
            if let Err(error) = settings(Some(&file), &[]) {
                // The name of a field that is unknown is shown, and is no value.
                let shown = error.replace(&format!("unknown field `{SECRET}`"), "");
                assert!(!shown.contains(SECRET), "{file}\n{error}");
                refused += 1;
            }
        }
        assert!(refused > 150, "{refused}");
        let arguments = CommandLine::command();
        let arguments = arguments.find_subcommand("serve").unwrap().get_arguments();
        let flags = arguments.filter_map(|argument| argument.get_long());
        let mut lines: Vec<Vec<String>> = flags
            .filter(|flag| !matches!(*flag, "config" | "bucket" | "journal" | "data-dir"))
            .map(|flag| vec!["serve".into(), "x".into(), format!("--{flag}={SECRET}")])
            .collect();
        lines.push(vec!["serve".into(), "x".into(), SECRET.into()]);
        lines.push(vec![SECRET.into()]);
        lines.push(vec!["serve".into(), "x".into(), format!("--unknown={SECRET}")]);
        for line in lines {
            let all = ["functions-host".to_owned()].into_iter().chain(line.clone());
            let read = CommandLine::read(all).map_err(|error| error.to_string());
            let settings = read.and_then(|line| match line.command {
                Command::Serve(serve) => serve.settings().map_err(|error| error.to_string()),
                Command::Demo => Err(String::new()),
            });
            if let Err(error) = settings {
                assert!(!error.contains(SECRET), "{line:?}\n{error}");
            }
        }
    }
}
