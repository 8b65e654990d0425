//! Options: settings as given by flags, environment variables or the file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use audit_host::{LogFormat, listen_address};
use audit_runtime::http::{ClientAddressHeader, TrustedProxies};
use clap::{Args, ValueEnum};
use functions_server::auth::AuthSettings;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::networks::FetchNetworks;
use super::{DeploymentClass, EnvVar};

/// Settings that can be given by a flag, an environment variable or a member of the file, all of
/// the same name.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    /// Where to listen. Port 0 takes a free one. [default: 127.0.0.1:3210]
    #[arg(long, env = "LISTEN", value_name = "ADDRESS", value_parser = listen_address)]
    #[serde(deserialize_with = "address")]
    pub(crate) listen: Option<SocketAddr>,

    /// The address for operators, which serves /livez, /readyz, /healthz, /healthz?verbose and
    /// /metrics; or `none`. These show paths and addresses, so clients should not be able to reach
    /// it. [default: 127.0.0.1:3211, or a free port where `listen` takes one]
    #[arg(long, env = "OPERATORS_LISTEN", value_name = "ADDRESS")]
    pub(crate) operators_listen: Option<String>,

    /// The address at which HTTP actions (`http.ts`) are served; or `none`. Functions find it in
    /// process.env.CONVEX_SITE_URL, unless --env sets that to the address clients use. [default:
    /// port 3212 beside `listen`, or a free port where `listen` takes one]
    #[arg(long, env = "SITE_LISTEN", value_name = "ADDRESS")]
    pub(crate) site_listen: Option<String>,

    /// The format of the host's own log on standard error: text or JSON. [default: text]
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", value_parser = log_format)]
    pub(crate) log_format: Option<LogFormat>,

    /// The URL of an OpenTelemetry collector that receives traces, by OTLP over HTTP, such as
    /// http://127.0.0.1:4318/v1/traces. Needs a build with the feature `traces`. [default: no
    /// traces]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub(crate) traces: Option<String>,

    /// Show each audit log on standard output once it is durable. Bodies are personal data.
    /// [default: whether standard output is a terminal]
    #[arg(long, env = "AUDIT_SHOW_LOGS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) show_logs: Option<bool>,

    /// How much memory all requests together may take, in MiB: data as it arrives, calls once they
    /// are parsed, and answers until they are written. Engines and the cache of results are not
    /// included. Requests beyond it are answered 503. [default: 512]
    #[arg(long, env = "REQUEST_MEMORY_MIB", value_name = "MIB")]
    pub(crate) request_memory_mib: Option<usize>,

    /// How many values the JSON of one request may have. Larger ones are answered 413. [default:
    /// 1000000]
    #[arg(long, env = "MAX_REQUEST_VALUES", value_name = "COUNT")]
    pub(crate) max_request_values: Option<usize>,

    /// How many connections may be open. Further ones are answered 503. [default: the limit of open
    /// files less 256 (or half of it), which are kept for the journal, the bucket and the store]
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "COUNT")]
    pub(crate) max_connections: Option<usize>,

    /// How many connections may be open from one address (for IPv6, one /64) other than a trusted
    /// proxy's. Further ones are answered 429. [default: 256]
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub(crate) max_connections_per_address: Option<usize>,

    /// How long a connection may take to send the header of its first request, in milliseconds.
    /// [default: 10000]
    #[arg(long, env = "HEADER_TIMEOUT_MS", value_name = "MS")]
    pub(crate) header_timeout_ms: Option<u64>,

    /// How long the body of a request may take to arrive, in milliseconds. [default: 60000]
    #[arg(long, env = "BODY_TIMEOUT_MS", value_name = "MS")]
    pub(crate) body_timeout_ms: Option<u64>,

    /// How long a WebSocket may take to send its first message, in milliseconds. [default: 10000]
    #[arg(long, env = "FIRST_MESSAGE_TIMEOUT_MS", value_name = "MS")]
    pub(crate) first_message_timeout_ms: Option<u64>,

    /// How long a connection stays open without a request, and a WebSocket without a message or an
    /// answer to a ping, in milliseconds. Choose it longer than the idle timeout of a load balancer
    /// in front. [default: 75000]
    #[arg(long, env = "IDLE_TIMEOUT_MS", value_name = "MS")]
    pub(crate) idle_timeout_ms: Option<u64>,

    /// How long a client may be behind in reading what it is sent, in milliseconds. Each second of
    /// waiting counts, less the time for what it reads at --min-send-rate. [default: 30000]
    #[arg(long, env = "SEND_TIMEOUT_MS", value_name = "MS")]
    pub send_timeout_ms: Option<u64>,

    /// The slowest rate at which a client may read, in bytes per second. [default: 4096]
    #[arg(long, env = "MIN_SEND_RATE", value_name = "BYTES")]
    pub min_send_rate: Option<u32>,

    /// How long calls and sessions in flight have to end once the host is told to stop, in
    /// milliseconds. [default: 10000]
    #[arg(long, env = "DRAIN_TIMEOUT_MS", value_name = "MS")]
    pub(crate) drain_timeout_ms: Option<u64>,

    /// How long delivery to the bucket may take after that, in milliseconds, before the process
    /// exits with code 3. [default: 15000]
    #[arg(long, env = "CLOSE_TIMEOUT_MS", value_name = "MS")]
    pub(crate) close_timeout_ms: Option<u64>,

    /// The directory for documents, journal and bucket, unless other places are given for them.
    /// Created if it does not exist. [default: audit-data]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// The destination of audit logs: s3://bucket/prefix, gs://bucket/prefix,
    /// az://container/prefix, file:///path, or `none`, which checks and discards them. Credentials
    /// and regions come from the provider's usual environment variables. [default: the directory
    /// `bucket` in the data directory]
    #[arg(long, env = "AUDIT_BUCKET", value_name = "URL")]
    pub(crate) bucket: Option<String>,

    /// The directory of the journal, where logs become durable before they are delivered to the
    /// bucket; or `none`, in which case each call waits for the bucket itself. [default: the
    /// directory `journal` in the data directory]
    #[arg(long, env = "AUDIT_JOURNAL", value_name = "DIR")]
    pub(crate) journal: Option<String>,

    /// A file of log streams that also receive the audit logs, with a table `[[log_stream]]` for
    /// each. With `bucket` set to `none`, only they do. The settings file may have these tables
    /// too.
    #[arg(long, env = "AUDIT_LOG_STREAMS", value_name = "FILE")]
    pub(crate) log_streams: Option<PathBuf>,

    /// For development: the URL of a log stream that receives the audit logs, as webhook events
    /// without a signature. Unless `bucket` is set, it takes the bucket's place. It may be an http://
    /// address of this machine. [default: none]
    #[arg(long, env = "AUDIT_DEV_LOG_STREAM", value_name = "URL", hide_env_values = true)]
    pub(crate) dev_log_stream: Option<String>,

    /// The name under which the host signs audit logs, so that outsiders can verify the bucket with
    /// the public key shown at the start; or `off`. [default: functions-host]
    #[arg(long, env = "AUDIT_EVIDENCE", value_name = "NAME")]
    pub(crate) evidence: Option<String>,

    /// The file of the private key for signing, created if it does not exist. [default: the text in
    /// AUDIT_EVIDENCE_KEY if that is set, or `evidence.key` in the data directory]
    #[arg(long, env = "AUDIT_EVIDENCE_KEY_FILE", value_name = "FILE")]
    pub(crate) evidence_key: Option<PathBuf>,

    /// The witnesses that cosign the evidence: of each its URL and its verifier key, separated by
    /// spaces or commas, with a third word `private` if its address may be private. [default: none]
    #[arg(long, env = "AUDIT_WITNESSES", value_name = "URL KEY")]
    pub(crate) witnesses: Option<String>,

    /// Networks of proxies whose X-Forwarded-For and X-Request-Id are trusted, for example
    /// 10.0.0.0/8. [default: none]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "NETWORKS")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) trusted_proxies: Option<TrustedProxies>,

    /// The header in which trusted proxies give the client's address: X-Forwarded-For, Forwarded
    /// (RFC 7239), or another that holds an address, such as X-Real-IP. Other headers are ignored.
    /// [default: x-forwarded-for]
    #[arg(long, env = "CLIENT_ADDRESS_HEADER", value_name = "HEADER", value_parser = header)]
    #[serde(deserialize_with = "header_text")]
    pub(crate) client_address_header: Option<ClientAddressHeader>,

    /// With a journal: how late a log may arrive at its destination, in milliseconds. [default:
    /// 5000 for a bucket, 200 for a log stream]
    #[arg(long, env = "AUDIT_CUT_AFTER_MS", value_name = "MS")]
    pub(crate) cut_after_ms: Option<u64>,

    /// Without a journal: how long a log waits for others to share an object with, in milliseconds.
    /// [default: 50 for a bucket that charges for each request, 0 for a directory]
    #[arg(long, env = "AUDIT_LINGER_MS", value_name = "MS")]
    pub(crate) linger_ms: Option<u64>,

    /// How long a call waits for its logs to be durable before it fails, in milliseconds. [default:
    /// 10000]
    #[arg(long, env = "AUDIT_PERSIST_TIMEOUT_MS", value_name = "MS")]
    pub(crate) persist_timeout_ms: Option<u64>,

    /// How objects are compressed. [default: zstd]
    #[arg(long, env = "AUDIT_COMPRESSION", value_name = "KIND")]
    pub(crate) compression: Option<CompressionName>,

    /// Add the function and execution that emitted it to each log. [default: false]
    #[arg(long, env = "AUDIT_PROVENANCE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) provenance: Option<bool>,

    /// Record the outcome of each attempt at a mutation: committed, conflict, rolled back or
    /// failed. Implies --provenance. [default: false]
    #[arg(long, env = "AUDIT_OUTCOMES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) outcomes: Option<bool>,

    /// How long the JavaScript of a query or mutation may run, in milliseconds. [default: 1000]
    #[arg(long, env = "FUNCTION_TIMEOUT_MS", value_name = "MS")]
    pub(crate) function_timeout_ms: Option<u64>,

    /// How long the JavaScript of an action may run, in milliseconds. [default: 600000]
    #[arg(long, env = "ACTION_TIMEOUT_MS", value_name = "MS")]
    pub(crate) action_timeout_ms: Option<u64>,

    /// How much memory one function may take, in MiB. [default: 64]
    #[arg(long, env = "FUNCTION_MEMORY_MIB", value_name = "MIB")]
    pub(crate) function_memory_mib: Option<usize>,

    /// How much memory the cache of query results may take, with their arguments and sealed logs,
    /// in MiB. The least recently used are evicted first; 0 disables the cache. [default: 256]
    #[arg(long, env = "QUERY_CACHE_MIB", value_name = "MIB")]
    pub(crate) query_cache_mib: Option<usize>,

    /// How much disk space the store leaves free, in MiB. With less, mutations are answered 503,
    /// without effect, until there is space again. With 0, a full disk stops the store until a
    /// restart. [default: 256]
    #[arg(long, env = "STORE_RESERVE_MIB", value_name = "MIB")]
    pub(crate) store_reserve_mib: Option<u64>,

    /// How long `fetch` waits for a response to begin, and for each further part of its body, in
    /// milliseconds. [default: 300000]
    #[arg(long, env = "FETCH_TIMEOUT_MS", value_name = "MS")]
    pub(crate) fetch_timeout_ms: Option<u64>,

    /// The largest request body that `fetch` may send, in MiB. [default: 20]
    #[arg(long, env = "FETCH_REQUEST_MIB", value_name = "MIB")]
    pub(crate) fetch_request_mib: Option<usize>,

    /// The largest response body that `fetch` accepts, decompressed, in MiB. [default: 64]
    #[arg(long, env = "FETCH_RESPONSE_MIB", value_name = "MIB")]
    pub(crate) fetch_response_mib: Option<usize>,

    /// How much memory all fetches together may take, in MiB. Each takes 1 MiB and its request
    /// body; one action may take a quarter. Further fetches wait. [default: 128]
    #[arg(long, env = "FETCH_MEMORY_MIB", value_name = "MIB")]
    pub(crate) fetch_memory_mib: Option<usize>,

    /// Networks that functions may fetch from although they are not public, for example 10.0.0.0/8.
    /// [default: none]
    #[arg(long, env = "FETCH_NETWORKS", value_name = "NETWORKS")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) fetch_networks: Option<FetchNetworks>,

    /// A proxy for `fetch`, which then resolves names: http://proxy:3128. The variables HTTP_PROXY
    /// and HTTPS_PROXY are ignored. [default: none]
    #[arg(long, env = "FETCH_PROXY", value_name = "URL")]
    pub(crate) fetch_proxy: Option<String>,

    /// How much memory the engines that threads keep ready for calls may take, in MiB: about 1 for
    /// each module and thread. With 0, each call starts an engine, which takes several times as
    /// long as a short function. [default: 64]
    #[arg(long, env = "KEPT_ENGINES_MIB", value_name = "MIB")]
    pub(crate) kept_engines_mib: Option<usize>,

    /// Shut down, with the exit code 4, when audit logs cannot be made durable before a restart, as
    /// after a failed sync of the journal, or when the store accepts no changes before one. For use
    /// with a supervisor that restarts the host. [default: false]
    #[arg(long, env = "AUDIT_EXIT_WHEN_STOPPED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) exit_when_stopped: Option<bool>,

    /// The name of the deployment in its metadata for functions. [default: local]
    #[arg(long, env = "DEPLOYMENT_NAME", value_name = "NAME")]
    pub(crate) deployment_name: Option<String>,

    /// The region of the deployment in that metadata, such as aws-us-east-1. [default: null]
    #[arg(long, env = "DEPLOYMENT_REGION", value_name = "REGION")]
    pub(crate) deployment_region: Option<String>,

    /// The class of the deployment in that metadata. [default: s16]
    #[arg(long, env = "DEPLOYMENT_CLASS", value_name = "CLASS")]
    pub(crate) deployment_class: Option<DeploymentClass>,

    /// A variable that functions find in process.env. May be given more than once. Other users of
    /// the same computer can see the command line: put secrets into the file instead.
    #[arg(long, value_name = "NAME=VALUE")]
    #[serde(skip)]
    pub(crate) env: Vec<EnvVar>,

    /// The file's table `env`.
    #[arg(skip)]
    #[serde(rename = "env", deserialize_with = "env_table")]
    pub(crate) env_table: Vec<EnvVar>,

    /// Issuers whose tokens are accepted.
    #[arg(skip)]
    pub(crate) auth: Vec<AuthSettings>,

    /// Log streams, besides those in the file that `log_streams` names.
    #[arg(skip)]
    pub(crate) log_stream: Vec<audit_sink_http::Settings>,
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    text.parse()
}

