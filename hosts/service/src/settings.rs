//! Settings from flags, the environment and a file.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use audit_host::{
    AuditLogSettings, Destinations, FairLimits, LogFormat, LogStreamsFile, Output, RoutesFile,
    ServeLimits, SettingsError, Sources, file_url, listen_address, parse_with_file, settings_file,
    without_secrets,
};
use audit_runtime::http::{ClientAddressHeader, TrustedProxies};
use audit_sink_s3::{Compression, EvidenceSettings};
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser};
use serde_json::{Value as Json, json};

/// The default settings file, read if it exists.
const DEFAULT_FILE: &str = "audit-service.toml";

/// The settings that are paths. In a settings file they are relative to it.
const PATHS: [&str; 5] = ["data_dir", "evidence_key", "journal", "log_streams", "routes"];

/// A web service whose reads and writes are audited: no document is shown and no change commits
/// before its audit log is in the bucket.
#[derive(Parser)]
#[command(name = "audit-service", version = audit_host::VERSION)]
pub(crate) struct Settings {
    /// A TOML file with settings, named like the flags with `_` instead of `-`. Flags override the
    /// environment, the environment overrides the file. Paths in the file are relative to it.
    /// [default: audit-service.toml in the current directory, if it exists]
    #[arg(long, env = "AUDIT_SERVICE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Check what a start needs (addresses, bucket, journal, keys, log streams, database), print a
    /// line for each check, and exit, with code 1 if a start would fail.
    #[arg(long)]
    pub(crate) check: bool,

    /// Print all settings as a settings file, each with its source, and exit. Secrets are not
    /// shown.
    #[arg(long, conflicts_with = "check")]
    pub(crate) print_config: bool,

    /// The format of the service's own log on standard error: text or JSON.
    #[arg(long, env = "LOG_FORMAT", value_parser = LogFormat::NAMES, default_value = "text")]
    log_format: String,

