//! The command line of `functions-host`.

use std::ffi::OsString;
use std::path::PathBuf;

use audit_host::{Sources, naming_variables};
use audit_sink_s3::EvidenceSettings;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::Options;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "functions-host", version = audit_host::VERSION, about = ABOUT, after_help = AFTER_HELP)]
pub(crate) struct CommandLine {
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const ABOUT: &str = "A host for JavaScript and TypeScript functions whose reads and writes are audited: no result is handed out \
    and no change commits before its audit logs are durable.";

const AFTER_HELP: &str = "Begin with `functions-host demo`. Then `functions-host serve convex` serves the functions in the directory \
    `convex` on http://127.0.0.1:3210, to which ConvexHttpClient, ConvexClient and curl can talk:\n\n  \
    curl http://127.0.0.1:3210/api/query -d '{\"path\":\"messages:list\",\"args\":{}}'";

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run clients against a host of its own and show from its audit logs that each promise holds
    Demo,
    /// Serve the functions in a directory, over HTTP and WebSocket, until stopped
    Serve(Box<Serve>),
}

/// The command `serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_AFTER_HELP, next_line_help = true)]
pub(crate) struct Serve {
    /// The directory of the functions: .ts and .js files, schema.ts, crons.ts, convex.config.ts.
    /// Read again when it changes
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// A file with settings. [default: functions-host.toml in the current directory, if it exists]
    #[arg(long, value_name = "FILE", env = "FUNCTIONS_HOST_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Check everything that a start depends on (functions, addresses, bucket, journal, keys, log
    /// streams, store), print a line for each, and exit, with the code 1 if a start would fail
    #[arg(long)]
    pub(crate) check: bool,

    /// Print all settings as a settings file, each with its source, and exit. Secrets are not shown
    #[arg(long, conflicts_with = "check")]
    pub(crate) print_config: bool,

    /// Stop when standard input ends: the process that has its other end is gone
    #[arg(long, hide = true)]
    pub(crate) until_input_ends: bool,

    /// The sources of the flags and variables below.
    #[arg(skip)]
    pub(super) sources: Sources,

    /// Further settings.
    #[command(flatten)]
    pub(crate) options: Options,
}

const SERVE_AFTER_HELP: &str = "\
The file has the same settings, with `_` for `-`, and those too long or too secret for a command line. Flags override the environment,
the environment overrides the file. Paths in the file are relative to it.

  listen = \"0.0.0.0:3210\"
  bucket = \"s3://my-audit-logs/production\"
  trusted_proxies = \"10.0.0.0/8\"

  [env]                               # process.env of functions
  MAIL_KEY = \"...\"

  [[auth]]                            # an issuer whose tokens are accepted; may be repeated
  issuer = \"https://auth.example.com\"
  audience = \"my-app\"
  jwks = \"jwks.json\"                  # or public_key = \"key.pem\", or secret_file = \"hs256.secret\"";

impl CommandLine {
    /// Parses a command line. Errors and help never show values, which may be secrets.
    ///
    /// # Errors
    ///
    /// If it is invalid or requests help.
    pub(crate) fn read(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<CommandLine, clap::Error> {
        let hide =
            |command: clap::Command| command.mut_args(|argument| argument.hide_env_values(true));
        let command = CommandLine::command().mut_subcommand("serve", hide);
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let matches = command
            .clone()
            .try_get_matches_from(&arguments)
            .map_err(|error| without_values(naming_variables(error, &command, &arguments)))?;
        let mut line = CommandLine::from_arg_matches(&matches).map_err(without_values)?;
        if let (Command::Serve(serve), Some(matches)) =
            (&mut line.command, matches.subcommand_matches("serve"))
        {
            serve.sources = Sources::of(&CommandLine::serve(), matches);
        }
        Ok(line)
    }

    /// The command `serve`, with all its settings.
    pub(super) fn serve() -> clap::Command {
        let command = CommandLine::command();
        command.find_subcommand("serve").expect("it is one of the commands").clone()
    }

    /// The environment variables that are read.
    pub(crate) fn variables() -> Vec<OsString> {
        let serve = CommandLine::serve();
        let variables = serve.get_arguments().filter_map(clap::Arg::get_env);
        let key = EvidenceSettings::KEY_VARIABLE.into();
        variables.map(ToOwned::to_owned).chain([key]).collect()
    }
}

fn without_values(mut error: clap::Error) -> clap::Error {
    let hidden = || ContextValue::String("…".to_owned());
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if error.get(kind).is_some() {
            error.insert(kind, hidden());
        }
    }
    // Names begin with a dash or `<`; anything else may be a value.
    let is_name = |value: &ContextValue| matches!(value, ContextValue::String(name) if name.starts_with('-') || name.starts_with('<'));
    if error
        .get(ContextKind::InvalidArg)
        .is_some_and(|argument| matches!(argument, ContextValue::String(_)) && !is_name(argument))
    {
        error.insert(ContextKind::InvalidArg, hidden());
    }
    error
}
