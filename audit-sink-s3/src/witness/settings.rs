//! The settings of witnesses.

use std::fmt;
use std::net::IpAddr;

use audit_egress::is_public;
use audit_evidence::{KeyKind, VerifierKey};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::OpenError;

/// A witness that cosigns the checkpoints of this host's streams, by C2SP's *tlog-witness*.
///
/// Its text is `<url> <key>`, with a third word `private` where private addresses are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSettings {
    /// The prefix of its URLs: requests go to `<url>/add-checkpoint`. It must be `https`, without
    /// credentials and query.
    pub url: String,

    /// Its verifier key, of the kind that cosigns: what `audit witness` and `audit key` print.
    pub key: String,

    /// Whether the URL may lead to a private address, and may then be `http`. Default: no. A
    /// cosignature is verified in any case, so that TLS hides only which streams there are.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// The maximum number of witnesses.
const MAX_WITNESSES: usize = 16;

impl WitnessSettings {
    /// Parses the texts of several witnesses, separated by white space or commas.
    ///
    /// # Errors
    ///
    /// If a URL or a key is invalid, or a key is given twice. The error shows only valid URLs.
    pub fn parse_list(text: &str) -> Result<Vec<WitnessSettings>, OpenError> {
        let mut words = text
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .peekable();
        let mut list = Vec::new();
        while let Some(url) = words.next() {
            let key = words.next().unwrap_or_default().to_owned();
            let is_private = words.next_if_eq(&"private").is_some();
            let allow_private_addresses = is_private;
            list.push(WitnessSettings { url: url.to_owned(), key, allow_private_addresses });
        }
        check(&list).map(|()| list)
    }

    /// The URL that checkpoints are sent to, and the key.
    pub(super) fn checked(&self) -> Result<(Url, VerifierKey), OpenError> {
        let WitnessSettings { url, key, allow_private_addresses } = self;
        // The text may hold a secret that was misplaced, so it is not shown.
        let mut url = Url::parse(url).map_err(|error| {
            OpenError::configuration("the URL of a witness is invalid").with_source(error)
        })?;
        let has_secrets = !url.username().is_empty() || url.password().is_some();
        if has_secrets || url.query().is_some() || url.fragment().is_some() {
            let message = "the URL of a witness has credentials, a query or a fragment";
            return Err(OpenError::configuration(message));
        }
        let is_fine = match url.scheme() {
            "https" => true,
            "http" => *allow_private_addresses,
            _ => false,
        };
        if !is_fine {
            return Err(OpenError::configuration(format!(
                "the witness at {url} has no TLS: use https, or allow private addresses"
            )));
        }
        let is_private = match url.host() {
            Some(Host::Ipv4(address)) => !is_public(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => !is_public(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                name == "localhost" || name.ends_with(".localhost")
            }
            None => return Err(OpenError::configuration("the URL of a witness names no host")),
        };
        if is_private && !allow_private_addresses {
            return Err(OpenError::configuration(format!(
                "the witness at {url} has no public address: allow private addresses if it is \
                 meant to be reached"
            )));
        }
        let path = format!("{}/add-checkpoint", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let key = VerifierKey::parse(key).map_err(|error| {
            let message = format!("the verifier key of the witness at {url} is invalid");
            OpenError::configuration(message).with_source(error)
        })?;
        if key.kind() != KeyKind::Cosignature {
            let message =
                format!("the key of the witness at {url} is a host's, and cosigns nothing");
            return Err(OpenError::configuration(message));
        }
        Ok((url, key))
    }
}

impl fmt::Display for WitnessSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WitnessSettings { url, key, allow_private_addresses } = self;
        let private = if *allow_private_addresses { " private" } else { "" };
        write!(f, "{url} {key}{private}")
    }
}

/// Checks all witnesses of a host.
pub(super) fn check(list: &[WitnessSettings]) -> Result<(), OpenError> {
    if list.len() > MAX_WITNESSES {
        let count = list.len();
        let message = format!("a list of {count} witnesses exceeds limit of {MAX_WITNESSES}");
        return Err(OpenError::configuration(message));
    }
    let mut names = Vec::new();
    for settings in list {
        let (_, key) = settings.checked()?;
        if names.contains(&key.name().to_owned()) {
            let message = format!("two witnesses have the name {:?}", key.name());
            return Err(OpenError::configuration(message));
        }
        names.push(key.name().to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use audit_evidence::SignerKey;

    fn key(name: &str, kind: KeyKind) -> String {
        SignerKey::from_seed(name, kind, &[1; 32]).unwrap().verifier().to_string()
    }

    #[test]
    fn lists_of_witnesses_have_one_form_and_hold_no_secrets() {
        let [one, two] = ["one", "two"].map(|name| key(name, KeyKind::Cosignature));
        let host = key("host", KeyKind::Ed25519);
        let text = format!("https://one.example/w/ {one}, http://127.0.0.1:1 {two} private");
        let list = WitnessSettings::parse_list(&text).unwrap();
        assert_eq!(list[0].checked().unwrap().0.as_str(), "https://one.example/w/add-checkpoint");
        assert_eq!(list[1].checked().unwrap().0.as_str(), "http://127.0.0.1:1/add-checkpoint");
        let printed = list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        assert_eq!(WitnessSettings::parse_list(&printed).unwrap(), list);
        assert_eq!(WitnessSettings::parse_list(" ").unwrap(), []);
        for (text, says) in [
            ("one.example".to_owned(), "URL of a witness is invalid"),
            (format!("https://u:hidden@one.example {one}"), "has credentials"),
            (format!("https://one.example?hidden {one}"), "a query"),
            (format!("ftp://one.example {one}"), "no TLS"),
            (format!("http://one.example {one}"), "no TLS"),
            (format!("https://10.0.0.1 {one}"), "no public address"),
            (format!("https://[::1] {one}"), "no public address"),
            (format!("https://localhost. {one}"), "no public address"),
            ("https://one.example".to_owned(), "verifier key of the witness"),
            ("https://one.example hidden".to_owned(), "verifier key of the witness"),
            (format!("https://one.example {host}"), "is a host's"),
            (format!("https://one.example {one} https://two.example {one}"), "two witnesses"),
        ] {
            let error = WitnessSettings::parse_list(&text).unwrap_err();
            let error = audit_core::with_sources(&error);
            assert!(error.contains(says) && !error.contains("hidden"), "{text}: {error}");
        }
        let many = (0..17)
            .map(|n| format!("https://x.example {} ", key(&n.to_string(), KeyKind::Cosignature)));
        let error = WitnessSettings::parse_list(&many.collect::<String>()).unwrap_err();
        assert!(error.to_string().contains("17 witnesses"), "{error}");
    }
}