    /// The URL of an OpenTelemetry collector for traces (OTLP over HTTP), such as
    /// http://127.0.0.1:4318/v1/traces. [default: no traces]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value_name = "URL",
        hide_env_values = true
    )]
    traces: Option<String>,

    /// The address to listen on. Port 0 selects a free port.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,

    /// The address for operators, where /livez, /readyz and /healthz give reasons; or `none`. At
    /// --listen, clients learn only whether the service is ready.
    #[arg(long, env = "OPERATORS_LISTEN", default_value = "127.0.0.1:8081")]
    pub(crate) operators_listen: String,

    /// The directory for the database and the bucket, unless they are set elsewhere. Created if it
    /// does not exist.
    #[arg(long, env = "DATA_DIR", default_value = "audit-data")]
    pub(crate) data_dir: PathBuf,

    /// The destination of audit logs: s3://bucket/prefix, gs://bucket/prefix,
    /// az://container/prefix, file:///path, or `none`. Credentials and regions come from the
    /// provider's usual environment variables. [default: the directory `bucket` in the data
    /// directory]
    #[arg(long, env = "AUDIT_BUCKET")]
    pub(crate) bucket: Option<String>,

    /// The directory of the journal, which makes logs durable before they are delivered to the
    /// bucket; or `none`, so that each request waits for the bucket itself. [default: the directory
    /// `journal` in the data directory]
    #[arg(long, env = "AUDIT_JOURNAL")]
    pub(crate) journal: Option<String>,

    /// A file with log streams that also receive the audit logs, with a table `[[log_stream]]` for
    /// each. With `--bucket none`, logs go only there.
    #[arg(long, env = "AUDIT_LOG_STREAMS", value_name = "FILE")]
    pub(crate) log_streams: Option<PathBuf>,

    /// For development: the URL of a log stream that receives the audit logs, as webhook events
    /// without a signature. Unless `--bucket` is set, it takes the bucket's place. It may be an http://
    /// address of this machine. [default: none]
    #[arg(long, env = "AUDIT_DEV_LOG_STREAM", value_name = "URL", hide_env_values = true)]
    pub(crate) dev_log_stream: Option<String>,

    /// A file with tenants whose audit logs go to places of their own: a table `[[route]]` with the
    /// name and the bucket of each, and a table `[[route.log_stream]]` for each log stream that
    /// also gets its logs, or without a bucket alone gets them. A trusted proxy must then name the
    /// tenant of each request in X-Tenant. It needs a journal.
    #[arg(long, env = "AUDIT_ROUTES", value_name = "FILE")]
    pub(crate) routes: Option<PathBuf>,

    /// The name under which the host signs its logs, so that anybody can verify the bucket with the
    /// public key that is printed at start; or `off`.
    #[arg(long, env = "AUDIT_EVIDENCE", value_name = "NAME", default_value = "audit-service")]
    pub(crate) evidence: String,

    /// The file of the private key for signing; created if it does not exist. [default: the text in
    /// AUDIT_EVIDENCE_KEY if that is set, or `evidence.key` in the data directory]
    #[arg(long, env = "AUDIT_EVIDENCE_KEY_FILE", value_name = "FILE")]
    pub(crate) evidence_key: Option<PathBuf>,

    /// The witnesses that cosign the evidence: of each its URL and its verifier key, separated by
    /// spaces or commas, with a third word `private` if its address may be private. [default: none]
    #[arg(long, env = "AUDIT_WITNESSES", value_name = "URL KEY")]
    pub(crate) witnesses: Option<String>,

    /// The database of the documents: postgres://user@host/database or sqlite://path?mode=rwc.
    /// [default: `documents.db` in the data directory]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,

    /// The networks of trusted proxies, for example 10.0.0.0/8. Their headers set the client's
    /// address, the request id (X-Request-Id) and the user (X-User), and they must set these
    /// headers in every request.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "")]
    pub(crate) trusted_proxies: TrustedProxies,

    /// The header in which proxies pass the client's address: X-Forwarded-For, Forwarded (RFC
    /// 7239), or another that holds an address, such as X-Real-IP. All other headers are ignored.
    #[arg(long, env = "CLIENT_ADDRESS_HEADER", default_value = "x-forwarded-for")]
    pub(crate) client_address_header: ClientAddressHeader,

    /// Without a journal: how long a log waits for others to share an object with, in milliseconds.
    /// [default: 50 for a bucket that charges for each request, 0 for a directory]
    #[arg(long, env = "AUDIT_LINGER_MS")]
    pub(crate) linger_ms: Option<u64>,

    /// With a journal: the maximum delay before a log is sent to its destination, in milliseconds.
    /// [default: 5000 for a bucket, 200 for a log stream]
    #[arg(long, env = "AUDIT_CUT_AFTER_MS", value_parser = milliseconds())]
    pub(crate) cut_after_ms: Option<u64>,

    /// How long a request waits for its logs to be durable before it fails, in milliseconds.
    #[arg(long, env = "AUDIT_PERSIST_TIMEOUT_MS", default_value_t = 10_000, value_parser = milliseconds())]
    pub(crate) persist_timeout_ms: u64,

    /// The compression of objects.
    #[arg(long, env = "AUDIT_COMPRESSION", value_parser = ["zstd", "gzip", "none"], default_value = "zstd")]
    pub(crate) compression: String,

    /// Adds provenance to each log: the execution and the function that it comes from.
    #[arg(long, env = "AUDIT_PROVENANCE")]
    pub(crate) provenance: bool,

    /// Records the outcome of each attempt at a change: committed, conflict, rolled back, failed.
    /// The record follows the effect within a second; a missing one means that the outcome is
    /// unknown. Enables --provenance.
    #[arg(long, env = "AUDIT_OUTCOMES")]
    pub(crate) outcomes: bool,

    /// Prints each log to standard output once it is durable. [default: only on a terminal, since
    /// logs hold personal data]
    #[arg(long, env = "AUDIT_SHOW_LOGS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) show_logs: Option<bool>,

    /// How long a connection may take for its first request's header, in milliseconds.
    #[arg(long, env = "HEADER_TIMEOUT_MS", default_value_t = 10_000, value_parser = milliseconds())]
    pub(crate) header_timeout_ms: u64,

    /// How long a connection stays open without a request, in milliseconds. It should be longer
    /// than a load balancer in front keeps idle connections.
    #[arg(long, env = "IDLE_TIMEOUT_MS", default_value_t = 75_000, value_parser = milliseconds())]
    pub(crate) idle_timeout_ms: u64,

    /// How long a request may take, including its body, in milliseconds.
    #[arg(long, env = "REQUEST_TIMEOUT_MS", default_value_t = 30_000, value_parser = milliseconds())]
    pub(crate) request_timeout_ms: u64,

    /// How much memory all requests together may take, in MiB, from the first byte of a body until
    /// the response is sent. Beyond it, the client that holds the most is cut off.
    #[arg(long, env = "REQUEST_MEMORY_MIB", default_value_t = 128, value_parser = request_memory())]
    pub(crate) request_memory_mib: usize,

    /// How many requests may use the database at once. Further ones wait for a turn of their
    /// client. One more may if its client was idle, so that it waits for nobody's long request;
    /// SQLite makes one change at a time. [default: the number of processors for SQLite, at least
    /// 2, and 8 for PostgreSQL]
    #[arg(long, env = "REQUESTS_AT_ONCE", value_parser = at_once())]
    pub(crate) requests_at_once: Option<usize>,

    /// How many requests of one client, an address or a tenant, may wait for their turn; further
    /// ones are answered 429. The default is the number of connections of one address.
    #[arg(long, env = "MAX_WAITING_REQUESTS_PER_CLIENT", default_value_t = 256, value_parser = waiting())]
    pub(crate) max_waiting_requests_per_client: usize,

    /// How many requests may wait for their turn. Beyond it, a request of the client with the most
    /// is answered 503.
    #[arg(long, env = "MAX_WAITING_REQUESTS", default_value_t = 1_024, value_parser = waiting())]
    pub(crate) max_waiting_requests: usize,

    /// The maximum number of connections; further ones are answered 503. [default: the limit of
    /// open files minus 256 (or half of it), which are reserved for the journal, the bucket and the
    /// database]
    #[arg(long, env = "MAX_CONNECTIONS", value_parser = connections())]
    pub(crate) max_connections: Option<usize>,

    /// The maximum number of connections from one address (for IPv6, one /64), except trusted
    /// proxies; further ones are answered 429.
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 256, value_parser = connections())]
    pub(crate) max_connections_per_address: usize,

    /// How long a client may receive more slowly than --min-send-rate, in milliseconds.
    #[arg(long, env = "SEND_TIMEOUT_MS", default_value_t = 30_000, value_parser = milliseconds())]
    pub(crate) send_timeout_ms: u64,

    /// The minimum average rate at which a client must receive, in bytes a second.
    #[arg(long, env = "MIN_SEND_RATE", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) min_send_rate: u32,

    /// How long requests have to be answered once the service is told to stop, in milliseconds.
    #[arg(long, env = "DRAIN_TIMEOUT_MS", default_value_t = 10_000, value_parser = milliseconds())]
    pub(crate) drain_timeout_ms: u64,

    /// How long logs then have to reach the bucket before the process ends, in milliseconds.
    #[arg(long, env = "CLOSE_TIMEOUT_MS", default_value_t = 15_000, value_parser = milliseconds())]
    pub(crate) close_timeout_ms: u64,

    /// Ends the process in order, with exit code 4, when only a restart can make audit logs durable
    /// again, as after a failed sync of the journal. For a supervisor that restarts it.
    #[arg(long, env = "AUDIT_EXIT_WHEN_STOPPED", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true)]
    pub(crate) exit_when_stopped: bool,
}

