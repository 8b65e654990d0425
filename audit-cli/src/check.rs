//! `audit check`: checks a record's proof, or a report's signature, with nothing but a public key.

use std::path::Path;

use audit_core::{read_bytes, read_input};
use audit_evidence::{Certificate, Policy, Proof, ProofError, TrustedKey, VerifierKey};
use serde::Serialize;

use crate::arguments::Check;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::units::counted;
use crate::{report, verify};

#[derive(Serialize)]
struct Line {
    proven: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    origin: String,
    record: u64,
    size: u64,
    root: String,
}

pub(crate) fn run(arguments: &Check, output: &Output) -> Result<Outcome, Failure> {
    let (keys, policy) = verify::trusted(&arguments.trusted)?;
    let file = arguments.proof.display();
    let text = String::from_utf8(read(&arguments.proof)?)
        .map_err(|error| Failure::new(format!("{file} is not a proof")).because(error))?;
    if report::is_seal(&text) {
        let signed = report::check(&text, &read(&arguments.record)?, &keys);
        return say_signed(signed, output);
    }
    let proof = Proof::parse(&text)
        .map_err(|error| Failure::new(format!("{file} is not a proof")).because(error))?;
    let record = read(&arguments.record)?;
    let record = record.strip_suffix(b"\n").unwrap_or(&record);

    let proven = check(&proof, record, &keys, policy.as_ref());
    let checkpoint = proof.checkpoint();
    let line = Line {
        proven: proven.is_ok(),
        why: proven.as_ref().err().cloned(),
        key: proven.as_ref().ok().map(ToString::to_string),
        origin: checkpoint.origin().to_owned(),
        record: proof.index(),
        size: checkpoint.size(),
        root: checkpoint.root().to_string(),
    };
    if output.is_json() {
        output.json(&line)?;
    } else {
        let Line { origin, record, size, .. } = &line;
        let style = output.style();
        output.line(&match &proven {
            Ok(key) => style.good(&format!(
                "proven: this is record {record} of {origin}, which had {}, by {key}",
                counted(*size, "record")
            )),
            Err(why) => style.bad(&format!("not proven: {why}")),
        })?;
    }
    Ok(Outcome::wrong_if(proven.is_err()))
}

/// Prints whether a report is signed.
fn say_signed(signed: Result<&VerifierKey, String>, output: &Output) -> Result<Outcome, Failure> {
    if output.is_json() {
        let (key, why) = (signed.as_ref().ok().map(ToString::to_string), signed.as_ref().err());
        output.json(&serde_json::json!({ "signed": signed.is_ok(), "key": key, "why": why }))?;
    } else {
        let style = output.style();
        output.line(&match &signed {
            Ok(key) => style.good(&format!("signed: this is of the report, by {key}")),
            Err(why) => style.bad(&format!("not signed: {why}")),
        })?;
    }
    Ok(Outcome::wrong_if(signed.is_err()))
}

/// Checks the proof. Returns the key that proves the record.
fn check<'a>(
    proof: &Proof,
    record: &[u8],
    keys: &'a [TrustedKey],
    policy: Option<&Policy>,
) -> Result<&'a VerifierKey, String> {
    let note = proof.note();
    proof.verify_record(record).map_err(|error| {
        if error == ProofError::Path {
            "the record is not the one that the proof was made for, or one of them was altered"
                .to_owned()
        } else {
            error.to_string()
        }
    })?;
    let origin = proof.checkpoint().origin();
    let stream = origin.rsplit_once('/').map_or(origin, |(_, stream)| stream);
    let (mut signer, mut is_outdated) = (None, false);
    for trusted in keys {
        let key = &trusted.key;
        // A host's key certifies the key of the stream, or the given key is the stream's own.
        let certificate = Certificate::find(note, key);
        let stream_key = match &certificate {
            Some(certificate) => certificate.stream_key(),
            None if key.name() == origin => key,
            None => continue,
        };
        if note.verify(stream_key).map_err(|error| error.to_string())? {
            let is_valid = trusted.is_valid_for(stream);
            signer = signer.or(is_valid.then_some(key));
            is_outdated |= !is_valid;
        }
    }
    if signer.is_none() && is_outdated {
        return Err("the host's key was not valid when the stream was opened".to_owned());
    }
    let signer = signer.ok_or_else(|| {
        format!("the checkpoint of {origin} is signed by none of the keys that were given")
    })?;
    if let Some(policy) = policy {
        policy.check_quorum(note).map_err(|error| error.to_string())?;
    }
    Ok(signer)
}

/// A file, or standard input for `-`.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = match file == Path::new("-") {
        true => read_input(std::io::stdin()),
        false => read_bytes(file),
    };
    read.map_err(|error| Failure::new(format!("{} cannot be read", file.display())).because(error))
}
