//! A witness of the simulated processes' streams. Some requests and responses are lost.

use std::sync::Arc;
use std::time::Duration;

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{Random, async_trait};
use audit_evidence::{
    AddCheckpoint, Certificate, Hash, KeyKind, Refusal, SignerKey, WitnessResponse, Witnessed,
};
use audit_journal::simulation::bucket::SimulatedBucket;
use tokio::time::sleep;

use super::auditor::host_key;
use crate::witness::{Transport, Witnesses};

/// Starts the submissions of one process. The simulated bucket keeps the witness's state, so that
/// it outlives the process.
pub(super) fn start(bucket: SimulatedBucket) -> Arc<Witnesses> {
    let key = SignerKey::from_seed("witness", KeyKind::Cosignature, &[8; 32]).unwrap();
    let (verifier, dice) = (key.verifier().clone(), SeededRandom::new(bucket.requests()));
    let witness = Arc::new(SimulatedWitness { bucket, key, dice });
    let (clock, random) = (Arc::new(ManualClock::at(0)), Arc::new(SeededRandom::new(1)));
    Witnesses::start(vec![(witness, verifier)], clock, random)
}

#[derive(Debug)]
struct SimulatedWitness {
    bucket: SimulatedBucket,
    key: SignerKey,
    dice: SeededRandom,
}

impl SimulatedWitness {
    /// Decides on a request. `None` if the process has died meanwhile.
    fn decide(&self, body: &str) -> Option<Result<String, Refusal>> {
        let request = AddCheckpoint::parse(body).unwrap();
        let certificate = Certificate::find(request.note(), host_key().verifier()).unwrap();
        let origin = request.checkpoint().origin();
        let (_, stream) = origin.rsplit_once('/').unwrap();
        let shown = self.bucket.shown();
        let latest = shown.get(stream).and_then(|shown| shown.last_key_value());
        let latest = latest.map(|(size, root)| {
            let root = Hash::from_base64(root).unwrap();
            Witnessed { size: *size, root }
        });
        let Witnessed { size, root } = match request.check(Some(certificate.stream_key()), latest) {
            Ok(witnessed) => witnessed,
            Err(refusal) => return Some(Err(refusal)),
        };
        let is_seen = self.bucket.show(stream, size, &root.to_string());
        is_seen.then(|| Ok(format!("{}\n", request.checkpoint().cosign(&self.key, 1))))
    }
}

#[async_trait]
impl Transport for SimulatedWitness {
    async fn submit(&self, body: String) -> Result<WitnessResponse, String> {
        let course = self.dice.next_u64() % 8;
        if course == 0 {
            return Err("the request is lost".to_owned());
        }
        if course < 4 {
            sleep(Duration::from_millis(self.dice.next_u64() % 3_000)).await;
        }
        let Some(decided) = self.decide(&body) else { return std::future::pending().await };
        let (status, text) = match decided {
            Ok(line) => (200, line),
            Err(Refusal::OtherSize { latest }) => (409, format!("{latest}\n")),
            Err(refusal) => {
                self.bucket.blame(format!("a witness refuses: {refusal}"));
                (refusal.status(), String::new())
            }
        };
        match course {
            1 | 4 => Err("the response is lost".to_owned()),
            5 => Ok(WitnessResponse::Unusable(502)),
            _ => Ok(WitnessResponse::parse(status, text.as_bytes())),
        }
    }
}
