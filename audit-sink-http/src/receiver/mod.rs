//! The receiver of a log stream: a request to it, and the meaning of its response.

mod answer;
mod body;
mod client;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{Clock, Random};
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) use self::answer::Answer;
use self::client::client;
use self::url::{checked_url, shown_url};
use crate::acknowledgment::{self, Acknowledgment};
use crate::response::{Body, read};
use crate::secret::Secret;
use crate::signature::Signer;
use crate::{Format, OpenError, Settings};

pub(crate) struct Receiver {
    client: Arc<Client>,
    url: ::url::Url,
    format: Format,
    token: Option<Secret>,
    /// What is removed from foreign text before it is shown.
    hidden: Vec<Secret>,
    signer: Signer,
    clock: Arc<dyn Clock>,
    acknowledgment: Option<Acknowledgment>,
}

impl Receiver {
    pub(crate) fn new(
        settings: &Settings,
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
        let hidden = Secret::of_query(&url).into_iter();
        let hidden = hidden.chain(secrets.clone()).chain(token.clone()).collect();
        let signer = Signer::new(secrets).map_err(OpenError::configuration)?;
        let client = client(settings, &url)?;
        let format = settings.format;
        Ok(Receiver { client, url, format, token, hidden, signer, clock, acknowledgment })
    }

    /// Sends one request, with `limit` as its time limit. With indexer acknowledgment, waits for
    /// that as well.
    pub(crate) async fn send(&self, id: &str, body: Bytes, limit: Duration) -> Answer {
        let headers = self.headers(id, &body);
        let request = self.client.post(self.url.clone()).headers(headers);
        let (answer, said) = self.ask(request, body, limit).await;
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
            // The pause is limited, so that there is time for several queries even if `within` is
            // short.
            sleep(Acknowledgment::pause(questions).min(asked.within / 4)).await;
            questions = questions.saturating_add(1);
            // After a restart the collector does not know the request, so it never answers `true`.
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
            let request = self.client.post(asked.url.clone()).headers(headers);
            match self.ask(request, question.into(), limit.min(left)).await {
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
    async fn ask(&self, request: RequestBuilder, body: Bytes, limit: Duration) -> (Answer, Value) {
        let deadline = Instant::now() + limit;
        let (body, sent) = body::whole(body);
        let answer = match timeout_at(deadline, request.body(body).send()).await {
            Ok(Ok(response)) => {
                let (status, headers) = (response.status(), response.headers().clone());
                // The status counts, even if the body never ends.
                let body = timeout_at(deadline, read(response)).await;
                let is_late = body.is_err();
                let body = body.unwrap_or(Body { bytes: Vec::new(), is_whole: false });
                let said = serde_json::from_slice(&body.bytes).unwrap_or(Value::Null);
                let mut answer = self.answer(status, &headers, &body);
                if let Answer::Retry { timed_out, .. } = &mut answer {
                    *timed_out = is_late;
                }
                // Some receivers respond before they have read the request. Records that were never
                // sent have not arrived.
                if status.is_success() && !matches!(timeout_at(deadline, sent).await, Ok(Ok(()))) {
                    answer = Answer::Retry {
                        reason: format!("{self} answered {status} before it had the whole request"),
                        after: None,
                        may_have_arrived: true,
                        timed_out: false,
                    };
                }
                return (answer, said);
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
                Answer::Accepted | Answer::Rejected { .. } => {
                    Err(format!("{self} cannot be reached"))
                }
            },
            Err(_elapsed) => Err(format!("{self} did not answer within {} ms", limit.as_millis())),
        }
    }

    fn headers(&self, id: &str, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.format.content_type()));
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
        if self.format.is_signed() {
            let seconds = self.clock.now_ms().div_euclid(1_000);
            for (name, value) in self.signer.headers(id, seconds, body) {
                insert(name, &value, false);
            }
        }
        headers
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
