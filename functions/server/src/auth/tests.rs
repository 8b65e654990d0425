//! Each way in which a token is invalid, and a valid one for each algorithm. The keys beside this
//! file were made for these tests.

use std::path::{Path, PathBuf};

use audit_core::testing::ManualClock;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

pub(super) const NOW_S: i64 = 1_700_000_000;
pub(super) const ISSUER: &str = "https://issuer.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

impl Authenticator {
    /// Verifies a token by the settings alone.
    fn check(&self, token: &str) -> Result<Verified, Refused> {
        let fetcher = Fetcher::new(functions_fetch::FetchSettings::default());
        futures::executor::block_on(self.verify(token, &[], &fetcher))
    }
}

pub(super) fn keys(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/auth/keys").join(file)
}

fn provider() -> AuthSettings {
    AuthSettings {
        issuer: ISSUER.to_owned(),
        audience: "app".to_owned(),
        jwks: None,
        public_key: None,
        secret_file: None,
    }
}

pub(super) fn open(providers: &[AuthSettings]) -> Result<Authenticator, KeyError> {
    Authenticator::open(providers, Arc::new(ManualClock::at(NOW_S * 1_000)))
}

/// The signing key of an algorithm, and a provider with the public half.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "of the algorithms there are, these tests use four"
)]
pub(super) fn pair(algorithm: Algorithm) -> (EncodingKey, AuthSettings, tempfile::TempDir) {
    let kept = tempfile::tempdir().unwrap();
    let public = |file: &str| AuthSettings { public_key: Some(keys(file)), ..provider() };
    let private = |file: &str| std::fs::read(keys(file)).unwrap();
    let (key, provider) = match algorithm {
        Algorithm::RS256 => {
            (EncodingKey::from_rsa_pem(&private("rsa.private.pem")).unwrap(), public("rsa.pem"))
        }
        Algorithm::ES256 => {
            (EncodingKey::from_ec_pem(&private("ec.private.pem")).unwrap(), public("ec.pem"))
        }
        Algorithm::EdDSA => {
            (EncodingKey::from_ed_pem(&private("ed.private.pem")).unwrap(), public("ed.pem"))
        }
        _ => {
            let file = kept.path().join("secret");
            std::fs::write(&file, format!("{SECRET}\n")).unwrap();
            let provider = AuthSettings { secret_file: Some(file), ..provider() };
            (EncodingKey::from_secret(SECRET.as_bytes()), provider)
        }
    };
    (key, provider, kept)
}

const ALL: [Algorithm; 4] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256];

pub(super) fn claims() -> Json {
    json!({"iss": ISSUER, "sub": "user1", "aud": "app", "exp": NOW_S + 60, "email": "a@example.com"})
}

pub(super) fn with(name: &str, value: Json) -> Json {
    let mut claims = claims();
    claims[name] = value;
    claims
}

