//! The URL of a receiver.

use audit_egress::is_public;
use url::{Host, Url};

use crate::{OpenError, Settings};

/// A URL without query and fragment, which may hold secrets.
pub(super) fn shown_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// The URL, checked as far as possible without resolving its name.
pub(super) fn checked_url(settings: &Settings) -> Result<Url, OpenError> {
    // The text may hold a secret, so it is not shown.
    let url = Url::parse(&settings.url)
        .map_err(|error| OpenError::configuration(format!("the url is invalid: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(OpenError::configuration(
            "the url holds credentials: give them as token = \"env:NAME\" or \"file:/path\"",
        ));
    }
    let shown = shown_url(&url);
    let Some(host) = url.host() else {
        return Err(OpenError::configuration(format!("{shown} names no host")));
    };
    let (is_loopback, is_private) = match &host {
        Host::Ipv4(address) => (address.is_loopback(), !is_public((*address).into())),
        Host::Ipv6(address) => (address.is_loopback(), !is_public((*address).into())),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let is_local = name == "localhost" || name.ends_with(".localhost");
            (is_local, is_local)
        }
    };
    match url.scheme() {
        "https" => {}
        "http" if settings.allow_http || is_loopback => {}
        "http" => {
            return Err(OpenError::configuration(format!(
                "{shown} has no TLS: use https, or set allow_http"
            )));
        }
        _ => return Err(OpenError::configuration(format!("{shown} is no https URL"))),
    }
    if is_private && !settings.allow_private_addresses {
        return Err(OpenError::configuration(format!(
            "{shown} is no public address: set allow_private_addresses if it is meant to be reached"
        )));
    }
    Ok(url)
}
