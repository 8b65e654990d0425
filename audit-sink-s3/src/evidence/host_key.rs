//! The host's private key: in a file, or in the environment.

use std::io;
use std::path::Path;

use audit_core::durable::{create, create_directory, sync_name};
use audit_core::read_private_text;
use audit_evidence::{KeyKind, SignerKey, VerifierKey, is_host_name};

use super::settings::EvidenceSettings;
use crate::{OpenError, OpenErrorKind};

pub(super) fn check_name(name: &str) -> Result<(), OpenError> {
    if is_host_name(name) {
        return Ok(());
    }
    Err(OpenError::configuration(format!(
        "evidence cannot be written under the name {name:?}: a name is 1 to 64 visible ASCII \
         characters without \"+\""
    )))
}

pub(super) fn from_environment(name: &str) -> Result<SignerKey, OpenError> {
    let variable = EvidenceSettings::KEY_VARIABLE;
    match std::env::var(variable) {
        Ok(text) => parse(&text, name, variable),
        Err(_) => Err(OpenError::configuration(format!(
            "evidence has no key: name a key file, or set {variable}"
        ))),
    }
}

impl EvidenceSettings {
    /// The public key of the configured private key. `None` if its file does not exist yet; opening
    /// a sink creates it.
    ///
    /// # Errors
    ///
    /// If the key cannot be read, has another name, or is accessible to other users.
    pub fn verifier_key(&self) -> Result<Option<VerifierKey>, OpenError> {
        check_name(&self.name)?;
        let key = match &self.key_file {
            None => from_environment(&self.name)?,
            Some(file) if !file.exists() => return Ok(None),
            Some(file) => read(file, &self.name)?,
        };
        Ok(Some(key.verifier().clone()))
    }
}

/// The key in `file`, which is created from `seed` if missing.
pub(super) fn read_or_make(
    file: &Path,
    name: &str,
    seed: &[u8; 32],
) -> Result<SignerKey, OpenError> {
    if file.try_exists().unwrap_or(true) {
        // The process that created the file may have been killed before the name was durable.
        sync_name(file).map_err(|error| unusable(file, "used", error))?;
    } else {
        let key = SignerKey::from_seed(name, KeyKind::Ed25519, seed)
            .expect("the name was checked to be a host's");
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        create_directory(parent.unwrap_or(Path::new(".")))
            .and_then(|()| create(file, format!("{}\n", key.to_secret_text()).as_bytes()))
            .map_err(|error| unusable(file, "made", error))?;
        // Another process may have created it first, so the file is read in any case.
    }
    read(file, name)
}

fn read(file: &Path, name: &str) -> Result<SignerKey, OpenError> {
    let text = read_private_text(file).map_err(|error| unusable(file, "used", error))?;
    parse(&text, name, &file.display().to_string())
}

fn unusable(file: &Path, done: &str, error: io::Error) -> OpenError {
    let message = format!("the evidence key in {} cannot be {done}", file.display());
    OpenError::new(OpenErrorKind::Configuration, message).with_source(error)
}

fn parse(text: &str, name: &str, source: &str) -> Result<SignerKey, OpenError> {
    let key = SignerKey::parse(text.trim_end()).map_err(|error| {
        OpenError::configuration(format!("{source} does not hold a private key")).with_source(error)
    })?;
    let verifier = key.verifier();
    if verifier.kind() != KeyKind::Ed25519 {
        let message = format!("the key in {source} is a witness's, and signs no streams");
        return Err(OpenError::configuration(message));
    }
    if verifier.name() != name {
        let message = format!(
            "the key in {source} is named {:?}, and evidence is to be written as {name:?}",
            verifier.name()
        );
        return Err(OpenError::configuration(message));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn keys_are_created_once() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("keys/host.key");
        let made = read_or_make(&file, "example.com/api", &[1; 32]).unwrap();
        let read = read_or_make(&file, "example.com/api", &[2; 32]).unwrap();
        assert_eq!(made.verifier(), read.verifier());
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{}\n", made.to_secret_text()));
        let left: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let error = read_or_make(&file, "other", &[1; 32]).unwrap_err().to_string();
        assert!(error.contains("\"example.com/api\"") && error.contains("\"other\""), "{error}");
    }

    #[test]
    fn the_name_of_a_key_is_durable_before_the_key_is_used() {
        use audit_core::testing::synced_directories;
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().canonicalize().unwrap();
        let file = directory.join("host.key");
        // The first round creates the file. The second finds it, as after a process that was killed
        // before the sync.
        for _ in 0..2 {
            read_or_make(&file, "api", &[1; 32]).unwrap();
            assert!(synced_directories().remove(&directory));
        }
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_private_to_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("host.key");
        read_or_make(&file, "api", &[1; 32]).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        for shared in [0o640, 0o604, 0o644] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(shared)).unwrap();
            let error = read_or_make(&file, "api", &[1; 32]).unwrap_err();
            assert!(error.source().unwrap().to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn invalid_keys_are_rejected_and_not_shown() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("host.key");
        let made = read_or_make(&file, "api", &[1; 32]).unwrap();
        let text = made.to_secret_text();
        let secret = text.rsplit('+').next().unwrap();
        for end in [0, 7, text.len() - 1] {
            std::fs::write(&file, &text[..end]).unwrap();
            let error = read_or_make(&file, "api", &[1; 32]).unwrap_err();
            let shown = format!("{error} {error:?} {:?}", error.source().unwrap().to_string());
            assert!(!shown.contains(&secret[..20]), "{shown}");
        }
        // A public key in place of a private one.
        std::fs::write(&file, made.verifier().to_string()).unwrap();
        read_or_make(&file, "api", &[1; 32]).unwrap_err();
        let witness = SignerKey::from_seed("api", KeyKind::Cosignature, &[1; 32]).unwrap();
        std::fs::write(&file, witness.to_secret_text()).unwrap();
        let error = read_or_make(&file, "api", &[1; 32]).unwrap_err();
        assert!(error.to_string().contains("witness"), "{error}");
    }
}
