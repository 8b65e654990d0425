//! Converts the claims of a token to the result of `ctx.auth.getUserIdentity()`.

use serde_json::{Map, Value as Json};

/// Standard claims of OpenID Connect, and their names in Convex.
const STANDARD: [(&str, &str); 17] = [
    ("name", "name"),
    ("given_name", "givenName"),
    ("family_name", "familyName"),
    ("nickname", "nickname"),
    ("preferred_username", "preferredUsername"),
    ("profile", "profileUrl"),
    ("picture", "pictureUrl"),
    ("website", "websiteUrl"),
    ("email", "email"),
    ("email_verified", "emailVerified"),
    ("gender", "gender"),
    ("birthdate", "birthday"),
    ("zoneinfo", "timezone"),
    ("locale", "language"),
    ("phone_number", "phoneNumber"),
    ("phone_number_verified", "phoneNumberVerified"),
    ("updated_at", "updatedAt"),
];

/// Claims about the token rather than the user (RFC 7519, section 4.1). They are omitted because
/// they differ between tokens of the same user, and results cached for the user must stay valid for
/// a new token. `sub`, the user's id, is kept under this name too, since functions use either name.
const OF_THE_TOKEN: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// The identity in verified claims. Claims that are not standard are unchanged; the members of
/// objects also get dotted names, such as `properties.id`, as Convex documents.
pub(super) fn identity(issuer: &str, subject: &str, claims: &Map<String, Json>) -> Json {
    let mut identity = Map::new();
    for (name, claim) in claims {
        if OF_THE_TOKEN.contains(&name.as_str()) {
            continue;
        }
        let standard = STANDARD.iter().find(|(standard, _)| standard == name);
        match (standard, claim) {
            (Some((_, convex)), Json::Number(seconds)) if name == "updated_at" => {
                let seconds = seconds.as_f64().unwrap_or_default();
                let time = chrono::DateTime::from_timestamp_millis((seconds * 1_000.0) as i64);
                let text =
                    time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
                identity.insert((*convex).to_owned(), text.into());
            }
            (Some((_, convex)), claim) => {
                identity.insert((*convex).to_owned(), claim.clone());
            }
            (None, Json::Object(address))
                if name == "address" && address.contains_key("formatted") =>
            {
                identity.insert(name.clone(), address["formatted"].clone());
            }
            (None, claim) => {
                dotted(name, claim, &mut identity);
                identity.insert(name.clone(), claim.clone());
            }
        }
    }
    // Last, so that no claim of the same name replaces them.
    identity.insert("tokenIdentifier".to_owned(), format!("{issuer}|{subject}").into());
    identity.insert("issuer".to_owned(), issuer.into());
    identity.insert("subject".to_owned(), subject.into());
    identity.insert("sub".to_owned(), subject.into());
    Json::Object(identity)
}

fn dotted(path: &str, claim: &Json, identity: &mut Map<String, Json>) {
    let Json::Object(members) = claim else { return };
    for (name, member) in members {
        let path = format!("{path}.{name}");
        dotted(&path, member, identity);
        identity.insert(path, member.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity_of(claims: Json) -> Json {
        identity("https://issuer", "user1", claims.as_object().unwrap())
    }

    #[test]
    fn standard_claims_have_the_names_that_convex_documents() {
        let identity = identity_of(json!({
            "iss": "https://issuer", "sub": "user1", "aud": "app", "exp": 1, "nbf": 1, "iat": 1, "jti": "x",
            "given_name": "Ada", "email_verified": true, "picture": "https://p", "zoneinfo": "UTC", "locale": "en",
            "birthdate": "1815-12-10", "phone_number_verified": false, "updated_at": 1_700_000_000,
            "address": {"formatted": "London", "country": "UK"},
        }));
        let expected = json!({
            "tokenIdentifier": "https://issuer|user1", "issuer": "https://issuer", "subject": "user1",
            "sub": "user1", "givenName": "Ada", "emailVerified": true, "pictureUrl": "https://p", "timezone": "UTC", "language": "en",
            "birthday": "1815-12-10", "phoneNumberVerified": false, "updatedAt": "2023-11-14T22:13:20Z",
            "address": "London",
        });
        assert_eq!(identity, expected);
    }

    #[test]
    fn custom_claims_stay_and_have_dotted_names_too() {
        let identity =
            identity_of(json!({"role": "admin", "properties": {"id": "123", "deep": {"er": [1]}}}));
        let expected = json!({
            "tokenIdentifier": "https://issuer|user1", "issuer": "https://issuer", "subject": "user1",
            "sub": "user1", "role": "admin", "properties": {"id": "123", "deep": {"er": [1]}},
            "properties.id": "123", "properties.deep": {"er": [1]}, "properties.deep.er": [1],
        });
        assert_eq!(identity, expected);
    }

    #[test]
    fn no_claim_can_name_another_user() {
        let identity = identity_of(
            json!({"tokenIdentifier": "https://issuer|root", "subject": "root", "sub": "root", "issuer": "x"}),
        );
        let expected = json!({
            "tokenIdentifier": "https://issuer|user1", "issuer": "https://issuer", "subject": "user1", "sub": "user1",
        });
        assert_eq!(identity, expected);
    }
}
