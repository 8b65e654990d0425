//! Delivers records to the receiver, and retries until the outcome is certain.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::{Random, UniqueId, full_jitter};
use audit_journal::health::{DeliveryTrouble, HealthBoard, Trouble, Watch};
use audit_journal::shared::executor::{BlockingThreads, execute};
use audit_journal::shared::panic::{Panicked, catch, catch_in};
use bytes::Bytes;
use metrics::{Counter, counter, describe_counter};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Settings;
use crate::dead_letters::{DeadLetters, SetAside};
use crate::envelope::Envelope;
use crate::event::{Event, Events};
use crate::receiver::{Answer, Receiver};

/// The maximum time limit of a request, however often it has timed out.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(300);

/// The wait after a panic if drawing the backoff itself panics.
const FALLBACK_BACKOFF: Duration = Duration::from_secs(1);

/// If this many consecutive records are rejected, the records are not the cause: delivery waits for
/// an operator instead of setting all of them aside.
const MAX_REJECTED_IN_A_ROW: u32 = 100;

/// Delivers to one receiver.
///
/// A record that was sent may have arrived whatever the response, so it is sent again until a
/// request with it is accepted: the receiver gets it at least once, each time with the same id.
pub(crate) struct Delivery {
    pub(crate) receiver: Receiver,
    pub(crate) envelope: Envelope,
    pub(crate) health: Arc<HealthBoard>,
    dead_letters: Option<Arc<DeadLetters>>,
    random: Arc<dyn Random>,
    settings: Settings,
    rejected_in_a_row: AtomicU32,
    set_aside: Counter,
    /// The time before which the receiver wants no requests.
    not_before: Mutex<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejects {
    /// The delivery fails, and callers get the reason.
    Fail,
    /// The records are already stored elsewhere. Rejected records are still set aside.
    Aside,
    /// The records are stored nowhere else. A record that is too large is set aside before its
    /// pointer is sent, and a rejected record before delivery continues.
    Only,
}

#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) reason: String,
    /// Whether some of the records may have arrived.
    pub(crate) may_have_arrived: bool,
}

/// The part of a delivery that is not done.
struct Left {
    /// The ranges of events to send, the next one last.
    ranges: Vec<Range<usize>>,
    /// Whether some of the records may have arrived.
    anything_arrived: bool,
}

impl Left {
    fn all(events: &Events) -> Left {
        let ranges = std::iter::once(0..events.events.len()).collect();
        Left { ranges, anything_arrived: false }
    }

    fn replace_last(&mut self, ranges: impl IntoIterator<Item = Range<usize>>) {
        self.ranges.pop();
        self.ranges.extend(ranges);
    }
}

enum Certain {
    Accepted,
    Rejected { reason: String, is_too_large: bool, may_have_arrived: bool },
}

impl Delivery {
    pub(crate) fn new(
        receiver: Receiver,
        envelope: Envelope,
        dead_letters: Option<DeadLetters>,
        health: Arc<HealthBoard>,
        random: Arc<dyn Random>,
        settings: Settings,
    ) -> Delivery {
        describe_counter!(
            "audit_set_aside_total",
            "Records that a log stream does not take, set aside in files: alert on any"
        );
        let set_aside = counter!("audit_set_aside_total", "bucket" => settings.name.clone());
        Delivery {
            receiver,
            envelope,
            health,
            dead_letters: dead_letters.map(Arc::new),
            random,
            settings,
            rejected_in_a_row: AtomicU32::new(0),
            set_aside,
            not_before: Mutex::new(Instant::now()),
        }
    }

    /// Whether rejected records can be set aside.
    pub(crate) fn has_dead_letters(&self) -> bool {
        self.dead_letters.is_some()
    }

