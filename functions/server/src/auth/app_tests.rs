//! Tokens of an app's own issuers, whose keys are published by a server in this process.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use functions_fetch::FetchSettings;
use futures::stream::{self, StreamExt};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::sync::Semaphore;

use super::tests::{NOW_S, claims, keys, open, pair, with, without};
use super::*;

/// A server of documents, which counts requests.
struct Issuer {
    url: String,
    site: Arc<Site>,
}

struct Site {
    documents: Mutex<HashMap<String, Document>>,
    asked: AtomicUsize,
    /// Each response consumes a permit.
    open: Semaphore,
    begun: Semaphore,
}

#[derive(Clone)]
enum Document {
    Text(String),
    Redirect(String),
    /// No response.
    Never,
    /// A response whose body begins and does not end.
    Endless,
}

async fn answer(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    site.asked.fetch_add(1, Ordering::SeqCst);
    site.begun.add_permits(1);
    let _permit = site.open.acquire().await.unwrap();
    let document = site.documents.lock().unwrap().get(uri.path()).cloned();
    match document {
        Some(Document::Text(text)) => text.into_response(),
        Some(Document::Redirect(to)) => {
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        Some(Document::Never) => std::future::pending().await,
        Some(Document::Endless) => {
            let begin = stream::once(async { Ok::<_, Infallible>("{") });
            Body::from_stream(begin.chain(stream::pending())).into_response()
        }
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// More permits than there are concurrent responses.
const PERMITS: usize = 1_000;

const CONFIGURATION: &str = "/.well-known/openid-configuration";

impl Issuer {
    async fn start() -> Issuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Site {
            documents: Mutex::default(),
            asked: AtomicUsize::new(0),
            open: Semaphore::new(PERMITS),
            begun: Semaphore::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&site));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let issuer = Issuer { url, site };
        let configuration = json!({ "issuer": issuer.url, "jwks_uri": issuer.at("/keys") });
        issuer.publish(CONFIGURATION, configuration.to_string());
        issuer.publish("/keys", set(&[(Algorithm::RS256, "rsa"), (Algorithm::ES256, "ec")]));
        issuer
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn publish(&self, path: &str, text: String) {
        self.site.documents.lock().unwrap().insert(path.to_owned(), Document::Text(text));
    }

    fn asked(&self) -> usize {
        self.site.asked.load(Ordering::SeqCst)
    }

    fn discovered(&self) -> AuthProvider {
        AuthProvider {
            issuer: self.url.clone(),
            application_id: Some("app".to_owned()),
            keys: AuthKeys::Discovered,
        }
    }

    fn custom(&self, algorithm: &str) -> AuthProvider {
        let keys = AuthKeys::At { jwks: self.at("/keys"), algorithm: algorithm.to_owned() };
        AuthProvider { keys, ..self.discovered() }
    }

    fn claims(&self, claims: &Json) -> Json {
        let mut claims = claims.clone();
        if claims.get("iss").is_some() {
            claims["iss"] = json!(self.url);
        }
        claims
    }

    fn token(&self, algorithm: Algorithm, id: Option<&str>, claims: &Json) -> String {
        let (key, ..) = pair(algorithm);
        let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &self.claims(claims), &key).unwrap()
    }
}

/// A key set in the form in which issuers publish it.
fn set(named: &[(Algorithm, &str)]) -> String {
    let jwk = |(algorithm, id): &(Algorithm, &str)| {
        let (key, ..) = pair(*algorithm);
        let mut jwk = Jwk::from_encoding_key(&key, *algorithm).unwrap();
        jwk.common.key_id = Some((*id).to_owned());
        jwk
    };
    json!({ "keys": named.iter().map(jwk).collect::<Vec<_>>() }).to_string()
}

/// A client that may reach this machine.
fn fetcher() -> Fetcher {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    Fetcher::new(FetchSettings { networks, ..FetchSettings::default() })
}

/// The result of verifying a token without any issuers in the settings.
async fn answered(app: &[AuthProvider], token: &str) -> Result<Verified, Refused> {
    open(&[]).unwrap().verify(token, app, &fetcher()).await
}

#[tokio::test]
async fn keys_are_discovered_once_for_many_tokens() {
    let issuer = Issuer::start().await;
    let (auth, fetcher, app) = (open(&[]).unwrap(), fetcher(), [issuer.discovered()]);
    for (algorithm, id) in [(Algorithm::RS256, "rsa"), (Algorithm::ES256, "ec")] {
        let token = issuer.token(algorithm, Some(id), &claims());
        let verified = auth.verify(&token, &app, &fetcher).await.unwrap();
        assert_eq!(verified.claims["tokenIdentifier"], format!("{}|user1", issuer.url));
        assert_eq!(verified.claims["email"], "a@example.com");
        assert_eq!(verified.expires_ms, (NOW_S + 60) * 1_000 + LEEWAY_MS);
    }
    // Auth0's tokens end the issuer with a slash, which its domain lacks.
    let slashed = with("iss", json!(format!("{}/", issuer.url)));
    let (key, ..) = pair(Algorithm::RS256);
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &slashed, &key).unwrap();
    let verified = auth.verify(&token, &app, &fetcher).await.unwrap();
    assert_eq!(verified.claims["tokenIdentifier"], format!("{}/|user1", issuer.url));
    assert_eq!(issuer.asked(), 2);
    // A deployment that changes providers keeps the keys of those that remain.
    let more = [issuer.custom("ES256"), issuer.discovered()];
    let token = issuer.token(Algorithm::RS256, Some("rsa"), &claims());
    assert!(auth.verify(&token, &more[1..], &fetcher).await.is_ok());
    assert_eq!(issuer.asked(), 2);
}

