//! The receiver of a log stream: a request to it, and the meaning of its response.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{Clock, Random};
use audit_egress::{Egress, PrivateAddress, is_public};
use audit_journal::shared::one_line::scrub;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use url::{Host, Url};

use crate::acknowledgment::{self, Acknowledgment};
use crate::response::{Body, Success, read, retry_after};
use crate::secret::Secret;
use crate::signature::Signer;
use crate::{Format, OpenError, Settings};

/// The maximum size of a response that is shown, in bytes.
const MAX_SHOWN_BYTES: usize = 200;

/// The time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to one receiver.
pub(crate) struct Receiver {
    client: Client,
    url: Url,
    format: Format,
    content_type: &'static str,
    token: Option<Secret>,
    secrets: Vec<Secret>,
    signer: Signer,
    clock: Arc<dyn Clock>,
    acknowledgment: Option<Acknowledgment>,
}

/// The outcome of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The receiver has it.
    Accepted,
    /// The receiver will never accept it.
    Rejected { reason: String, is_too_large: bool },
    /// The outcome is unknown, or the receiver is overloaded: retry.
    Retry { reason: String, after: Option<Duration>, may_have_arrived: bool, timed_out: bool },
    /// Every request fails until an operator acts.
    Blocked { by: &'static str, reason: String },
}

impl Receiver {
    pub(crate) fn new(
        settings: &Settings,
        content_type: &'static str,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<Receiver, OpenError> {
        let url = checked_url(settings)?;
        let acknowledgment = settings.indexer_ack_ms.map(|ms| {
            let within = Duration::from_millis(ms);
            Acknowledgment::new(&url, within, random).map_err(OpenError::configuration)
        });
        let acknowledgment = acknowledgment.transpose()?;
        let read = |source: &crate::SecretSource| source.read().map_err(OpenError::configuration);
        let secrets = settings.secrets.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let token = settings.token.as_ref().map(read).transpose()?;
        let signer = Signer::new(secrets.clone()).map_err(OpenError::configuration)?;
        let mut client = Client::builder()
            .redirect(Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .https_only(url.scheme() == "https")
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("audit-sink-http/", env!("CARGO_PKG_VERSION")));
        if !settings.allow_private_addresses {
            client = client.dns_resolver(Egress::public());
        }
        if let Some(path) = &settings.ca_file {
            let failed = |error: Box<dyn Error + Send + Sync>| {
                let message = format!("the certificates in {} cannot be used", path.display());
                OpenError::configuration(message).with_source(error)
            };
            let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            client = client.tls_certs_merge(certificates.map_err(|error| failed(error.into()))?);
        }
        let client = client.build().map_err(|error| {
            OpenError::configuration("the client of the log stream cannot be made")
                .with_source(error)
        })?;
        let format = settings.format;
        Ok(Receiver {
            client,
            url,
            format,
            content_type,
            token,
            secrets,
            signer,
            clock,
            acknowledgment,
        })
    }

    /// Sends one request, with `limit` as its time limit. With indexer acknowledgment, waits for
    /// that as well.
    pub(crate) async fn send(&self, id: &str, body: Bytes, limit: Duration) -> Answer {
        let headers = self.headers(id, &body);
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let (answer, said) = self.ask(request, limit).await;
        match &self.acknowledgment {
            Some(acknowledgment) if matches!(answer, Answer::Accepted) => {
                self.indexed(acknowledgment, &said, limit).await
            }
            _ => answer,
        }
    }

