//! Submits the streams' checkpoints to witnesses, which cosign a single history of each.
//!
//! A checkpoint is submitted when its system record is in the bucket. The next system record holds
//! the cosignatures that were received by then. A task for each witness sends the requests. Only a
//! close waits for these tasks, for a few seconds, to submit the streams' ends.

mod client;
mod lane;
mod settings;
mod submissions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::{Clock, HealthState, Random, UniqueId, WitnessHealth};
use audit_evidence::{CompactRange, NoteSignature, ObjectHead, SubmissionError, VerifierKey};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use self::client::HttpTransport;
pub(crate) use self::client::Transport;
use self::lane::{Ending, Lane};
pub use self::settings::WitnessSettings;
use crate::OpenError;
use crate::panic::catch_in;

/// How long a close waits for witnesses, after all records are in the bucket.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The limit of the backoff, which begins at a second and doubles with each retry.
const MAX_BACKOFF_MS: u64 = 300_000;

/// The maximum number of ended streams that are kept for unreachable witnesses. Beyond it the
/// oldest are dropped: the streams after them state how they ended.
const MAX_ENDED: usize = 10_000;

/// The witnesses of a host, for all its streams. When it is dropped, the tasks end.
#[derive(Debug)]
pub(crate) struct Witnesses {
    shared: Arc<Shared>,
}

struct Shared {
    witnesses: Vec<Witness>,
    state: Mutex<State>,
    /// Notified when responses were handled.
    responses: watch::Sender<()>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

struct Witness {
    key: VerifierKey,
    transport: Arc<dyn Transport>,
    wake: Notify,
    cosigned_at: Gauge,
    failures: Counter,
}

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<UniqueId, Lane>,
    /// For each witness.
    standing: Vec<Standing>,
    is_stopping: bool,
}

/// The state of a witness.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// Why the witness does not cosign at present, and whether an operator must act.
    trouble: Option<(String, bool)>,
    last_error: Option<String>,
    last_cosigned_ms: Option<i64>,
    failures: u64,
    /// The stream that was tried last, so that each gets its turn.
    last: Option<UniqueId>,
}

