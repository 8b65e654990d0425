//! A host's submissions satisfy any witness, whatever is lost on the way.

use audit_evidence::{
    AddCheckpoint, Certificate, Checkpoint, CompactRange, KeyKind, Note, NoteSignature, Refusal,
    SignerKey, SubmissionError, Submitter, WitnessResponse, Witnessed,
};
use proptest::prelude::*;

use crate::vectors::leaf;

const ORIGIN: &str = "example.com/api/01M86YQH3BN92MTRKE2RS1CKJ5";

fn log() -> SignerKey {
    SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[5; 32]).unwrap()
}

fn cosigner(seed: u8) -> SignerKey {
    SignerKey::from_seed("witness.example", KeyKind::Cosignature, &[seed; 32]).unwrap()
}

fn submitter() -> Submitter {
    let host = SignerKey::from_seed("example.com/api", KeyKind::Ed25519, &[4; 32]).unwrap();
    Submitter::new(Certificate::issue(&host, log().verifier()).to_note_signature())
}

fn range(begin: u64, end: u64) -> CompactRange {
    let mut range = CompactRange::new(begin);
    (begin..end).for_each(|index| range.push(leaf(index)));
    range
}

fn note(size: u64) -> Note {
    let root = range(0, size).root().unwrap();
    let mut note = Checkpoint::new(ORIGIN, size, root).unwrap().to_note();
    note.sign(&log());
    note
}

/// A witness by the rules of tlog-witness.
struct Witness {
    key: SignerKey,
    latest: Option<Witnessed>,
}

impl Witness {
    fn new() -> Witness {
        Witness { key: cosigner(6), latest: None }
    }

