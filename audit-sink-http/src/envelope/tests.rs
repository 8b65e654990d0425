use serde_json::Value;

use super::*;
use crate::Settings;

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
    let parsed = |value: &Value| serde_json::from_str::<Value>(value.as_str().unwrap()).unwrap();
    let event = |value: &Value| match format {
        Format::Webhook | Format::WebhookLines => {
            assert_eq!(value["topic"], "custom_audit");
            assert_eq!(value["convex"]["deployment_name"], "happy-animal-123");
            assert_eq!(value["convex"]["project_name"], "My \"Project\"");
            (value["record"].clone(), value["timestamp"].as_i64().unwrap(), value["body"].clone())
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
    for format in Format::ALL {
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
fn times_are_valid_with_any_clock() {
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
        for format in Format::ALL {
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
    for format in Format::ALL {
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
                    let sha256 = HEXLOWER.encode(&Sha256::digest(line));
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
