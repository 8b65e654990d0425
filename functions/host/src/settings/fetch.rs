//! Settings of `fetch` in functions.

use functions_fetch::FetchSettings;
use url::Url;

use super::Options;
use super::limits::{MAX_MIB, out_of_range, positive_ms, time, within};

pub(super) fn fetch(options: &Options) -> Result<FetchSettings, String> {
    let defaults = FetchSettings::default();
    let bytes = |mib: Option<usize>, default| mib.map_or(default, |mib| mib << 20);
    let request = within!(options.fetch_request_mib, 1..=MAX_MIB)?;
    let response = within!(options.fetch_response_mib, 1..=MAX_MIB)?;
    let memory = within!(options.fetch_memory_mib, 4..=MAX_MIB)?;
    let memory_bytes = bytes(memory, defaults.memory_bytes);
    // A body that does not fit into this memory is never sent or received, so a higher limit would
    // promise too much.
    for (name, set) in [("fetch_request_mib", request), ("fetch_response_mib", response)] {
        if let Some(mib) = set.filter(|mib| mib << 20 > memory_bytes) {
            let memory = memory_bytes >> 20;
            return Err(format!("{name} is {mib}, more than fetch_memory_mib, which is {memory}"));
        }
    }
    Ok(FetchSettings {
        timeout: time!(options.fetch_timeout_ms, defaults.timeout),
        max_request_bytes: bytes(request, defaults.max_request_bytes),
        max_response_bytes: bytes(response, defaults.max_response_bytes),
        memory_bytes,
        networks: options.fetch_networks.clone().map(|it| it.0).unwrap_or_default(),
        proxy: options.fetch_proxy.as_deref().map(proxy).transpose()?,
        own_addresses: Vec::new(),
    })
}

/// Parses the proxy's URL. The error does not quote it, since it may contain a password.
fn proxy(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.has_host());
    url.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
        "fetch_proxy is not an http or https URL: write one such as http://proxy:3128".to_owned()
    })
}