    /// Sends all events in as many requests as needed. Returns once all are at the receiver or set
    /// aside. The same events are always divided into the same requests, so that a later process
    /// repeats a request with the same id.
    ///
    /// After a panic the outcome of the step is unknown and the records are still in memory, so
    /// that step is repeated, as after any other failure.
    pub(crate) async fn deliver(&self, events: &Events, rejects: Rejects) -> Result<(), Rejected> {
        let mut left = Left::all(events);
        let mut panics: Option<(Watch, u32)> = None;
        loop {
            match catch_in(self.deliver_left(&mut left, events, rejects)).await {
                Ok(delivered) => {
                    if let Some((watch, _)) = panics {
                        let _ = catch(|| watch.over());
                    }
                    return delivered;
                }
                Err(panicked) => {
                    left.anything_arrived = true;
                    // The metrics or the backoff may panic as well.
                    let backoff = catch(|| self.backoff_after(&panicked, &mut panics));
                    sleep(backoff.unwrap_or(FALLBACK_BACKOFF)).await;
                }
            }
        }
    }

    /// Each step changes `left` only once it has succeeded, since it may panic.
    async fn deliver_left(
        &self,
        left: &mut Left,
        events: &Events,
        rejects: Rejects,
    ) -> Result<(), Rejected> {
        while let Some(range) = left.ranges.last().cloned() {
            if range.is_empty() {
                left.ranges.pop();
                continue;
            }
            let content = self.envelope.fill(events, range.clone());
            let sent = range.start..range.start + content.count;
            let rest = sent.end..range.end;
            if rejects == Rejects::Only {
                for pointer in content.pointers {
                    let event = &events.events[sent.start + pointer];
                    let bytes = event.line.len();
                    let most = self.envelope.max_record_bytes();
                    let reason = format!("{bytes} bytes exceed limit of {most} bytes");
                    self.set_aside(events.stream, event, SetAside::TooLarge, &reason).await;
                }
            }
            let certain = self.until_certain(events, &sent, content.body.into(), rejects).await;
            let (reason, is_too_large) = match certain {
                Certain::Accepted => {
                    left.anything_arrived = true;
                    left.replace_last([rest]);
                    continue;
                }
                Certain::Rejected { reason, is_too_large, may_have_arrived } => {
                    left.anything_arrived |= may_have_arrived;
                    (reason, is_too_large)
                }
            };
            let fails = rejects == Rejects::Fail || self.dead_letters.is_none();
            if sent.len() > 1 && (is_too_large || !fails) {
                // Divides the request, so that only the rejected records are affected.
                let middle = sent.start + sent.len() / 2;
                left.replace_last([rest, middle..sent.end, sent.start..middle]);
            } else if fails {
                return Err(Rejected { reason, may_have_arrived: left.anything_arrived });
            } else {
                let event = &events.events[sent.start];
                self.set_aside(events.stream, event, SetAside::Rejected, &reason).await;
                self.rejected_in_a_row.fetch_add(1, Ordering::Relaxed);
                left.replace_last([rest]);
            }
        }
        Ok(())
    }

