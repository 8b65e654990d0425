//! Servers with one fixed response, with or without TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Sends the same response to every request, or to all with one path, until dropped.
pub(crate) struct Stub {
    scheme: &'static str,
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    serving: JoinHandle<()>,
}

/// Responses, each with the path of the requests that get it. An empty path means all other
/// requests.
type Answers = Vec<(String, String)>;

impl Stub {
    pub(crate) async fn plain() -> Stub {
        Stub::start(None).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(Answers::new()));
        let said = Arc::clone(&answers);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, said) = (tls.clone(), Arc::clone(&said));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &said).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &said).await;
                            }
                        }
                    }
                });
            }
        });
        Stub { scheme, address, answers, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Replaces the response.
    pub(crate) fn answer(&self, status: &str, body: &str) {
        self.answer_at("", status, body);
    }

    /// Replaces the response to requests with this path.
    pub(crate) fn answer_at(&self, path: &str, status: &str, body: &str) {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| known != path);
        answers.push((path.to_owned(), answer));
    }

    /// Stops listening and returns the now unused address.
    pub(crate) fn close(self) -> String {
        self.url()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves one request. Bodies are small enough to arrive with their heads.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: &Mutex<Answers>) {
    let mut request = Vec::new();
    // A TLS handshake to a plain server gets a response too, as from real servers.
    while request.first() != Some(&0x16) && !request.windows(4).any(|window| window == b"\r\n\r\n")
    {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
    let of = |path: &str| {
        let answers = answers.lock().unwrap();
        answers.iter().find(|(known, _)| known == path).map(|(_, answer)| answer.clone())
    };
    let answer = of(&path).or_else(|| of("")).unwrap_or_default();
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server with a certificate for these names, which is expired unless `is_valid`.
    pub(crate) async fn serve(&self, names: &[&str], is_valid: bool) -> Stub {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if !is_valid {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Stub::start(Some(TlsAcceptor::from(Arc::new(config)))).await
    }
}

/// Credentials as issued by a container's endpoint, which expire so soon that each request needs
/// new ones.
pub(crate) fn issued(access_key: &str, secret_key: &str) -> String {
    format!(
        r#"{{"AccessKeyId":"{access_key}","SecretAccessKey":"{secret_key}","Token":"",
            "Expiration":"2001-01-01T00:00:00Z"}}"#
    )
}
