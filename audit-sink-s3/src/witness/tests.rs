//! Witnesses that are unreachable, slow, faulty or lying delay nothing, and nothing that they say
//! is trusted.

use std::sync::Mutex;

use audit_core::async_trait;
use audit_core::testing::{ManualClock, SeededRandom};
use audit_evidence::{
    AddCheckpoint, Certificate, Checkpoint, HashedObject, KeyKind, Note, ObjectHasher, Refusal,
    SignerKey, StreamSigner, WitnessResponse, Witnessed,
};
use metrics::{Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

fn cosigner(name: &str) -> SignerKey {
    SignerKey::from_seed(name, KeyKind::Cosignature, &[6; 32]).unwrap()
}

fn host() -> SignerKey {
    SignerKey::from_seed("api", KeyKind::Ed25519, &[1; 32]).unwrap()
}

/// How a witness behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Cosigns,
    /// Never responds.
    Hangs,
    Panics,
    Fails,
    /// States another size each time.
    Wavers,
    Answers(u16),
}

#[derive(Debug)]
struct FakeWitness {
    key: SignerKey,
    conduct: Mutex<Conduct>,
    latest: Mutex<BTreeMap<String, Witnessed>>,
    requests: mpsc::UnboundedSender<u64>,
}

#[async_trait]
impl Transport for FakeWitness {
    async fn submit(&self, body: String) -> Result<WitnessResponse, String> {
        let request = AddCheckpoint::parse(&body).unwrap();
        let checkpoint = request.checkpoint();
        let _ = self.requests.send(checkpoint.size());
        let conduct = *self.conduct.lock().unwrap();
        match conduct {
            Conduct::Hangs => std::future::pending().await,
            // `resume_unwind` prints no message.
            Conduct::Panics => std::panic::resume_unwind(Box::new("told to panic")),
            Conduct::Fails => Err("connection refused".to_owned()),
            Conduct::Wavers => {
                // The request's own size, and then none.
                let says = if body.starts_with("old 0\n") { checkpoint.size() } else { 0 };
                Ok(WitnessResponse::OtherSize(says))
            }
            Conduct::Answers(status) => Ok(WitnessResponse::parse(status, b"")),
            Conduct::Cosigns => {
                let key = Certificate::find(request.note(), host().verifier()).unwrap();
                let mut latest = self.latest.lock().unwrap();
                let known = latest.get(checkpoint.origin()).copied();
                match request.check(Some(key.stream_key()), known) {
                    Ok(witnessed) => {
                        latest.insert(checkpoint.origin().to_owned(), witnessed);
                        Ok(WitnessResponse::Cosigned(vec![checkpoint.cosign(&self.key, 7)]))
                    }
                    Err(Refusal::OtherSize { latest }) => Ok(WitnessResponse::OtherSize(latest)),
                    Err(refusal) => panic!("{refusal}"),
                }
            }
        }
    }
}

/// A host with a witness for each name.
struct Scene {
    fakes: Vec<Arc<FakeWitness>>,
    witnesses: Arc<Witnesses>,
    requests: mpsc::UnboundedReceiver<u64>,
}

impl Scene {
    fn new(names: &[&str], conduct: Conduct) -> Scene {
        let (sender, requests) = mpsc::unbounded_channel();
        let fake = |name: &&str| {
            let (key, requests) = (cosigner(name), sender.clone());
            let (conduct, latest) = (Mutex::new(conduct), Mutex::default());
            Arc::new(FakeWitness { key, conduct, latest, requests })
        };
        let fakes: Vec<_> = names.iter().map(fake).collect();
        let transports = fakes.iter().map(|fake| {
            let transport: Arc<dyn Transport> = Arc::clone(fake) as _;
            (transport, fake.key.verifier().clone())
        });
        let clock = Arc::new(ManualClock::at(1_000));
        let random = Arc::new(SeededRandom::new(2));
        let witnesses = Witnesses::start(transports.collect(), clock, random);
        Scene { fakes, witnesses, requests }
    }

    fn conduct(&self, conduct: Conduct) {
        self.fakes.iter().for_each(|fake| *fake.conduct.lock().unwrap() = conduct);
    }

    /// Waits until `is_so` holds, which is checked after each response.
    async fn until(&self, is_so: impl Fn(&Witnesses) -> bool) {
        let mut responses = self.witnesses.shared.responses.subscribe();
        while !is_so(&self.witnesses) {
            responses.changed().await.unwrap();
        }
    }
}

/// A stream of objects.
struct Stream {
    id: UniqueId,
    signer: StreamSigner,
    before: CompactRange,
}

