//! The content of requests: records in the format that the receiver expects.
//!
//! In every format, a record keeps its id (stream and sequence), so that receivers can recognize
//! repeats, and its unchanged body.

use std::fmt::Write as _;
use std::ops::Range;

use audit_core::UniqueId;
use chrono::{DateTime, SecondsFormat};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Format;
use crate::event::{Event, Events};
use crate::format::RequestLimits;
use crate::ocsf::Mapping;
use crate::settings::Origin;

/// The topic of audit logs in Convex's log streams.
const TOPIC: &str = "custom_audit";

/// The reason why writing cannot fail.
const INFALLIBLE: &str = "writing to a string never fails";

#[derive(Debug)]
pub(crate) struct Envelope {
    format: Format,
    limits: RequestLimits,
    /// The text before the first event, between events, and after the last.
    before: String,
    between: &'static str,
    after: &'static str,
    /// The JSON that all events have in common.
    common: String,
    mapping: Mapping,
}

pub(crate) struct Content {
    /// The number of events in it, from the first on.
    pub(crate) count: usize,
    pub(crate) body: Vec<u8>,
    /// The indexes of events that are replaced by a pointer.
    pub(crate) pointers: Vec<usize>,
}

impl Envelope {
    pub(crate) fn new(
        format: Format,
        limits: RequestLimits,
        origin: &Origin,
        mapping: Mapping,
    ) -> Envelope {
        let (before, between, after) = frame(format, origin);
        let common = common(format, origin);
        Envelope { format, limits, before, between, after, common, mapping }
    }

    /// Fills a request with as many events as fit, at least one.
    pub(crate) fn fill(&self, events: &Events, range: Range<usize>) -> Content {
        let mut body = self.before.clone();
        let (mut count, mut pointers) = (0, Vec::new());
        for event in &events.events[range] {
            if count == self.limits.records {
                break;
            }
            let begin = body.len();
            if count > 0 {
                body.push_str(self.between);
            }
            if self.write(events.stream, event, &mut body) {
                pointers.push(count);
            }
            if count > 0 && body.len() + self.after.len() > self.limits.bytes {
                body.truncate(begin);
                pointers.retain(|pointer| *pointer != count);
                break;
            }
            count += 1;
        }
        body.push_str(self.after);
        Content { count, body: body.into_bytes(), pointers }
    }

    /// The most that a record may have with its envelope, in bytes.
    pub(crate) fn max_record_bytes(&self) -> usize {
        self.limits.record_bytes
    }

    /// Whether a record is sent itself rather than as a pointer.
    pub(crate) fn fits(&self, stream: UniqueId, event: &Event) -> bool {
        let mut body = String::new();
        !self.write(stream, event, &mut body)
    }

    /// Writes an event, or a pointer to it if it is too large. Returns whether it was too large.
    fn write(&self, stream: UniqueId, event: &Event, body: &mut String) -> bool {
        let begin = body.len();
        let line = std::str::from_utf8(&event.line).unwrap_or_default();
        if !line.is_empty() {
            self.write_line(stream, event, line, body);
            let frame = self.before.len() + self.after.len();
            let length = body.len() - begin;
            if length <= self.limits.record_bytes && length + frame <= self.limits.bytes {
                return false;
            }
            body.truncate(begin);
        }
        self.write_line(stream, event, &pointer(stream, event), body);
        true
    }

