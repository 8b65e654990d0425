//! Settings on the command line and in a file.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Command};

use super::{Source, Sources};

/// Parses a command line whose settings may also be in a TOML file, under the flags' names with `_`
/// instead of `-`. Flags take precedence over the environment, and the environment over the file.
/// In the file, the settings named in `paths` are relative to its directory.
///
/// # Errors
///
/// If the command line is invalid or asks for help, or if the file is invalid. The error names the
/// line and the setting, but no value.
pub fn parse_with_file(
    command: &Command,
    arguments: impl IntoIterator<Item = OsString>,
    file: impl FnOnce(&ArgMatches) -> Option<PathBuf>,
    paths: &[&str],
) -> Result<(ArgMatches, Sources), SettingsError> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = command.clone().try_get_matches_from(&arguments);
    let matches = matches.map_err(|error| naming_variables(error, command, &arguments))?;
    let sources = Sources::of(command, &matches);
    let Some(path) = file(&matches) else { return Ok((matches, sources)) };
    let wrong =
        |what: String| SettingsError::File(format!("the settings file {}{what}", path.display()));
    let text = std::fs::read_to_string(&path)
        .map_err(|error| wrong(format!(" cannot be read: {error}")))?;
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let table: BTreeMap<String, toml::Spanned<toml::Value>> =
        toml::from_str(&text).map_err(|error| {
            let line = line_of(error.span().map_or(0, |span| span.start));
            wrong(format!(", line {line}: it is not valid TOML"))
        })?;
    let program = arguments.first().cloned().unwrap_or_default();
    let mut flags = vec![program.clone()];
    let mut names = Vec::new();
    for (name, value) in table {
        let line = line_of(value.span().start);
        let is_number = value.get_ref().is_integer();
        let flag = flag(command, &name, value.into_inner(), &path, paths)
            .map_err(|why| wrong(format!(", line {line}: {why}")))?;
        if let Some(flag) = flag {
            let alone = [program.clone(), flag.clone()];
            command.clone().try_get_matches_from(alone).map_err(|error| {
                wrong(format!(", line {line}: {name}: {}", without_value(&error, is_number)))
            })?;
            if matches!(sources.of_setting(&name), Source::Default) {
                flags.push(flag);
            }
        }
        names.push(name);
    }
    flags.extend(arguments.into_iter().skip(1));
    let matches = command.clone().try_get_matches_from(flags)?;
    let Sources { given, .. } = Sources::of(command, &matches);
    Ok((matches, Sources { given, ..sources.with_file(&path, names) }))
}

/// Names the environment variables that are not UTF-8, where clap blames the arguments. These are
/// the arguments that it parsed. Other errors are returned unchanged.
pub fn naming_variables(
    error: clap::Error,
    command: &Command,
    arguments: &[OsString],
) -> clap::Error {
    let is_argument = || arguments.iter().any(|argument| argument.to_str().is_none());
    if error.kind() != ErrorKind::InvalidUtf8 || is_argument() {
        return error;
    }
    let mut names = BTreeSet::new();
    let mut commands = vec![command];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        // Paths are any bytes.
        let arguments = command
            .get_arguments()
            .filter(|argument| argument.get_value_parser().type_id() != TypeId::of::<PathBuf>());
        let variables = arguments.filter_map(clap::Arg::get_env);
        let is_invalid =
            |name: &&OsStr| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
        names.extend(variables.filter(is_invalid).map(OsStr::to_string_lossy));
    }
    match names.iter().map(|name| &**name).collect::<Vec<&str>>()[..] {
        [] => error,
        [name] => {
            let what = format!("the environment variable {name} is not UTF-8");
            command.clone().error(ErrorKind::InvalidUtf8, what)
        }
        ref names => {
            let what = format!("environment variables are not UTF-8: {}", names.join(", "));
            command.clone().error(ErrorKind::InvalidUtf8, what)
        }
    }
}