/// A token that no key could make valid causes no request to the issuer.
#[tokio::test]
async fn hostile_tokens_are_refused() {
    let issuer = Issuer::start().await;
    let this = || issuer.url.clone();
    let secret = EncodingKey::from_secret(&std::fs::read(keys("rsa.pem")).unwrap());
    let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::HS256) };
    let confused = jsonwebtoken::encode(&header, &issuer.claims(&claims()), &secret).unwrap();
    let good = issuer.token(Algorithm::RS256, Some("rsa"), &claims());
    let body = good.split('.').nth(1).unwrap();
    let other = issuer.token(Algorithm::RS256, Some("rsa"), &with("sub", json!("root")));
    let parts: Vec<&str> = good.split('.').collect();
    let forged = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
    let signed = |claims: &Json| issuer.token(Algorithm::RS256, Some("rsa"), claims);
    let elsewhere = {
        let (key, ..) = pair(Algorithm::RS256);
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims(), &key).unwrap()
    };
    // The token, the results with an OpenID provider and a custom one for RS256, and whether keys
    // must be fetched.
    let same = |refused: Refused| (refused.clone(), refused);
    let cases = [
        ("alg none", format!("eyJhbGciOiJub25lIn0.{body}."), same(Refused::Algorithm), false),
        ("the public key as a secret", confused, same(Refused::Algorithm), false),
        (
            "an algorithm of another key",
            issuer.token(Algorithm::ES256, Some("rsa"), &claims()),
            (Refused::UnknownKey(this()), Refused::WrongAlgorithm(this())),
            true,
        ),
        ("other claims", forged, same(Refused::Signature), true),
        ("no signature", format!("{}.{body}.", parts[0]), same(Refused::Signature), true),
        (
            "an unknown key",
            issuer.token(Algorithm::RS256, Some("x"), &claims()),
            same(Refused::UnknownKey(this())),
            true,
        ),
        (
            "another audience",
            signed(&with("aud", json!("other"))),
            same(Refused::Audience(this())),
            false,
        ),
        ("no audience", signed(&without("aud")), same(Refused::Audience(this())), false),
        ("no issuer", signed(&without("iss")), same(Refused::Malformed("has no issuer")), false),
        (
            "another issuer",
            elsewhere,
            same(Refused::Issuer("https://issuer.example".to_owned())),
            false,
        ),
        (
            "expired",
            signed(&with("exp", json!(NOW_S - 65))),
            same(Refused::Expired { seconds: 60 }),
            true,
        ),
        (
            "not valid yet",
            signed(&with("nbf", json!(NOW_S + 66))),
            same(Refused::NotYet { seconds: 66 }),
            true,
        ),
        (
            "no expiry",
            signed(&without("exp")),
            same(Refused::Malformed("has no time of expiry")),
            true,
        ),
        ("no subject", signed(&without("sub")), same(Refused::Malformed("has no subject")), true),
        ("no token", "x".to_owned(), same(Refused::Malformed("is not a JSON Web Token")), false),
    ];
    for (name, token, (discovered, custom), needs_keys) in cases {
        let before = issuer.asked();
        assert_eq!(answered(&[issuer.discovered()], &token).await, Err(discovered), "{name}");
        assert_eq!(issuer.asked() - before, if needs_keys { 2 } else { 0 }, "{name}");
        assert_eq!(answered(&[issuer.custom("RS256")], &token).await, Err(custom), "{name}");
    }
    assert!(answered(&[issuer.discovered()], &good).await.is_ok());
    assert!(answered(&[issuer.custom("RS256")], &good).await.is_ok());
    assert_eq!(answered(&[], &good).await, Err(Refused::NobodyConfigured));

    // Only OpenID providers may omit the key id.
    let unnamed = issuer.token(Algorithm::RS256, None, &claims());
    assert!(answered(&[issuer.discovered()], &unnamed).await.is_ok());
    let refused = Refused::Malformed("does not name its key (kid)");
    assert_eq!(answered(&[issuer.custom("RS256")], &unnamed).await, Err(refused));
    // Without an application, tokens for any audience are accepted, as Convex documents.
    let anybodys = AuthProvider { application_id: None, ..issuer.custom("RS256") };
    assert!(answered(&[anybodys], &signed(&without("aud"))).await.is_ok());
}