impl Settings {
    pub(crate) fn read() -> Result<(Settings, Sources), SettingsError> {
        let file = |matches: &clap::ArgMatches| {
            settings_file(matches.get_one::<PathBuf>("config").cloned(), DEFAULT_FILE)
        };
        let (matches, sources) =
            parse_with_file(&Settings::command(), std::env::args_os(), file, &PATHS)?;
        Ok((Settings::from_arg_matches(&matches)?, sources))
    }

    /// Prints all settings, including defaults that depend on other settings.
    pub(crate) fn print(&self, sources: &Sources, out: &Output) -> Result<(), Box<dyn Error>> {
        let destinations = self.destinations()?;
        let bucket = destinations.bucket.as_ref();
        let journal = bucket.and_then(|(_, settings)| settings.journal.as_ref());
        let shown_path = |path: Option<&Path>| path.map_or(Json::Null, |path| json!(path));
        let evidence = bucket.and_then(|(_, settings)| settings.evidence.as_ref());
        let key = evidence.and_then(|evidence| evidence.key_file.as_deref());
        let computed = |name: &str| match name {
            "bucket" => Some(json!(bucket.map_or("none".into(), |(url, _)| without_secrets(url)))),
            "journal" => Some(match destinations.journal() {
                Some(directory) => json!(directory),
                None => json!("none"),
            }),
            "evidence_key" => Some(shown_path(key)),
            "witnesses" => Some(json!(evidence.and_then(EvidenceSettings::witnesses_text))),
            "database_url" => Some(json!(without_secrets(&self.database_url().ok()?))),
            "dev_log_stream" => Some(json!(self.dev_log_stream.as_deref().map(without_secrets))),
            "traces" => Some(json!(self.traces().map(without_secrets))),
            "requests_at_once" => Some(json!(self.requests_at_once())),
            "linger_ms" => bucket.map(|(_, settings)| json!(settings.linger_ms)),
            "cut_after_ms" => journal.map(|journal| json!(journal.cut_after_ms)),
            _ => None,
        };
        let command = Settings::command();
        let settings = sources.settings(&command).into_iter();
        let settings = settings.filter(|(name, _)| *name != "config");
        sources.print(settings.map(|(name, value)| (name, computed(name).unwrap_or(value))), out);
        for route in &destinations.routes {
            let shown = format!("# route {} to {}", route.name, route.shown());
            out.line(&format!("{shown:<60} # routes"));
        }
        Ok(())
    }

