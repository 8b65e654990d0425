//! Authenticates callers by JSON Web Tokens (RFC 7519), verified with the keys of the issuers that
//! the settings and the app's `auth.config` name.
//!
//! An invalid token is refused, and its sender is never treated as anonymous. Errors give the
//! reason, and quote only names from the token that are not secret, truncated.

#[cfg(test)]
mod app_tests;
mod identity;
mod key_sets;
mod keys;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use audit_core::Clock;
use functions_fetch::Fetcher;
use functions_program::{AuthKeys, AuthProvider};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use key_sets::{KeySet, KeySets};
use keys::Key;
pub use keys::KeyError;
pub use settings::AuthSettings;

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    providers: Arc<[Provider]>,
    /// The keys of the app's issuers.
    key_sets: Arc<KeySets>,
    clock: Arc<dyn Clock>,
}

struct Provider {
    issuer: String,
    audience: String,
    keys: Vec<Key>,
}

/// The verified sender of a token.
#[derive(Clone, PartialEq)]
pub struct Verified {
    /// The result of `ctx.auth.getUserIdentity()`.
    pub claims: Json,
    /// The time of expiry, in milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// Omits the claims: they are personal.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// The allowed difference between an issuer's clock and this one.
const LEEWAY_MS: i64 = 5_000;

/// The longest token. Proxies refuse longer headers.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// The longest name from a token in an error.
const MAX_SHOWN_CHARS: usize = 100;

/// The reason why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not a token, or lacks a claim.
    #[error("the token {0}")]
    Malformed(&'static str),
    /// Its algorithm is not accepted.
    #[error("the token is not signed with RS256, ES256, EdDSA or HS256")]
    Algorithm,
    /// Its algorithm is not the one that is configured for its issuer.
    #[error("the token is not signed with the algorithm that is configured for its issuer {0:?}")]
    WrongAlgorithm(String),
    /// Neither the settings nor the app name an issuer.
    #[error(
        "this host accepts no tokens: neither its settings nor the app's auth.config name an issuer"
    )]
    NobodyConfigured,
    /// Its issuer is not configured.
    #[error("the token is from {0:?}, an issuer that is not configured")]
    Issuer(String),
    /// Its audience is not configured for its issuer.
    #[error("the token is not for an audience that is configured for its issuer {0:?}")]
    Audience(String),
    /// The keys of its issuer cannot be fetched now.
    #[error(
        "the keys of the token's issuer {0:?} cannot be fetched now; try again in a few seconds"
    )]
    NoKeys(String),
    /// Its issuer has no such key.
    #[error("the token is signed with a key that is not among those of its issuer {0:?}")]
    UnknownKey(String),
    /// No key of its issuer made its signature.
    #[error("the signature of the token is not valid")]
    Signature,
    /// It has expired.
    #[error("the token expired {seconds} seconds ago")]
    Expired {
        /// For how long, in seconds.
        seconds: i64,
    },
    /// It is not valid yet.
    #[error("the token is not valid before {seconds} seconds from now")]
    NotYet {
        /// In how many seconds.
        seconds: i64,
    },
}

impl Refused {
    /// Whether the token itself may be valid.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Refused::NoKeys(_))
    }
}

impl Authenticator {
    /// Reads the keys of each issuer.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or contains no usable key.
    pub fn open(
        settings: &[AuthSettings],
        clock: Arc<dyn Clock>,
    ) -> Result<Authenticator, KeyError> {
        let provider = |settings: &AuthSettings| {
            let AuthSettings { issuer, audience, .. } = settings;
            let keys = keys::read(settings)?;
            Ok(Provider { issuer: issuer.clone(), audience: audience.clone(), keys })
        };
        let providers = settings.iter().map(provider).collect::<Result<_, KeyError>>()?;
        Ok(Authenticator { providers, key_sets: Arc::default(), clock })
    }