#[tokio::test]
async fn hostile_documents_give_no_keys() {
    let issuer = Issuer::start().await;
    let token = issuer.token(Algorithm::RS256, Some("rsa"), &claims());
    let good = set(&[(Algorithm::RS256, "rsa")]);
    let many: Vec<(Algorithm, &str)> = vec![(Algorithm::ES256, "ec"); 51];
    let symmetric = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "rsa" }] });
    let configuration = |of: &str, keys: &str| {
        (CONFIGURATION, json!({ "issuer": of, "jwks_uri": keys }).to_string())
    };
    let (this, keys) = (&*issuer.url, issuer.at("/keys"));
    let cases = [
        (
            "a long set",
            ("/keys", good.replace("{\"keys\"", &format!("{}{{\"keys\"", " ".repeat(256 << 10)))),
        ),
        ("too many keys", ("/keys", set(&many))),
        ("no set", ("/keys", "[]".to_owned())),
        ("no text", ("/keys", "\u{0}".to_owned())),
        ("a secret", ("/keys", symmetric.to_string())),
        ("another issuer's configuration", configuration("https://other.example", &keys)),
        ("no configuration", (CONFIGURATION, "{}".to_owned())),
        ("keys without TLS", configuration(this, "http://keys.example/keys")),
        ("keys in a file", configuration(this, "file:///etc/passwd")),
        ("keys in the configuration", configuration(this, &format!("data:,{good}"))),
        ("keys at a private address", configuration(this, "https://10.0.0.1/keys")),
        ("keys at the metadata service", configuration(this, "http://169.254.169.254/keys")),
        ("keys that are nowhere", configuration(this, &issuer.at("/nowhere"))),
    ];
    for (name, (path, text)) in cases {
        let kept = issuer.site.documents.lock().unwrap().clone();
        issuer.publish(path, text);
        let refused = answered(&[issuer.discovered()], &token).await;
        assert_eq!(refused, Err(Refused::NoKeys(issuer.url.clone())), "{name}");
        *issuer.site.documents.lock().unwrap() = kept;
    }
    let to = "http://169.254.169.254/keys".to_owned();
    issuer.site.documents.lock().unwrap().insert("/keys".to_owned(), Document::Redirect(to));
    let refused = answered(&[issuer.discovered()], &token).await;
    assert_eq!(refused, Err(Refused::NoKeys(issuer.url.clone())), "a redirect");
}

