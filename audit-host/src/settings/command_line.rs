//! Settings on the command line and in a file.

use std::any::TypeId;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Command};

use super::expected::{expected, is_like_a_number};
use super::{Source, Sources};
use crate::{read_text, shortened};

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
    let text = read_text(&path).map_err(|error| wrong(format!(" cannot be read: {error}")))?;
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
        let number = value.get_ref().as_integer().map(|number| number.to_string());
        let given = number.or(value.get_ref().as_str().map(ToOwned::to_owned)).unwrap_or_default();
        let flag = flag(command, &name, value.into_inner(), &path, paths)
            .map_err(|why| wrong(format!(", line {line}: {why}")))?;
        if let Some(flag) = flag {
            let alone = [program.clone(), flag.clone()];
            command.clone().try_get_matches_from(alone).map_err(|error| {
                let setting = command.get_arguments().find(|setting| setting.get_id() == &name);
                let why = without_secret(&error, &given, setting.and_then(expected));
                wrong(format!(", line {line}: {name}: {why}"))
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

/// Makes an error name the environment variable with the invalid value, where clap names the
/// variable's flag or blames the arguments. Also says what the value of a number must be.
/// `arguments` are those that clap parsed. Other errors are returned unchanged.
pub fn naming_variables(
    mut error: clap::Error,
    command: &Command,
    arguments: &[OsString],
) -> clap::Error {
    let mut commands = vec![command];
    let mut settings: Vec<&clap::Arg> = Vec::new();
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        settings.extend(command.get_arguments());
    }
    if error.kind() != ErrorKind::InvalidUtf8 {
        let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
            return error;
        };
        let setting = setting_of(flag, &settings);
        let variable = setting.and_then(|setting| variable_of(setting, arguments));
        let flag = variable.map(|variable| format!("{flag}, set by the variable {variable}"));
        if let Some(expected) = setting.and_then(expected)
            && error.kind() == ErrorKind::ValueValidation
        {
            let tip = ContextValue::StyledStrs(vec![format!("it must be {expected}").into()]);
            error.insert(ContextKind::Suggested, tip);
        }
        if let Some(flag) = flag {
            error.insert(ContextKind::InvalidArg, ContextValue::String(flag));
        }
        return error;
    }
    let is_argument = || arguments.iter().any(|argument| argument.to_str().is_none());
    if is_argument() {
        return error;
    }
    // A path may have any bytes.
    let is_text =
        |setting: &&clap::Arg| setting.get_value_parser().type_id() != TypeId::of::<PathBuf>();
    let is_invalid =
        |name: &&OsStr| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    let variables = settings.into_iter().filter(is_text).filter_map(clap::Arg::get_env);
    let names: BTreeSet<_> = variables.filter(is_invalid).map(OsStr::to_string_lossy).collect();
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

/// The setting of a flag, as clap shows it.
fn setting_of<'a>(shown: &str, settings: &[&'a clap::Arg]) -> Option<&'a clap::Arg> {
    let name = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    settings.iter().find(|setting| setting.get_long() == Some(name)).copied()
}

/// The variable that set a setting, unless an argument did.
fn variable_of(setting: &clap::Arg, arguments: &[OsString]) -> Option<String> {
    let name = setting.get_long()?;
    let variable = setting.get_env().filter(|variable| std::env::var_os(variable).is_some())?;
    let is_it = |argument: &OsString| {
        let rest = argument.to_str().and_then(|text| text.strip_prefix("--")?.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let is_given = arguments.iter().any(is_it);
    (!is_given).then(|| variable.to_string_lossy().into_owned())
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

/// The reason why a value is invalid, and what is expected. A value is shown only if it resembles a
/// number: others may be misplaced secrets.
fn without_secret(error: &clap::Error, given: &str, expected: Option<String>) -> String {
    let shown = if is_like_a_number(given) { format!(" {given:?}") } else { String::new() };
    let why = error.source().map(ToString::to_string);
    match (error.get(ContextKind::ValidValue), expected, why) {
        (Some(ContextValue::Strings(valid)), ..) if !valid.is_empty() => {
            format!("its value must be one of {}", valid.join(", "))
        }
        (_, Some(expected), _) => format!("its value{shown} is invalid, expected {expected}"),
        (_, None, Some(why)) if !given.is_empty() => {
            format!("its value is invalid: {}", why.replace(given, "…"))
        }
        (_, None, _) => "its value is invalid".to_owned(),
    }
}

/// Prints an error of the command line, or the requested help. Returns the exit code, which is
/// `unwritten` if help cannot be written.
pub fn print_usage(error: &clap::Error, program: &str, unwritten: u8) -> u8 {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let text = error.render().to_string();
    let printed = match shortened(&text) {
        Cow::Owned(short) if error.use_stderr() && !is_help => {
            std::io::stderr().write_all(short.as_bytes())
        }
        Cow::Owned(_) | Cow::Borrowed(_) => error.print(),
    };
    match printed {
        Err(failed) if !error.use_stderr() && failed.kind() != std::io::ErrorKind::BrokenPipe => {
            // The reader may be gone.
            let _ =
                writeln!(std::io::stderr(), "{program}: the output cannot be written: {failed}");
            unwritten
        }
        Ok(()) | Err(_) => u8::try_from(error.exit_code()).unwrap_or(2),
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
            SettingsError::CommandLine(error) => {
                std::process::exit(print_usage(error, program, 1).into())
            }
            SettingsError::File(error) => {
                // The reader may be gone.
                let _ = writeln!(std::io::stderr(), "{program}: {}", shortened(error));
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
    fn an_invalid_variable_is_named() {
        // PATH is set, and is no number.
        let setting = |name: &'static str| Arg::new(name).long(name);
        let number = setting("number").env("PATH").value_parser(value_parser!(u16));
        let switch = setting("switch").env("PATH").action(ArgAction::SetTrue);
        let unset = setting("unset").env("AUDIT_TEST_NO_UNSET").value_parser(["a"]);
        let host = || Command::new("host");
        let (number, switch) = (host().arg(number), host().arg(switch));
        let within = Command::new("tool").subcommand(number.clone());
        for (command, line, says) in [
            (&number, &["host"][..], Some("--number <number>, set by the variable PATH'")),
            (&switch, &["host"], Some("--switch, set by the variable PATH'")),
            (&within, &["tool", "host"], Some("--number <number>, set by the variable PATH'")),
            (&number, &["host", "--number", "x"], None),
            (&number, &["host", "--number=x"], None),
            (&number.clone().arg(unset), &["host", "--number=1", "--unset=b"], None),
        ] {
            let arguments: Vec<OsString> = line.iter().map(OsString::from).collect();
            let error = command.clone().try_get_matches_from(&arguments).unwrap_err();
            let error = naming_variables(error, command, &arguments).to_string();
            assert_eq!(error.contains("set by the variable"), says.is_some(), "{error}");
            assert!(error.contains(says.unwrap_or_default()), "{error}");
        }
    }

    #[test]
    fn an_invalid_file_is_named_with_its_line() {
        for (text, says) in [
            ("\nprot = 1", "line 2: unknown setting `prot`"),
            ("config = \"x\"", "line 1: unknown setting `config`"),
            ("check = true", "line 1: unknown setting `check`"),
            (
                "port = \"hunter2\"",
                "line 1: port: its value is invalid, expected a whole number from 0 to 65535",
            ),
            ("port = \"80s\"", "line 1: port: its value \"80s\" is invalid, expected a whole"),
            ("port = 70000", "line 1: port: its value \"70000\" is invalid, expected a whole"),
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
