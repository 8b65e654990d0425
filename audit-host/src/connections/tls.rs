//! TLS of a listener.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use audit_core::read_bytes;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ServerConfig, crypto};

/// A certificate and its key, for [`Connections::with_tls`](super::Connections::with_tls). Cheap to
/// clone.
#[derive(Clone)]
pub struct Tls(pub(super) TlsAcceptor);

impl Tls {
    /// Reads the certificate chain and its private key from PEM files. `name` is the host name or
    /// address that clients use.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or holds none, the key is not the certificate's, or the certificate
    /// is not valid for the name. Expiry is not checked.
    pub fn from_pem_files(chain: &Path, key: &Path, name: &str) -> Result<Tls, TlsError> {
        let chain_error = |source: Box<dyn Error + Send + Sync>| TlsError {
            what: format!("the certificate {} cannot be used", chain.display()),
            source,
        };
        let key_error = |source: Box<dyn Error + Send + Sync>| TlsError {
            what: format!("the key {} cannot be used", key.display()),
            source,
        };
        let pem = read_bytes(chain).map_err(|error| chain_error(error.into()))?;
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| chain_error(error.into()))?;
        let leaf = certificates.first().ok_or_else(|| chain_error("it holds none".into()))?;
        let of = ParsedCertificate::try_from(leaf).map_err(|error| chain_error(error.into()))?;
        ServerName::try_from(name)
            .map_err(|error| chain_error(format!("{name}: {error}").into()))
            .and_then(|name| verify_server_name(&of, &name).map_err(|e| chain_error(e.into())))?;
        let pem = read_bytes(key).map_err(|error| key_error(error.into()))?;
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| key_error(e.into()))?;
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| chain_error(error.into()))?
            .with_no_client_auth()
            .with_single_cert(certificates, private)
            .map_err(|error| key_error(error.into()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A certificate or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct TlsError {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}
