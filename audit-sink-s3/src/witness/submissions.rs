//! The task that submits to one witness.

use std::sync::{MutexGuard, PoisonError};

use audit_core::{UniqueId, full_jitter};
use audit_evidence::{SubmissionError, WitnessResponse};
use futures::future::join_all;
use tokio::time::sleep;

use super::{MAX_BACKOFF_MS, Shared, State, Witness};
use crate::panic::{Panicked, catch};

/// The maximum number of streams that are submitted to a witness at once.
const AT_ONCE: usize = 8;

/// The number of consecutive responses without a cosignature after which a witness counts as
/// faulty: the size that a correct witness has is known after two.
const MAX_STEPS: u32 = 3;

impl Shared {
    /// Submits checkpoints to this witness until [`Witnesses`](super::Witnesses) is dropped.
    pub(super) async fn run(&self, witness: usize) {
        let Witness { transport, wake, .. } = &self.witnesses[witness];
        let mut retries = 0u32;
        while !self.lock().is_stopping {
            let requests = self.requests(witness);
            if requests.is_empty() {
                wake.notified().await;
                continue;
            }
            let sent = requests
                .into_iter()
                .map(|(stream, body)| async move { (stream, transport.submit(body).await) });
            let responses = join_all(sent).await;
            let mut is_well = true;
            for (stream, response) in responses {
                is_well &= self.answered(witness, stream, response);
            }
            self.responses.send_replace(());
            if is_well {
                retries = 0;
            } else {
                self.back_off(witness, retries).await;
                retries = retries.saturating_add(1);
            }
        }
    }

    /// The next requests, for streams in turn.
    fn requests(&self, witness: usize) -> Vec<(UniqueId, String)> {
        let mut state = self.lock();
        let State { lanes, standing, .. } = &mut *state;
        let last = standing[witness].last;
        let is_later = |stream: &UniqueId| last.is_none_or(|last| *stream > last);
        let due = lanes.iter().filter(|(_, lane)| lane.has_next(witness));
        let (later, earlier): (Vec<_>, Vec<_>) =
            due.map(|(stream, _)| *stream).partition(|stream| is_later(stream));
        let next: Vec<_> = later.into_iter().chain(earlier).take(AT_ONCE).collect();
        standing[witness].last = next.last().copied().or(last);
        let requests = next.into_iter().filter_map(|stream| {
            let way = &mut lanes.get_mut(&stream)?.ways[witness];
            Some((stream, way.submitter.request()?.to_string()))
        });
        requests.collect()
    }

    /// Handles a response. Returns whether the next requests can be sent without a backoff.
    fn answered(
        &self,
        witness: usize,
        stream: UniqueId,
        response: Result<WitnessResponse, String>,
    ) -> bool {
        let key = &self.witnesses[witness].key;
        let mut state = self.lock();
        let Some(lane) = state.lanes.get_mut(&stream) else { return true };
        let way = &mut lane.ways[witness];
        let answered = match response {
            Err(why) => Err((why, false)),
            Ok(response) => match way.submitter.answered(key, &response) {
                Ok(note) => Ok(note),
                Err(SubmissionError::OtherHistory) => {
                    way.is_lost = true;
                    let error = SubmissionError::OtherHistory;
                    tracing::error!(witness = key.name(), %stream, "{error}");
                    Err((error.to_string(), true))
                }
                Err(error) => Err((error.to_string(), error.is_blocked())),
            },
        };
        let (is_lost, steps) = (way.is_lost, way.steps);
        way.steps = if matches!(answered, Ok(None)) { steps + 1 } else { 0 };
        let failure = match answered {
            Ok(Some(note)) => {
                let size = way.submitter.cosigned();
                lane.cosigned(size, note);
                None
            }
            Ok(None) if steps < MAX_STEPS => return true,
            Ok(None) => Some(("its size differs with each response".to_owned(), false)),
            Err(failure) => Some(failure),
        };
        if lane.is_done() {
            state.lanes.remove(&stream);
        }
        drop(state);
        match failure {
            None => {
                self.well(witness);
                true
            }
            // The witness lost only this stream. It still gets the others, without a backoff.
            Some((why, _)) if is_lost => {
                self.count(witness, &why);
                true
            }
            Some((why, is_blocked)) => {
                self.failed(witness, why, is_blocked);
                false
            }
        }
    }

    fn well(&self, witness: usize) {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        let standing = &mut state.standing[witness];
        standing.last_cosigned_ms = Some(now_ms);
        let was_in_trouble = standing.trouble.take().is_some();
        drop(state);
        let Witness { key, cosigned_at, .. } = &self.witnesses[witness];
        cosigned_at.set(now_ms as f64 / 1_000.0);
        if was_in_trouble {
            tracing::info!(witness = key.name(), "the witness cosigns again");
        }
    }

    pub(super) fn failed(&self, witness: usize, why: String, is_blocked: bool) {
        let before = {
            let mut state = self.lock();
            state.standing[witness].trouble.replace((why.clone(), is_blocked))
        };
        self.count(witness, &why);
        // Logged when trouble begins and when it first needs an operator, not at each retry.
        if before.is_none_or(|(_, was_blocked)| is_blocked && !was_blocked) {
            let witness = self.witnesses[witness].key.name();
            tracing::warn!(witness, reason = why, "the witness does not cosign: it is retried");
        }
    }

    /// Reports a panic of the task of this witness. Health shows it even if the recorder of metrics
    /// or the log panics, which may be what panicked before.
    pub(super) fn panicked(&self, witness: usize, Panicked(what): &Panicked) {
        let _ = catch(|| self.failed(witness, format!("a submission panicked: {what}"), false));
    }

    fn count(&self, witness: usize, why: &str) {
        {
            let mut state = self.lock();
            let standing = &mut state.standing[witness];
            standing.failures += 1;
            standing.last_error = Some(why.to_owned());
        }
        self.witnesses[witness].failures.increment(1);
    }

    /// Waits before a retry, or until the witnesses are dropped.
    async fn back_off(&self, witness: usize, retries: u32) {
        let backoff = full_jitter(1_000, MAX_BACKOFF_MS, retries, self.random.next_u64());
        let stopping = async {
            while !self.lock().is_stopping {
                self.witnesses[witness].wake.notified().await;
            }
        };
        tokio::select! {
            () = sleep(backoff) => {}
            () = stopping => {}
        }
    }

    pub(super) fn wake(&self) {
        self.witnesses.iter().for_each(|witness| witness.wake.notify_one());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
