use audit_core::testing::{ManualClock, SeededRandom};

use reqwest::StatusCode;

use super::*;
use crate::response::Body;

fn opened(settings: &Settings) -> Result<Receiver, OpenError> {
    let clock = Arc::new(ManualClock::at(784_111_777_000));
    Receiver::new(settings, clock, &SeededRandom::new(1))
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
        ("endpoint", &[207, 402, 404, 405, 406, 409, 410, 411, 415, 418, 451]),
        ("later", &[425, 429]),
        ("unknown", &[408, 500, 501, 502, 503, 504, 599]),
    ];
    for (meaning, statuses) in expected {
        for status in statuses {
            assert_eq!(told(Format::Ndjson, *status, ""), meaning, "{status}");
        }
    }
    assert_eq!(told(Format::Splunk, 400, r#"{"text":"Invalid data format","code":6}"#), "rejected");
    assert_eq!(told(Format::Splunk, 400, r#"{"text":"Incorrect index","code":7}"#), "endpoint");
    assert_eq!(told(Format::Splunk, 503, r#"{"text":"Server is busy","code":9}"#), "unknown");
    let partial = r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"no"}}"#;
    assert_eq!(told(Format::Otlp, 200, partial), "rejected");
    let whole = r#"{"partialSuccess":{"rejectedLogRecords":0}}"#;
    assert_eq!(told(Format::Otlp, 200, whole), "accepted");
    // A rejected count that cannot be read is not taken for 0.
    for count in ["1", "1.0", "\"2\"", "\"2e0\"", "-1", "\"\"", "true", "[0]", "{}"] {
        let otlp = format!(r#"{{"partialSuccess":{{"rejectedLogRecords":{count}}}}}"#);
        assert_eq!(told(Format::Otlp, 200, &otlp), "rejected", "{count}");
        let axiom = format!(r#"{{"failed":{count}}}"#);
        assert_eq!(told(Format::Axiom, 200, &axiom), "rejected", "{count}");
    }
    for count in ["0", "0.0", "\"0\"", "null"] {
        let otlp = format!(r#"{{"partialSuccess":{{"rejectedLogRecords":{count}}}}}"#);
        assert_eq!(told(Format::Otlp, 200, &otlp), "accepted", "{count}");
    }
    assert_eq!(told(Format::Axiom, 200, r#"{"ingested":1,"failed":1}"#), "rejected");
    assert_eq!(told(Format::Axiom, 200, r#"{"ingested":2,"failed":0}"#), "accepted");
}

#[test]
fn only_a_receivers_success_counts() {
    let page = "<html>sign in</html>";
    for format in Format::ALL.into_iter().filter(|format| !format.is_signed()) {
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
    assert_eq!(told(Format::Splunk, 200, r#"{"text":"Invalid token","code":4}"#), "endpoint");
    for format in Format::ALL.into_iter().filter(|format| format.is_signed()) {
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

/// A proxy may repeat the query of the URL, with its secrets, in a redirect or a page.
#[test]
fn secrets_in_the_url_are_not_shown() {
    let url = "http://127.0.0.1/hook?v=1&key=hunter%32+x&hunter2";
    let settings = Settings { allow_private_addresses: true, ..Settings::new(url, Format::Ndjson) };
    let receiver = opened(&settings).unwrap();
    let reason = |status: u16, to: Option<&str>, body: &str| {
        let mut headers = HeaderMap::new();
        to.map(|to| headers.insert(reqwest::header::LOCATION, HeaderValue::from_str(to).unwrap()));
        let body = Body { bytes: body.into(), is_whole: true };
        let answer = receiver.answer(StatusCode::from_u16(status).unwrap(), &headers, &body);
        let Answer::Blocked { reason, .. } = answer else { panic!("{answer:?}") };
        reason
    };
    for (to, shown) in [
        (
            Some("https://example.com/hook/?v=1&key=hunter%32+x&hunter2"),
            "https://example.com/hook/",
        ),
        (Some("/login?next=/hook%3Fkey=hunter2#hunter2"), "http://127.0.0.1/login"),
        (Some("?key=hunter%32+x"), "http://127.0.0.1/hook"),
        (Some("//hunter2/"), "http://../"),
        (Some("http://["), "nowhere"),
        (None, "nowhere"),
    ] {
        let expected = format!(
            "http://127.0.0.1/hook redirects to {shown}: redirects are not followed, set the URL"
        );
        assert_eq!(reason(308, to, ""), expected);
    }
    for said in ["no /hook?v=1&key=hunter%32+x&hunter2", "unknown key \"hunter2 x\", v 1"] {
        let shown = reason(404, None, said);
        assert!(!shown.contains("hunter") && shown.contains("v"), "{shown}");
    }
}