impl Stream {
    fn new(id: u128) -> Stream {
        let id = UniqueId::from_bits(id);
        let signer = StreamSigner::new(&host(), &id.to_string(), &[2; 32]).unwrap();
        Stream { id, signer, before: CompactRange::default() }
    }

    fn object(&self, lines: usize, seed: u8) -> HashedObject {
        let mut hasher = ObjectHasher::new("key", self.before.end(), 0, [seed; 32]);
        hasher.lines(&b"{}\n".repeat(lines));
        hasher.finish()
    }

    /// Seals the next object.
    fn seal(&mut self, witnesses: &Witnesses, lines: usize) -> ObjectHead {
        let object = self.object(lines, 3);
        let (head, after) = self.signer.seal(self.before.clone(), &object);
        let certificate = self.signer.certificate().to_note_signature();
        witnesses.sealed(self.id, object.range(), &certificate);
        self.before = after;
        head
    }

    /// A system record that is in the bucket.
    fn beat(&mut self, witnesses: &Witnesses) -> u64 {
        let head = self.seal(witnesses, 1);
        witnesses.arrived(self.id, head.first, Some(&head));
        head.end()
    }
}

fn sizes(notes: &[String], keys: &[&SignerKey]) -> Vec<u64> {
    let notes = notes.iter().map(|note| {
        let note = Note::parse(note).unwrap();
        assert!(keys.iter().all(|key| note.verify(key.verifier()) == Ok(true)), "{note}");
        Checkpoint::parse(note.text()).unwrap().size()
    });
    notes.collect()
}

fn is_well(witnesses: &Witnesses) -> bool {
    let health = witnesses.health();
    health.iter().all(|w| w.state == HealthState::Ok && w.last_cosigned_ms == Some(1_000))
}

