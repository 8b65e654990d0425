//! Keys that verify tokens, read from files.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use audit_core::read_bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::settings::AuthSettings;

/// A key for a single algorithm, so that a token never decides how a key is used.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    /// Its name in the key set.
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
}

/// A shared secret is at least as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// An uncompressed point of P-256.
const P256_POINT_BYTES: usize = 65;

/// A public key of Ed25519.
const ED25519_BYTES: usize = 32;

/// Invalid keys. The error names the file and never its contents.
#[derive(Debug)]
pub struct KeyError {
    issuer: String,
    file: Option<PathBuf>,
    what: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyError { issuer, file, what } = self;
        write!(f, "[[auth]] for the issuer {issuer:?}: ")?;
        if let Some(file) = file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(what)
    }
}

impl Error for KeyError {}

/// Makes keys from the contents of a file, or returns what is wrong.
type Parse = fn(&[u8]) -> Result<Vec<Key>, String>;

pub(super) fn read(settings: &AuthSettings) -> Result<Vec<Key>, KeyError> {
    let AuthSettings { issuer, audience, jwks, public_key, secret_file } = settings;
    let refuse = |file: Option<&Path>, what: String| KeyError {
        issuer: issuer.clone(),
        file: file.map(Path::to_owned),
        what,
    };
    if audience.is_empty() {
        return Err(refuse(
            None,
            "audience is empty: tokens for other services of the issuer would be believed"
                .to_owned(),
        ));
    }
    let (file, parse): (&Path, Parse) = match (jwks, public_key, secret_file) {
        (Some(file), None, None) => (file, key_set),
        (None, Some(file), None) => (file, |pem| Ok(vec![public(pem)?])),
        (None, None, Some(file)) => (file, |text| Ok(vec![secret(text)?])),
        _ => {
            return Err(refuse(
                None,
                "needs one of jwks, public_key and secret_file, and no other".to_owned(),
            ));
        }
    };
    let content =
        read_bytes(file).map_err(|error| refuse(Some(file), format!("cannot be read: {error}")))?;
    parse(&content).map_err(|what| refuse(Some(file), what))
}

fn secret(text: &[u8]) -> Result<Key, String> {
    // Editors add a line feed at the end of a file.
    let secret =
        text.strip_suffix(b"\n").map_or(text, |text| text.strip_suffix(b"\r").unwrap_or(text));
    if secret.len() < MIN_SECRET_BYTES {
        return Err(format!(
            "the secret has {} bytes, and must have at least {MIN_SECRET_BYTES}",
            secret.len()
        ));
    }
    Ok(Key { algorithm: Algorithm::HS256, id: None, key: DecodingKey::from_secret(secret) })
}

fn public(pem: &[u8]) -> Result<Key, String> {
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return Ok(Key { algorithm: Algorithm::EdDSA, id: None, key });
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        if key.try_get_as_bytes().map_or(0, <[u8]>::len) != P256_POINT_BYTES {
            return Err("the key is on another curve than P-256".to_owned());
        }
        return Ok(Key { algorithm: Algorithm::ES256, id: None, key });
    }
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        // A private key would work, but does not belong here.
        if pem.windows(7).any(|window| window == b"PRIVATE") {
            return Err("that is a private key: only the issuer has it".to_owned());
        }
        return Ok(Key { algorithm: Algorithm::RS256, id: None, key });
    }
    Err("is not a PEM file with a public key for RS256, ES256 or EdDSA".to_owned())
}

pub(super) fn key_set(json: &[u8]) -> Result<Vec<Key>, String> {
    let set = serde_json::from_slice::<JwkSet>(json)
        // The parser's message may quote the contents.
        .map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("is not a JSON Web Key Set: line {line}, column {column}")
        })?;
    // A set may have keys for other purposes.
    let keys: Vec<Key> = set.keys.iter().filter_map(of_set).collect();
    if keys.is_empty() {
        return Err(format!("has {} keys, and none for RS256, ES256 or EdDSA", set.keys.len()));
    }
    Ok(keys)
}

fn of_set(jwk: &Jwk) -> Option<Key> {
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
    {
        return None;
    }
    // The length of a complete key in bytes, where the algorithm fixes it.
    let (algorithm, key_bytes) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, None),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, Some(P256_POINT_BYTES))
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, Some(ED25519_BYTES))
        }
        AlgorithmParameters::EllipticCurve(_)
        | AlgorithmParameters::OctetKeyPair(_)
        // A key set is published, so it cannot hold a secret.
        | AlgorithmParameters::OctetKey(_)
        | AlgorithmParameters::Other(_)
        | _ => return None,
    };
    let named = jwk.common.key_algorithm.as_ref().map(ToString::to_string);
    if named.is_some_and(|named| named.parse() != Ok(algorithm)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    if key_bytes.is_some_and(|bytes| key.try_get_as_bytes().map(<[u8]>::len).ok() != Some(bytes)) {
        return None;
    }
    Some(Key { algorithm, id: jwk.common.key_id.clone(), key })
}
