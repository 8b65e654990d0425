//! The verifier against buckets that were tampered with: each change is named as what it is, at
//! its object, and nothing else is. What a crash leaves is no alarm.

mod model;
mod mutations;
mod second_verifier;

use audit_evidence::{Alarm, Fault, State, StreamEnd, SystemRecord};
use model::{Bucket, Chance, Look};

/// So many buckets; more with `AUDIT_EVIDENCE_BUCKETS`.
fn buckets() -> impl Iterator<Item = Bucket> {
    let count = std::env::var("AUDIT_EVIDENCE_BUCKETS").ok();
    let count = count.map_or(12, |count| count.parse().unwrap());
    (0..count).map(|seed| Bucket::generate(&mut Chance::new(seed)))
}

#[test]
fn buckets_that_hosts_wrote_are_silent() {
    for (seed, bucket) in buckets().enumerate() {
        for look in [Look::full(), Look::heads()] {
            let report = bucket.look(&look);
            assert_eq!(report.findings, bucket.known_findings(), "seed {seed}, {look:?}");
            for stream in &report.streams {
                assert_eq!(stream.size, bucket.sizes()[&stream.stream], "seed {seed}");
            }
        }
    }
}

#[test]
fn each_change_is_named_and_nothing_else() {
    let mut applied = std::collections::BTreeMap::<&str, usize>::new();
    for (seed, bucket) in buckets().enumerate() {
        for mutation in mutations::ALL {
            let chance = &mut Chance::new(seed as u64 ^ 0x5eed);
            let mut changed = bucket.clone();
            let Some(expected) = (mutation.change)(&mut changed, chance) else { continue };
            *applied.entry(mutation.name).or_default() += 1;
            let report = changed.look(&expected.look);
            let known = bucket.known_findings();
            let new: Vec<_> =
                report.findings.iter().filter(|finding| !known.contains(finding)).collect();
            let named: Vec<_> = new
                .iter()
                .map(|finding| (finding.stream.clone(), finding.object.clone(), &finding.fault))
                .collect();
            let is_as_expected = new.len() == expected.findings.len()
                && new.iter().zip(&expected.findings).all(|(finding, expected)| {
                    finding.object == expected.object
                        && finding.stream == expected.stream
                        && (expected.is_fault)(&finding.fault)
                });
            assert!(
                is_as_expected,
                "seed {seed}, {}: found {named:?}\nexpected {:?}",
                mutation.name, expected.findings
            );
            // What was found before is still found, unless the change is at the same place.
            for finding in known.iter().filter(|known| expected.spares(known)) {
                assert!(report.findings.contains(finding), "{}: {finding:?}", mutation.name);
            }
        }
    }
    let rare: Vec<_> = mutations::ALL
        .iter()
        .filter(|mutation| !applied.contains_key(mutation.name))
        .map(|mutation| mutation.name)
        .collect();
    assert!(rare.is_empty(), "never applied: {rare:?}");
}

#[test]
fn state_survives_its_text() {
    for bucket in buckets() {
        let mut state = State::default();
        state.update(&bucket.look(&Look::full()));
        assert_eq!(State::parse(&state.to_string()), Ok(state.clone()));
        // Seen again with its own memory, the bucket is what it was.
        let look = Look { state, ..Look::full() };
        assert_eq!(bucket.look(&look).findings, bucket.known_findings());
    }
    let line = "01M86YQH3BN92MTRKE2RS1CKJ5 1 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    for (text, invalid) in [
        (String::new(), 1),
        ("audit state 2\n".to_owned(), 1),
        (format!("audit state 1\n{line}\n"), 2),
        (format!("audit state 1\n{line} open\n{line} open\n"), 3),
        (format!("audit state 1\n{line} shut\n"), 2),
        (format!("audit state 1\n{line} open \n"), 2),
        ("audit state 1\na 01 x open\n".to_owned(), 2),
    ] {
        assert_eq!(State::parse(&text).unwrap_err().line, invalid, "{text:?}");
    }
}

#[test]
fn system_records_have_one_form() {
    let end = StreamEnd {
        stream: "01M86YQH3BN92MTRKE2RS1CKJ5".to_owned(),
        size: 7,
        root: audit_evidence::Hash::empty(),
    };
    let records = [
        SystemRecord::Opened {
            at: 1,
            host: "example.com/api".to_owned(),
            software: "audit 0.1.0".to_owned(),
            key: "k".to_owned(),
            next: 2,
            bucket: Some("s3://logs".to_owned()),
            previous: Some(end.clone()),
        },
        SystemRecord::Heartbeat {
            at: 1,
            next: 2,
            clock_offset: Some(-3),
            cosigned: vec!["note\n".to_owned()],
            previous: Some(end),
        },
        SystemRecord::Heartbeat {
            at: 1,
            next: 2,
            clock_offset: None,
            cosigned: Vec::new(),
            previous: None,
        },
        SystemRecord::Void { at: 1, first: 2, count: 3, reason: "taken".to_owned() },
        SystemRecord::Closed { at: 1 },
    ];
    for record in records {
        assert_eq!(SystemRecord::parse(record.to_line().as_bytes()), Ok(record));
    }
    for line in [
        "",
        "{}",
        r#"{"action":"view"}"#,
        r#"{"$audit":{"event":"closed","at":1},"more":1}"#,
        r#"{"$audit":{"event":"refused","at":1}}"#,
        r#"{"$audit":{"event":"closed","at":-1}}"#,
        r#"{"$audit":{"event":"closed","at":1}} {}"#,
    ] {
        assert!(SystemRecord::parse(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn alarms_of_four_kinds_never_mix() {
    for (fault, alarm) in [
        (Fault::Deleted, Alarm::Tampered),
        (Fault::Unacknowledged, Alarm::Unproven),
        (Fault::Overdue(1), Alarm::Late),
        (Fault::Expired, Alarm::Expired),
    ] {
        assert_eq!(fault.alarm(), alarm);
    }
}
