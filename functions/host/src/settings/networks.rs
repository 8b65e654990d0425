//! Networks that functions may fetch from.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Networks that functions may fetch from although they are not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchNetworks(pub(super) Vec<IpNet>);

impl FromStr for FetchNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<FetchNetworks, String> {
        let network = |part: &str| -> Result<IpNet, String> {
            let address = part.parse::<IpAddr>().map(IpNet::from);
            address.or_else(|_| part.parse::<IpNet>()).map_err(|_| {
                "a list of networks is expected, such as 10.0.0.0/8,192.168.1.7".to_owned()
            })
        };
        text.split(',')
            .map(|part| network(part.trim()))
            .collect::<Result<_, _>>()
            .map(FetchNetworks)
    }
}
