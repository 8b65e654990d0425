//! Requests to a witness.

use std::fmt;
use std::time::Duration;

use audit_core::{async_trait, with_sources};
use audit_egress::Egress;
use audit_evidence::{VerifierKey, WitnessResponse};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::time::timeout;
use url::Url;

use super::WitnessSettings;
use crate::OpenError;
use crate::one_line::scrub;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit of a request, with the connection and the response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to a witness.
#[async_trait]
pub(crate) trait Transport: fmt::Debug + Send + Sync {
    /// Sends the body of `add-checkpoint`. Returns the response, or the reason why none came.
    async fn submit(&self, body: String) -> Result<WitnessResponse, String>;
}

/// A witness behind a URL. Redirects are not followed, and no proxy is used.
#[derive(Debug)]
pub(super) struct HttpTransport {
    client: Client,
    url: Url,
}

impl HttpTransport {
    pub(super) fn new(
        settings: &WitnessSettings,
    ) -> Result<(HttpTransport, VerifierKey), OpenError> {
        let (url, key) = settings.checked()?;
        let mut client = Client::builder()
            .redirect(Policy::none())
            // A proxy would resolve names itself, without the check of addresses.
            .no_proxy()
            .https_only(url.scheme() == "https")
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("audit-sink-s3/", env!("CARGO_PKG_VERSION")));
        if !settings.allow_private_addresses {
            client = client.dns_resolver(Egress::public());
        }
        let client = client.build().map_err(|error| {
            OpenError::configuration("the client of a witness cannot be made").with_source(error)
        })?;
        Ok((HttpTransport { client, url }, key))
    }

    async fn post(&self, body: String) -> Result<WitnessResponse, reqwest::Error> {
        let mut response = self.client.post(self.url.clone()).body(body).send().await?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            // No witness sends that much. `parse` does not read such a body.
            if bytes.len() > WitnessResponse::MAX_BYTES {
                break;
            }
        }
        Ok(WitnessResponse::parse(status, &bytes))
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn submit(&self, body: String) -> Result<WitnessResponse, String> {
        match timeout(TIMEOUT, self.post(body)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(scrub(&with_sources(&error))),
            Err(_elapsed) => Err(format!("no response within {} s", TIMEOUT.as_secs())),
        }
    }
}

impl WitnessSettings {
    /// Asks whether a witness answers at the URL, with a request that it must refuse as malformed.
    /// Only a cosignature would show whether it has the key.
    ///
    /// # Errors
    ///
    /// What is invalid, or why no witness answers. Takes ten seconds at most.
    pub async fn try_out(&self) -> Result<(), OpenError> {
        let (transport, _) = HttpTransport::new(self)?;
        let what = match transport.submit(String::new()).await {
            Ok(WitnessResponse::Malformed) => return Ok(()),
            Ok(WitnessResponse::UnknownOrigin) => {
                "the server has nothing there (status 404): check the URL".to_owned()
            }
            Ok(WitnessResponse::Unusable(status)) => {
                format!("another kind of server responds (status {status})")
            }
            Ok(
                WitnessResponse::Cosigned(_)
                | WitnessResponse::OtherSize(_)
                | WitnessResponse::Untrusted
                | WitnessResponse::Inconsistent,
            ) => "another kind of server responds".to_owned(),
            Err(why) => why,
        };
        let url = &transport.url;
        Err(OpenError::new(
            crate::OpenErrorKind::Unavailable,
            format!("no witness answers at {url}: {what}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use audit_evidence::{KeyKind, SignerKey};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The client's reading of a server's response to its first request.
    async fn read(response: String) -> (Result<WitnessResponse, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = SignerKey::from_seed("one", KeyKind::Cosignature, &[6; 32]).unwrap();
        let settings = WitnessSettings {
            url: format!("http://{}/w/", listener.local_addr().unwrap()),
            key: key.verifier().to_string(),
            allow_private_addresses: true,
        };
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !request[..length].ends_with(b"old 0\n") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            // The client may close the connection before it has read the whole response.
            let _ = stream.write_all(response.as_bytes()).await;
            request.truncate(length);
            String::from_utf8(request).unwrap()
        });
        let (transport, _) = HttpTransport::new(&settings).unwrap();
        let response = transport.submit("old 0\n".to_owned()).await;
        (response, served.await.unwrap())
    }

    fn http(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn responses_are_bounded_and_redirects_not_followed() {
        let (response, request) = read(http("409 Conflict", "7\n")).await;
        assert_eq!(response, Ok(WitnessResponse::OtherSize(7)));
        assert!(request.starts_with("POST /w/add-checkpoint HTTP/1.1\r\n"), "{request}");
        let (response, _) = read(http("200 OK", &"x".repeat(1 << 20))).await;
        assert_eq!(response, Ok(WitnessResponse::Unusable(200)));
        let redirect = "302 Found\r\nlocation: http://127.0.0.1:1/";
        let (response, _) = read(http(redirect, "")).await;
        assert_eq!(response, Ok(WitnessResponse::Unusable(302)));
        let (response, _) = read("garbage\r\n\r\n".to_owned()).await;
        assert!(response.is_err(), "{response:?}");
        let (response, _) = read(http("200 OK", "x").replace("length: 1", "length: 9")).await;
        assert!(response.is_err(), "{response:?}");
    }
}