#[tokio::test(start_paused = true)]
async fn cosignatures_of_all_witnesses_are_in_one_note() {
    let scene = Scene::new(&["one", "two"], Conduct::Cosigns);
    let keys: Vec<_> = scene.fakes.iter().map(|fake| &fake.key).collect();
    let mut stream = Stream::new(1);
    assert_eq!(stream.beat(&scene.witnesses), 1);
    scene.until(is_well).await;
    assert_eq!(sizes(&scene.witnesses.cosigned(stream.id), &keys), [1]);
    assert_eq!(scene.witnesses.cosigned(stream.id), Vec::<String>::new(), "they are written once");
    // Data objects alone are not submitted; the next record's checkpoint covers them.
    let data = stream.seal(&scene.witnesses, 5);
    scene.witnesses.arrived(stream.id, data.first, None);
    assert_eq!(stream.beat(&scene.witnesses), 7);
    scene.witnesses.finish().await;
    assert_eq!(sizes(&scene.witnesses.closing(stream.id), &keys), [7]);
    // The stream's end is submitted, and then nothing of it is kept.
    assert_eq!(stream.beat(&scene.witnesses), 8);
    scene.witnesses.finish().await;
    assert!(scene.witnesses.shared.lock().lanes.is_empty());
    let seen = |fake: &Arc<FakeWitness>| fake.latest.lock().unwrap().values().next().unwrap().size;
    assert_eq!(scene.fakes.iter().map(seen).collect::<Vec<_>>(), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_all_records_before_it() {
    let mut scene = Scene::new(&["one"], Conduct::Cosigns);
    let (mut stream, mut other) = (Stream::new(1), Stream::new(2));
    let opened = stream.seal(&scene.witnesses, 1);
    let data = stream.seal(&scene.witnesses, 5);
    let beat = stream.seal(&scene.witnesses, 1);
    scene.witnesses.arrived(stream.id, beat.first, Some(&beat));
    scene.witnesses.arrived(stream.id, opened.first, Some(&opened));
    assert_eq!(scene.requests.recv().await, Some(1), "record 1 is still under way");
    // It met a conflict, and is set aside.
    scene.witnesses.arrived(stream.id, data.first, None);
    assert_eq!(scene.requests.recv().await, Some(7));
    // An object that was sealed again, since nothing of it was planned.
    stream.seal(&scene.witnesses, 4);
    stream.before = CompactRange::from_hashes(7, &beat_hashes(&beat)).unwrap();
    assert_eq!(stream.beat(&scene.witnesses), 8);
    assert_eq!(scene.requests.recv().await, Some(8));
    // A stream that an earlier process began is not submitted.
    other.before = stream.before.clone();
    other.beat(&scene.witnesses);
    scene.witnesses.finish().await;
    assert!(scene.requests.try_recv().is_err());
}

/// The frontier after this object. It is computed again, since the object's head has only the root.
fn beat_hashes(head: &ObjectHead) -> Vec<audit_evidence::Hash> {
    let mut stream = Stream::new(1);
    for lines in [1, 5, 1] {
        let object = stream.object(lines, 3);
        stream.before = stream.before.clone().join(object.range()).unwrap();
    }
    assert_eq!(stream.before.root(), Some(head.root));
    stream.before.hashes().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn a_witness_in_trouble_delays_a_close_by_seconds_at_most() {
    for (conduct, is_blocked) in [
        (Conduct::Hangs, None),
        (Conduct::Fails, Some(false)),
        (Conduct::Wavers, Some(false)),
        (Conduct::Answers(200), Some(false)),
        (Conduct::Answers(302), Some(false)),
        (Conduct::Answers(500), Some(false)),
        (Conduct::Answers(400), Some(true)),
        (Conduct::Answers(403), Some(true)),
        (Conduct::Answers(404), Some(true)),
        (Conduct::Answers(422), Some(true)),
    ] {
        let scene = Scene::new(&["one", "two"], conduct);
        let mut stream = Stream::new(1);
        stream.beat(&scene.witnesses);
        if is_blocked.is_some() {
            let failed = |w: &Witnesses| w.health().iter().all(|health| health.failures > 0);
            scene.until(failed).await;
        }
        let begin = Instant::now();
        scene.witnesses.finish().await;
        let waited = begin.elapsed();
        let expected = if is_blocked.is_none() { CLOSE_WAIT } else { Duration::ZERO };
        let slack = Duration::from_millis(10);
        assert!((expected..expected + slack).contains(&waited), "{conduct:?}: {waited:?}");
        assert_eq!(scene.witnesses.cosigned(stream.id), Vec::<String>::new());
        for health in scene.witnesses.health() {
            let found = match health.state {
                HealthState::Ok => None,
                HealthState::Retrying { .. } => Some(false),
                HealthState::Blocked { .. } => Some(true),
            };
            assert_eq!((found, health.last_cosigned_ms), (is_blocked, None), "{conduct:?}");
        }
        // It is retried until it cosigns, unless it has seen another history.
        scene.conduct(Conduct::Cosigns);
        if is_blocked.is_some() && conduct != Conduct::Answers(422) {
            scene.until(is_well).await;
            assert_eq!(scene.witnesses.cosigned(stream.id).len(), 1, "{conduct:?}");
        }
        if conduct == Conduct::Answers(422) {
            // Other streams are still submitted.
            let mut other = Stream::new(2);
            other.beat(&scene.witnesses);
            let cosigned = |w: &Witnesses| w.health().iter().all(|w| w.last_cosigned_ms.is_some());
            scene.until(cosigned).await;
            assert!(!is_well(&scene.witnesses));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retries_back_off() {
    let mut scene = Scene::new(&["one"], Conduct::Fails);
    Stream::new(1).beat(&scene.witnesses);
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_secs(24 * 60 * 60) {
        scene.requests.recv().await.unwrap();
        times.push(begin.elapsed());
    }
    // 150 seconds on average, with full jitter.
    assert!((400..900).contains(&times.len()), "{}", times.len());
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_secs(300)));
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_witnesses() {
    let mut scene = Scene::new(&["one", "two"], Conduct::Fails);
    Stream::new(1).beat(&scene.witnesses);
    for _ in 0..2 {
        scene.requests.recv().await.unwrap();
    }
    let shared = Arc::downgrade(&scene.witnesses.shared);
    drop(scene);
    while shared.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

/// A recorder of metrics whose counters panic.
struct PanickingCounters;

impl metrics::CounterFn for PanickingCounters {
    fn increment(&self, _: u64) {
        std::panic::resume_unwind(Box::new("told to panic"));
    }

    fn absolute(&self, _: u64) {
        unreachable!("counters are incremented");
    }
}

impl Recorder for PanickingCounters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(PanickingCounters))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_witness_outlives_panics_whose_report_panics_too() {
    let mut scene =
        metrics::with_local_recorder(&PanickingCounters, || Scene::new(&["one"], Conduct::Panics));
    let mut stream = Stream::new(1);
    stream.beat(&scene.witnesses);
    scene.requests.recv().await.unwrap();
    let health = &scene.witnesses.health()[0];
    let reason = "a submission panicked: told to panic".to_owned();
    assert_eq!(health.state, HealthState::Retrying { reason });
    assert_eq!(health.failures, 1);
    scene.conduct(Conduct::Cosigns);
    let is_over = timeout(Duration::from_secs(3_600), scene.until(is_well)).await;
    is_over.expect("the task goes on");
}