#[tokio::test]
async fn issuers_at_private_addresses_are_not_contacted() {
    let issuer = Issuer::start().await;
    let token = issuer.token(Algorithm::RS256, Some("rsa"), &claims());
    let public_only = Fetcher::new(FetchSettings::default());
    for provider in [issuer.discovered(), issuer.custom("RS256")] {
        let refused = open(&[]).unwrap().verify(&token, &[provider], &public_only).await;
        assert_eq!(refused, Err(Refused::NoKeys(issuer.url.clone())));
    }
    assert_eq!(issuer.asked(), 0);
}

#[tokio::test]
async fn keys_can_stand_in_a_data_url() {
    let issuer = Issuer::start().await;
    let set = set(&[(Algorithm::ES256, "ec")]);
    let token = issuer.token(Algorithm::ES256, Some("ec"), &claims());
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &set);
    let percent: String = set.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let good = [
        format!("data:text/plain;charset=utf-8;base64,{encoded}"),
        format!("data:application/json,{set}"),
        format!("data:,{percent}"),
    ];
    for jwks in good {
        let keys = AuthKeys::At { jwks, algorithm: "ES256".to_owned() };
        let provider = AuthProvider { keys, ..issuer.discovered() };
        assert!(answered(&[provider], &token).await.is_ok());
    }
    for jwks in ["data:", "data:;base64,!", "data:,%2", "data:,%zz", "data:,{}"] {
        let keys = AuthKeys::At { jwks: jwks.to_owned(), algorithm: "ES256".to_owned() };
        let provider = AuthProvider { keys, ..issuer.discovered() };
        let refused = answered(&[provider], &token).await;
        assert_eq!(refused, Err(Refused::NoKeys(issuer.url.clone())), "{jwks}");
    }
    assert_eq!(issuer.asked(), 0);
}

fn named(id: &'static str) -> impl Fn(&Key) -> bool {
    move |key| key.id.as_deref() == Some(id)
}

#[tokio::test]
async fn new_keys_are_fetched_at_a_bounded_rate() {
    let issuer = Issuer::start().await;
    let (set_of, fetcher) = (Arc::new(KeySet::new(issuer.custom("RS256"))), fetcher());
    let start = Instant::now();
    let keys = async |id, seconds| {
        let at = start + Duration::from_secs(seconds);
        let keys = set_of.keys(named(id), &fetcher, at).await;
        keys.map(|keys| keys.iter().any(named(id)))
    };
    assert_eq!(keys("rsa", 0).await, Some(true));
    assert_eq!(issuer.asked(), 1);
    issuer.publish("/keys", set(&[(Algorithm::RS256, "new")]));
    // Within the interval, only keys that have been fetched are used.
    for _ in 0..100 {
        assert_eq!(keys("x", 29).await, Some(false));
    }
    assert_eq!(keys("rsa", 29).await, Some(true));
    assert_eq!(issuer.asked(), 1);
    assert_eq!(keys("new", 30).await, Some(true));
    assert_eq!(keys("rsa", 30).await, Some(false));
    assert_eq!(issuer.asked(), 2);

    // Known keys are fetched again after ten minutes, which removes withdrawn ones.
    assert_eq!(keys("new", 629).await, Some(true));
    assert_eq!(issuer.asked(), 2);
    issuer.publish("/keys", set(&[(Algorithm::RS256, "newer")]));
    assert_eq!(keys("new", 630).await, Some(false));
    assert_eq!(issuer.asked(), 3);

    // While the issuer fails, its last keys are used for an hour, and it is contacted every 5 s.
    issuer.site.documents.lock().unwrap().clear();
    assert_eq!(keys("newer", 1_230).await, Some(true));
    assert_eq!(keys("newer", 1_234).await, Some(true));
    assert_eq!(issuer.asked(), 4);
    assert_eq!(keys("newer", 1_235).await, Some(true));
    assert_eq!(issuer.asked(), 5);
    assert_eq!(keys("newer", 4_229).await, Some(true));
    assert_eq!(keys("newer", 4_234).await, None);
    assert_eq!(issuer.asked(), 7);
    issuer.publish("/keys", set(&[(Algorithm::RS256, "newer")]));
    assert_eq!(keys("newer", 4_235).await, None);
    assert_eq!(keys("newer", 4_239).await, Some(true));
}