    /// Sends one request until it is accepted or rejected.
    async fn until_certain(
        &self,
        events: &Events,
        range: &Range<usize>,
        body: Bytes,
        rejects: Rejects,
    ) -> Certain {
        let id = request_id(events, range);
        let watch = self.health.watch();
        let mut limit = self.settings.request_timeout();
        let mut may_have_arrived = false;
        let mut retries = 0u32;
        loop {
            let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            sleep_until(not_before).await;
            let answer = match catch_in(self.receiver.send(&id, body.clone(), limit)).await {
                Ok(answer) => answer,
                Err(panicked) => {
                    self.health.panicked();
                    may_have_arrived = true;
                    let what = Trouble::panicked("a request to the log stream", &panicked);
                    Answer::Blocked { by: "panic", reason: what.to_string() }
                }
            };
            let (reason, blocked_by) = match answer {
                Answer::Accepted => {
                    self.rejected_in_a_row.store(0, Ordering::Relaxed);
                    self.health.delivered(range.len() as u64);
                    watch.over();
                    return Certain::Accepted;
                }
                Answer::Rejected { reason, is_too_large } => {
                    let sets_aside =
                        range.len() == 1 && rejects != Rejects::Fail && self.has_dead_letters();
                    let in_a_row = self.rejected_in_a_row.load(Ordering::Relaxed);
                    if !sets_aside || in_a_row < MAX_REJECTED_IN_A_ROW {
                        watch.over();
                        return Certain::Rejected { reason, is_too_large, may_have_arrived };
                    }
                    let reason = format!(
                        "{reason}; {in_a_row} records in a row were rejected, so the cause is \
                         hardly in the records: check the receiver and its format"
                    );
                    (reason, Some("rejections"))
                }
                Answer::Retry { reason, after, may_have_arrived: arrived, timed_out } => {
                    may_have_arrived |= arrived;
                    if timed_out {
                        limit = (limit * 2).min(MAX_REQUEST_TIME.max(limit));
                    }
                    if let Some(after) = after {
                        let mut not_before =
                            self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
                        *not_before = (*not_before).max(Instant::now() + after);
                    }
                    (reason, None)
                }
                Answer::Blocked { by, reason } => (reason, Some(by)),
            };
            let pause = self.backoff(blocked_by.is_some(), retries);
            let blocked_by = blocked_by.map(str::to_owned);
            watch.report(Trouble::Delivery(DeliveryTrouble { reason, blocked_by }));
            sleep(pause).await;
            retries = retries.saturating_add(1);
        }
    }

    /// Sets a record aside, and retries until that is durable.
    async fn set_aside(&self, stream: UniqueId, event: &Event, why: SetAside, reason: &str) {
        let Some(letters) = &self.dead_letters else { return };
        let mut watch: Option<Watch> = None;
        let mut retries = 0u32;
        loop {
            let (letters, event, text) = (Arc::clone(letters), event.clone(), reason.to_owned());
            let kept =
                execute(&BlockingThreads, move || letters.keep(stream, &event, why, &text)).await;
            match kept {
                Ok(()) => break,
                Err(error) => {
                    let watch = watch.get_or_insert_with(|| self.health.watch());
                    let reason = format!("a record cannot be set aside: {error}");
                    let blocked_by = Some("dead letters".to_owned());
                    watch.report(Trouble::Delivery(DeliveryTrouble { reason, blocked_by }));
                    sleep(self.backoff(true, retries)).await;
                    retries = retries.saturating_add(1);
                }
            }
        }
        if let Some(watch) = watch {
            watch.over();
        }
        self.set_aside.increment(1);
        tracing::error!(
            stream = self.settings.name,
            record = format!("{stream}/{}", event.sequence),
            reason,
            "an audit record was set aside, since the log stream does not take it"
        );
    }

    /// Reports a panic of a delivery and returns the backoff. `panics` are those of this delivery
    /// so far.
    fn backoff_after(&self, panicked: &Panicked, panics: &mut Option<(Watch, u32)>) -> Duration {
        let (watch, count) = panics.get_or_insert_with(|| (self.health.watch(), 0));
        *count = count.saturating_add(1);
        let retry = *count - 1;
        self.health.panicked();
        watch.report(Trouble::panicked("the delivery to the log stream", panicked));
        self.backoff(true, retry)
    }

    /// The backoff, given the number of retries so far.
    pub(crate) fn backoff(&self, is_blocked: bool, retries: u32) -> Duration {
        let Settings { retry_base_ms, retry_cap_ms, blocked_retry_cap_ms, .. } = self.settings;
        let cap = if is_blocked { blocked_retry_cap_ms } else { retry_cap_ms };
        full_jitter(retry_base_ms, cap, retries, self.random.next_u64())
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}

/// The id of a request, derived from its records and therefore equal at every retry.
pub(crate) fn request_id(events: &Events, range: &Range<usize>) -> String {
    let number = |at: usize| events.events.get(at).map_or(0, |event| event.sequence);
    let (first, last) = (number(range.start), number(range.end.saturating_sub(1)));
    format!("{}-{first:012}-{last:012}", events.stream)
}
