//! The signed note beside a report: the hashes of its files.

use audit_evidence::{Note, SignerKey, TrustedKey, VerifierKey};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// The first line of a note.
const HEAD: &str = "audit report";

fn hash(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

/// The note for these files, each given by its suffix.
pub(super) fn seal(
    files: &[(&'static str, Vec<u8>)],
    signer: &SignerKey,
) -> Result<String, Failure> {
    let lines = files.iter().map(|(suffix, content)| format!("{suffix} {}\n", hash(content)));
    let text = format!("{HEAD}\n{}", lines.collect::<String>());
    let failed = |error| Failure::new("the report cannot be signed").because(error);
    let mut note = Note::new(text).map_err(failed)?;
    note.sign(signer);
    Ok(note.to_string())
}

/// Whether a text is the note of a report.
pub(crate) fn is_seal(text: &str) -> bool {
    text.strip_prefix(HEAD).is_some_and(|rest| rest.starts_with('\n'))
}

/// The trusted key that signed a report's file. Nothing proves when it was signed, so the signature
/// of a key that was replaced is not accepted.
pub(crate) fn check<'a>(
    note: &str,
    file: &[u8],
    keys: &'a [TrustedKey],
) -> Result<&'a VerifierKey, String> {
    let note = Note::parse(note).map_err(|error| error.to_string())?;
    let hash = hash(file);
    let mut hashes = note.text().lines().skip(1).filter_map(|line| line.split_once(' '));
    if !hashes.any(|(_, signed)| signed == hash) {
        return Err("the file is not one of the report that was signed".to_owned());
    }
    let mut signers =
        keys.iter().filter(|trusted| note.verify(&trusted.key) == Ok(true)).peekable();
    if signers.peek().is_none() {
        return Err("none of the given keys signed it".to_owned());
    }
    signers.find(|trusted| trusted.validity.end == u64::MAX).map(|trusted| &trusted.key).ok_or_else(
        || {
            "the key that signed it is valid until a time, and nothing proves that it signed before"
                .to_owned()
        },
    )
}
