//! Plain S3 requests, for details that `object_store` does not expose: the store's clock, versions,
//! retention.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_sink_s3::Bucket;
use chrono::DateTime;
use futures::StreamExt;
use http::{HeaderMap, Method};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use reqwest::redirect::Policy;

use crate::failure::Failure;
use crate::units::now_ms;

/// How long one request may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The maximum number of bytes that are read of a response: more than the longest policy has.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Sends single requests, signed with the credentials that the bucket is opened with.
pub(crate) struct Wire {
    bucket: Bucket,
    store: AmazonS3,
    client: HttpClient,
    /// The endpoint, if it is not AWS.
    endpoint: Option<url::Url>,
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    /// How far the store's clock is ahead of this host's, within a second or the duration of the
    /// request.
    pub(crate) skew_ms: Option<i64>,
    pub(crate) version_id: Option<String>,
    pub(crate) lock_mode: Option<String>,
    pub(crate) retain_until: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " {code}"))
    }
}

impl Wire {
    pub(crate) fn open(bucket: &Bucket) -> Result<Wire, Failure> {
        let not_s3 = || Failure::new(format!("{bucket} is not a bucket of S3"));
        let store = bucket.as_s3().cloned().ok_or_else(not_s3)?;
        let endpoint = AmazonS3Builder::from_env()
            .get_config_value(&AmazonS3ConfigKey::Endpoint)
            .and_then(|endpoint| url::Url::parse(&endpoint).ok());
        // Requests carry credentials, which a redirect would take elsewhere.
        let client = reqwest::Client::builder().redirect(Policy::none()).timeout(PATIENCE);
        let client = client
            .build()
            .map_err(|error| Failure::new(format!("{bucket} cannot be opened")).because(error))?;
        Ok(Wire { bucket: bucket.clone(), store, client: HttpClient::new(client), endpoint })
    }

    /// Whether requests leave this host without encryption.
    pub(crate) fn is_in_the_clear(&self) -> bool {
        let Some(endpoint) = &self.endpoint else { return false };
        let is_loopback = match endpoint.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        endpoint.scheme() == "http" && !is_loopback
    }

    pub(crate) async fn head(&self, path: &Path) -> Result<Answer, String> {
        let empty = HttpRequestBody::empty();
        let sent = self.send(Method::HEAD, path, None, HeaderMap::new(), empty).await;
        sent.map(|(answer, _body)| answer)
    }

    /// Requests a part of the bucket's configuration, such as `lifecycle`. Returns the response and
    /// its document.
    pub(crate) async fn get_of_bucket(&self, part: &str) -> Result<(Answer, String), String> {
        let empty = HttpRequestBody::empty();
        self.send(Method::GET, &Path::ROOT, Some(part), HeaderMap::new(), empty).await
    }

    /// Deletes an object, or one version of it.
    pub(crate) async fn delete(
        &self,
        path: &Path,
        version: Option<&str>,
    ) -> Result<Answer, String> {
        let query = version.map(|version| {
            url::form_urlencoded::Serializer::new(String::new())
                .append_pair("versionId", version)
                .finish()
        });
        let empty = HttpRequestBody::empty();
        let sent = self.send(Method::DELETE, path, query.as_deref(), HeaderMap::new(), empty);
        sent.await.map(|(answer, _body)| answer)
    }

    /// Creates an object with a correct signature and the checksum of another body.
    pub(crate) async fn put_with_wrong_checksum(
        &self,
        path: &Path,
        body: &'static str,
    ) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        // The SHA-256 of an empty body, in base64.
        let of_nothing = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        headers.insert("x-amz-checksum-sha256", http::HeaderValue::from_static(of_nothing));
        headers.insert(http::header::IF_NONE_MATCH, http::HeaderValue::from_static("*"));
        let sent = self.send(Method::PUT, path, None, headers, body.to_owned().into()).await;
        sent.map(|(answer, _body)| answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &Path,
        query: Option<&str>,
        headers: HeaderMap,
        body: HttpRequestBody,
    ) -> Result<(Answer, String), String> {
        // Only the store knows the URL of a key, which depends on the configured style, endpoint
        // and region.
        let signed = self.store.signed_url(Method::GET, path, Duration::from_secs(1)).await;
        let mut url = signed.map_err(|error| self.bucket.describe(&error))?;
        let scope = url.query_pairs().find(|(name, _)| name == "X-Amz-Credential");
        let region = scope.as_ref().and_then(|(_, scope)| scope.split('/').nth(2));
        let region = region.unwrap_or("us-east-1").to_owned();
        url.set_query(query);
        let uri: http::Uri =
            url.as_str().parse().map_err(|_| "the key cannot be written as a URL".to_owned())?;
        let mut request = http::Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (method, uri, headers);
        let credential: Arc<_> = self
            .store
            .credentials()
            .get_credential()
            .await
            .map_err(|error| self.bucket.describe(&error))?;
        AwsAuthorizer::new(&credential, "s3", &region)
            .try_authorize(&mut request, None)
            .map_err(|error| self.bucket.describe(&error))?;
        let sent_ms = now_ms();
        let response = self.client.execute(request).await.map_err(|error| error.to_string())?;
        let received_ms = now_ms();
        let (parts, body) = response.into_parts();
        let header = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        let date = header("date").and_then(|date| DateTime::parse_from_rfc2822(&date).ok());
        // The store read its clock between `sent_ms` and `received_ms`, and truncated the time to a
        // second.
        let skew_ms = date.map(|date| {
            let date_ms = date.timestamp_millis();
            let latest = date_ms + 999 - sent_ms;
            let earliest = date_ms - received_ms;
            if earliest > 0 { earliest } else { latest.min(0) }
        });
        let (mut body, mut text) = (body.bytes_stream(), Vec::new());
        while let Some(Ok(piece)) = body.next().await
            && text.len() < MAX_RESPONSE_BYTES
        {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map(|(code, _)| code.to_owned());
        let answer = Answer {
            status: parts.status.as_u16(),
            code,
            skew_ms,
            version_id: header("x-amz-version-id").filter(|version| version != "null"),
            lock_mode: header("x-amz-object-lock-mode"),
            retain_until: header("x-amz-object-lock-retain-until-date"),
        };
        Ok((answer, text))
    }
}