    fn write_line(&self, stream: UniqueId, event: &Event, line: &str, body: &mut String) {
        let Event { sequence, time_ms, line: _ } = event;
        let common = &self.common;
        let id = format!("\"stream\":\"{stream}\",\"sequence\":{sequence}");
        let written = match self.format {
            Format::Webhook | Format::WebhookLines => write!(
                body,
                "{{\"timestamp\":{time_ms},\"topic\":\"{TOPIC}\",\"body\":{line},\"convex\":\
                 {common},\"record\":{{{id}}}}}"
            ),
            Format::Ndjson => {
                write!(body, "{{{id},\"timestamp\":{time_ms},\"body\":{line}}}")
            }
            Format::Splunk => {
                let time_ms = datable(*time_ms);
                let (seconds, ms) = (time_ms / 1_000, time_ms % 1_000);
                write!(
                    body,
                    "{{\"time\":{seconds}.{ms:03},\"host\":{common},\"source\":\"audit\",\
                     \"sourcetype\":\"_json\",\"event\":{line},\"fields\":{{{id}}}}}"
                )
            }
            Format::Otlp => {
                let text = quoted(line);
                let nanos = u64::try_from(*time_ms).unwrap_or(0).saturating_mul(1_000_000);
                write!(
                    body,
                    "{{\"timeUnixNano\":\"{nanos}\",\"observedTimeUnixNano\":\"{nanos}\",\
                     \"severityNumber\":9,\"severityText\":\"INFO\",\"eventName\":\"audit.record\",\
                     \"body\":{{\"stringValue\":{text}}},\"attributes\":[{{\"key\":\"audit.stream\",\
                     \"value\":{{\"stringValue\":\"{stream}\"}}}},{{\"key\":\"audit.sequence\",\
                     \"value\":{{\"intValue\":\"{sequence}\"}}}}]}}"
                )
            }
            Format::Datadog => {
                let text = quoted(line);
                write!(
                    body,
                    "{{{common},\"timestamp\":{time_ms},\"audit\":{{{id}}},\"message\":{text}}}"
                )
            }
            Format::Axiom => {
                let time = time(*time_ms);
                write!(
                    body,
                    "{{\"_time\":\"{time}\",{id},\"deployment\":{common},\"body\":{line}}}"
                )
            }
            Format::Ocsf => {
                self.mapping.write(stream, event, line, common, body);
                Ok(())
            }
            Format::CloudEvents => {
                let time = time(*time_ms);
                write!(
                    body,
                    "{{\"specversion\":\"1.0\",\"id\":\"{stream}-{sequence:012}\",\"source\":\
                     {common},\"type\":\"audit.record\",\"time\":\"{time}\",\"datacontenttype\":\
                     \"application/json\",\"data\":{line}}}"
                )
            }
        };
        written.expect(INFALLIBLE);
    }
}

/// The replacement for a record that is too large for the receiver.
fn pointer(stream: UniqueId, event: &Event) -> String {
    let sha256 = HEXLOWER.encode(&Sha256::digest(&event.line));
    let Event { sequence, line, .. } = event;
    json!({"tooLarge": {
        "stream": stream.to_string(), "sequence": sequence, "bytes": line.len(), "sha256": sha256,
    }})
    .to_string()
}

/// The text before the first event, between events, and after the last.
fn frame(format: Format, origin: &Origin) -> (String, &'static str, &'static str) {
    match format {
        Format::WebhookLines | Format::Ndjson | Format::Splunk | Format::Ocsf => {
            (String::new(), "\n", "\n")
        }
        Format::Webhook | Format::Datadog | Format::Axiom | Format::CloudEvents => {
            ("[".to_owned(), ",", "]")
        }
        Format::Otlp => {
            let attributes = [
                ("service.name", &origin.deployment_name),
                ("deployment.environment.name", &origin.deployment_type),
                ("service.namespace", &origin.project_name),
            ];
            let attributes = attributes.iter().filter(|(_, value)| !value.is_empty());
            let attributes: Vec<_> = attributes
                .map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))
                .collect();
            let attributes = json!({ "attributes": attributes });
            let before = format!(
                "{{\"resourceLogs\":[{{\"resource\":{attributes},\"scopeLogs\":[{{\"scope\":\
                 {{\"name\":\"audit\"}},\"logRecords\":["
            );
            (before, ",", "]}]}]}")
        }
    }
}

/// The JSON that all events have in common.
fn common(format: Format, origin: &Origin) -> String {
    let Origin { deployment_name, deployment_type, project_name: _, project_slug } = origin;
    match format {
        Format::Webhook | Format::WebhookLines => convex(origin),
        Format::Ndjson | Format::Otlp => String::new(),
        Format::Splunk | Format::Axiom => quoted(deployment_name),
        Format::Ocsf => deployment_name.clone(),
        Format::Datadog => {
            let tags = [
                ("env", deployment_type),
                ("project", project_slug),
                ("deployment", deployment_name),
            ];
            let tags: Vec<_> = tags
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| format!("{name}:{value}"))
                .collect();
            let (service, tags) = (quoted(deployment_name), quoted(&tags.join(",")));
            format!("\"ddsource\":\"audit\",\"service\":{service},\"ddtags\":{tags}")
        }
        Format::CloudEvents => {
            // The producer's URI reference: `/project/deployment`.
            let project = if project_slug.is_empty() { "audit" } else { project_slug };
            let encode = |text: &str| {
                url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
            };
            quoted(&format!("/{}/{}", encode(project), encode(deployment_name)))
        }
    }
}

fn convex(origin: &Origin) -> String {
    let Origin { deployment_name, deployment_type, project_name, project_slug } = origin;
    json!({
        "deployment_name": deployment_name,
        "deployment_type": deployment_type,
        "project_name": project_name,
        "project_slug": project_slug,
    })
    .to_string()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The nearest time in the years 1970 to 9999. A host's clock may be wrong by any amount,
/// and a receiver that cannot read one date refuses the whole request.
fn datable(ms: i64) -> i64 {
    ms.clamp(0, 253_402_300_799_999)
}

fn time(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(datable(ms)).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests;
