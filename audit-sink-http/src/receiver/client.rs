//! The HTTP clients of log streams.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use audit_core::{Shared, read_bytes};
use audit_egress::Egress;
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::runtime::{self, Handle};

use crate::{OpenError, Settings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client depends on. Log streams of the same kind share a client, since each client reads
/// the machine's certificates, some 150 files, and keeps them in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    https_only: bool,
    allow_private_addresses: bool,
    /// Certificates in addition to the machine's, as PEM.
    certificates: Option<Vec<u8>>,
}

/// The clients in use. A connection belongs to the runtime in which it was made, whose tasks drive
/// it.
static CLIENTS: LazyLock<Shared<(runtime::Id, Kind), Client>> = LazyLock::new(Shared::default);

/// The client for requests to this URL.
pub(super) fn client(settings: &Settings, url: &url::Url) -> Result<Arc<Client>, OpenError> {
    let ca_file = settings.ca_file.as_deref();
    let read = |path| read_bytes(path).map_err(|error| unusable(path, error.into()));
    let kind = Kind {
        https_only: url.scheme() == "https",
        allow_private_addresses: settings.allow_private_addresses,
        certificates: ca_file.map(read).transpose()?,
    };
    match Handle::try_current() {
        Ok(handle) => CLIENTS.get_or_make((handle.id(), kind), |(_, kind)| kind.client(ca_file)),
        Err(_) => Ok(Arc::new(kind.client(ca_file)?)),
    }
}

impl Kind {
    fn client(&self, ca_file: Option<&Path>) -> Result<Client, OpenError> {
        let mut client = Client::builder()
            .redirect(Policy::none())
            // A proxy would resolve names itself, without the check of addresses.
            .no_proxy()
            // With HTTP/2 all requests to an address share one connection, and those of a log
            // stream that hang would hold up those of others.
            .http1_only()
            .https_only(self.https_only)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("audit-sink-http/", env!("CARGO_PKG_VERSION")));
        if !self.allow_private_addresses {
            client = client.dns_resolver(Egress::public());
        }
        if let Some((pem, path)) = self.certificates.as_ref().zip(ca_file) {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            let certificates = certificates.map_err(|error| unusable(path, error.into()))?;
            client = client.tls_certs_merge(certificates);
        }
        client.build().map_err(|error| {
            OpenError::configuration("the client of the log stream cannot be made")
                .with_source(error)
        })
    }
}

fn unusable(ca_file: &Path, error: Box<dyn Error + Send + Sync>) -> OpenError {
    let message = format!("the certificates in {} cannot be used", ca_file.display());
    OpenError::configuration(message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[tokio::test]
    async fn log_streams_that_agree_share_a_client() {
        let directory = tempfile::tempdir().unwrap();
        let pem = |name: &str| {
            let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let path = directory.path().join(name);
            std::fs::write(&path, certified.cert.pem()).unwrap();
            Some(path)
        };
        let of = |scheme: &str, allow_private_addresses, ca_file| {
            let url = format!("{scheme}://example.com/{scheme}");
            let settings = Settings::new(url.clone(), Format::Webhook);
            let settings = Settings { allow_private_addresses, ca_file, ..settings };
            move || client(&settings, &url.parse().unwrap()).unwrap()
        };
        let (one, other) = (pem("one"), pem("other"));
        let kinds = [
            of("https", false, None),
            of("http", false, None),
            of("https", true, None),
            of("https", true, one),
            of("https", true, other),
        ];
        let clients: Vec<_> = kinds.iter().map(|client| client()).collect();
        for (n, client) in clients.iter().enumerate() {
            assert!(Arc::ptr_eq(client, &kinds[n]()));
            assert!(clients[..n].iter().all(|other| !Arc::ptr_eq(client, other)), "{n}");
        }
        // The file's current content counts, not the content at an earlier opening.
        let replaced = pem("one");
        let after = of("https", true, replaced)();
        assert!(clients.iter().all(|client| !Arc::ptr_eq(client, &after)));
    }
}
