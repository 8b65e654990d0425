//! Verifier keys on the command line.

use std::path::Path;

use audit_evidence::{SignerKey, TrustedKey, VerifierKey};

use crate::units::{Moment, shown};

/// Parses a key that is trusted, or reads it from a file: a key, and from when and until when its
/// host may have opened streams with it.
pub(crate) fn trusted(text: &str) -> Result<TrustedKey, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [key, bounds @ ..] = &words[..] else { return Err("there is no key".to_owned()) };
    // A file may have blanks in its name.
    let is_key = VerifierKey::parse(key).is_ok() || matches!(bounds, ["from" | "until", ..]);
    if !is_key
        && let Ok(content) = std::fs::read_to_string(Path::new(text))
        && SignerKey::parse(content.trim()).is_err()
    {
        return within_file(&content);
    }
    let mut trusted = TrustedKey::from(verifier(if bounds.is_empty() { text } else { key })?);
    for bound in bounds.chunks(2) {
        let (end, time) = match bound {
            ["from", time] => (&mut trusted.validity.start, time),
            ["until", time] => (&mut trusted.validity.end, time),
            _ => return Err("a key may be followed by from TIME and until TIME".to_owned()),
        };
        let Moment(ms) = time.parse()?;
        *end = u64::try_from(ms).unwrap_or(0);
    }
    if trusted.validity.is_empty() {
        return Err("the key is never valid".to_owned());
    }
    Ok(trusted)
}

/// A file's content is a key as on the command line, and not another file's name.
fn within_file(content: &str) -> Result<TrustedKey, String> {
    let key = content.split_whitespace().next().unwrap_or_default();
    VerifierKey::parse(key).map_err(|error| format!("the file holds no key: {error}"))?;
    trusted(content)
}

/// The key in the form that [`trusted`] parses.
pub(crate) fn text(trusted: &TrustedKey) -> String {
    let TrustedKey { key, validity } = trusted;
    let time = |ms: u64| shown(i64::try_from(ms).unwrap_or(i64::MAX));
    let from = match validity.start {
        0 => String::new(),
        from => format!(" from {}", time(from)),
    };
    let until = match validity.end {
        u64::MAX => String::new(),
        until => format!(" until {}", time(until)),
    };
    format!("{key}{from}{until}")
}

/// Parses a verifier key, or reads it from a file or from a host's key file.
pub(crate) fn verifier(text: &str) -> Result<VerifierKey, String> {
    let invalid = match VerifierKey::parse(text.trim()) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    match std::fs::read_to_string(Path::new(text)) {
        Ok(content) => match SignerKey::parse(content.trim()) {
            Ok(signer) => Ok(signer.verifier().clone()),
            Err(_no_signer) => VerifierKey::parse(content.trim())
                .map_err(|error| format!("the file holds no key: {error}")),
        },
        Err(_no_file) => Err(format!("neither a verifier key nor a file with one: {invalid}")),
    }
}