/// The flag that is equivalent to a setting in a file. `None` if the setting is a switch that is
/// off.
fn flag(
    command: &Command,
    name: &str,
    value: toml::Value,
    file: &Path,
    paths: &[&str],
) -> Result<Option<OsString>, String> {
    let argument = command.get_arguments().find(|argument| argument.get_id() == name);
    // The location of the settings, and flags that do something other than start the host, are not
    // settings.
    let argument = argument.filter(|argument| argument.get_env().is_some() && name != "config");
    let Some(long) = argument.and_then(clap::Arg::get_long) else {
        return Err(format!("unknown setting `{name}`"));
    };
    let is_switch = argument.is_some_and(|it| matches!(it.get_action(), ArgAction::SetTrue));
    let value = match value {
        toml::Value::Boolean(false) if is_switch => return Ok(None),
        toml::Value::Boolean(true) if is_switch => return Ok(Some(format!("--{long}").into())),
        _ if is_switch => return Err(format!("{name} must be true or false")),
        toml::Value::String(text)
            if paths.contains(&name) && text != "none" && !text.is_empty() =>
        {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(file.parent().unwrap_or(Path::new("")).join(text));
            return Ok(Some(flag));
        }
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Float(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => {
            return Err(format!("{name} must be a string, an integer, true or false"));
        }
    };
    Ok(Some(format!("--{long}={value}").into()))
}

/// The reason why a value is invalid. A value is shown only if it is a number, which is no secret.
fn without_value(error: &clap::Error, is_number: bool) -> String {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("its value must be one of {}", valid.join(", "))
        }
        _ => match error.source().filter(|_| is_number) {
            Some(why) => format!("its value is invalid: {why}"),
            None => "its value is invalid".to_owned(),
        },
    }
}

/// Invalid settings.
#[derive(Debug)]
pub enum SettingsError {
    /// The command line is invalid, or asks for help.
    CommandLine(clap::Error),
    /// The settings file is invalid.
    File(String),
}

impl From<clap::Error> for SettingsError {
    fn from(error: clap::Error) -> SettingsError {
        SettingsError::CommandLine(error)
    }
}

impl SettingsError {
    /// Prints the error, or the requested help, and ends the process.
    pub fn exit(&self, program: &str) -> ! {
        match self {
            SettingsError::CommandLine(error) => error.exit(),
            SettingsError::File(error) => {
                eprintln!("{program}: {error}");
                std::process::exit(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, value_parser};

    use super::*;

    fn command() -> Command {
        let setting = |name: &'static str| Arg::new(name).long(name);
        Command::new("host").args([
            setting("config"),
            setting("port").env("AUDIT_TEST_NO_PORT").value_parser(value_parser!(u16)),
            setting("data").env("AUDIT_TEST_NO_DATA").default_value("data"),
            setting("path").env("PATH"),
            setting("kind").env("AUDIT_TEST_NO_KIND").value_parser(["a", "b"]),
            setting("on").env("AUDIT_TEST_NO_ON").action(ArgAction::SetTrue),
            setting("check").action(ArgAction::SetTrue),
        ])
    }

    fn parse(text: &str, flags: &[&str]) -> Result<(ArgMatches, Sources, PathBuf), String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("host.toml");
        std::fs::write(&file, text).unwrap();
        let line = ["host"].iter().chain(flags).map(OsString::from);
        let (matches, sources) =
            parse_with_file(&command(), line, |_| Some(file.clone()), &["data"]).map_err(
                |error| match error {
                    SettingsError::CommandLine(error) => error.to_string(),
                    SettingsError::File(error) => error,
                },
            )?;
        Ok((matches, sources, file))
    }

    #[test]
    fn flags_override_the_environment_and_it_the_file() {
        let text = "port = 1\ndata = \"here\"\npath = \"file\"\non = true\n";
        let (matches, sources, file) = parse(text, &["--port=2"]).unwrap();
        assert_eq!(matches.get_one::<u16>("port"), Some(&2));
        assert_eq!(sources.of_setting("port"), &Source::Flag);
        // Relative to the file.
        let data = matches.get_one::<String>("data").unwrap();
        assert_eq!(Path::new(data), file.with_file_name("here"));
        assert_eq!(sources.of_setting("data"), &Source::File(file));
        assert_ne!(matches.get_one::<String>("path").unwrap(), "file");
        assert_eq!(sources.of_setting("path"), &Source::Environment("PATH".to_owned()));
        assert!(matches.get_flag("on"));
        assert_eq!(sources.of_setting("kind"), &Source::Default);
    }

    #[test]
    fn an_invalid_file_is_named_with_its_line() {
        for (text, says) in [
            ("\nprot = 1", "line 2: unknown setting `prot`"),
            ("config = \"x\"", "line 1: unknown setting `config`"),
            ("check = true", "line 1: unknown setting `check`"),
            ("port = \"hunter2\"", "line 1: port: its value is invalid"),
            ("port = 70000", "line 1: port: its value is invalid: 70000 is not in 0..=65535"),
            ("kind = \"hunter2\"", "line 1: kind: its value must be one of a, b"),
            ("on = \"hunter2\"", "line 1: on must be true or false"),
            ("port = [\"hunter2\"]", "line 1: port must be a string, an integer"),
            ("port = 1\nport = hunter2", "line 2: it is not valid TOML"),
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
        }
        // A value is checked even if a flag overrides it.
        assert!(parse("port = \"x\"", &["--port=1"]).is_err());
    }
}
