//! Networks that functions may fetch from.

use std::str::FromStr;

use audit_runtime::http::{InvalidProxies, TrustedProxies};
use ipnet::IpNet;

/// Networks that functions may fetch from although they are not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchNetworks(pub(super) Vec<IpNet>);

impl FromStr for FetchNetworks {
    type Err = InvalidProxies;

    /// Both lists of networks, this one and that of proxies, are written in the same way.
    fn from_str(text: &str) -> Result<FetchNetworks, InvalidProxies> {
        let list: TrustedProxies = text.parse()?;
        Ok(FetchNetworks(list.networks().to_vec()))
    }
}
