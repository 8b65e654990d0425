//! `audit key`: the key of a host or of a witness.

use std::io;
use std::path::Path;

use audit_core::{Random, SystemRandom, durable, read_private_text};
use audit_evidence::{KeyKind, MAX_NAME_CHARS, SignerKey};

use crate::arguments::Key;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

pub(crate) fn run(arguments: &Key, output: &Output) -> Result<Outcome, Failure> {
    let Key { file, make, witness } = arguments;
    let key = match make {
        Some(name) => make_key(file, name, *witness)?,
        None => read(file)?,
    };
    let verifier = key.verifier();
    if output.is_json() {
        output.json(&serde_json::json!({
            "key": verifier.to_string(),
            "name": verifier.name(),
            "kind": match verifier.kind() {
                KeyKind::Ed25519 => "host",
                KeyKind::Cosignature => "witness",
            },
        }))?;
    } else {
        output.line(&verifier.to_string())?;
    }
    Ok(Outcome::Well)
}

fn make_key(file: &Path, name: &str, is_witness: bool) -> Result<SignerKey, Failure> {
    if name.chars().count() > MAX_NAME_CHARS {
        let count = name.chars().count();
        let limit = format!("the name of {count} characters exceeds limit of {MAX_NAME_CHARS}");
        return Err(Failure::new(limit));
    }
    let mut seed = [0; 32];
    for bytes in seed.as_chunks_mut::<8>().0 {
        *bytes = SystemRandom.next_u64().to_be_bytes();
    }
    let kind = if is_witness { KeyKind::Cosignature } else { KeyKind::Ed25519 };
    let key = SignerKey::from_seed(name, kind, &seed)
        .map_err(|error| Failure::new("the key cannot be created").because(error))?;
    // Never replaces a key, which is needed to verify its signatures.
    let failed = |error: io::Error| {
        Failure::new(format!("the key file {} cannot be created", file.display())).because(error)
    };
    let text = format!("{}\n", key.to_secret_text());
    match durable::create(file, text.as_bytes()).map_err(failed)? {
        true => Ok(key),
        false => Err(failed(io::ErrorKind::AlreadyExists.into())),
    }
}

pub(crate) fn read(file: &Path) -> Result<SignerKey, Failure> {
    let failed = |what: &str| Failure::new(format!("the key file {} {what}", file.display()));
    let text = read_private_text(file).map_err(|error| failed("cannot be used").because(error))?;
    SignerKey::parse(text.trim()).map_err(|error| failed("holds no key").because(error))
}