    /// The URL of the trace collector. In OpenTelemetry, an empty variable is not set.
    pub(crate) fn traces(&self) -> Option<&str> {
        self.traces.as_deref().filter(|url| !url.is_empty())
    }

    /// The format of the service's own log.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.log_format.parse().unwrap_or_default()
    }

    pub(crate) fn destinations(&self) -> Result<Destinations, Box<dyn Error>> {
        let log = AuditLogSettings {
            data_dir: &self.data_dir,
            bucket: self.bucket.as_deref(),
            dev_log_stream: self.dev_log_stream.as_deref(),
            journal: self.journal.as_deref(),
            cut_after_ms: self.cut_after_ms,
            linger_ms: self.linger_ms,
            persist_timeout_ms: self.persist_timeout_ms,
            compression: match self.compression.as_str() {
                "zstd" => Compression::Zstd,
                "gzip" => Compression::Gzip,
                _ => Compression::None,
            },
            evidence: &self.evidence,
            evidence_key: self.evidence_key.as_deref(),
            witnesses: self.witnesses.as_deref(),
        };
        let LogStreamsFile { mut log_stream } = match &self.log_streams {
            None => LogStreamsFile::default(),
            Some(file) => LogStreamsFile::read(file)?,
        };
        log_stream.extend(log.dev_log_stream());
        let RoutesFile { route: routes } = match &self.routes {
            None => RoutesFile::default(),
            Some(file) => RoutesFile::read(file)?,
        };
        let destinations =
            log.destinations()?.with_routes(routes, self.persist_timeout_ms, &self.data_dir);
        Ok(destinations.with_log_streams(
            log_stream,
            log.journal(),
            self.cut_after_ms,
            self.persist_timeout_ms,
            &self.data_dir,
        ))
    }

    pub(crate) fn operators_listen(&self) -> Result<Option<SocketAddr>, Box<dyn Error>> {
        match self.operators_listen.as_str() {
            "none" => Ok(None),
            address => {
                let address = listen_address(address);
                Ok(Some(address.map_err(|why| format!("--operators-listen: {why}, or `none`"))?))
            }
        }
    }

    pub(crate) fn limits(&self) -> ServeLimits {
        ServeLimits {
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            send_timeout: Duration::from_millis(self.send_timeout_ms),
            min_send_rate: self.min_send_rate,
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
        }
    }

    /// SQLite computes in this process: with more requests at once than processors, each of them,
    /// and whatever else the process does, would only take longer. Requests to a server wait for
    /// the network.
    fn requests_at_once(&self) -> usize {
        let is_server = self.database_url.as_deref().is_some_and(|url| !url.starts_with("sqlite:"));
        let processors = || std::thread::available_parallelism().map_or(2, usize::from);
        self.requests_at_once.unwrap_or_else(|| if is_server { 8 } else { processors().max(2) })
    }

    /// The limits of requests that use the database.
    pub(crate) fn turns(&self) -> FairLimits {
        FairLimits {
            permits: self.requests_at_once(),
            has_prompt_permit: true,
            max_waiting_of_client: self.max_waiting_requests_per_client,
            max_waiting: self.max_waiting_requests,
        }
    }

    /// The file of the database, if SQLite may create it.
    pub(crate) fn database_file(&self) -> Option<PathBuf> {
        match &self.database_url {
            Some(url) => {
                let file = url.strip_prefix("sqlite://")?.strip_suffix("?mode=rwc")?;
                Some(PathBuf::from(file))
            }
            None => Some(self.data_dir.join("documents.db")),
        }
    }

    pub(crate) fn database_url(&self) -> Result<String, Box<dyn Error>> {
        match &self.database_url {
            Some(url) => Ok(url.clone()),
            None => {
                let file = file_url(&self.data_dir.join("documents.db"))?;
                Ok(format!("{}?mode=rwc", file.replacen("file:", "sqlite:", 1)))
            }
        }
    }
}