pub(super) fn without(name: &str) -> Json {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn token(algorithm: Algorithm, key: &EncodingKey, claims: &Json) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

/// The result for a well-signed token with these claims.
fn answer(claims: &Json) -> Result<Verified, Refused> {
    let (key, provider, _kept) = pair(Algorithm::EdDSA);
    open(&[provider]).unwrap().check(&token(Algorithm::EdDSA, &key, claims))
}

#[test]
fn each_algorithm_verifies_its_signatures() {
    for algorithm in ALL {
        let (key, provider, _kept) = pair(algorithm);
        let verified = open(&[provider]).unwrap().check(&token(algorithm, &key, &claims()));
        let verified = verified.unwrap_or_else(|refused| panic!("{algorithm:?}: {refused}"));
        assert_eq!(verified.claims["tokenIdentifier"], format!("{ISSUER}|user1"));
        assert_eq!(verified.claims["email"], "a@example.com");
        assert_eq!(verified.expires_ms, (NOW_S + 60) * 1_000 + LEEWAY_MS);
    }
}

#[test]
fn a_changed_token_is_refused() {
    for algorithm in ALL {
        let (key, provider, _kept) = pair(algorithm);
        let authenticator = open(&[provider]).unwrap();
        let good = token(algorithm, &key, &claims());
        let other = token(algorithm, &key, &with("sub", json!("root")));
        let parts: Vec<&str> = good.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
        assert_eq!(authenticator.check(&forged), Err(Refused::Signature), "{algorithm:?}");
        let cut = format!("{}.{}.", parts[0], parts[1]);
        assert_eq!(authenticator.check(&cut), Err(Refused::Signature), "{algorithm:?}");
    }
}

#[test]
fn a_token_does_not_choose_how_a_key_is_used() {
    // Signed with HS256, with the public key as the secret.
    let (_, provider, _kept) = pair(Algorithm::RS256);
    let public = std::fs::read(keys("rsa.pem")).unwrap();
    let forged = token(Algorithm::HS256, &EncodingKey::from_secret(&public), &claims());
    assert_eq!(
        open(&[provider]).unwrap().check(&forged),
        Err(Refused::UnknownKey(ISSUER.to_owned()))
    );

    let (key, provider, _kept) = pair(Algorithm::HS256);
    let authenticator = open(&[provider]).unwrap();
    let longer = token(Algorithm::HS512, &key, &claims());
    assert_eq!(authenticator.check(&longer), Err(Refused::Algorithm));
    // {"alg":"none"}
    let body = longer.split('.').nth(1).unwrap();
    assert_eq!(
        authenticator.check(&format!("eyJhbGciOiJub25lIn0.{body}.")),
        Err(Refused::Algorithm)
    );
}

#[test]
fn issuer_and_audience_must_be_configured_together() {
    assert_eq!(
        answer(&with("iss", json!("https://other"))),
        Err(Refused::Issuer("https://other".to_owned()))
    );
    assert_eq!(answer(&without("iss")), Err(Refused::Malformed("has no issuer")));
    for audience in [json!("other"), json!(["other", "others"]), json!(7), Json::Null] {
        assert_eq!(answer(&with("aud", audience)), Err(Refused::Audience(ISSUER.to_owned())));
    }
    assert_eq!(answer(&without("aud")), Err(Refused::Audience(ISSUER.to_owned())));
    assert!(answer(&with("aud", json!(["other", "app"]))).is_ok());

    // Two audiences of one issuer have keys of their own.
    let (ed, first, _kept) = pair(Algorithm::EdDSA);
    let (ec, second, _kept) = pair(Algorithm::ES256);
    let authenticator =
        open(&[first, AuthSettings { audience: "second".to_owned(), ..second }]).unwrap();
    assert!(authenticator.check(&token(Algorithm::EdDSA, &ed, &claims())).is_ok());
    assert!(
        authenticator.check(&token(Algorithm::ES256, &ec, &with("aud", json!("second")))).is_ok()
    );
    let crossed = authenticator.check(&token(Algorithm::ES256, &ec, &claims()));
    assert_eq!(crossed, Err(Refused::UnknownKey(ISSUER.to_owned())));
}

#[test]
fn times_are_kept_to_the_leeway() {
    assert!(answer(&with("exp", json!(NOW_S - 4))).is_ok());
    assert_eq!(answer(&with("exp", json!(NOW_S - 5))), Err(Refused::Expired { seconds: 0 }));
    assert_eq!(answer(&with("exp", json!(NOW_S - 65))), Err(Refused::Expired { seconds: 60 }));
    assert!(answer(&with("exp", json!(NOW_S as f64 + 0.5))).is_ok());
    assert!(answer(&with("exp", json!(1e300))).is_ok());
    assert_eq!(
        answer(&with("exp", json!("soon"))),
        Err(Refused::Malformed("has a time that is not a number"))
    );
    assert_eq!(answer(&without("exp")), Err(Refused::Malformed("has no time of expiry")));
    assert!(answer(&with("nbf", json!(NOW_S + 5))).is_ok());
    assert_eq!(answer(&with("nbf", json!(NOW_S + 66))), Err(Refused::NotYet { seconds: 66 }));
    assert_eq!(
        answer(&with("nbf", json!([]))),
        Err(Refused::Malformed("has a time that is not a number"))
    );
}

#[test]
fn a_subject_is_needed() {
    assert_eq!(answer(&without("sub")), Err(Refused::Malformed("has no subject")));
    assert_eq!(answer(&with("sub", json!(""))), Err(Refused::Malformed("has no subject")));
    assert_eq!(answer(&with("sub", json!(7))), Err(Refused::Malformed("has no subject")));
}

#[test]
fn malformed_tokens_are_refused() {
    let (_, provider, _kept) = pair(Algorithm::EdDSA);
    let authenticator = open(&[provider]).unwrap();
    for text in ["", "x", "a.b", "a.b.c", "....", "eyJhbGciOiJFZERTQSJ9.e30.", "é.é.é"] {
        assert!(matches!(authenticator.check(text), Err(Refused::Malformed(_))), "{text}");
    }
    let long = "x".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(authenticator.check(&long), Err(Refused::Malformed("is too long")));
    assert_eq!(open(&[]).unwrap().check("a.b.c"), Err(Refused::NobodyConfigured));
}

#[test]
fn critical_headers_are_refused() {
    let (key, provider, _kept) = pair(Algorithm::EdDSA);
    let header = Header { crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::EdDSA) };
    let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    assert!(matches!(open(&[provider]).unwrap().check(&token), Err(Refused::Malformed(_))));
}

