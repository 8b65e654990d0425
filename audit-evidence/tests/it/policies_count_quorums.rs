//! A policy accepts exactly the checkpoints that its logs signed and its quorum cosigned.

use audit_evidence::{Checkpoint, Hash, KeyKind, Policy, PolicyError, SignerKey};

fn log(name: &str) -> SignerKey {
    SignerKey::from_seed(name, KeyKind::Ed25519, &[name.len() as u8; 32]).unwrap()
}

fn witness(number: u8) -> SignerKey {
    SignerKey::from_seed(&format!("w{number}"), KeyKind::Cosignature, &[number; 32]).unwrap()
}

/// Three witnesses of one owner, two of another.
fn policy(last: &str) -> String {
    let mut text = format!("# for tests\n\nlog {} https://example.com\n", log("log").verifier());
    for number in 1..=5 {
        text += &format!("witness W{number}\t{}\n", witness(number).verifier());
    }
    text + last
}

const GROUPS: &str = "group X 2 W1 W2 W3\ngroup Y any W4 W5\ngroup both all X Y\nquorum both\n";

#[test]
fn quorums_follow_their_groups() {
    let policy = Policy::parse(policy(GROUPS).as_bytes()).unwrap();
    let checkpoint = Checkpoint::new("log", 7, Hash::empty()).unwrap();
    for cosigners in 0u8..32 {
        let mut note = checkpoint.to_note();
        note.sign(&log("log"));
        for number in (1..=5).filter(|number| cosigners >> (number - 1) & 1 == 1) {
            note.add(checkpoint.cosign(&witness(number), 1_764_000_000));
        }
        let is_quorum = (cosigners & 0b111).count_ones() >= 2 && cosigners & 0b11000 != 0;
        assert_eq!(policy.check(&note).is_ok(), is_quorum, "{cosigners:05b}");
    }
}

#[test]
fn only_the_logs_of_the_policy_are_accepted() {
    let policy = Policy::parse(policy("quorum none\n").as_bytes()).unwrap();
    let checkpoint = Checkpoint::new("log", 7, Hash::empty()).unwrap();
    let mut note = checkpoint.to_note();
    note.sign(&log("other"));
    assert_eq!(policy.check(&note), Err(PolicyError::UnknownLog("log".to_owned())));
    note.sign(&log("log"));
    assert_eq!(policy.check(&note), Ok(log("log").verifier()));
    let mut other = Checkpoint::new("other", 7, Hash::empty()).unwrap().to_note();
    other.sign(&log("log"));
    assert_eq!(policy.check(&other), Err(PolicyError::UnknownLog("other".to_owned())));
}

#[test]
fn invalid_policies_name_the_line() {
    let key = |number| witness(number).verifier().to_string();
    let cases = [
        (String::new(), "line 9: no quorum"),
        ("quorum W6\n".to_owned(), "line 9: a name that no earlier line defines"),
        ("quorum none\nquorum W1\n".to_owned(), "line 10: a second quorum"),
        (format!("witness W1 {}\n", key(6)), "line 9: a name that is already defined"),
        (format!("witness none {}\n", key(6)), "line 9: a name that is already defined"),
        (format!("witness W6 {}\n", key(5)), "line 9: a key that is already listed"),
        (
            format!("witness W6 {}\n", log("abc").verifier()),
            "line 9: a witness's key must be of kind 0x04",
        ),
        (format!("log {}\n", key(6)), "line 9: a log's key must be of kind 0x01"),
        (format!("log {}\n", log("log").verifier()), "line 9: a key that is already listed"),
        ("log x+y+z\n".to_owned(), "line 9: an invalid key"),
        ("group G 0 W1\n".to_owned(), "line 9: a threshold must be from 1"),
        ("group G 2 W1\n".to_owned(), "line 9: a threshold must be from 1"),
        ("group G +1 W1\n".to_owned(), "line 9: a threshold is a number"),
        ("group G any\n".to_owned(), "line 9: a threshold must be from 1"),
        ("group G any G\n".to_owned(), "line 9: a name that no earlier line defines"),
        ("group G any none\n".to_owned(), "line 9: a name that no earlier line defines"),
        ("group G any W1 W1\n".to_owned(), "line 9: a name that is already a member of a group"),
        (
            "group G any W1\ngroup H any W1\n".to_owned(),
            "line 10: a name that is already a member of a group",
        ),
        ("quorum none\r\n".to_owned(), "line 9: a control character"),
        ("trust everyone\n".to_owned(), "line 9: not a line of"),
    ];
    for (last, expected) in cases {
        let error = Policy::parse(policy(&last).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{last:?}: {error}");
    }
}
