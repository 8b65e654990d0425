//! Options of the page.

use std::net::SocketAddr;
use std::path::PathBuf;

use audit_evidence::TrustedKey;
use audit_host::listen_address;
use clap::Args;
use url::Url;

use super::Source;
use crate::keys;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) source: Source,

    /// The address to listen on. Port 0 selects a free port. An address that other machines can
    /// reach needs --tls-cert, or a proxy with TLS: see --proxy
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,

    /// The address under which a proxy with TLS serves the page, such as https://audit.example.com.
    /// The proxy must keep the host header
    #[arg(long, value_name = "URL", value_parser = origin)]
    pub(crate) proxy: Option<Url>,

    /// The certificate chain of the page, as PEM. The page is then served with TLS
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "proxy")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// The name under which browsers reach the page with TLS, one of the certificate's
    /// [default: the address of --listen]
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    pub(crate) name: Option<String>,

    /// The verifier key of a host, as `audit key` prints it, or a file that holds it: the bucket is
    /// verified while the page is open, and records can be proven. May be given several times
    #[arg(
        long = "key",
        value_name = "KEY",
        env = "AUDIT_VERIFIER_KEY",
        value_parser = keys::trusted
    )]
    pub(crate) keys: Vec<TrustedKey>,

    /// The keys to trust: a tlog-policy file, as for `verify`
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// The bucket's name in its hosts' records, if it is read under another one, as for `verify`.
    /// May be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) written_to: Vec<String>,
}

fn origin(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error: url::ParseError| error.to_string())?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err("a proxy has TLS: https://NAME".to_owned());
    }
    let is_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    if is_more || !url.username().is_empty() || url.password().is_some() {
        return Err("a proxy serves the page under a name of its own: https://NAME".to_owned());
    }
    Ok(url)
}
