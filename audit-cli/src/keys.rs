//! Verifier keys on the command line.

use std::io::ErrorKind;
use std::path::Path;

use audit_evidence::{SignerKey, TrustedKey, VerifierKey};
use audit_host::read_text;

use crate::units::{Moment, shown};

/// Parses a trusted key, or reads it from a file. `from` and `until` bound the time in which its
/// host may have opened streams with it.
pub(crate) fn trusted(text: &str) -> Result<TrustedKey, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [key, bounds @ ..] = &words[..] else { return Err("there is no key".to_owned()) };
    if VerifierKey::parse(key).is_ok() || matches!(bounds, ["from" | "until", ..]) {
        return match in_text_or_file(key)? {
            Given::Key(key) => within(key, bounds),
            Given::File(content) => of_file(&content, bounds),
        };
    }
    // The whole text may be the name of a file, since such a name may contain blanks.
    match in_text_or_file(text)? {
        Given::Key(key) => Ok(key.into()),
        Given::File(content) => of_file(&content, &[]),
    }
}

/// A key, or the content of a file in its place.
enum Given {
    Key(VerifierKey),
    File(String),
}

/// The errors for a text that is not the name of a file.
const NO_FILE: [ErrorKind; 3] =
    [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::InvalidFilename];

/// Parses a key, or reads the file of this name. The file is read once, since it may be a pipe.
fn in_text_or_file(text: &str) -> Result<Given, String> {
    match VerifierKey::parse(text.trim()) {
        Ok(key) => Ok(Given::Key(key)),
        Err(invalid) => match read_text(Path::new(text)) {
            Ok(content) => Ok(Given::File(content)),
            Err(error) if NO_FILE.contains(&error.kind()) => {
                Err(format!("neither a verifier key nor a file with one: {invalid}"))
            }
            Err(error) => Err(format!("the file cannot be read: {error}")),
        },
    }
}

/// The key in a file, with the bounds that follow it there and the bounds in `more`. The file holds
/// a verifier key as on the command line, or a host's key. It cannot name another file.
fn of_file(content: &str, more: &[&str]) -> Result<TrustedKey, String> {
    if let Ok(signer) = SignerKey::parse(content.trim()) {
        return within(signer.verifier().clone(), more);
    }
    let words: Vec<&str> = content.split_whitespace().collect();
    let (key, bounds) = words.split_first().unwrap_or((&"", &[]));
    let key = VerifierKey::parse(key).map_err(|error| format!("the file holds no key: {error}"))?;
    within(key, &[bounds, more].concat())
}

/// The key with its bounds: `from TIME`, `until TIME`, or both.
fn within(key: VerifierKey, bounds: &[&str]) -> Result<TrustedKey, String> {
    let mut trusted = TrustedKey::from(key);
    let (mut from, mut until) = (None, None);
    for bound in bounds.chunks(2) {
        let (name, end, time) = match bound {
            ["from", time] => ("from", &mut from, time),
            ["until", time] => ("until", &mut until, time),
            _ => return Err("a key may be followed by from TIME and until TIME".to_owned()),
        };
        let Moment(ms) = time.parse()?;
        if end.replace(u64::try_from(ms).unwrap_or(0)).is_some() {
            return Err(format!("a key has only one {name} TIME"));
        }
    }
    trusted.validity = from.unwrap_or(0)..until.unwrap_or(u64::MAX);
    if trusted.validity.is_empty() {
        return Err("the key is never valid".to_owned());
    }
    Ok(trusted)
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
    let content = match in_text_or_file(text)? {
        Given::Key(key) => return Ok(key),
        Given::File(content) => content,
    };
    match SignerKey::parse(content.trim()) {
        Ok(signer) => Ok(signer.verifier().clone()),
        Err(_no_signer) => VerifierKey::parse(content.trim())
            .map_err(|error| format!("the file holds no key: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use audit_evidence::KeyKind;

    use super::*;

    #[test]
    fn a_key_is_given_by_itself_or_in_a_file_with_at_most_one_bound_of_each_kind() {
        let directory = tempfile::tempdir().unwrap();
        let signer = SignerKey::from_seed("host-1", KeyKind::Ed25519, &[7; 32]).unwrap();
        let key = signer.verifier().to_string();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (secret, bounded) = (signer.to_secret_text(), format!("{key} from 2026-01-01\r\n"));
        let host = file("host.key", &format!("{secret}\n"));
        let plain = file("a b until 2020-01-01 c", &key);
        let marked = file("marked", &format!("\u{feff}{key}\r\n"));
        let from = file("from", &bounded);
        let jan = 1_767_225_600_000;
        let (feb, all) = (jan + 31 * 86_400_000, 0..u64::MAX);
        for (text, validity) in [
            (key.clone(), all.clone()),
            (format!(" {key}\n"), all.clone()),
            (format!("{key} from 2026-01-01"), jan..u64::MAX),
            (format!("{key} until 2026-02-01 from 2026-01-01"), jan..feb),
            (host.clone(), all.clone()),
            (plain, all.clone()),
            (marked, all),
            (from.clone(), jan..u64::MAX),
            (format!("{host} until 2026-02-01"), 0..feb),
            (format!("{from} until 2026-02-01"), jan..feb),
        ] {
            let trusted = trusted(&text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((&trusted.key, &trusted.validity), (signer.verifier(), &validity), "{text}");
            assert_eq!(super::trusted(&self::text(&trusted)), Ok(trusted));
        }
        let directory = directory.path().to_str().unwrap().to_owned();
        for (text, says) in [
            (format!("{key} until 2026-01-01 until 2026-02-01"), "only one until TIME"),
            (format!("{key} from 2026-01-01 from 2026-01-01"), "only one from TIME"),
            (format!("{from} from 2026-01-01"), "only one from TIME"),
            (format!("{key} until"), "may be followed by"),
            (format!("{key} since 2026-01-01"), "may be followed by"),
            (format!("{key} from 2026-02-01 until 2026-01-01"), "never valid"),
            (file("empty", ""), "the file holds no key"),
            (file("other", &host), "the file holds no key"),
            (format!("{directory}/nothing"), "neither a verifier key nor a file"),
            (directory, "cannot be read"),
            ("/dev/zero".to_owned(), "cannot be read"),
            (" ".to_owned(), "there is no key"),
        ] {
            let why = trusted(&text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_in_a_pipe_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let signer = SignerKey::from_seed("host-1", KeyKind::Ed25519, &[7; 32]).unwrap();
        let secret = signer.to_secret_text();
        let text = pipe.to_str().unwrap().to_owned();
        // A second opening would wait for another writer.
        let writer = std::thread::spawn(move || std::fs::write(pipe, secret).unwrap());
        assert_eq!(trusted(&text).unwrap().key, *signer.verifier());
        writer.join().unwrap();
    }
}