    /// Verifies a token and returns its sender. Fetches the keys of the app's issuers if necessary.
    ///
    /// # Errors
    ///
    /// If the token is not from a configured issuer for a configured audience, or is not valid now.
    ///
    /// # Cancellation
    ///
    /// A fetch of keys continues.
    pub async fn verify(
        &self,
        token: &str,
        app: &[AuthProvider],
        fetcher: &Fetcher,
    ) -> Result<Verified, Refused> {
        if self.providers.is_empty() && app.is_empty() {
            return Err(Refused::NobodyConfigured);
        }
        let token = Token::read(token)?;
        let issuer = &*token.issuer;
        let settings = self.providers.iter().filter(|provider| provider.issuer == issuer);
        let settings: Vec<_> = settings.collect();
        let sets = self.key_sets.of(app).into_iter();
        let sets: Vec<_> = sets.filter(|set| token.is_from(&set.provider)).collect();
        if settings.is_empty() && sets.is_empty() {
            return Err(Refused::Issuer(shown(issuer)));
        }
        let mut refused = None;
        for provider in settings {
            if !token.is_for(&provider.audience) {
                continue;
            }
            match token.signed_by(&provider.keys) {
                Ok(claims) => return self.current(issuer, &claims),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        for set in sets {
            if set.provider.application_id.as_ref().is_some_and(|wanted| !token.is_for(wanted)) {
                continue;
            }
            match token.signed_by_set(&set, fetcher).await {
                Ok(claims) => return self.current(issuer, &claims),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        Err(refused.unwrap_or_else(|| Refused::Audience(shown(issuer))))
    }

    /// Checks the times of verified claims.
    fn current(&self, issuer: &str, claims: &Map<String, Json>) -> Result<Verified, Refused> {
        let now_ms = self.clock.now_ms();
        let expires_ms =
            time_ms(claims, "exp")?.ok_or(Refused::Malformed("has no time of expiry"))?;
        let expires_ms = expires_ms.saturating_add(LEEWAY_MS);
        if expires_ms <= now_ms {
            return Err(Refused::Expired { seconds: now_ms.saturating_sub(expires_ms) / 1_000 });
        }
        if let Some(begins_ms) = time_ms(claims, "nbf")?
            && begins_ms > now_ms.saturating_add(LEEWAY_MS)
        {
            return Err(Refused::NotYet { seconds: begins_ms.saturating_sub(now_ms) / 1_000 });
        }
        let subject = member(claims, "sub").filter(|subject| !subject.is_empty());
        let subject = subject.ok_or(Refused::Malformed("has no subject"))?;
        Ok(Verified { claims: identity::identity(issuer, subject, claims), expires_ms })
    }

    /// The clock that expiry is measured with.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.providers.iter().map(|provider| &provider.issuer)).finish()
    }
}

/// The algorithms of public keys. No others are accepted for published keys.
const PUBLIC: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// A parsed but unverified token, none of which is trusted.
struct Token<'a> {
    text: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    issuer: String,
    claimed: Map<String, Json>,
}

impl Token<'_> {
    fn read(text: &str) -> Result<Token<'_>, Refused> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Malformed("is too long"));
        }
        let header = jsonwebtoken::decode_header(text).map_err(|error| {
            // An unknown algorithm, or `none`.
            let is_unknown = matches!(error.kind(), ErrorKind::Json(_));
            if is_unknown {
                Refused::Algorithm
            } else {
                Refused::Malformed("is not a JSON Web Token")
            }
        })?;
        // RFC 7515, section 4.1.11: an unknown critical header makes the token invalid.
        if header.crit.is_some() {
            return Err(Refused::Malformed("has critical headers, and none is understood here"));
        }
        let claimed = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Json>>(text)
            .map_err(|_| Refused::Malformed("is not a JSON Web Token"))?;
        let issuer = member(&claimed, "iss").ok_or(Refused::Malformed("has no issuer"))?;
        let issuer = issuer.to_owned();
        Ok(Token { text, algorithm: header.alg, key_id: header.kid, issuer, claimed })
    }

    fn is_from(&self, provider: &AuthProvider) -> bool {
        match provider.keys {
            AuthKeys::Discovered => {
                self.issuer.strip_suffix('/').unwrap_or(&self.issuer) == provider.issuer
            }
            AuthKeys::At { .. } => self.issuer == provider.issuer,
        }
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.claimed.get("aud") {
            Some(Json::String(one)) => one == audience,
            Some(Json::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// Whether this key may have signed it.
    fn names(&self, key: &Key) -> bool {
        let is_named = match (&self.key_id, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            // Without a key id in the key set or token, any key may match.
            (None, _) | (_, None) => true,
        };
        is_named && key.algorithm == self.algorithm
    }

    /// The verified claims.
    fn signed_by(&self, keys: &[Key]) -> Result<Map<String, Json>, Refused> {
        let mut named = keys.iter().filter(|key| self.names(key)).peekable();
        if named.peek().is_none() {
            let is_accepted =
                self.algorithm == Algorithm::HS256 || PUBLIC.contains(&self.algorithm);
            return Err(if is_accepted {
                Refused::UnknownKey(shown(&self.issuer))
            } else {
                Refused::Algorithm
            });
        }
        named.find_map(|key| signed(self.text, key)).ok_or(Refused::Signature)
    }

    /// The claims, verified with the keys that their issuer publishes. Nothing is fetched for a
    /// token that no key could make valid.
    async fn signed_by_set(
        &self,
        set: &Arc<KeySet>,
        fetcher: &Fetcher,
    ) -> Result<Map<String, Json>, Refused> {
        if !PUBLIC.contains(&self.algorithm) {
            return Err(Refused::Algorithm);
        }
        if let AuthKeys::At { algorithm, .. } = &set.provider.keys {
            if algorithm.parse() != Ok(self.algorithm) {
                return Err(Refused::WrongAlgorithm(shown(&self.issuer)));
            }
            if self.key_id.is_none() {
                return Err(Refused::Malformed("does not name its key (kid)"));
            }
        }
        let keys = set.keys(|key| self.names(key), fetcher, Instant::now()).await;
        self.signed_by(&keys.ok_or_else(|| Refused::NoKeys(shown(&self.issuer)))?)
    }
}

/// The claims of the token, if this key signed it.
fn signed(token: &str, key: &Key) -> Option<Map<String, Json>> {
    // Times, issuer and audience are checked elsewhere, with the host's clock.
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    jsonwebtoken::decode(token, &key.key, &validation).ok().map(|data| data.claims)
}

fn member<'a>(claims: &'a Map<String, Json>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Json::as_str)
}

/// A NumericDate (RFC 7519, section 2), in milliseconds.
fn time_ms(claims: &Map<String, Json>, name: &str) -> Result<Option<i64>, Refused> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let seconds = claim.as_f64().filter(|seconds| seconds.is_finite());
    let seconds = seconds.ok_or(Refused::Malformed("has a time that is not a number"))?;
    // A float becomes the nearest integer.
    Ok(Some((seconds * 1_000.0) as i64))
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_SHOWN_CHARS).collect()
}
