//! The content of requests: records in the format that the receiver expects.
//!
//! In every format, a record keeps its id (stream and sequence), so that receivers can recognize
//! repeats, and its unchanged body.

use std::fmt::Write as _;
use std::ops::Range;

use audit_core::UniqueId;
use chrono::{DateTime, SecondsFormat};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Format;
use crate::event::{Event, Events};
use crate::ocsf::Mapping;
use crate::settings::{Origin, RequestLimits};

/// The topic of audit logs in Convex's log streams.
const TOPIC: &str = "custom_audit";

/// The reason why writing cannot fail.
const INFALLIBLE: &str = "writing to a string never fails";

/// Writes the bodies of requests.
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
    /// The mapping of OCSF events.
    mapping: Mapping,
}

/// One request's content.
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
        let Origin { deployment_name, deployment_type, project_name, project_slug } = origin;
        let (mut before, mut between, mut after) = ("[".to_owned(), ",", "]");
        let common = match format {
            Format::Webhook => convex(origin),
            Format::WebhookLines => {
                (before, between, after) = (String::new(), "\n", "\n");
                convex(origin)
            }
            Format::Ndjson => {
                (before, between, after) = (String::new(), "\n", "\n");
                String::new()
            }
            Format::Splunk => {
                (before, between, after) = (String::new(), "\n", "\n");
                quoted(deployment_name)
            }
            Format::Otlp => {
                let attributes = [
                    ("service.name", deployment_name),
                    ("deployment.environment.name", deployment_type),
                    ("service.namespace", project_name),
                ];
                let attributes = attributes.iter().filter(|(_, value)| !value.is_empty());
                let attributes: Vec<_> = attributes
                    .map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))
                    .collect();
                let attributes = json!({ "attributes": attributes });
                before = format!(
                    "{{\"resourceLogs\":[{{\"resource\":{attributes},\"scopeLogs\":[{{\"scope\":\
                     {{\"name\":\"audit\"}},\"logRecords\":["
                );
                after = "]}]}]}";
                String::new()
            }
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
            Format::Axiom => quoted(deployment_name),
            Format::Ocsf => {
                (before, between, after) = (String::new(), "\n", "\n");
                deployment_name.clone()
            }
            Format::CloudEvents => {
                // The reference of the producer: `/project/deployment`.
                let project = if project_slug.is_empty() { "audit" } else { project_slug };
                let encode = |text: &str| {
                    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
                };
                quoted(&format!("/{}/{}", encode(project), encode(deployment_name)))
            }
        };
        Envelope { format, limits, before, between, after, common, mapping }
    }

    /// The content type.
    pub(crate) fn content_type(&self) -> &'static str {
        match self.format {
            Format::Webhook | Format::Splunk | Format::Otlp | Format::Datadog | Format::Axiom => {
                "application/json"
            }
            Format::WebhookLines | Format::Ndjson | Format::Ocsf => "application/x-ndjson",
            Format::CloudEvents => "application/cloudevents-batch+json",
        }
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
    let sha256: String = Sha256::digest(&event.line).iter().map(|b| format!("{b:02x}")).collect();
    let Event { sequence, line, .. } = event;
    json!({"tooLarge": {
        "stream": stream.to_string(), "sequence": sequence, "bytes": line.len(), "sha256": sha256,
    }})
    .to_string()
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
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::Settings;

    const FORMATS: [Format; 9] = [
        Format::Webhook,
        Format::WebhookLines,
        Format::Ndjson,
        Format::Splunk,
        Format::Otlp,
        Format::Datadog,
        Format::Axiom,
        Format::CloudEvents,
        Format::Ocsf,
    ];

    fn envelope(settings: &Settings) -> Envelope {
        Envelope::new(settings.format, settings.limits(), &settings.origin, Mapping::default())
    }

    fn settings(format: Format) -> Settings {
        let origin = Origin {
            deployment_name: "happy-animal-123".to_owned(),
            deployment_type: "prod".to_owned(),
            project_name: "My \"Project\"".to_owned(),
            project_slug: "my-project".to_owned(),
        };
        Settings { origin, ..Settings::new("https://example.com", format) }
    }

    fn events(lines: &[&str]) -> Events {
        let event = |(n, line): (usize, &&str)| Event {
            sequence: 7 + n as u64,
            time_ms: 1_700_000_000_123 + n as i64,
            line: line.as_bytes().to_vec().into(),
        };
        let events = lines.iter().enumerate().map(event).collect();
        Events { stream: UniqueId::from_bits(1), events }
    }

    /// The id, time and body of each event, as a receiver of the format reads them.
    fn read(format: Format, body: &[u8]) -> Vec<(String, u64, i64, Value)> {
        let text = std::str::from_utf8(body).unwrap();
        let values: Vec<Value> = match format {
            Format::WebhookLines | Format::Ndjson | Format::Splunk | Format::Ocsf => {
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            }
            Format::Otlp => {
                let all: Value = serde_json::from_str(text).unwrap();
                all["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone()
            }
            Format::Webhook | Format::Datadog | Format::Axiom | Format::CloudEvents => {
                serde_json::from_str(text).unwrap()
            }
        };
        let time = |value: &Value| {
            DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_millis()
        };
        let parsed =
            |value: &Value| serde_json::from_str::<Value>(value.as_str().unwrap()).unwrap();
        let event = |value: &Value| match format {
            Format::Webhook | Format::WebhookLines => {
                assert_eq!(value["topic"], "custom_audit");
                assert_eq!(value["convex"]["deployment_name"], "happy-animal-123");
                assert_eq!(value["convex"]["project_name"], "My \"Project\"");
                (
                    value["record"].clone(),
                    value["timestamp"].as_i64().unwrap(),
                    value["body"].clone(),
                )
            }
            Format::Ndjson => {
                (value.clone(), value["timestamp"].as_i64().unwrap(), value["body"].clone())
            }
            Format::Splunk => {
                let time = (value["time"].as_f64().unwrap() * 1_000.0).round() as i64;
                (value["fields"].clone(), time, value["event"].clone())
            }
            Format::Otlp => {
                let attribute = |n: usize| value["attributes"][n]["value"].clone();
                let sequence: u64 = attribute(1)["intValue"].as_str().unwrap().parse().unwrap();
                let id = json!({"stream": attribute(0)["stringValue"], "sequence": sequence});
                let nanos: u64 = value["timeUnixNano"].as_str().unwrap().parse().unwrap();
                (id, (nanos / 1_000_000).cast_signed(), parsed(&value["body"]["stringValue"]))
            }
            Format::Datadog => {
                let time = value["timestamp"].as_i64().unwrap();
                (value["audit"].clone(), time, parsed(&value["message"]))
            }
            Format::Axiom => (value.clone(), time(&value["_time"]), value["body"].clone()),
            Format::Ocsf => {
                let (stream, sequence) =
                    value["metadata"]["uid"].as_str().unwrap().split_once('-').unwrap();
                assert_eq!(value["metadata"]["product"]["name"], "happy-animal-123");
                let sequence: u64 = sequence.parse().unwrap();
                let id = json!({"stream": stream, "sequence": sequence});
                (id, value["time"].as_i64().unwrap(), value["unmapped"].clone())
            }
            Format::CloudEvents => {
                let (stream, sequence) = value["id"].as_str().unwrap().split_once('-').unwrap();
                let sequence: u64 = sequence.parse().unwrap();
                assert_eq!(value["source"], "/my-project/happy-animal-123");
                let id = json!({"stream": stream, "sequence": sequence});
                (id, time(&value["time"]), value["data"].clone())
            }
        };
        let event = |value: &Value| {
            let (id, time, body) = event(value);
            let stream = id["stream"].as_str().unwrap().to_owned();
            (stream, id["sequence"].as_u64().unwrap(), time, body)
        };
        values.iter().map(event).collect()
    }

    #[test]
    fn records_keep_their_ids_times_and_bodies() {
        let lines = [r#"{"action":"view","by":"ada"}"#, r#"{"text":"\"\\ ü €","n":[1.50,{}]}"#];
        for format in FORMATS {
            let settings = settings(format);
            let content = envelope(&settings).fill(&events(&lines), 0..2);
            assert_eq!((content.count, content.pointers.len()), (2, 0), "{format:?}");
            let expected: Vec<_> = (0..2)
                .map(|n: usize| {
                    let body: Value = serde_json::from_str(lines[n]).unwrap();
                    let stream = UniqueId::from_bits(1).to_string();
                    (stream, 7 + n as u64, 1_700_000_000_123 + n as i64, body)
                })
                .collect();
            assert_eq!(read(format, &content.body), expected, "{format:?}");
        }
    }

    #[test]
    fn times_are_valid_whatever_the_clock_said() {
        let last = 253_402_300_799_999;
        for (time_ms, nearest) in [
            (i64::MIN, 0),
            (-62_135_596_800_001, 0),
            (-500, 0),
            (0, 0),
            (18_446_744_073_710, 18_446_744_073_710),
            (last, last),
            (last + 1, last),
            (i64::MAX, last),
        ] {
            for format in FORMATS {
                let mut events = events(&["{}"]);
                events.events[0].time_ms = time_ms;
                let content = envelope(&settings(format)).fill(&events, 0..1);
                let told = read(format, &content.body)[0].2;
                let expected = match format {
                    Format::Splunk | Format::Axiom | Format::CloudEvents => nearest,
                    // An unsigned number of 64 bits counts nanoseconds until 2554.
                    Format::Otlp => time_ms.clamp(0, 18_446_744_073_709),
                    Format::Webhook
                    | Format::WebhookLines
                    | Format::Ndjson
                    | Format::Datadog
                    | Format::Ocsf => time_ms,
                };
                assert_eq!(told, expected, "{format:?} at {time_ms}");
                if format == Format::Otlp {
                    let all: Value = serde_json::from_slice(&content.body).unwrap();
                    let nanos = &all["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
                    let nanos = nanos["observedTimeUnixNano"].as_str().unwrap();
                    assert!(nanos.parse::<u64>().is_ok(), "{nanos}");
                }
            }
        }
    }

    #[test]
    fn bodies_of_webhooks_are_copied_byte_by_byte() {
        let line = r#"{"n":1.50,"big":12345678901234567890,"a":"\u0041"}"#;
        for format in
            [Format::Webhook, Format::Ndjson, Format::Splunk, Format::CloudEvents, Format::Ocsf]
        {
            let content = envelope(&settings(format)).fill(&events(&[line]), 0..1);
            assert!(String::from_utf8(content.body).unwrap().contains(line), "{format:?}");
        }
    }

    /// Limits hold for requests of every size, and no event is omitted.
    #[test]
    fn requests_keep_the_limits_of_the_receiver() {
        let lines: Vec<String> =
            (0..200).map(|n| format!("{{\"x\":\"{}\"}}", "y".repeat(n * 17 % 3_000))).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let events = events(&lines);
        for format in FORMATS {
            let settings = Settings {
                max_request_records: Some(13),
                max_request_bytes: Some(8_000),
                max_record_bytes: Some(2_500),
                ..settings(format)
            };
            let envelope = envelope(&settings);
            let (mut at, mut seen, mut pointers) = (0, Vec::new(), 0);
            while at < lines.len() {
                let content = envelope.fill(&events, at..lines.len());
                assert!((1..=13).contains(&content.count) && content.body.len() <= 8_000);
                let read = read(format, &content.body);
                assert_eq!(read.len(), content.count);
                for (n, (_, sequence, _, body)) in read.into_iter().enumerate() {
                    assert_eq!(sequence, 7 + (at + n) as u64);
                    let is_pointer = content.pointers.contains(&n);
                    assert_eq!(is_pointer, !envelope.fits(events.stream, &events.events[at + n]));
                    if is_pointer {
                        let line = lines[at + n].as_bytes();
                        let sha256: String =
                            Sha256::digest(line).iter().map(|b| format!("{b:02x}")).collect();
                        assert_eq!(body["tooLarge"]["sha256"], sha256);
                        assert_eq!(body["tooLarge"]["sequence"], sequence);
                        pointers += 1;
                    } else {
                        assert_eq!(body, serde_json::from_str::<Value>(lines[at + n]).unwrap());
                    }
                    seen.push(sequence);
                }
                at += content.count;
            }
            assert!(seen.into_iter().eq(7..207) && pointers > 0, "{format:?}");
        }
    }
}
