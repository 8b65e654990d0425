//! The issuers whose tokens are accepted.

use std::path::PathBuf;

use serde::Deserialize;

/// An issuer of tokens and its key, in exactly one of the three files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// The required `iss`.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// A JSON Web Key Set with public keys, for RS256, ES256 or EdDSA.
    #[serde(default)]
    pub jwks: Option<PathBuf>,
    /// A PEM file with one public key, for RS256, ES256 or EdDSA.
    #[serde(default)]
    pub public_key: Option<PathBuf>,
    /// A file with a shared secret, for HS256.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}