#[tokio::test]
async fn keys_are_fetched_by_one_for_all() {
    let issuer = Issuer::start().await;
    let (auth, fetcher, app) = (open(&[]).unwrap(), fetcher(), [issuer.discovered()]);
    let token = issuer.token(Algorithm::RS256, Some("rsa"), &claims());
    let verify = || auth.verify(&token, &app, &fetcher);
    let verified = futures::future::join_all((0..20).map(|_| verify())).await;
    assert!(verified.iter().all(Result::is_ok));
    assert_eq!(issuer.asked(), 2);
}

/// A caller that is dropped does not deprive others of the keys.
#[tokio::test]
async fn a_fetch_survives_its_caller() {
    let issuer = Issuer::start().await;
    let set_of = Arc::new(KeySet::new(issuer.custom("RS256")));
    let (fetcher, now) = (fetcher(), Instant::now());
    let closed = issuer.site.open.acquire_many(PERMITS as u32).await;
    let asking = set_of.keys(named("rsa"), &fetcher, now);
    tokio::select! {
        _ = asking => panic!("there was no answer"),
        begun = issuer.site.begun.acquire() => begun.unwrap().forget(),
    }
    drop(closed);
    let keys = set_of.keys(named("rsa"), &fetcher, now).await.unwrap();
    assert!(keys.iter().any(named("rsa")));
    assert_eq!(issuer.asked(), 1);
}

/// Calls wait for keys, so an issuer that does not respond must not hold them up. The clock is
/// paused once the last request has arrived; it then jumps to the limit.
#[tokio::test]
async fn a_fetch_of_keys_ends_at_its_limit() {
    for (path, requests) in [(CONFIGURATION, 1), ("/keys", 2)] {
        for document in [Document::Never, Document::Endless] {
            for has_keys in [false, true] {
                let issuer = Issuer::start().await;
                let (set_of, fetcher) = (Arc::new(KeySet::new(issuer.discovered())), fetcher());
                let mut now = Instant::now();
                if has_keys {
                    assert!(set_of.keys(named("rsa"), &fetcher, now).await.is_some());
                    issuer.site.begun.acquire_many(2).await.unwrap().forget();
                    now += Duration::from_secs(600);
                }
                issuer.site.documents.lock().unwrap().insert(path.to_owned(), document.clone());

                let begin = Instant::now();
                let mut fetch = pin!(set_of.keys(named("rsa"), &fetcher, now));
                tokio::select! {
                    _ = &mut fetch => panic!("{path}: the fetch ended before its limit"),
                    begun = issuer.site.begun.acquire_many(requests) => begun.unwrap().forget(),
                }
                tokio::time::pause();
                let paused = Instant::now();
                let keys = fetch.await;
                let end = Instant::now();
                tokio::time::resume();
                // Keys that are usable for longer remain in use.
                assert_eq!(keys.is_some(), has_keys, "{path}");
                let limit = Duration::from_secs(10);
                assert!(end - begin >= limit, "{path}: {:?}", end - begin);
                // Timers have a resolution of a millisecond.
                let most = limit + Duration::from_millis(1);
                assert!(end - paused <= most, "{path}: {:?}", end - paused);
            }
        }
    }
}

#[test]
fn refusals_of_issuers_tell_clients_nothing_internal() {
    let refused = Refused::NoKeys(shown(&"x".repeat(10_000))).to_string();
    assert!(refused.len() < 300, "{refused}");
}
