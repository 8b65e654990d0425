//! The verifier against tampered buckets: each change is reported as what it is, at its object, and
//! nothing else is. The traces of a crash raise no alarm.

mod model;
mod mutations;
mod second_verifier;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_evidence::{Alarm, Fault, Finding, State, StreamEnd, SystemRecord};
use model::{Bucket, Chance, Checks, Look};

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// The seeds of buckets: `AUDIT_EVIDENCE_BUCKETS` sets their number, `AUDIT_EVIDENCE_FIRST_BUCKET`
/// the first.
fn seeds() -> Range<u64> {
    let first = number_of("AUDIT_EVIDENCE_FIRST_BUCKET", 0);
    first..first + number_of("AUDIT_EVIDENCE_BUCKETS", 24)
}

fn buckets() -> impl Iterator<Item = Bucket> {
    seeds().map(|seed| Bucket::generate(&mut Chance::new(seed)))
}

#[test]
fn untouched_buckets_raise_no_alarm() {
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

/// Whether the finding is a known one, or of fewer of its records: others of them are reported for
/// the change.
fn is_part(finding: &Finding, known: &Finding) -> bool {
    let is_within = match (&finding.records, &known.records) {
        (Some(records), Some(known)) => known.start <= records.start && records.end <= known.end,
        (records, known) => records == known,
    };
    let place = |finding: &Finding| (finding.stream.clone(), finding.object.clone());
    is_within && place(finding) == place(known) && finding.fault == known.fault
}

/// How often each change was applied.
type Applied = BTreeMap<&'static str, u64>;

/// Applies changes to the bucket of a seed, each to the original bucket.
///
/// All of them, or at most `AUDIT_EVIDENCE_CHANGES` of the applicable ones, which vary by seed.
fn change_bucket(seed: u64, most: usize, applied: &mut Applied) {
    let bucket = Bucket::generate(&mut Chance::new(seed));
    let (known, mut checks) = (bucket.known_findings(), Checks::default());
    let all = mutations::ALL.len();
    let begin = if most < all { (seed as usize * most) % all } else { 0 };
    let mut made = 0;
    for mutation in mutations::ALL.iter().cycle().skip(begin).take(all) {
        if made == most {
            break;
        }
        let chance = &mut Chance::new(seed ^ 0x5eed);
        let mut changed = bucket.clone();
        let Some(expected) = (mutation.change)(&mut changed, chance) else { continue };
        made += 1;
        *applied.entry(mutation.name).or_default() += 1;
        let report = changed.look_again(&expected.look, &mut checks);
        let is_new = |finding: &&Finding| !known.iter().any(|known| is_part(finding, known));
        let new: Vec<_> = report.findings.iter().filter(is_new).collect();
        assert!(
            expected.is(&new, &known),
            "seed {seed}, {}: found {new:?}\nexpected {:?}",
            mutation.name,
            expected.findings
        );
        // Earlier findings remain, unless the change affects the same records.
        for finding in known.iter().filter(|known| expected.spares(known)) {
            assert!(report.findings.contains(finding), "{}: {finding:?}", mutation.name);
        }
    }
}

/// In a longer run:
///
/// ```text
/// AUDIT_EVIDENCE_BUCKETS=10000 \
///     cargo test --release -p audit-evidence --test it each_change -- --nocapture
/// AUDIT_EVIDENCE_BUCKETS=1000000 AUDIT_EVIDENCE_CHANGES=1 \
///     cargo test --release -p audit-evidence --test it each_change -- --nocapture
/// ```
#[test]
fn each_change_is_reported_and_nothing_else() {
    let most = number_of("AUDIT_EVIDENCE_CHANGES", u64::MAX);
    let most = usize::try_from(most).unwrap().min(mutations::ALL.len());
    let (next, end) = (AtomicU64::new(seeds().start), seeds().end);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut applied = Applied::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return applied;
            }
            change_bucket(seed, most, &mut applied);
            if (seed + 1).is_multiple_of(10_000) {
                println!("{} buckets of {end}", seed + 1);
            }
        }
    };
    let mut applied = Applied::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (name, times) in worker.join().unwrap() {
                *applied.entry(name).or_default() += times;
            }
        }
    });
    println!("{} changes: {applied:#?}", applied.values().sum::<u64>());
    let mut rare = mutations::ALL.iter().map(|mutation| mutation.name);
    assert_eq!(rare.find(|name| !applied.contains_key(name)), None, "the change was never applied");
}

#[test]
fn state_survives_its_text() {
    for bucket in buckets() {
        let mut state = State::default();
        state.update(&bucket.look(&Look::full()));
        assert_eq!(State::parse(&state.to_string()), Ok(state.clone()));
        // Verified again with this state, the bucket is unchanged.
        let look = Look { state, ..Look::full() };
        assert_eq!(bucket.look(&look).findings, bucket.known_findings());
    }
    // What was tampered with does not replace what is remembered.
    for bucket in buckets() {
        let mut state = State::default();
        state.update(&bucket.look(&Look::full()));
        let (before, mut altered) = (state.clone(), bucket);
        for object in altered.objects.iter_mut().filter(|object| object.is_ours()) {
            object.lines[0].push(' ');
        }
        // The tails are cut, so that the sizes would differ.
        let last = altered.objects.last().map(|object| object.key.clone());
        altered.objects.retain(|object| Some(&object.key) != last.as_ref());
        state.update(&altered.look(&Look::full()));
        assert_eq!(state, before);
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
