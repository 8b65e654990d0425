//! Settings from flags, the environment and a file, and the source of each.

mod address;
mod command_line;
mod expected;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

pub use self::address::listen_address;
pub use self::command_line::{SettingsError, naming_variables, parse_with_file, print_usage};
use crate::{Output, read_text};

/// The source of a setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The default: it was not set.
    Default,
    /// A settings file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(variable) => write!(f, "environment {variable}"),
            Source::Flag => f.write_str("flag"),
        }
    }
}

/// Reads a file of tables. `what` names it in errors, as in "the file of log streams".
///
/// # Errors
///
/// If the file cannot be read, or a setting is unknown or invalid. The error names the line, but
/// neither the file nor a value, which may be a misplaced secret.
pub(crate) fn read_tables<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T, String> {
    let text = read_text(path).map_err(|error| format!("{what} cannot be read: {error}"))?;
    toml::from_str(&text).map_err(|error| {
        let begin = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..begin].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = error.message();
        let is_safe = ["unknown field", "missing field", "duplicate key", "a secret is given"]
            .iter()
            .any(|safe| message.starts_with(safe));
        let message = if is_safe { message } else { "it is invalid" };
        let why = what_is_expected(&error).unwrap_or_else(|| message.to_owned());
        format!("{what}, line {line}: {why}")
    })
}

/// Says what an invalid value of a settings file should be. The value is not shown, since it may be
/// a misplaced secret. `None` for errors that are not about a value.
pub fn what_is_expected(error: &toml::de::Error) -> Option<String> {
    let message = error.message();
    let kinds = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    let expected = match message.rsplit_once(", expected ") {
        // TOML's message for a value that cannot be the name of a variant.
        _ if message.starts_with("wanted ") => Some("a string"),
        _ if !kinds.iter().any(|kind| message.starts_with(kind)) => return None,
        Some((_, "usize" | "u64")) => Some("a whole number from 0 on"),
        Some((_, "u32")) => Some("a whole number from 0 to 4294967295"),
        Some((_, "path string")) => Some("a path as a string"),
        Some((_, other)) => Some(other),
        None => None,
    };
    let expected = expected.map(|expected| format!(", expected {expected}"));
    Some(format!("a value is invalid{}", expected.unwrap_or_default()))
}

/// The sources of all settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    set: BTreeMap<String, Source>,
    /// The values of settings that have one, as given.
    given: BTreeMap<String, String>,
}

impl Sources {
    /// The sources of this command's matched arguments.
    pub fn of(command: &Command, matches: &ArgMatches) -> Sources {
        let source = |argument: &clap::Arg| {
            let id = argument.get_id().as_str();
            match matches.value_source(id)? {
                ValueSource::CommandLine => Some(Source::Flag),
                ValueSource::EnvVariable => {
                    let variable = argument.get_env().unwrap_or_default();
                    Some(Source::Environment(variable.to_string_lossy().into_owned()))
                }
                ValueSource::DefaultValue | _ => None,
            }
        };
        let set = command.get_arguments().filter_map(|argument| {
            Some((argument.get_id().as_str().to_owned(), source(argument)?))
        });
        let given = command.get_arguments().filter_map(|argument| {
            let id = argument.get_id().as_str();
            // Arguments that are not settings have no variable.
            argument.get_env()?;
            let value = matches.get_raw(id)?.next()?.to_string_lossy().into_owned();
            Some((id.to_owned(), value))
        });
        Sources { set: set.collect(), given: given.collect() }
    }

    /// All settings of a command as given, or null.
    pub fn settings<'a>(&self, command: &'a Command) -> Vec<(&'a str, Json)> {
        let settings = command.get_arguments().filter(|argument| argument.get_env().is_some());
        let value = |text: &String| match (text.parse::<i64>(), text.parse::<bool>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(value)) => value.into(),
            (Err(_), Err(_)) => text.clone().into(),
        };
        let shown = settings.map(|argument| {
            let id = argument.get_id().as_str();
            (id, self.given.get(id).map_or(Json::Null, value))
        });
        shown.collect()
    }

    /// Adds the settings in a file. The environment and flags take precedence over them.
    #[must_use]
    pub fn with_file(
        mut self,
        file: &Path,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Sources {
        for name in names {
            self.set.entry(name.into()).or_insert_with(|| Source::File(file.to_owned()));
        }
        self
    }

    /// The source of a setting.
    pub fn of_setting(&self, name: &str) -> &Source {
        self.set.get(name).unwrap_or(&Source::Default)
    }

    /// Prints settings as a settings file, each with its source as a comment. Settings that are
    /// null or have redacted parts (`…`, see [`without_secrets`]) are commented out.
    pub fn print<'a>(&self, settings: impl IntoIterator<Item = (&'a str, Json)>, output: &Output) {
        for (name, value) in settings {
            let source = self.of_setting(name);
            output.line(&match value {
                Json::Null => format!("{:<60} # {source}", format!("# {name} is not set")),
                Json::String(text) if text.contains('…') => {
                    format!("{:<60} # {source}", format!("# {name} = {text:?}"))
                }
                // Strings, numbers and booleans are written alike in JSON and TOML.
                value @ (Json::Bool(_)
                | Json::Number(_)
                | Json::String(_)
                | Json::Array(_)
                | Json::Object(_)) => {
                    format!("{:<60} # {source}", format!("{name} = {value}"))
                }
            });
        }
    }
}

/// A URL without the parts that may be secret: its user information, its query and its fragment.
pub fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".to_owned() };
    // A password may contain any of these characters unescaped, so nothing before the last `@` is
    // shown.
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("…@", rest));
    let (place, query) = rest.find(['?', '#']).map_or((rest, ""), |begin| (&rest[..begin], "?…"));
    format!("{scheme}://{user}{place}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_credentials() {
        for (url, shown) in [
            ("postgres://ada:hunter2@db:5432/app", "postgres://…@db:5432/app"),
            ("postgres://db/app?password=hunter2", "postgres://db/app?…"),
            ("postgres://ada:hun@ter2/?#x@db/app", "postgres://…@db/app"),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("hunter2", "…"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