/// A key set as issuers publish it: a key for each of the two algorithms, one for another purpose,
/// and one of an unknown algorithm.
fn key_set(directory: &Path) -> AuthSettings {
    use jsonwebtoken::jwk::Jwk;
    let jwk = |algorithm: Algorithm, id: &str| {
        let (key, ..) = pair(algorithm);
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        serde_json::to_value(jwk).unwrap()
    };
    let mut encryption = jwk(Algorithm::RS256, "for encryption");
    encryption["use"] = json!("enc");
    let strange = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "too short"});
    let set = json!({"keys": [
        encryption, strange, jwk(Algorithm::RS256, "rsa"), jwk(Algorithm::ES256, "ec"),
    ]});
    let file = directory.join("jwks.json");
    std::fs::write(&file, set.to_string()).unwrap();
    AuthSettings { jwks: Some(file), ..provider() }
}

#[test]
fn a_key_set_has_a_key_for_each_name() {
    let directory = tempfile::tempdir().unwrap();
    let authenticator = open(&[key_set(directory.path())]).unwrap();
    let sign = |algorithm, id: Option<&str>| {
        let (key, ..) = pair(algorithm);
        let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
        authenticator.check(&jsonwebtoken::encode(&header, &claims(), &key).unwrap())
    };
    assert!(sign(Algorithm::RS256, Some("rsa")).is_ok());
    assert!(sign(Algorithm::ES256, Some("ec")).is_ok());
    assert!(sign(Algorithm::ES256, None).is_ok());
    let unknown = Err(Refused::UnknownKey(ISSUER.to_owned()));
    assert_eq!(sign(Algorithm::RS256, Some("for encryption")), unknown);
    assert_eq!(sign(Algorithm::RS256, Some("ec")), unknown);
    assert_eq!(sign(Algorithm::EdDSA, Some("too short")), unknown);
}

#[test]
fn files_without_a_usable_key_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let refused = |content: &str, settings: AuthSettings, says: &str| {
        std::fs::write(&file, content).unwrap();
        let error = open(&[settings]).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(ISSUER), "{error}");
    };
    let jwks = || AuthSettings { jwks: Some(file.clone()), ..provider() };
    let public_key = || AuthSettings { public_key: Some(file.clone()), ..provider() };
    let secret_file = || AuthSettings { secret_file: Some(file.clone()), ..provider() };
    refused("{}", jwks(), "is not a JSON Web Key Set");
    refused(r#"{"keys":[]}"#, jwks(), "has 0 keys");
    refused("secret", public_key(), "is not a PEM file");
    refused(
        &std::fs::read_to_string(keys("rsa.private.pem")).unwrap(),
        public_key(),
        "private key",
    );
    refused(
        &std::fs::read_to_string(keys("ed.private.pem")).unwrap(),
        public_key(),
        "is not a PEM file",
    );
    refused("too short a secret", secret_file(), "has 18 bytes");
    refused("", AuthSettings { jwks: Some(file.clone()), ..secret_file() }, "no other");
    refused("", provider(), "needs one of");
    refused(SECRET, AuthSettings { audience: String::new(), ..secret_file() }, "audience is empty");
    std::fs::remove_file(&file).unwrap();
    assert!(open(&[jwks()]).unwrap_err().to_string().contains(file.to_str().unwrap()));
}

#[test]
fn nothing_secret_is_shown() {
    let (key, provider, _kept) = pair(Algorithm::HS256);
    let good = token(Algorithm::HS256, &key, &claims());
    let authenticator = open(&[provider]).unwrap();
    let verified = authenticator.check(&good).unwrap();
    let shown = format!("{authenticator:?} {verified:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("a@example.com"), "{shown}");
    let long = "x".repeat(10_000);
    let refused = answer(&with("iss", json!(long))).unwrap_err().to_string();
    assert!(refused.len() < 300, "{}", refused.len());
}