    /// Waits until the indexers have the request that the collector has just accepted.
    async fn indexed(&self, asked: &Acknowledgment, taken: &Value, limit: Duration) -> Answer {
        let Some(number) = acknowledgment::number(taken) else {
            let reason = format!(
                "{self} took the request and gave it no ackId (switch on indexer acknowledgment for \
                 the token, or remove indexer_ack_ms)"
            );
            return Answer::Blocked { by: "acknowledgment", reason };
        };
        let deadline = Instant::now() + asked.within;
        let mut questions = 0u32;
        let mut last = String::new();
        loop {
            sleep(Acknowledgment::pause(questions)).await;
            questions = questions.saturating_add(1);
            // A request that a restart has forgotten is not indexed.
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!(
                    "the indexers of {self} did not acknowledge a request within {} ms{last}",
                    asked.within.as_millis()
                );
                return Answer::Retry {
                    reason,
                    after: None,
                    may_have_arrived: true,
                    timed_out: false,
                };
            }
            let question = json!({"acks": [number]}).to_string();
            let headers = self.headers("", question.as_bytes());
            let request = self.client.post(asked.url.clone()).headers(headers).body(question);
            match self.ask(request, limit.min(left)).await {
                (Answer::Accepted, said) if acknowledgment::is_indexed(&said, number) => {
                    return Answer::Accepted;
                }
                (Answer::Accepted, _) => last.clear(),
                (Answer::Retry { reason, .. }, _) => last = format!("; {reason}"),
                (Answer::Rejected { reason, .. }, _) => {
                    return Answer::Blocked { by: "acknowledgment", reason };
                }
                (blocked @ Answer::Blocked { .. }, _) => return blocked,
            }
        }
    }

    /// Sends a request. Returns its outcome and the JSON of the response.
    async fn ask(&self, request: RequestBuilder, limit: Duration) -> (Answer, Value) {
        let asked = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, read(response).await))
        };
        let answer = match timeout(limit, asked).await {
            Ok(Ok((status, headers, body))) => {
                let said = serde_json::from_slice(&body.bytes).unwrap_or(Value::Null);
                return (self.answer(status, &headers, &body), said);
            }
            Ok(Err(error)) => self.failed(error),
            Err(_elapsed) => Answer::Retry {
                reason: format!("{self} did not answer within {} ms", limit.as_millis()),
                after: None,
                may_have_arrived: true,
                timed_out: true,
            },
        };
        (answer, Value::Null)
    }

    /// Sends a request without a body, secrets or a token. Returns the status of the response.
    pub(crate) async fn reach(&self, limit: Duration) -> Result<u16, String> {
        match tokio::time::timeout(limit, self.client.head(self.url.clone()).send()).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(error)) => match self.failed(error) {
                Answer::Retry { reason, .. } | Answer::Blocked { reason, .. } => Err(reason),
                Answer::Accepted | Answer::Rejected { .. } => Err(format!("{self} is unknown")),
            },
            Err(_elapsed) => Err(format!("{self} did not answer within {} ms", limit.as_millis())),
        }
    }

    fn headers(&self, id: &str, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        let mut insert = |name: &'static str, value: &str, is_secret: bool| {
            // Ids are letters and digits, and secrets were checked to be visible ASCII.
            if let Ok(mut value) = HeaderValue::from_str(value) {
                value.set_sensitive(is_secret);
                headers.insert(name, value);
            }
        };
        if let Some(token) = &self.token {
            let token = token.as_str();
            match self.format {
                Format::Splunk => insert("authorization", &format!("Splunk {token}"), true),
                Format::Datadog => insert("dd-api-key", token, true),
                Format::Webhook
                | Format::WebhookLines
                | Format::Ndjson
                | Format::Otlp
                | Format::Axiom
                | Format::Ocsf
                | Format::CloudEvents => insert("authorization", &format!("Bearer {token}"), true),
            }
        }
        if let Some(acknowledgment) = &self.acknowledgment {
            insert("x-splunk-request-channel", &acknowledgment.channel, false);
        }
        match self.format {
            Format::Webhook
            | Format::WebhookLines
            | Format::Ndjson
            | Format::Ocsf
            | Format::CloudEvents => {
                let seconds = self.clock.now_ms().div_euclid(1_000);
                for (name, value) in self.signer.headers(id, seconds, body) {
                    insert(name, &value, false);
                }
            }
            Format::Splunk | Format::Otlp | Format::Datadog | Format::Axiom => {}
        }
        headers
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap, body: &Body) -> Answer {
        let Body { bytes, is_whole } = body;
        let said = self.shown(&String::from_utf8_lossy(bytes));
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let reason = format!("{self} answered {status}{said}");
        let json: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return match self.format.success(bytes, *is_whole, &json) {
                Success::Taken => Answer::Accepted,
                Success::TakenBut(part) => {
                    let reason = format!("{self} rejected {part}{said}");
                    Answer::Rejected { reason, is_too_large: false }
                }
                Success::CutOff => Answer::Retry {
                    reason: format!("{reason}; the answer was cut off"),
                    after: None,
                    may_have_arrived: true,
                    timed_out: false,
                },
                Success::Foreign => {
                    let what = "no receiver of this format answers so: see to its URL";
                    Answer::Blocked { by: "endpoint", reason: format!("{reason} ({what})") }
                }
            };
        }
        if status.is_redirection() {
            let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let to = self.shown(to);
            let reason =
                format!("{self} redirects to {to}: redirects are not followed, set the URL");
            return Answer::Blocked { by: "redirect", reason };
        }
        let retry = |may_have_arrived| Answer::Retry {
            reason: reason.clone(),
            after: retry_after(headers, self.clock.now_ms()),
            may_have_arrived,
            timed_out: false,
        };
        let rejected = |is_too_large| Answer::Rejected { reason: reason.clone(), is_too_large };
        let blocked = |by: &'static str, what: &str| Answer::Blocked {
            by,
            reason: format!("{reason} ({what})"),
        };
        match status.as_u16() {
            // Codes that concern the sent events rather than the index, the token or the channel.
            400 if self.format == Format::Splunk => match json["code"].as_u64() {
                Some(5 | 6 | 12 | 13 | 15) => rejected(false),
                _ => blocked("endpoint", "see to the token's index and settings"),
            },
            400 | 422 => rejected(false),
            413 => rejected(true),
            401 | 403 | 407 => blocked("credentials", "see to its token or secret"),
            429 | 425 => retry(false),
            408 | 500..=599 => retry(true),
            _ => blocked("endpoint", "see to its URL and format"),
        }
    }

    fn failed(&self, error: reqwest::Error) -> Answer {
        let (is_connect, is_builder) = (error.is_connect(), error.is_builder());
        // The URL may contain secrets.
        let error = error.without_url();
        let mut causes = Vec::new();
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(cause) = next {
            if let Some(private) = cause.downcast_ref::<PrivateAddress>() {
                let reason = format!(
                    "{self} is not sent to: {} resolves to {}, which is no public address (set \
                     allow_private_addresses if it is meant to be reached)",
                    private.host(),
                    private.address()
                );
                return Answer::Blocked { by: "address", reason };
            }
            causes.push(cause.to_string());
            next = cause.source();
        }
        let why = self.shown(causes.last().map_or("no reason", String::as_str));
        if causes.iter().any(|cause| cause.contains("certificate")) {
            let reason = format!(
                "the TLS certificate of {self} is refused: {why} (set ca_file if it is meant to be trusted)"
            );
            return Answer::Blocked { by: "certificate", reason };
        }
        if is_builder {
            let reason = format!("no request can be made to {self}: {why}");
            return Answer::Blocked { by: "endpoint", reason };
        }
        let reason = if is_connect {
            format!("no connection to {self}: {why}")
        } else {
            format!("the connection to {self} was lost: {why}")
        };
        Answer::Retry { reason, after: None, may_have_arrived: !is_connect, timed_out: false }
    }

    /// Makes foreign text fit for display: one short line without our secrets.
    fn shown(&self, text: &str) -> String {
        let secrets = self.secrets.iter().chain(&self.token);
        let text = secrets.fold(text.to_owned(), |text, secret| secret.redact(&text));
        let mut line = scrub(&text);
        if line.len() > MAX_SHOWN_BYTES {
            line.truncate(line.floor_char_boundary(MAX_SHOWN_BYTES));
            line.push('…');
        }
        line
    }
}

