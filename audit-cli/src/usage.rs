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