/// At most a day: a larger number is a mistake, such as one in microseconds.
fn milliseconds() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=24 * 60 * 60 * 1_000)
}

fn connections() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=u64::from(u32::MAX)).try_map(usize::try_from)
}

/// Each request takes a connection to the database, and a file descriptor.
fn at_once() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=1_024).try_map(usize::try_from)
}

fn waiting() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=1 << 20).try_map(usize::try_from)
}

/// In MiB: from what the largest request takes to more than any host has.
fn request_memory() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(4..=1 << 20).try_map(usize::try_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard library's messages about numbers and addresses, which do not help alone.
    const BARE: [&str; 3] = ["invalid digit found", "invalid socket address", "too large to fit"];

    #[test]
    fn an_error_about_any_setting_says_what_is_expected() {
        let command = Settings::command();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("set.toml");
        let mut numbers = 0;
        for setting in command.get_arguments().filter(|setting| setting.get_env().is_some()) {
            let (id, long) = (setting.get_id().as_str(), setting.get_long().unwrap());
            for value in ["10x", "hunter2", "-1", "99999999999999999999"] {
                std::fs::write(&file, format!("{id} = \"{value}\"\n")).unwrap();
                let read = |_: &clap::ArgMatches| Some(file.clone());
                let in_file = parse_with_file(&command, ["x".into()], read, &PATHS);
                if let Err(SettingsError::File(why)) = in_file {
                    let says = ["expected", "must be one of", "must be true or false", ": "];
                    assert!(says.iter().any(|part| why.contains(part)), "{why}");
                    let is_bare = why.ends_with("its value is invalid");
                    assert!(!is_bare && !BARE.iter().any(|bare| why.contains(bare)), "{why}");
                    assert!(!why.contains("hunter2"), "{why}");
                    assert!(
                        !why.contains("whole number")
                            || why.contains(value) != (value == "hunter2"),
                        "{why}"
                    );
                    numbers += usize::from(why.contains("whole number"));
                }
                let given = ["x".into(), format!("--{long}={value}").into()];
                if let Err(SettingsError::CommandLine(error)) =
                    parse_with_file(&command, given, |_| None, &PATHS)
                {
                    let why = error.to_string();
                    let is_bare = BARE.iter().any(|bare| why.contains(bare));
                    assert!(!is_bare || why.contains("it must be"), "{why}");
                }
            }
        }
        assert!(numbers > 40, "{numbers}");
    }
}
