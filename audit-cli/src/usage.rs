//! Parses the command line, and explains errors in it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use audit_host::{naming_variables, print_usage, shortened};
use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::arguments::Arguments;
use crate::escape;

/// Parses the arguments of this process. If that prints help or an error, returns the exit code.
pub(crate) fn read() -> Result<Arguments, ExitCode> {
    let arguments = Arguments::try_parse().map_err(|error| print(&error))?;
    arguments.check().map_err(|what| {
        let what = escape::text(&what).into_owned();
        let mut plain = Arguments::command().styles(Styles::plain());
        print(&plain.error(ErrorKind::ValueValidation, what))
    })?;
    Ok(arguments)
}

/// Clap quotes arguments unescaped, and they may be foreign: a file name, a pasted identifier. So
/// the error is produced again from escaped arguments and without colours, and values of
/// environment variables in it are escaped.
fn print(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    let kinds = [DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion];
    if kinds.contains(&error.kind()) {
        return ExitCode::from(print_usage(error, "audit", 3));
    }
    let shown = |argument: OsString| escape::text(&argument.to_string_lossy()).into_owned().into();
    let plain = Arguments::command().styles(Styles::plain());
    let arguments: Vec<OsString> = std::env::args_os().map(shown).collect();
    let escaped = plain.clone().try_get_matches_from(&arguments).err();
    let escaped = escaped.map(|error| naming_variables(error, &plain, &arguments));
    let text = escaped.as_ref().unwrap_or(error).render().to_string();
    let mut stderr = io::stderr().lock();
    for line in shortened(&text).lines() {
        let _ = writeln!(stderr, "{}", escape::text(line));
    }
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_any_number_says_what_is_expected() {
        let command = Arguments::command();
        let (mut names, mut told) = (vec![vec![]], 0);
        for one in command.get_subcommands() {
            names.push(vec![one.get_name()]);
            names.extend(one.get_subcommands().map(|two| vec![one.get_name(), two.get_name()]));
        }
        for names in names {
            let within = names.iter().fold(&command, |at, name| at.find_subcommand(name).unwrap());
            for flag in within.get_arguments().filter_map(clap::Arg::get_long) {
                for value in ["hunter2", "-1", "99999999999999999999"] {
                    let flag = format!("--{flag}={value}");
                    let line = ["audit"].iter().chain(&names).copied().chain([&*flag]);
                    let line: Vec<OsString> = line.map(OsString::from).collect();
                    let error = command.clone().try_get_matches_from(&line);
                    let Err(error) = error else { continue };
                    let text = naming_variables(error, &command, &line).to_string();
                    let bare =
                        ["invalid digit found", "invalid socket address", "too large to fit"];
                    if bare.iter().any(|bare| text.contains(bare)) {
                        assert!(text.contains("it must be"), "{text}");
                        told += 1;
                    }
                }
            }
        }
        assert!(told > 20, "{told}");
    }
}
