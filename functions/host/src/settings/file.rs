//! The settings file. Errors never show values, which may be secrets.

use std::error::Error;
use std::path::{Path, PathBuf};

use audit_host::{read_text, what_is_expected};
use functions_server::auth::AuthSettings;

use super::{CommandLine, Options};

impl Options {
    /// Reads a settings file. Also returns the names of the settings in it.
    pub(super) fn read(path: &Path) -> Result<(Options, Vec<String>), Box<dyn Error>> {
        let text = read_text(path).map_err(|error| {
            format!("the settings file {} cannot be read: {error}", path.display())
        })?;
        let mut options = toml::from_str::<Options>(&text).map_err(|error| {
            format!("the settings file {}, {}", path.display(), without_values(&text, &error))
        })?;
        let names = toml::from_str::<toml::Table>(&text)
            .map_or(Vec::new(), |table| table.into_iter().map(|(name, _)| name).collect());
        let (base, shown) = (path.parent().unwrap_or(Path::new("")), path.display());
        // An empty path would be the directory of the file.
        let at_file = |name: &str, path: &mut Option<PathBuf>| match path {
            Some(path) if path.as_os_str().is_empty() => {
                Err(format!("the settings file {shown}: {name} is empty: leave it out"))
            }
            Some(path) => {
                *path = base.join(&*path);
                Ok(())
            }
            None => Ok(()),
        };
        at_file("data_dir", &mut options.data_dir)?;
        at_file("evidence_key", &mut options.evidence_key)?;
        at_file("log_streams", &mut options.log_streams)?;
        for AuthSettings { issuer: _, audience: _, jwks, public_key, secret_file } in
            &mut options.auth
        {
            at_file("jwks", jwks)?;
            at_file("public_key", public_key)?;
            at_file("secret_file", secret_file)?;
        }
        // An empty path is refused later, with the other settings of the audit log.
        let is_path = |journal: &&mut String| *journal != "none" && !journal.trim().is_empty();
        if let Some(journal) = options.journal.as_mut().filter(is_path) {
            let joined = base.join(&*journal).into_os_string().into_string();
            *journal =
                joined.map_err(|path| format!("the path {} is not UTF-8", path.display()))?;
        }
        Ok((options, names))
    }
}

/// Describes an error with its line, without quoting values from the file.
fn without_values(text: &str, error: &toml::de::Error) -> String {
    let message = what_is_expected(error).unwrap_or_else(|| error.message().to_owned());
    let Some(span) = error.span() else { return message };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    // The name of the setting is shown if the line begins with one, and nothing else of the file.
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    let name = text[begin..].split(['=', '\n']).next().unwrap_or_default().trim();
    let is_setting =
        CommandLine::serve().get_arguments().any(|argument| argument.get_id().as_str() == name);
    if is_setting {
        format!("line {line}: {name}: {message}")
    } else {
        format!("line {line}: {message}")
    }
}
