//! Settings of `fetch` in functions.

use functions_fetch::FetchSettings;
use url::Url;

use super::Options;
use super::limits::positive_ms;

/// The largest memory limit that can be set, in MiB.
const MAX_MIB: usize = 1 << 20;

pub(super) fn fetch(options: &Options) -> Result<FetchSettings, String> {
    let defaults = FetchSettings::default();
    let bytes = |name: &str, set: Option<usize>, least: usize, default: usize| match set {
        None => Ok(default),
        Some(mib) if (least..=MAX_MIB).contains(&mib) => Ok(mib << 20),
        Some(mib) => {
            Err(format!("{name} is {mib}, and must be at least {least} and at most {MAX_MIB}"))
        }
    };
    let proxy = options.fetch_proxy.as_deref().map(proxy).transpose()?;
    Ok(FetchSettings {
        timeout: positive_ms("fetch_timeout_ms", options.fetch_timeout_ms)?
            .unwrap_or(defaults.timeout),
        max_request_bytes: bytes(
            "fetch_request_mib",
            options.fetch_request_mib,
            1,
            defaults.max_request_bytes,
        )?,
        max_response_bytes: bytes(
            "fetch_response_mib",
            options.fetch_response_mib,
            1,
            defaults.max_response_bytes,
        )?,
        memory_bytes: bytes(
            "fetch_memory_mib",
            options.fetch_memory_mib,
            4,
            defaults.memory_bytes,
        )?,
        networks: options.fetch_networks.clone().map(|it| it.0).unwrap_or_default(),
        proxy,
        own_addresses: Vec::new(),
    })
}

/// Parses the proxy's URL. The error does not quote it, since it may contain a password.
fn proxy(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.has_host());
    url.filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| "fetch_proxy is not an http or https URL".to_owned())
}
