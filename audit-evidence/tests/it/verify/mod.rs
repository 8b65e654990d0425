//! The verifier against tampered buckets: each change is reported as what it is, at its object, and
//! nothing else is. The traces of a crash raise no alarm.

mod model;
mod mutations;
mod second_verifier;

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

/// Whether the finding is a known one, or a known one for a part of its records: the others are
/// then reported because of the change.
fn is_part(finding: &Finding, known: &Finding) -> bool {
    let is_within = match (&finding.records, &known.records) {
        (Some(records), Some(known)) => known.start <= records.start && records.end <= known.end,
        (records, known) => records == known,
    };
    let place = |finding: &Finding| (finding.stream.clone(), finding.object.clone());
    is_within && place(finding) == place(known) && finding.fault == known.fault
}

/// Changes to generated buckets, made by several threads.
struct Run {
    next: AtomicU64,
    end: u64,
    /// The maximum number of changes to one bucket, which vary by seed.
    most: usize,
    /// The required number of times that each change is applied.
    times: u64,
    /// The number of times that each change was applied.
    applied: Vec<AtomicU64>,
}

impl Run {
    /// All changes to each bucket, unless `AUDIT_EVIDENCE_CHANGES` says how many.
    ///
    /// With `AUDIT_EVIDENCE_TIMES`, buckets are generated until each change was applied that many
    /// times, each time to another bucket.
    fn new() -> Run {
        let Range { start, end } = seeds();
        let times = number_of("AUDIT_EVIDENCE_TIMES", u64::MAX);
        let is_aimed = times < u64::MAX;
        let most = number_of("AUDIT_EVIDENCE_CHANGES", u64::MAX);
        Run {
            next: AtomicU64::new(start),
            end: if is_aimed { start + 1_000 * times } else { end },
            most: usize::try_from(most).unwrap().min(mutations::ALL.len()),
            times,
            applied: mutations::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn times(&self, at: usize) -> u64 {
        self.applied[at].load(Ordering::Relaxed)
    }

    fn is_done(&self) -> bool {
        (0..self.applied.len()).all(|at| self.times(at) >= self.times)
    }

    fn work(&self) {
        while !self.is_done() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            self.change_bucket(seed);
            if (seed + 1).is_multiple_of(10_000) {
                println!("{} buckets", seed + 1);
            }
        }
    }

    /// Applies changes to the bucket of a seed, each to the original bucket.
    fn change_bucket(&self, seed: u64) {
        let bucket = Bucket::generate(&mut Chance::new(seed));
        let (known, mut checks) = (bucket.known_findings(), Checks::default());
        let all = mutations::ALL.len();
        let begin = if self.most < all { (seed as usize * self.most) % all } else { 0 };
        let mut made = 0;
        for at in (begin..begin + all).map(|at| at % all) {
            if made == self.most {
                break;
            }
            let mutation = &mutations::ALL[at];
            if self.times(at) >= self.times {
                continue;
            }
            let Some((changed, expected)) = mutation.apply(&bucket, seed) else { continue };
            made += 1;
            self.applied[at].fetch_add(1, Ordering::Relaxed);
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
}

/// In longer runs:
///
/// ```text
/// AUDIT_EVIDENCE_TIMES=10000 \
///     cargo test --release -p audit-evidence --test it each_change -- --nocapture
/// AUDIT_EVIDENCE_BUCKETS=1000000 AUDIT_EVIDENCE_CHANGES=1 \
///     cargo test --release -p audit-evidence --test it each_change -- --nocapture
/// ```
#[test]
fn each_change_is_reported_and_nothing_else() {
    let run = Run::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.work());
        }
    });
    let mut applied: Vec<_> = (0..).zip(mutations::ALL).collect();
    applied.sort_by_key(|(at, _)| run.times(*at));
    let buckets = run.next.load(Ordering::Relaxed).min(run.end) - seeds().start;
    let changes: u64 = applied.iter().map(|(at, _)| run.times(*at)).sum();
    println!("{buckets} buckets, {} kinds of changes, {changes} changes:", applied.len());
    for (at, mutation) in &applied {
        println!("{:>9} {}", run.times(*at), mutation.name);
    }
    let least = if run.times < u64::MAX { run.times } else { 1 };
    let (rarest, mutation) = applied[0];
    assert!(run.times(rarest) >= least, "{} was applied too seldom", mutation.name);
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
    // A tampered bucket does not change the remembered state.
    for bucket in buckets() {
        let mut state = State::default();
        state.update(&bucket.look(&Look::full()));
        let (before, mut altered) = (state.clone(), bucket);
        for object in altered.objects.iter_mut().filter(|object| object.is_ours()) {
            object.lines[0].push(' ');
        }
        // The last object is removed, so that the sizes would differ.
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
        SystemRecord::Closed { at: 1, cosigned: Vec::new() },
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
