//! The sink, and log streams for sending by hand.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use audit_core::{
    AuditSink, Batch, Clock, Health, Mirror, Place, Random, Receipt, SinkError, SystemClock,
    SystemRandom, UniqueId, async_trait,
};
use audit_journal::health::HealthBoard;
use audit_journal::{Bounds, Follower, Journal, Opening};
use bytes::Bytes;

use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::delivery::{Delivery, Rejects};
use crate::destination::StreamDestination;
use crate::direct::Direct;
use crate::envelope::Envelope;
use crate::event::{Event, Events};
use crate::ocsf::Mapping;
use crate::receiver::{Answer, Receiver};
use crate::{Format, OpenError, OpenErrorKind, Settings};

/// Delivers batches to a log stream; see the [crate's documentation](crate).
#[derive(Debug)]
pub struct HttpSink {
    name: String,
    stream: UniqueId,
    delivery: Arc<Delivery>,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Direct(Box<Direct>),
    Journaled(Box<Journal>),
}

impl HttpSink {
    /// Opens a sink. Sends no request: [`LogStream::send_test`] does.
    ///
    /// # Errors
    ///
    /// If a setting, the URL or a secret is invalid, or the journal or the directory for set-aside
    /// records cannot be opened.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open(settings: Settings) -> Result<HttpSink, OpenError> {
        HttpSink::open_with(settings, Arc::new(SystemClock), Arc::new(SystemRandom)).await
    }

    /// As [`open`](Self::open), for a route: in metrics and in the log, the sink's name is that of
    /// the settings with `@` and the route's name.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open_for_route(route: &str, settings: Settings) -> Result<HttpSink, OpenError> {
        let label = label_of_route(route, &settings);
        HttpSink::open_labeled(settings, label, Arc::new(SystemClock), Arc::new(SystemRandom)).await
    }

    /// As [`open`](Self::open), with this clock for the name of the stream and the times of
    /// requests, and this randomness for the name, which must be unique at the receiver, and the
    /// backoff.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open_with(
        settings: Settings,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<HttpSink, OpenError> {
        let label = settings.name.clone();
        HttpSink::open_labeled(settings, label, clock, random).await
    }

    async fn open_labeled(
        settings: Settings,
        name: String,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<HttpSink, OpenError> {
        let delivery = delivery(&settings, name.clone(), &clock, &random)?;
        let stream = UniqueId::generate(&*clock, &*random);
        let mode = match settings.journal.clone() {
            None => Mode::Direct(Box::new(Direct::new(Arc::clone(&delivery), settings, stream))),
            Some(journal) => {
                needs_dead_letters(&delivery)?;
                let opening = Opening {
                    journal,
                    bounds: Bounds {
                        max_pending_bytes: settings.max_pending_bytes,
                        persist_timeout: settings.persist_timeout(),
                    },
                    max_object_bytes: settings.max_object_bytes,
                    stream,
                    destination: Arc::new(StreamDestination::new(
                        Arc::clone(&delivery),
                        Rejects::Only,
                    )),
                    followers: Vec::new(),
                    health: Arc::clone(&delivery.health),
                    clock,
                    random,
                };
                Mode::Journaled(Box::new(opening.open().await?))
            }
        };
        Ok(HttpSink { name, stream, delivery, mode })
    }

    /// The stream of this opening, in which its records are numbered.
    pub fn stream(&self) -> UniqueId {
        self.stream
    }
}

/// The maximum number of concurrent requests to a follower, as for a journal's destination.
const FOLLOWER_IN_FLIGHT: usize = 16;

/// Creates a follower of another sink's journal. The setting `journal` is not used.
///
/// # Errors
///
/// If a setting, the URL or a secret is invalid, or the directory for set-aside records cannot be
/// used.
pub fn follower(settings: Settings) -> Result<Follower, OpenError> {
    let label = settings.name.clone();
    labeled_follower(settings, label)
}