impl Witnesses {
    /// Starts a task for each witness, in the current runtime.
    pub(crate) fn open(
        settings: &[WitnessSettings],
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Option<Arc<Witnesses>>, OpenError> {
        settings::check(settings)?;
        let mut witnesses: Vec<(Arc<dyn Transport>, VerifierKey)> = Vec::new();
        for settings in settings {
            let (transport, key) = HttpTransport::new(settings)?;
            witnesses.push((Arc::new(transport), key));
        }
        Ok((!witnesses.is_empty()).then(|| Witnesses::start(witnesses, clock, random)))
    }

    pub(crate) fn start(
        witnesses: Vec<(Arc<dyn Transport>, VerifierKey)>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Arc<Witnesses> {
        describe_gauge!(
            "audit_witness_cosigned_timestamp_seconds",
            "Unix time at which the witness last cosigned a checkpoint; 0 if it never did"
        );
        describe_counter!(
            "audit_witness_failures_total",
            "Submissions to the witness that were not cosigned"
        );
        let witnesses: Vec<Witness> = witnesses
            .into_iter()
            .map(|(transport, key)| {
                let label = [("witness", key.name().to_owned())];
                let cosigned_at = gauge!("audit_witness_cosigned_timestamp_seconds", &label);
                cosigned_at.set(0.0);
                let failures = counter!("audit_witness_failures_total", &label);
                Witness { key, transport, wake: Notify::new(), cosigned_at, failures }
            })
            .collect();
        let standing = vec![Standing::default(); witnesses.len()];
        let state = Mutex::new(State { standing, ..State::default() });
        let responses = watch::Sender::default();
        let shared = Arc::new(Shared { witnesses, state, responses, clock, random });
        for witness in 0..shared.witnesses.len() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                while let Err(panicked) = catch_in(shared.run(witness)).await {
                    shared.panicked(witness, &panicked);
                    sleep(Duration::from_millis(MAX_BACKOFF_MS)).await;
                }
            });
        }
        Arc::new(Witnesses { shared })
    }

    /// Notes the records of a sealed object. Objects of a stream are sealed in order. An object is
    /// sealed again only if neither it nor a later one was planned.
    ///
    /// A stream that an earlier process began is not submitted, since the size that a witness has
    /// cosigned is unknown: its first object here does not begin with record 0. The next stream
    /// states how it ended.
    pub(crate) fn sealed(
        &self,
        stream: UniqueId,
        records: &CompactRange,
        certificate: &NoteSignature,
    ) {
        let count = self.shared.witnesses.len();
        let mut state = self.shared.lock();
        match state.lanes.get_mut(&stream) {
            Some(lane) => lane.sealed(records),
            None if records.begin() == 0 => {
                let mut lane = Lane::new(certificate, count);
                lane.sealed(records);
                state.lanes.insert(stream, lane);
            }
            None => {}
        }
    }

    /// Notes that the outcome of an object is certain. `head` is that of a system record in the
    /// bucket.
    ///
    /// With a journal, after a crash before this call the next process sends the same object; the
    /// witness then never sees this checkpoint, nor one that contradicts it.
    pub(crate) fn arrived(&self, stream: UniqueId, first: u64, head: Option<&ObjectHead>) {
        let mut state = self.shared.lock();
        let Some(lane) = state.lanes.get_mut(&stream) else { return };
        let arrived = lane.arrived(first, head.map(|head| (head.note(), head.root)));
        let has_ended = lane.ending == Ending::Closed;
        if arrived.is_err() {
            tracing::error!(
                %stream,
                "a checkpoint does not match the records of its stream, which is no longer \
                 submitted to witnesses: run audit verify on the bucket, and report this fault"
            );
            state.lanes.remove(&stream);
        }
        if has_ended {
            state.forget_some();
        }
        drop(state);
        if arrived.is_ok_and(|has_next| has_next) {
            self.shared.wake();
        }
    }

    /// The stream's cosigned checkpoints to write in the next system record, each as a note.
    pub(crate) fn cosigned(&self, stream: UniqueId) -> Vec<String> {
        self.shared.lock().lanes.get_mut(&stream).map_or_else(Vec::new, Lane::news)
    }

    /// As [`cosigned`](Self::cosigned), for the stream's last record.
    pub(crate) fn closing(&self, stream: UniqueId) -> Vec<String> {
        let mut state = self.shared.lock();
        let Some(lane) = state.lanes.get_mut(&stream) else { return Vec::new() };
        lane.ending = Ending::Closing;
        lane.news()
    }

    /// Waits until the witnesses have all checkpoints, for [`CLOSE_WAIT`] at most. Does not wait
    /// for witnesses that are in trouble.
    pub(crate) async fn finish(&self) {
        let mut responses = self.shared.responses.subscribe();
        let finished = async {
            while !self.shared.lock().is_finished() && responses.changed().await.is_ok() {}
        };
        // Checkpoints that were not submitted are still in the bucket.
        let _ = timeout(CLOSE_WAIT, finished).await;
    }

    /// The health of each witness, in the order of the settings.
    pub(crate) fn health(&self) -> Vec<WitnessHealth> {
        let state = self.shared.lock();
        let standing = self.shared.witnesses.iter().zip(&state.standing).enumerate();
        let health = standing.map(|(n, (witness, standing))| {
            let Standing { trouble, last_error, last_cosigned_ms, failures, last: _ } =
                standing.clone();
            let mut lanes = state.lanes.iter();
            let lost = lanes.find(|(_, lane)| lane.ways[n].is_lost);
            let state = match (lost, trouble) {
                (Some((stream, _)), _) => {
                    let reason = format!("{}: {stream}", SubmissionError::OtherHistory);
                    HealthState::Blocked { reason }
                }
                (None, Some((reason, true))) => HealthState::Blocked { reason },
                (None, Some((reason, false))) => HealthState::Retrying { reason },
                (None, None) => HealthState::Ok,
            };
            let name = witness.key.name().to_owned();
            WitnessHealth { name, state, last_cosigned_ms, failures, last_error }
        });
        health.collect()
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.wake();
    }
}

impl State {
    /// Whether all checkpoints were submitted to each witness that is not in trouble.
    fn is_finished(&self) -> bool {
        let mut standing = self.standing.iter().enumerate();
        standing.all(|(witness, standing)| {
            standing.trouble.is_some() || !self.lanes.values().any(|lane| lane.has_next(witness))
        })
    }

    /// Forgets the oldest ended streams if there are too many.
    fn forget_some(&mut self) {
        let ended = |lane: &Lane| lane.ending == Ending::Closed;
        let count = self.lanes.values().filter(|lane| ended(lane)).count();
        let oldest = self.lanes.iter().filter(|(_, lane)| ended(lane)).map(|(stream, _)| *stream);
        let oldest: Vec<_> = oldest.take(count.saturating_sub(MAX_ENDED)).collect();
        oldest.iter().for_each(|stream| drop(self.lanes.remove(stream)));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.witnesses.iter().map(|witness| &witness.key).collect();
        f.debug_struct("Shared").field("witnesses", &keys).finish_non_exhaustive()
    }
}
