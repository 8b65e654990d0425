//! Verifier keys on the command line.

use std::path::Path;

use audit_evidence::{SignerKey, VerifierKey};

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