/// Creates a follower of a route of another sink's journal. In metrics and in the log, its name is
/// that of the settings with `@` and the route's name. The setting `journal` is not used.
///
/// # Errors
///
/// As [`follower`].
pub fn follower_of_route(route: &str, settings: Settings) -> Result<Follower, OpenError> {
    let label = label_of_route(route, &settings);
    labeled_follower(settings, label)
}

/// The name of a route's log stream in metrics and in the log.
fn label_of_route(route: &str, settings: &Settings) -> String {
    format!("{}@{route}", settings.name)
}

fn labeled_follower(settings: Settings, label: String) -> Result<Follower, OpenError> {
    let delivery = delivery(
        &settings,
        label,
        &(Arc::new(SystemClock) as Arc<dyn Clock>),
        &(Arc::new(SystemRandom) as Arc<dyn Random>),
    )?;
    needs_dead_letters(&delivery)?;
    let health = Arc::clone(&delivery.health);
    let Settings { name, max_object_bytes, cut_after_ms, max_kept_bytes, .. } = settings;
    Ok(Follower {
        name,
        destination: Arc::new(StreamDestination::new(delivery, Rejects::Aside)),
        health,
        max_object_bytes,
        cut_after_ms,
        max_in_flight: FOLLOWER_IN_FLIGHT,
        max_kept_bytes,
    })
}

fn needs_dead_letters(delivery: &Delivery) -> Result<(), OpenError> {
    if delivery.has_dead_letters() {
        return Ok(());
    }
    Err(OpenError::configuration(
        "a log stream with a journal needs dead_letters, a directory for records that the receiver \
         does not take",
    ))
}

/// Creates the delivery to a receiver, which metrics and the log name `label`.
fn delivery(
    settings: &Settings,
    label: String,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<Arc<Delivery>, OpenError> {
    settings.check().map_err(|error| {
        OpenError::configuration(format!(
            "the settings of the log stream {:?} are not valid",
            settings.name
        ))
        .with_source(error)
    })?;
    if !settings.has_valid_name() {
        return Err(OpenError::configuration(
            "the name of a log stream has 1 to 64 lower-case letters, digits, `-` and `_`",
        ));
    }
    let only_for = |name: &str, format: &str| {
        OpenError::configuration(format!("{name} is for log streams of the format {format}"))
    };
    let mapping = match &settings.mapping {
        Some(_) if settings.format != Format::Ocsf => return Err(only_for("mapping", "ocsf")),
        Some(path) => Mapping::read(path)?,
        None => Mapping::default(),
    };
    if settings.indexer_ack_ms.is_some() && settings.format != Format::Splunk {
        return Err(only_for("indexer_ack_ms", "splunk"));
    }
    let envelope = Envelope::new(settings.format, settings.limits(), &settings.origin, mapping);
    let receiver = Receiver::new(settings, Arc::clone(clock), &**random)?;
    let letters = settings.dead_letters.as_ref().map(|directory| {
        DeadLetters::open(directory, settings.max_dead_letter_bytes).map_err(|error| {
            let what = format!("the directory {} cannot be used", directory.display());
            OpenError::new(OpenErrorKind::Blocked, what).with_source(error)
        })
    });
    let health = HealthBoard::new(label.clone());
    let random = Arc::clone(random);
    let letters = letters.transpose()?;
    let settings = Settings { name: label, ..settings.clone() };
    Ok(Arc::new(Delivery::new(receiver, envelope, letters, health, random, settings)))
}

#[async_trait]
impl AuditSink for HttpSink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.persist(batch, None).await,
            Mode::Journaled(journal) => journal.persist(batch).await,
        }
    }

    async fn flush(&self) -> Result<(), SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.flush().await,
            Mode::Journaled(journal) => journal.flush().await,
        }
    }

    async fn close(&self) -> Result<(), SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.close().await,
            Mode::Journaled(journal) => journal.close().await,
        }
    }

    fn health(&self) -> Health {
        match &self.mode {
            Mode::Direct(direct) => self.delivery.health.health(direct.pending_bytes()),
            Mode::Journaled(journal) => journal.health(),
        }
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = String> + Send + 'static>> {
        Box::pin(self.delivery.health.stopped())
    }
}

