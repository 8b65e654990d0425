//! The token issuers that an app's `auth.config` names.

use serde_json::Value;

/// A token issuer that an app's `auth.config` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthProvider {
    /// The `iss` of its tokens. For an OpenID provider, this has no slash at the end, although the
    /// `iss` of its tokens may have one.
    pub issuer: String,
    /// The `aud` of its tokens. If `None`, tokens for any service of the issuer are accepted.
    pub application_id: Option<String>,
    /// The location of its keys.
    pub keys: AuthKeys,
}

/// The location of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthKeys {
    /// The URL found by OpenID Connect Discovery. The keys are for any algorithm with public keys.
    Discovered,
    /// A URL, possibly a `data:` URL. The keys are for one algorithm.
    At {
        /// The URL of the keys.
        jwks: String,
        /// RS256, ES256 or EdDSA.
        algorithm: String,
    },
}

/// The valid providers in the default export of `auth.config`, and why the others are left out.
/// `None` if the export is not a configuration.
pub(crate) fn providers(config: &Value) -> Option<(Vec<AuthProvider>, Vec<String>)> {
    let (mut providers, mut left_out) = (Vec::new(), Vec::new());
    for (place, provider) in config.get("providers")?.as_array()?.iter().enumerate() {
        match read(provider) {
            Ok(provider) => providers.push(provider),
            Err(why) => {
                left_out.push(format!("tokens of provider {} are refused: {why}", place + 1))
            }
        }
    }
    Some((providers, left_out))
}

fn read(provider: &Value) -> Result<AuthProvider, String> {
    let text = |name: &str| match provider.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Null) | None => {
            Err(format!("{name} is missing, or from a variable that is not set"))
        }
        Some(_) => Err(format!("{name} is not a text, or is empty")),
    };
    match provider.get("type").map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("oidc") => {
            let domain = text("domain")?;
            let issuer = if domain.contains("://") { domain } else { format!("https://{domain}") };
            Ok(AuthProvider {
                issuer: issuer.trim_end_matches('/').to_owned(),
                application_id: Some(text("applicationID")?),
                keys: AuthKeys::Discovered,
            })
        }
        Some("customJwt") => {
            let algorithm = text("algorithm")?;
            if !["RS256", "ES256", "EdDSA"].contains(&&*algorithm) {
                return Err("algorithm is not RS256, ES256 or EdDSA".to_owned());
            }
            let application_id = match provider.get("applicationID") {
                Some(_) => Some(text("applicationID")?),
                None => None,
            };
            let keys = AuthKeys::At { jwks: text("jwks")?, algorithm };
            Ok(AuthProvider { issuer: text("issuer")?, application_id, keys })
        }
        Some(_) => Err("its type is not \"customJwt\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn providers_are_read_as_convex_reads_them() {
        let discovered = |issuer: &str| AuthProvider {
            issuer: issuer.to_owned(),
            application_id: Some("app".to_owned()),
            keys: AuthKeys::Discovered,
        };
        let at = |algorithm: &str, application_id: Option<&str>| AuthProvider {
            issuer: "https://i/".to_owned(),
            application_id: application_id.map(str::to_owned),
            keys: AuthKeys::At {
                jwks: "https://i/keys".to_owned(),
                algorithm: algorithm.to_owned(),
            },
        };
        let custom = json!({ "type": "customJwt", "issuer": "https://i/", "jwks": "https://i/keys", "algorithm": "ES256" });
        let with = |name: &str, value: Value| {
            let mut custom = custom.clone();
            custom[name] = value;
            custom
        };
        let cases = [
            (
                json!({ "domain": "https://i/", "applicationID": "app" }),
                Ok(discovered("https://i")),
            ),
            (
                json!({ "domain": "i.example", "applicationID": "app" }),
                Ok(discovered("https://i.example")),
            ),
            (
                json!({ "type": "oidc", "domain": "http://127.0.0.1:1", "applicationID": "app" }),
                Ok(discovered("http://127.0.0.1:1")),
            ),
            (
                json!({ "domain": "https://i" }),
                Err("applicationID is missing, or from a variable that is not set"),
            ),
            (
                json!({ "applicationID": "app" }),
                Err("domain is missing, or from a variable that is not set"),
            ),
            (
                json!({ "domain": "", "applicationID": "app" }),
                Err("domain is not a text, or is empty"),
            ),
            (
                json!({ "domain": 1, "applicationID": "app" }),
                Err("domain is not a text, or is empty"),
            ),
            (custom.clone(), Ok(at("ES256", None))),
            (with("applicationID", json!("app")), Ok(at("ES256", Some("app")))),
            (
                with("applicationID", json!(null)),
                Err("applicationID is missing, or from a variable that is not set"),
            ),
            (with("algorithm", json!("EdDSA")), Ok(at("EdDSA", None))),
            (with("algorithm", json!("HS256")), Err("algorithm is not RS256, ES256 or EdDSA")),
            (with("algorithm", json!("none")), Err("algorithm is not RS256, ES256 or EdDSA")),
            (with("jwks", json!(null)), Err("jwks is missing, or from a variable that is not set")),
            (with("type", json!("saml")), Err("its type is not \"customJwt\"")),
            (json!(null), Err("domain is missing, or from a variable that is not set")),
        ];
        for (config, expected) in cases {
            let shown = config.to_string();
            assert_eq!(read(&config), expected.map_err(str::to_owned), "{shown}");
        }
        assert_eq!(providers(&json!({ "providers": {} })), None);
        assert_eq!(providers(&json!([])), None);
        let (read, left_out) = providers(&json!({ "providers": [{}, custom] })).unwrap();
        assert_eq!(read, [at("ES256", None)]);
        assert_eq!(
            left_out,
            [
                "tokens of provider 1 are refused: domain is missing, or from a variable that is not set"
            ]
        );
    }
}
