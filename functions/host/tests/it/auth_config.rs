//! Tokens of the issuers that an app names in `auth.config.ts`.

use std::collections::BTreeMap;

use functions_calls::FunctionSettings;
use functions_fetch::FetchSettings;
use functions_program::{Env, Program};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value as Json, json};

use crate::served::{Served, Socket};
use crate::support::program;

const USERS: &str = r#"
import { log } from "convex/server";
import { query } from "./_generated/server";
export const me = query(async (ctx) => {
  const identity = await ctx.auth.getUserIdentity();
  await log.audit({ action: "me", who: identity?.tokenIdentifier ?? null, ip: log.vars.ip });
  return identity;
});
"#;

/// The app issues tokens itself, like apps with Convex Auth.
const HTTP: &str = r#"
import { httpRouter } from "convex/server";
import { httpAction } from "./_generated/server";
const http = httpRouter();
const site = process.env.CONVEX_SITE_URL;
const json = (body: string) => new Response(body, { headers: { "Content-Type": "application/json" } });
http.route({ path: "/.well-known/openid-configuration", method: "GET", handler: httpAction(async () =>
  json(JSON.stringify({ issuer: site, jwks_uri: `${site}/.well-known/jwks.json` }))) });
http.route({ path: "/.well-known/jwks.json", method: "GET", handler: httpAction(async () => json(process.env.JWKS!)) });
http.route({ path: "/me", method: "GET", handler: httpAction(async (ctx) =>
  json(JSON.stringify(await ctx.auth.getUserIdentity()))) });
export default http;
"#;

const CONFIG: &str = r#"
export default { providers: [
  { domain: process.env.CONVEX_SITE_URL, applicationID: "convex" },
  { type: "customJwt", issuer: "https://custom.example", algorithm: "ES256",
    jwks: `data:text/plain;charset=utf-8;base64,${btoa(process.env.JWKS!)}` },
  { type: "customJwt", issuer: "https://down.example", algorithm: "ES256", jwks: `${process.env.CONVEX_SITE_URL}/nowhere` },
] };
"#;

fn key() -> EncodingKey {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/src/auth/keys/ec.private.pem");
    EncodingKey::from_ec_pem(&std::fs::read(file).unwrap()).unwrap()
}

fn token(issuer: &str, subject: &str) -> String {
    let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::ES256) };
    let claims =
        json!({ "iss": issuer, "aud": "convex", "sub": subject, "exp": 4_000_000_000_i64 });
    jsonwebtoken::encode(&header, &claims, &key()).unwrap()
}

async fn host() -> Served {
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let fetch = FetchSettings { networks, ..FetchSettings::default() };
    let settings = FunctionSettings { fetch, ..FunctionSettings::default() };
    let served = Served::with_settings(program(&[("users.ts", USERS)]), settings).await;
    // The address of HTTP actions is known only now.
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("1".to_owned());
    let variables = BTreeMap::from([
        ("CONVEX_SITE_URL".to_owned(), served.site_url.clone()),
        ("JWKS".to_owned(), json!({ "keys": [jwk] }).to_string()),
    ]);
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("users.ts", USERS), ("http.ts", HTTP), ("auth.config.ts", CONFIG)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let program = Program::load(directory.path(), &Env::new(variables, [])).unwrap();
    assert_eq!(program.warnings(), [""; 0]);
    served.functions.deploy(program).await.unwrap();
    served
}

impl Served {
    /// The result of `users:me` for a bearer token.
    async fn me(&self, token: &str) -> (u16, Json) {
        let call = json!({ "path": "users:me", "args": {} });
        self.post("/api/query", &call, &[("Authorization", &format!("Bearer {token}"))]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apps_own_issuers_are_believed() {
    let served = host().await;
    let site = served.site_url.clone();
    for (session, issuer) in [(1, &*site), (2, "https://custom.example")] {
        let token = token(issuer, "ada");
        let identity = json!({
            "issuer": issuer, "subject": "ada", "sub": "ada", "tokenIdentifier": format!("{issuer}|ada"),
        });
        let (status, body) = served.me(&token).await;
        assert_eq!((status, &body["value"]), (200, &identity), "{body}");

        let asked = served.http.get(format!("{site}/me")).bearer_auth(&token).send().await.unwrap();
        assert_eq!(asked.json::<Json>().await.unwrap(), identity);

        let mut socket = Socket::connect_as(&served.url, session).await;
        socket.authenticate(0, &token).await;
        socket.follow(0, "users:me", json!({})).await;
        let mut heard = String::new();
        while !heard.contains("tokenIdentifier") {
            heard = format!("{:?}", socket.receive().await.unwrap());
        }
        assert!(heard.contains(&format!("{issuer}|ada")), "{heard}");
    }
    // Signed with another key.
    let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
    let claims = json!({ "iss": site, "aud": "convex", "sub": "root", "exp": 4_000_000_000_i64 });
    let secret = EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    let (status, body) = served.me(&jsonwebtoken::encode(&header, &claims, &secret).unwrap()).await;
    assert_eq!((status, body["code"].as_str()), (401, Some("Unauthenticated")), "{body}");

    // An issuer is trusted only while the app names it.
    served.functions.deploy(program(&[("users.ts", USERS)])).await.unwrap();
    let (status, body) = served.me(&token(&site, "ada")).await;
    assert_eq!(status, 401, "{body}");
}

/// Clients retry, and are not told that their token is invalid.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_no_bad_token() {
    let served = host().await;
    let token = token("https://down.example", "ada");
    let (status, body) = served.me(&token).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("AuthProviderUnavailable")), "{body}");
    assert!(!body.to_string().contains("nowhere"), "{body}");
    let mut socket = served.socket().await;
    socket.authenticate(0, &token).await;
    let ended = socket.receive().await.unwrap_err();
    assert!(ended.starts_with("1013: the keys of the token's issuer"), "{ended}");
}
