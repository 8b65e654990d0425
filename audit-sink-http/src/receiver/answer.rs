//! The meaning of a receiver's response, or of its absence.

use std::error::Error;
use std::time::Duration;

use audit_egress::PrivateAddress;
use audit_journal::shared::one_line::scrub;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use serde_json::Value;

use super::Receiver;
use super::url::shown_url;
use crate::Format;
use crate::response::{Body, Success, retry_after};

/// The maximum size of a response that is shown, in bytes.
const MAX_SHOWN_BYTES: usize = 200;

#[derive(Debug)]
pub(crate) enum Answer {
    /// The receiver accepted the request.
    Accepted,
    /// The receiver will never accept the request.
    Rejected { reason: String, is_too_large: bool },
    /// The outcome is unknown, or the receiver is overloaded: retry.
    Retry { reason: String, after: Option<Duration>, may_have_arrived: bool, timed_out: bool },
    /// Every request fails until an operator acts.
    Blocked { by: &'static str, reason: String },
}

impl Receiver {
    pub(super) fn answer(&self, status: StatusCode, headers: &HeaderMap, body: &Body) -> Answer {
        let Body { bytes, is_whole } = body;
        let said = self.shown(&String::from_utf8_lossy(bytes));
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let reason = format!("{self} answered {status}{said}");
        let json: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        if status == StatusCode::MULTI_STATUS {
            // The body says which parts of the request failed, in a form that is not parsed here.
            let what = "it may not have taken all records: see to its URL and format";
            return Answer::Blocked { by: "endpoint", reason: format!("{reason} ({what})") };
        }
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
            let to = headers.get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| self.url.join(to).ok()).map(|to| shown_url(&to));
            let to = self.shown(to.as_deref().unwrap_or("nowhere"));
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

    pub(super) fn failed(&self, error: reqwest::Error) -> Answer {
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
        let text = self.hidden.iter().fold(text.to_owned(), |text, secret| secret.redact(&text));
        let mut line = scrub(&text);
        if line.len() > MAX_SHOWN_BYTES {
            line.truncate(line.floor_char_boundary(MAX_SHOWN_BYTES));
            line.push('…');
        }
        line
    }
}
