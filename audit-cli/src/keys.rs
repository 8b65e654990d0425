//! Verifier keys on the command line.

use std::path::Path;

use audit_evidence::VerifierKey;

/// A verifier key, or the key in a file.
pub(crate) fn verifier(text: &str) -> Result<VerifierKey, String> {
    let invalid = match VerifierKey::parse(text.trim()) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    match std::fs::read_to_string(Path::new(text)) {
        Ok(content) => VerifierKey::parse(content.trim())
            .map_err(|error| format!("the file holds no verifier key: {error}")),
        Err(_no_file) => Err(format!("neither a verifier key nor a file with one: {invalid}")),
    }
}