    /// The status and the body of its response.
    fn decide(&mut self, request: &AddCheckpoint) -> (u16, String) {
        match request.check(Some(log().verifier()), self.latest) {
            Ok(witnessed) => {
                self.latest = Some(witnessed);
                (200, format!("{}\n", request.checkpoint().cosign(&self.key, 7)))
            }
            Err(Refusal::OtherSize { latest }) => (409, format!("{latest}\n")),
            Err(refusal) => panic!("the request is refused: {refusal}"),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Course {
    Answered,
    /// The response is lost.
    Unheard,
    /// The request is lost.
    Lost,
    /// Something else answers.
    Garbage,
    /// The witness loses its state first.
    Forgotten,
}

fn courses() -> impl Strategy<Value = Vec<(u64, Course)>> {
    let course = prop_oneof![
        4 => Just(Course::Answered),
        2 => Just(Course::Unheard),
        1 => Just(Course::Lost),
        1 => Just(Course::Garbage),
        1 => Just(Course::Forgotten),
    ];
    prop::collection::vec((0..9u64, course), 1..40)
}

proptest! {
    /// Each request satisfies the witness, and once nothing is lost, the newest checkpoint is
    /// cosigned within three requests.
    #[test]
    fn every_checkpoint_is_cosigned_in_the_end(courses in courses()) {
        let (mut submitter, mut witness, mut size) = (submitter(), Witness::new(), 0);
        for (more, course) in courses {
            if more > 0 {
                submitter.show(&range(size, size + more), note(size + more));
                size += more;
            }
            let Some(request) = submitter.request() else { continue };
            prop_assert_eq!(AddCheckpoint::parse(&request.to_string()), Ok(request.clone()));
            let response = match course {
                Course::Answered => witness.decide(&request),
                Course::Unheard => {
                    witness.decide(&request);
                    continue;
                }
                Course::Lost => continue,
                Course::Garbage => (502, "<html>".to_owned()),
                Course::Forgotten => {
                    witness.latest = None;
                    witness.decide(&request)
                }
            };
            let response = WitnessResponse::parse(response.0, response.1.as_bytes());
            let answered = submitter.answered(witness.key.verifier(), &response);
            match answered {
                Ok(Some(note)) => {
                    prop_assert_eq!(note.verify(witness.key.verifier()), Ok(true));
                    prop_assert_eq!(note.verify(log().verifier()), Ok(true));
                }
                Ok(None) => prop_assert!(submitter.has_next()),
                Err(error) => prop_assert_eq!(error, SubmissionError::Unusable { status: 502 }),
            }
        }
        for _ in 0..3 {
            let Some(request) = submitter.request() else { break };
            let (status, body) = witness.decide(&request);
            let response = WitnessResponse::parse(status, body.as_bytes());
            prop_assert!(submitter.answered(witness.key.verifier(), &response).is_ok());
        }
        prop_assert!(!submitter.has_next());
        prop_assert_eq!(witness.latest.map_or(0, |latest| latest.size), size);
    }

    /// Any response has a meaning, and only a cosignature is taken for one.
    #[test]
    fn any_response_is_read(status in 100..600u16, body in any::<Vec<u8>>()) {
        let response = WitnessResponse::parse(status, &body);
        prop_assert!(!matches!(response, WitnessResponse::Cosigned(_)));
        let mut submitter = submitter();
        submitter.show(&range(0, 3), note(3));
        submitter.request().unwrap();
        prop_assert!(submitter.answered(cosigner(6).verifier(), &response).is_err());
        prop_assert!(submitter.has_next(), "it is submitted again");
    }
}

#[test]
fn responses_have_their_meaning() {
    let (key, stranger) = (cosigner(6), cosigner(7));
    let checkpoint = |size| Checkpoint::parse(note(size).text()).unwrap();
    let line = |key: &SignerKey, size: u64| format!("{}\n", checkpoint(size).cosign(key, 7));
    let other_name = SignerKey::from_seed("other", KeyKind::Cosignature, &[6; 32]).unwrap();
    let own = line(&key, 9);
    for (status, body, expected) in [
        (200, own.clone(), Ok(())),
        // Unknown lines are skipped.
        (200, line(&stranger, 9) + &own, Ok(())),
        (200, line(&stranger, 9), Err(SubmissionError::NotCosigned)),
        (200, line(&other_name, 9), Err(SubmissionError::NotCosigned)),
        // Of another checkpoint.
        (200, line(&key, 6), Err(SubmissionError::NotCosigned)),
        (200, own.trim_end().to_owned(), Err(SubmissionError::Unusable { status: 200 })),
        (200, own.clone() + "\n", Err(SubmissionError::Unusable { status: 200 })),
        (200, own.repeat(65), Err(SubmissionError::Unusable { status: 200 })),
        (200, "x".repeat(17 << 10), Err(SubmissionError::Unusable { status: 200 })),
        (200, String::new(), Err(SubmissionError::Unusable { status: 200 })),
        (204, own.clone(), Err(SubmissionError::Unusable { status: 204 })),
        (400, String::new(), Err(SubmissionError::Malformed)),
        (403, String::new(), Err(SubmissionError::Untrusted)),
        (404, String::new(), Err(SubmissionError::UnknownOrigin)),
        // First a size that was never submitted, then the size of the request itself.
        (409, "5\n".to_owned(), Err(SubmissionError::OtherHistory)),
        (409, "6\n".to_owned(), Err(SubmissionError::OtherHistory)),
        (409, "5".to_owned(), Err(SubmissionError::Unusable { status: 409 })),
        (409, "05\n".to_owned(), Err(SubmissionError::Unusable { status: 409 })),
        (422, String::new(), Err(SubmissionError::OtherHistory)),
        (500, String::new(), Err(SubmissionError::Unusable { status: 500 })),
    ] {
        let mut submitter = submitter();
        submitter.show(&range(0, 6), note(6));
        submitter.request().unwrap();
        let first = WitnessResponse::Cosigned(vec![
            NoteSignature::parse(line(&key, 6).trim_end()).unwrap(),
        ]);
        assert!(submitter.answered(key.verifier(), &first).is_ok());
        submitter.show(&range(6, 9), note(9));
        assert_eq!(submitter.request().unwrap().to_string().lines().next(), Some("old 6"));
        let answered =
            submitter.answered(key.verifier(), &WitnessResponse::parse(status, body.as_bytes()));
        let shown = (status, body.chars().take(80).collect::<String>());
        assert_eq!(answered.clone().map(drop), expected, "{shown:?}");
        assert_eq!(submitter.has_next(), answered.is_err(), "{shown:?}");
    }
}