/// Shows the URL without the query.
impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_url(&self.url))
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("url", &self.to_string())
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// A URL without query and fragment, which may hold secrets.
fn shown_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// The URL, checked as far as possible without resolving it.
fn checked_url(settings: &Settings) -> Result<Url, OpenError> {
    // The text may hold a secret, so it is not shown.
    let url = Url::parse(&settings.url)
        .map_err(|error| OpenError::configuration(format!("the url is invalid: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(OpenError::configuration(
            "the url holds credentials: give them as token = \"env:NAME\" or \"file:/path\"",
        ));
    }
    let shown = shown_url(&url);
    let Some(host) = url.host() else {
        return Err(OpenError::configuration(format!("{shown} names no host")));
    };
    let (is_loopback, is_private) = match &host {
        Host::Ipv4(address) => (address.is_loopback(), !is_public((*address).into())),
        Host::Ipv6(address) => (address.is_loopback(), !is_public((*address).into())),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let is_local = name == "localhost" || name.ends_with(".localhost");
            (is_local, is_local)
        }
    };
    match url.scheme() {
        "https" => {}
        "http" if settings.allow_http || is_loopback => {}
        "http" => {
            return Err(OpenError::configuration(format!(
                "{shown} has no TLS: use https, or set allow_http"
            )));
        }
        _ => return Err(OpenError::configuration(format!("{shown} is no https URL"))),
    }
    if is_private && !settings.allow_private_addresses {
        return Err(OpenError::configuration(format!(
            "{shown} is no public address: set allow_private_addresses if it is meant to be reached"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use audit_core::testing::{ManualClock, SeededRandom};

    use super::*;

    fn opened(settings: &Settings) -> Result<Receiver, OpenError> {
        let clock = Arc::new(ManualClock::at(784_111_777_000));
        Receiver::new(settings, "application/json", clock, &SeededRandom::new(1))
    }

    #[test]
    fn urls_that_must_not_be_sent_to_are_refused() {
        let allowed = [
            ("https://example.com/hook?key=1", false, false),
            ("http://127.0.0.1:80/", false, true),
            ("http://[::1]/", false, true),
            ("http://localhost:9000", false, true),
            ("http://example.com", true, false),
            ("http://10.0.0.1", true, true),
            ("https://169.254.169.254", false, true),
        ];
        for (url, allow_http, allow_private_addresses) in allowed {
            let settings = |url: &str| Settings::new(url, Format::Ndjson);
            let settings = Settings { allow_http, allow_private_addresses, ..settings(url) };
            opened(&settings).unwrap();
            for narrower in [
                Settings { allow_http: false, ..settings.clone() },
                Settings { allow_private_addresses: false, ..settings.clone() },
            ] {
                assert_eq!(opened(&narrower).is_ok(), narrower == settings, "{narrower:?}");
            }
        }
        let refused =
            ["ftp://example.com", "https://user:hunter2@example.com", "https://0x7f.1/", "hunter2"];
        for url in refused {
            let error = opened(&Settings::new(url, Format::Ndjson)).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    /// What a response means, in one word.
    fn told(format: Format, status: u16, body: &str) -> &'static str {
        let settings = Settings::new("https://example.com/x?key=hunter2", format);
        let receiver = opened(&settings).unwrap();
        let answer = receiver.answer(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            &Body { bytes: body.into(), is_whole: !body.ends_with("CUT") },
        );
        let shown = format!("{answer:?} {receiver} {receiver:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        match answer {
            Answer::Accepted => "accepted",
            Answer::Rejected { is_too_large: false, .. } => "rejected",
            Answer::Rejected { is_too_large: true, .. } => "too large",
            Answer::Retry { may_have_arrived: true, .. } => "unknown",
            Answer::Retry { may_have_arrived: false, .. } => "later",
            Answer::Blocked { by, .. } => by,
        }
    }

    #[test]
    fn responses_match_the_documented_table() {
        let expected = [
            ("accepted", &[200, 201, 202, 204][..]),
            ("redirect", &[301, 302, 307, 308]),
            ("rejected", &[400, 422]),
            ("too large", &[413]),
            ("credentials", &[401, 403, 407]),
            ("endpoint", &[402, 404, 405, 406, 409, 410, 411, 415, 418, 451]),
            ("later", &[425, 429]),
            ("unknown", &[408, 500, 501, 502, 503, 504, 599]),
        ];
        for (meaning, statuses) in expected {
            for status in statuses {
                assert_eq!(told(Format::Ndjson, *status, ""), meaning, "{status}");
            }
        }
        assert_eq!(
            told(Format::Splunk, 400, r#"{"text":"Invalid data format","code":6}"#),
            "rejected"
        );
        assert_eq!(told(Format::Splunk, 400, r#"{"text":"Incorrect index","code":7}"#), "endpoint");
        assert_eq!(told(Format::Splunk, 503, r#"{"text":"Server is busy","code":9}"#), "unknown");
        let partial = r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"no"}}"#;
        assert_eq!(told(Format::Otlp, 200, partial), "rejected");
        let whole = r#"{"partialSuccess":{"rejectedLogRecords":0}}"#;
        assert_eq!(told(Format::Otlp, 200, whole), "accepted");
        assert_eq!(told(Format::Axiom, 200, r#"{"ingested":1,"failed":1}"#), "rejected");
        assert_eq!(told(Format::Axiom, 200, r#"{"ingested":2,"failed":0}"#), "accepted");
    }

    #[test]
    fn a_success_that_is_not_a_receivers_is_none() {
        use Format::{
            Axiom, CloudEvents, Datadog, Ndjson, Ocsf, Otlp, Splunk, Webhook, WebhookLines,
        };
        let page = "<html>sign in</html>";
        for format in [Splunk, Otlp, Datadog, Axiom] {
            for (body, meaning) in [
                ("", "accepted"),
                ("\r\n", "accepted"),
                ("{}", "accepted"),
                (r#"{"text":"Success","code":0}"#, "accepted"),
                (page, "endpoint"),
                ("[]", "endpoint"),
                ("ok", "endpoint"),
                ("{\"partialSuccess\":{\"rejectedCUT", "unknown"),
                ("CUT", "unknown"),
            ] {
                assert_eq!(told(format, 200, body), meaning, "{format:?} {body}");
            }
        }
        assert_eq!(told(Splunk, 200, r#"{"text":"Invalid token","code":4}"#), "endpoint");
        for format in [Webhook, WebhookLines, Ndjson, Ocsf, CloudEvents] {
            for body in [page, "", "ok", "CUT"] {
                assert_eq!(told(format, 200, body), "accepted", "{format:?} {body}");
            }
        }
    }

    #[test]
    fn secrets_that_a_receiver_repeats_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "hunter2").unwrap();
        let token = Some(crate::SecretSource::File(path));
        let settings = Settings { token, ..Settings::new("https://example.com", Format::Ndjson) };
        let receiver = opened(&settings).unwrap();
        let body = Body { bytes: b"bad token hunter2\n<p>".to_vec(), is_whole: true };
        let answer = receiver.answer(StatusCode::FORBIDDEN, &HeaderMap::new(), &body);
        let Answer::Blocked { reason, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(
            reason,
            "https://example.com/ answered 403 Forbidden: bad token .. <p> (see to its token or secret)"
        );
    }
}
