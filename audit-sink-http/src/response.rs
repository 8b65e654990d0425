//! The meaning of a receiver's response.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::Format;

/// The longest wait that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The maximum size of a response that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The meaning of a response with a success status.
pub(crate) enum Success {
    /// The receiver accepted the whole request.
    Taken,
    /// The receiver did not accept these records.
    TakenBut(String),
    /// The response is cut off, and may have listed records that were not accepted.
    CutOff,
    /// The response is not a receiver's, but for example a proxy's page for signing in.
    Foreign,
}

impl Format {
    /// A webhook may return any body with a success status. The protocols of other receivers
    /// specify an object, or nothing.
    pub(crate) fn success(self, bytes: &[u8], is_whole: bool, json: &Value) -> Success {
        let refused = match self {
            Format::Webhook
            | Format::WebhookLines
            | Format::Ndjson
            | Format::Ocsf
            | Format::CloudEvents => return Success::Taken,
            Format::Otlp => &json["partialSuccess"]["rejectedLogRecords"],
            Format::Axiom => &json["failed"],
            Format::Splunk | Format::Datadog => &Value::Null,
        };
        if !is_whole {
            return Success::CutOff;
        }
        if bytes.trim_ascii().is_empty() {
            return Success::Taken;
        }
        let is_failure =
            self == Format::Splunk && json["code"].as_u64().is_some_and(|code| code > 0);
        if !json.is_object() || is_failure {
            return Success::Foreign;
        }
        // ProtoJSON writes 64-bit integers as strings, and reads numbers with an exponent too.
        let text = refused.as_str().and_then(|text| text.parse::<f64>().ok());
        match refused.as_f64().or(text) {
            None if refused.is_null() => Success::Taken,
            Some(0.0) => Success::Taken,
            Some(records) => Success::TakenBut(format!("{records} of the records")),
            None => Success::TakenBut("some of the records".to_owned()),
        }
    }
}

pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// Whether the whole body was read.
    pub(crate) is_whole: bool,
}

pub(crate) async fn read(mut response: Response) -> Body {
    let mut bytes = Vec::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Body { bytes, is_whole: true },
            Err(_) => return Body { bytes, is_whole: false },
        };
        let room = MAX_ANSWER_BYTES - bytes.len();
        if chunk.len() > room {
            bytes.extend_from_slice(&chunk[..room]);
            return Body { bytes, is_whole: false };
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// The value of `Retry-After`, in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let after = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // The number may have too many digits for an integer.
        Err(_) if is_number => MAX_RETRY_AFTER,
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis();
            Duration::from_millis(u64::try_from(date.saturating_sub(now_ms)).unwrap_or(0))
        }
    };
    Some(after.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, 784_111_777_000)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        for long in ["99999999", "18446744073709551616", "99999999999999999999999999999"] {
            assert_eq!(after(long), Some(MAX_RETRY_AFTER));
        }
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), 0), None);
    }
}