fn header(text: &str) -> Result<ClientAddressHeader, String> {
    text.parse().map_err(|_| "the name of a header is expected, such as forwarded".to_owned())
}

fn header_text<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<ClientAddressHeader>, D::Error> {
    header(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// The error of each of these types says what to write, and shows nothing that may be a misplaced
/// secret.
fn parsed<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from).map_err(|_| {
        D::Error::custom("an address with a port is expected as a string: \"127.0.0.1:3210\"")
    })?;
    listen_address(&text).map(Some).map_err(D::Error::custom)
}

fn env_table<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<EnvVar>, D::Error> {
    let table = BTreeMap::<String, String>::deserialize(from)?;
    table.iter().map(|(name, value)| EnvVar::new(name, value).map_err(D::Error::custom)).collect()
}

/// How objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum CompressionName {
    Zstd,
    Gzip,
    None,
}

impl Options {
    /// These options, with unset ones taken from `other`.
    pub(super) fn or(self, other: Options) -> Options {
        macro_rules! or {
            ($($option:ident),+, ; $($rest:tt)+) => {
                Options { $($option: self.$option.or(other.$option),)+ $($rest)+ }
            };
        }
        let mut env_table = other.env_table;
        env_table.extend(other.env);
        env_table.extend(self.env_table);
        or! {
            listen, operators_listen, site_listen, log_format, traces, show_logs,
            request_memory_mib, max_request_values, max_connections,
            max_connections_per_address, header_timeout_ms, body_timeout_ms,
            first_message_timeout_ms, idle_timeout_ms, send_timeout_ms, min_send_rate,
            drain_timeout_ms, close_timeout_ms, data_dir, bucket, journal, log_streams,
            dev_log_stream, evidence, evidence_key, witnesses, trusted_proxies, client_address_header,
            cut_after_ms, linger_ms, persist_timeout_ms, compression, exit_when_stopped,
            provenance, outcomes, function_timeout_ms, action_timeout_ms,
            function_memory_mib, query_cache_mib, store_reserve_mib, fetch_timeout_ms,
            fetch_request_mib, fetch_response_mib, fetch_memory_mib, fetch_networks,
            fetch_proxy, kept_engines_mib, deployment_name, deployment_region,
            deployment_class,
            ;
            env: self.env,
            env_table,
            log_stream: other.log_stream,
            auth: if self.auth.is_empty() { other.auth } else { self.auth },
        }
    }
}