impl fmt::Display for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpSink({}: {})", self.name, self.delivery.receiver)
    }
}

/// A log stream for sending by hand: a test event, or set-aside records.
#[derive(Debug)]
pub struct LogStream {
    delivery: Arc<Delivery>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    settings: Settings,
}

impl LogStream {
    /// Reads the secrets and creates a client. Sends no request. The setting `journal` is not used.
    ///
    /// # Errors
    ///
    /// As [`HttpSink::open`].
    pub fn open(settings: Settings) -> Result<LogStream, OpenError> {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) =
            (Arc::new(SystemClock), Arc::new(SystemRandom));
        let settings = Settings { dead_letters: None, ..settings };
        let delivery = delivery(&settings, settings.name.clone(), &clock, &random)?;
        Ok(LogStream { delivery, clock, random, settings })
    }

    /// Sends a HEAD request for the receiver's URL and returns the status of the response. Any
    /// status shows that the address, the connection and the certificate work; most receivers
    /// reject the request itself.
    ///
    /// # Errors
    ///
    /// As [`send_test`](Self::send_test).
    pub async fn reach(&self) -> Result<u16, String> {
        self.delivery.receiver.reach(self.settings.request_timeout()).await
    }

    /// Sends one event, as the first of its own stream, without retries.
    ///
    /// # Errors
    ///
    /// What is wrong and what to do, for an operator.
    pub async fn send_test(&self) -> Result<(), String> {
        let line = Bytes::from_static(
            br#"{"action":"audit.test","message":"a test event of `audit log-stream test`"}"#,
        );
        let event = Event { sequence: 0, time_ms: self.clock.now_ms(), line };
        let stream = UniqueId::generate(&*self.clock, &*self.random);
        self.send(Events { stream, events: vec![event] }).await
    }

    /// Sends a set-aside record under its id, without retries. The file stays.
    ///
    /// # Errors
    ///
    /// As [`send_test`](Self::send_test), or if the record exceeds `max_record_bytes`, so that only
    /// a pointer could be sent.
    pub async fn send_again(&self, letter: &DeadLetter) -> Result<(), String> {
        let (event, stream) = (letter.event(), letter.stream);
        if !self.delivery.envelope.fits(stream, &event) {
            let (bytes, most) = (event.line.len(), self.settings.limits().record_bytes);
            return Err(format!(
                "{bytes} bytes exceed limit of {most} bytes with the envelope (raise \
                 max_record_bytes if the receiver takes more)"
            ));
        }
        self.send(Events { stream, events: vec![event] }).await
    }

    async fn send(&self, events: Events) -> Result<(), String> {
        let content = self.delivery.envelope.fill(&events, 0..1);
        let id = crate::delivery::request_id(&events, &(0..1));
        let limit = self.settings.request_timeout();
        match self.delivery.receiver.send(&id, content.body.into(), limit).await {
            Answer::Accepted => Ok(()),
            Answer::Rejected { reason, .. }
            | Answer::Retry { reason, .. }
            | Answer::Blocked { reason, .. } => Err(reason),
        }
    }

    #[cfg(test)]
    pub(crate) fn delivery(&self) -> Arc<Delivery> {
        Arc::clone(&self.delivery)
    }
}

/// Shows the name and the URL.
impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.settings.name, self.delivery.receiver)
    }
}

#[async_trait]
impl Mirror for HttpSink {
    /// With its own journal, a sink numbers its records itself and cannot take another sink's
    /// numbers.
    async fn persist_at(&self, batch: Batch, place: Place) -> Result<(), SinkError> {
        match &self.mode {
            Mode::Direct(direct) => direct.persist(batch, Some(place)).await.map(drop),
            Mode::Journaled(_) => Err(SinkError::not_persisted(
                audit_core::SinkErrorKind::Blocked,
                "a log stream with a journal of its own cannot follow another sink",
            )),
        }
    }
}
