//! One client's session on one WebSocket.
//!
//! One task owns the state and waits for the next event: a message, the end of a mutation or
//! action, results for a step, a watch that fired. Another task writes, so that a slow reader holds
//! up its own session alone.
//!
//! Buffers are bounded by permits. A request holds one of a few until its response is written;
//! without a free one nothing is read. A step holds the only one for steps until it is written: a
//! slow client gets fewer steps, each to the newest time. Their bytes are counted with all other
//! responses until they are written.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use audit_runtime::RequestContext;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use convex_sync_types::{AuthenticationToken, ClientMessage, QuerySetModification};
use functions_calls::{Answered, CachedQuery, CallError, Caller, Identity, Lane, Mutated};
use functions_store::Snapshot;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use serde_json::Value as Json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::super::Server;
use super::super::budget::{Refused, Share, parsed_bytes};
use super::super::calls::{of_app, one_object};
use super::super::inflow::Inflow;
use super::super::pool::{Held, Holder};
use super::mutations::{Connection, Lost, Outcome};
use super::protocol::{self, Answer, Failure, Modification};
use super::query_set::{Asked, Change, Found, Has, Planned, Query, QuerySet, Ready, Step};

/// The interval of heartbeats.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How long the socket is drained at the end, so that the last messages arrive.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The most mutations and actions of one client in flight, those with unwritten responses included.
const MAX_UNDER_WAY: usize = 64;

/// The most queries of one client that are computed at once.
const MAX_COMPUTED_AT_ONCE: usize = 16;

/// The least and the greatest backoff before queries without a result are retried. It doubles in
/// between.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The most bytes of arguments of one client's subscriptions.
const MAX_FOLLOWED_BYTES: usize = 16 << 20;

/// The message when the logs of a result could not be made durable.
const NOT_DURABLE: &str =
    "The audit log could not be made durable, so the result is not handed out. It is tried again.";

type Live = Arc<CachedQuery>;
type FoundLive = Found<Live, Arc<Answered>>;

/// What mutations of clients give.
pub(crate) type MutationOutcome = Result<Mutated, CallError>;

impl Outcome for MutationOutcome {
    fn bytes(&self) -> usize {
        let Mutated { answered: Answered { result, log_lines }, committed: _ } = match self {
            Ok(mutated) => mutated,
            Err(error) => return error.to_string().len(),
        };
        let result = match result {
            Ok(value) => value.len(),
            Err(failed) => failed.message.len() + failed.data.as_ref().map_or(0, String::len),
        };
        result + log_lines.iter().map(String::len).sum::<usize>()
    }
}

/// Why a session ends.
enum End {
    /// The client has gone, or does not read.
    Gone,
    /// The client violates the protocol.
    Fatal(String),
    /// The client's token is invalid or has expired.
    Unauthenticated { error: String, base_version: u32, update_attempted: bool },
    /// The host is stopping.
    Stopping,
    /// The client was silent for too long.
    Silent(&'static str),
    /// The client's messages exceed the budget.
    Refused(Refused),
}

/// A message to be written. Its permit and bytes are freed afterwards.
struct Outgoing {
    message: Message,
    _permit: Option<OwnedSemaphorePermit>,
    _held: Option<Held>,
}

/// A mutation or action that ended, and the permit of its request.
struct Ended {
    request_id: u32,
    permit: OwnedSemaphorePermit,
    what: EndedCall,
}

enum EndedCall {
    Mutation(Result<MutationOutcome, Lost>),
    Action(Result<Answered, CallError>),
}

/// The arguments of one query, in bytes.
#[derive(Clone, Copy)]
struct Followed {
    text: usize,
    parsed: usize,
}

/// A step that is being prepared, and its results so far.
type Preparing = Pin<Box<dyn Future<Output = (Step<Live>, u64, Vec<FoundLive>)> + Send>>;

struct Session {
    server: Server,
    /// The context of the upgrade request. Each call has its address and User-Agent, and a request
    /// id of its own.
    request: RequestContext,
    identity: Option<Arc<Identity>>,
    /// The client's lane: its work takes turns with that of others.
    lane: Lane,
    expires: Option<Instant>,
    client: Option<Connection<MutationOutcome>>,
    /// How far the client's clock is ahead of this host's.
    clock_skew_ms: Option<i64>,
    queries: QuerySet<Live>,
    /// The bytes of arguments of each subscription.
    followed: HashMap<u32, Followed>,
    /// All of them, as they count.
    held: Option<Held>,
    holder: Holder,
    inflow: Arc<Inflow>,
    last_heard: Instant,
    /// Notified when a result of the client is out of date.
    outdated: Arc<Notify>,
    must_step: bool,
    retries: u32,
    retry_at: Option<Instant>,
    preparing: Option<Preparing>,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    request_permits: Arc<Semaphore>,
    step_permits: Arc<Semaphore>,
    next_request: Option<OwnedSemaphorePermit>,
    next_step: Option<OwnedSemaphorePermit>,
}

/// Serves one client until either side ends.
pub(super) async fn serve(
    socket: WebSocket,
    server: Server,
    request: RequestContext,
    holder: Holder,
    inflow: Arc<Inflow>,
) {
    metrics::gauge!("functions_sync_sessions").increment(1.0);
    let (sink, mut stream) = socket.split();
    let (outgoing, queue) = mpsc::unbounded_channel();
    let mut writer = tokio::spawn(write(sink, queue));
    let mut session = Session::new(server, request, outgoing, holder, inflow);
    let end = session.run(&mut stream, &mut writer).await;
    session.say_goodbye(end);
    drop(session);
    // Writes the rest. The client's messages are drained, since unread data would reset the
    // connection and lose what was written.
    let read_away = async { while let Some(Ok(_)) = stream.next().await {} };
    if !writer.is_finished() {
        drop(
            tokio::time::timeout(CLOSE_TIMEOUT, futures::future::join(&mut writer, read_away))
                .await,
        );
        writer.abort();
    }
    metrics::gauge!("functions_sync_sessions").decrement(1.0);
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
) {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        let outgoing = tokio::select! {
            biased;
            outgoing = queue.recv() => match outgoing {
                Some(outgoing) => outgoing,
                None => return,
            },
            // One for the client's code, and one that its WebSocket answers by itself.
            _ = ping.tick() => {
                drop(sink.feed(Message::Ping(Default::default())).await);
                Outgoing { message: Message::text(protocol::PING), _permit: None, _held: None }
            }
        };
        // A client that reads too slowly is cut off, as on any connection.
        if let Err(error) = sink.send(outgoing.message).await {
            return tracing::debug!(%error, "a client is gone");
        }
    }
}

impl Session {
    fn new(
        server: Server,
        request: RequestContext,
        outgoing: mpsc::UnboundedSender<Outgoing>,
        holder: Holder,
        inflow: Arc<Inflow>,
    ) -> Session {
        Session {
            server,
            request,
            identity: None,
            lane: Lane::connection(),
            expires: None,
            client: None,
            clock_skew_ms: None,
            queries: QuerySet::new(),
            followed: HashMap::new(),
            held: None,
            holder,
            inflow,
            last_heard: Instant::now(),
            outdated: Arc::new(Notify::new()),
            must_step: false,
            retries: 0,
            retry_at: None,
            preparing: None,
            under_way: FuturesUnordered::new(),
            outgoing,
            request_permits: Arc::new(Semaphore::new(MAX_UNDER_WAY)),
            step_permits: Arc::new(Semaphore::new(1)),
            next_request: None,
            next_step: None,
        }
    }

    async fn run(
        &mut self,
        stream: &mut SplitStream<WebSocket>,
        writer: &mut JoinHandle<()>,
    ) -> End {
        let began = Instant::now();
        let mut stopping = self.server.stopping();
        let outdated = Arc::clone(&self.outdated);
        loop {
            self.begin_step();
            let (expires, retry_at) = (self.expires, self.retry_at);
            let silent_until = match self.client {
                Some(_) => self.last_heard + self.server.limits().serve.idle_timeout,
                None => began + self.server.limits().first_message_timeout,
            };
            let preparing = OptionFuture::from(self.preparing.as_mut());
            tokio::select! {
                permit = Arc::clone(&self.request_permits).acquire_owned(), if self.next_request.is_none() => {
                    self.next_request = permit.ok();
                    // While nothing was read, no message could be seen.
                    self.last_heard = Instant::now();
                }
                permit = Arc::clone(&self.step_permits).acquire_owned(), if self.next_step.is_none() => {
                    self.next_step = permit.ok();
                }
                message = stream.next(), if self.next_request.is_some() => {
                    if let Err(end) = self.hear(message).await {
                        return end;
                    }
                }
                () = sleep_until(silent_until), if self.next_request.is_some() => {
                    return End::Silent(if self.client.is_some() {
                        "no sign of life, not even an answer to a ping"
                    } else {
                        "no Connect"
                    });
                }
                Some(ended) = self.under_way.next() => self.answer(ended),
                Some((step, ts, found)) = preparing => {
                    self.preparing = None;
                    self.end_step(step, ts, found);
                }
                () = outdated.notified() => self.must_step = true,
                Some(()) = OptionFuture::from(retry_at.map(sleep_until)) => {
                    self.retry_at = None;
                    self.must_step = true;
                }
                Some(()) = OptionFuture::from(expires.map(sleep_until)) => {
                    let error = "the token has expired".to_owned();
                    let base_version = self.queries.identity().saturating_sub(1);
                    return End::Unauthenticated { error, base_version, update_attempted: false };
                }
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    return End::Stopping;
                }
                _ = &mut *writer => return End::Gone,
            }
        }
    }

    fn say_goodbye(&self, end: End) {
        let (last_words, code, reason) = match end {
            End::Gone => return,
            End::Stopping => (None, close_code::AWAY, "the host is stopping".to_owned()),
            End::Silent(reason) => (None, close_code::POLICY, reason.to_owned()),
            End::Refused(refused) => {
                let code = match refused {
                    Refused::TooLarge | Refused::TooManyNodes | Refused::TooDeep => {
                        close_code::SIZE
                    }
                    Refused::Busy | Refused::TooSlow | Refused::Broken => close_code::AGAIN,
                };
                (None, code, refused.message())
            }
            End::Fatal(error) => (Some(protocol::fatal_error(&error)), close_code::POLICY, error),
            End::Unauthenticated { error, base_version, update_attempted } => {
                let message = protocol::auth_error(&error, base_version, update_attempted);
                (Some(message), close_code::POLICY, error)
            }
        };
        if let Some(message) = last_words {
            self.send(message, None);
        }
        let reason = reason.chars().take(MAX_REASON_CHARS).collect::<String>().into();
        self.send_message(Message::Close(Some(CloseFrame { code, reason })), None, None);
    }

    fn send(&self, text: String, permit: Option<OwnedSemaphorePermit>) {
        // It is copied once, into the frame that is written.
        let held = self.server.budget().answers().hold(2 * text.len(), &self.holder);
        self.send_message(Message::Text(text.into()), permit, Some(held));
    }

    fn send_message(
        &self,
        message: Message,
        permit: Option<OwnedSemaphorePermit>,
        held: Option<Held>,
    ) {
        // If the writer has gone, so has the client, which is noticed elsewhere.
        drop(self.outgoing.send(Outgoing { message, _permit: permit, _held: held }));
    }

    /// What the client sends.
    async fn hear(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.last_heard = Instant::now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Binary(_))) => {
                return Err(End::Fatal("messages are text, and that was not".to_owned()));
            }
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
            Some(Err(error)) => {
                tracing::debug!(%error, "a client is gone");
                return Err(End::Gone);
            }
        };
        let share = self.server.budget().perform(text.as_bytes()).await.map_err(End::Refused)?;
        self.inflow.settle();
        let message = protocol::parse(&text).map_err(End::Fatal)?;
        drop(text);
        let is_connected = self.client.is_some();
        match message {
            ClientMessage::Connect { session_id, client_ts, .. } if !is_connected => {
                self.client = Some(self.server.mutations().connect(session_id.as_u128()));
                let now_ms = self.server.clock().now_ms();
                self.clock_skew_ms = client_ts
                    .and_then(|ts| i64::try_from(ts).ok())
                    .map(|ts| ts.saturating_sub(now_ms));
                Ok(())
            }
            ClientMessage::Connect { .. } => Err(End::Fatal("Connect comes once".to_owned())),
            _ if !is_connected => Err(End::Fatal("the first message is Connect".to_owned())),
            ClientMessage::ModifyQuerySet { base_version, new_version, modifications } => {
                self.modify(base_version, new_version, modifications).map_err(End::Fatal)
            }
            ClientMessage::Authenticate { base_version, token } => {
                self.authenticate(base_version, token)
            }
            ClientMessage::Mutation { request_id, udf_path, args, component_path } => {
                self.mutate(request_id, String::from(udf_path), args.get(), component_path, share)
            }
            ClientMessage::Action { request_id, udf_path, args, component_path } => {
                self.act(request_id, String::from(udf_path), args.get(), component_path, share)
            }
            // Telemetry of clients.
            ClientMessage::Event(_) => Ok(()),
        }
    }

    fn modify(
        &mut self,
        base: u32,
        new: u32,
        modifications: Vec<QuerySetModification>,
    ) -> Result<(), String> {
        self.queries.advance(base, new)?;
        for modification in modifications {
            match modification {
                QuerySetModification::Add(added) => {
                    let query = Query {
                        path: String::from(added.udf_path),
                        component: added.component_path,
                        args: read_args(added.args.get())?,
                        journal: added.journal.flatten(),
                    };
                    let query_id = added.query_id.get_id();
                    self.queries.add(query_id, query)?;
                    let args = added.args.get();
                    let bytes = Followed { text: args.len(), parsed: parsed_bytes(args) };
                    self.followed.insert(query_id, bytes);
                    let text: usize = self.followed.values().map(|args| args.text).sum();
                    if text > MAX_FOLLOWED_BYTES {
                        return Err(format!(
                            "the arguments of the queries that are followed exceed the limit of \
                             {MAX_FOLLOWED_BYTES} bytes"
                        ));
                    }
                }
                QuerySetModification::Remove { query_id } => {
                    self.queries.remove(query_id.get_id())?;
                    self.followed.remove(&query_id.get_id());
                }
            }
        }
        let bytes = self.followed.values().map(|args| args.parsed).sum();
        match &self.held {
            Some(held) => held.resize(bytes),
            None => {
                self.held = Some(self.server.budget().followed().hold(bytes, &self.holder));
            }
        }
        self.must_step = true;
        Ok(())
    }

    fn authenticate(&mut self, base_version: u32, token: AuthenticationToken) -> Result<(), End> {
        let refuse =
            |error: String| End::Unauthenticated { error, base_version, update_attempted: true };
        let (identity, expires) = match token {
            AuthenticationToken::None => (None, None),
            AuthenticationToken::Admin(..) => return Err(refuse(NO_ADMIN.to_owned())),
            AuthenticationToken::User(token) => {
                let verified = self
                    .server
                    .auth()
                    .verify(&token)
                    .map_err(|refused| refuse(refused.to_string()))?;
                let left_ms = verified.expires_ms.saturating_sub(self.server.clock().now_ms());
                // A day at a time is within the range of timers.
                let left =
                    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(MAX_SESSION);
                (Some(Arc::new(Identity::new(verified.claims, token))), Some(Instant::now() + left))
            }
        };
        let claims = |identity: &Option<Arc<Identity>>| {
            identity.as_ref().map(|identity| identity.claims().clone())
        };
        let is_somebody_else = claims(&identity) != claims(&self.identity);
        self.queries.identify(base_version, is_somebody_else).map_err(End::Fatal)?;
        (self.identity, self.expires) = (identity, expires);
        self.must_step = true;
        Ok(())
    }

    /// The caller of one call: this client, with a new request id.
    fn caller(&self) -> Caller {
        let request = self.server.request_like(&self.request);
        Caller::anonymous(request).with_identity(self.identity.clone()).with_lane(self.lane)
    }

    fn mutate(
        &mut self,
        request_id: u32,
        path: String,
        args: &str,
        component: Option<String>,
        share: Share,
    ) -> Result<(), End> {
        let (Some(client), Some(permit)) = (&self.client, self.next_request.take()) else {
            return Ok(());
        };
        let json = read_args(args).map_err(End::Fatal)?;
        let mut hasher = DefaultHasher::new();
        let claims = self.identity.as_ref().map(|identity| identity.claims().to_string());
        (&path, &component, args, claims).hash(&mut hasher);
        let call = || {
            let (functions, caller) = (self.server.functions().clone(), self.caller());
            let expected = functions.expect(self.lane);
            async move {
                let _share = share;
                drop(expected);
                functions.mutation(&of_app(path, component)?, &json, &caller).await
            }
            .boxed()
        };
        let outcome = client.run(request_id, hasher.finish(), call).map_err(End::Fatal)?;
        let ended =
            async move { Ended { request_id, permit, what: EndedCall::Mutation(outcome.await) } };
        self.under_way.push(ended.boxed());
        Ok(())
    }

    fn act(
        &mut self,
        request_id: u32,
        path: String,
        args: &str,
        component: Option<String>,
        share: Share,
    ) -> Result<(), End> {
        let Some(permit) = self.next_request.take() else { return Ok(()) };
        let args = read_args(args).map_err(End::Fatal)?;
        let (functions, caller) = (self.server.functions().clone(), self.caller());
        // An action that has begun continues without its client.
        let action = tokio::spawn(async move {
            let _share = share;
            functions.action(&of_app(path, component)?, &args, &caller).await
        });
        let ended = async move {
            let result = action.await.unwrap_or_else(|_| Err(CallError::internal(PANICKED)));
            Ended { request_id, permit, what: EndedCall::Action(result) }
        };
        self.under_way.push(ended.boxed());
        Ok(())
    }

    fn answer(&mut self, Ended { request_id, permit, what }: Ended) {
        match what {
            EndedCall::Mutation(outcome) => {
                let outcome = outcome.unwrap_or_else(|lost| match lost {
                    Lost::Panicked => Err(CallError::internal(PANICKED)),
                    Lost::Forgotten => Err(CallError::Conflict(FORGOTTEN.to_owned())),
                });
                let text = match &outcome {
                    Ok(Mutated { answered, committed }) => {
                        protocol::mutation_response(request_id, answer_of(answered), *committed)
                    }
                    Err(error) => {
                        let message = error.to_string();
                        protocol::mutation_response(request_id, error_answer(&message), None)
                    }
                };
                self.send(text, Some(permit));
                // A client takes a mutation for done when it has seen its effects. One that failed
                // with data of a `ConvexError` makes some clients wait for a step too, to whatever
                // time.
                let committed = outcome.ok().and_then(|mutated| mutated.committed);
                self.queries.owe(committed.unwrap_or(0));
                self.must_step = true;
            }
            EndedCall::Action(Ok(answered)) => {
                self.send(
                    protocol::action_response(request_id, answer_of(&answered)),
                    Some(permit),
                );
            }
            EndedCall::Action(Err(error)) => {
                let message = error.to_string();
                self.send(
                    protocol::action_response(request_id, error_answer(&message)),
                    Some(permit),
                );
            }
        }
    }

    /// Begins to prepare a step, if there is a reason and the previous one is written.
    fn begin_step(&mut self) {
        if !self.must_step || self.preparing.is_some() || self.next_step.is_none() {
            return;
        }
        self.must_step = false;
        let step = self.queries.begin();
        let at = self.server.functions().latest();
        let finding: Vec<_> = step.queries.iter().map(|query| self.finding(query, &at)).collect();
        let ts = at.ts();
        self.preparing = Some(Box::pin(async move {
            let found =
                futures::stream::iter(finding).buffered(MAX_COMPUTED_AT_ONCE).collect().await;
            (step, ts, found)
        }));
    }

    /// Computes a query at this time.
    fn finding(&self, planned: &Planned<Live>, at: &Snapshot) -> BoxFuture<'static, FoundLive> {
        let before = match &planned.has {
            Some(Has::Result(result)) => Some(Arc::clone(result)),
            Some(Has::Error(_)) | None => None,
        };
        // Every snapshot of a commit, or of a later one, comes after watches know of that commit.
        let holds =
            |result: &Live| result.watch().invalid_since().is_none_or(|since| at.ts() < since);
        if before.as_ref().is_some_and(holds) {
            return std::future::ready(Found::Holds).boxed();
        }
        find(self.server.clone(), at.clone(), Arc::clone(&planned.asked), before, self.caller())
            .boxed()
    }

    fn end_step(&mut self, step: Step<Live>, ts: u64, found: Vec<FoundLive>) {
        for found in &found {
            match found {
                Found::Same(result) | Found::Handed(result, _) => {
                    result.watch().on_invalid(&self.outdated);
                }
                Found::Holds | Found::Error(_) => {}
            }
        }
        if found.iter().any(|found| matches!(found, Found::Error(_))) {
            let pause = FIRST_RETRY.saturating_mul(1 << self.retries.min(10)).min(LAST_RETRY);
            self.retries = self.retries.saturating_add(1);
            self.retry_at = Some(Instant::now() + pause);
        } else {
            (self.retries, self.retry_at) = (0, None);
        }
        let journals = journals(&step, &found);
        let Some(Ready { start, end, changes }) = self.queries.finish(step, ts, found) else {
            return;
        };
        let modifications = changes.iter().map(|change| match change {
            Change::Handed { query_id, answer } => {
                let journal = journals
                    .iter()
                    .find(|(id, _)| id == query_id)
                    .and_then(|(_, journal)| journal.as_deref());
                Modification::Answered { query_id: *query_id, answer: answer_of(answer), journal }
            }
            Change::Error { query_id, message } => Modification::Answered {
                query_id: *query_id,
                answer: error_answer(message),
                journal: None,
            },
            Change::Removed { query_id } => Modification::Removed { query_id: *query_id },
        });
        let server_ts =
            u64::try_from(self.server.clock().now_ms()).unwrap_or(0).saturating_mul(1_000_000);
        let text = protocol::transition(start, end, modifications, self.clock_skew_ms, server_ts);
        metrics::counter!("functions_sync_transitions_total").increment(1);
        let permit = self.next_step.take();
        self.send(text, permit);
    }
}

/// A close frame has room for 123 bytes.
const MAX_REASON_CHARS: usize = 30;

/// Clients reconnect anyway.
const MAX_SESSION: Duration = Duration::from_secs(24 * 60 * 60);

const NO_ADMIN: &str = "this host has no admin keys: it knows users only";

const PANICKED: &str = "the task of a mutation or action panicked";

/// The message for a retry of a mutation that ended long ago.
const FORGOTTEN: &str = "this mutation was run before, and its outcome is not kept any more: it is \
                         not run again";

/// Arguments are an array of one object.
fn read_args(text: &str) -> Result<Json, String> {
    one_object(serde_json::from_str(text).map_err(|error| format!("args is no JSON: {error}"))?)
}

fn answer_of(answered: &Answered) -> Answer<'_> {
    let Answered { result, log_lines } = answered;
    let result = match result {
        Ok(value) => Ok(&**value),
        Err(failed) => Err(Failure { message: &failed.message, data: failed.data.as_deref() }),
    };
    Answer { result, log_lines }
}

fn error_answer(message: &str) -> Answer<'_> {
    Answer { result: Err(Failure { message, data: None }), log_lines: &[] }
}

/// The journal of a handed-out result: where its pages ended.
fn journals(step: &Step<Live>, found: &[FoundLive]) -> Vec<(u32, Option<String>)> {
    let handed = step.queries.iter().zip(found).filter_map(|(query, found)| match found {
        Found::Handed(result, _) => Some((query.query_id, result.journal().map(str::to_owned))),
        Found::Same(_) | Found::Holds | Found::Error(_) => None,
    });
    handed.collect()
}

/// The new result of a query at this time. A result that the client does not have is released: from
/// here on its audit log says that this client got it.
async fn find(
    server: Server,
    at: Snapshot,
    asked: Arc<Asked>,
    before: Option<Live>,
    caller: Caller,
) -> FoundLive {
    let found = async {
        let Query { path, component, args, journal } = &asked.query;
        let functions = server.functions();
        let key = functions.query_key(&of_app(path.clone(), component.clone())?, args, &caller)?;
        let journal = before.as_ref().map_or(journal.as_deref(), |result| result.journal());
        let result = functions.sealed_at(&at, &key, journal).await;
        if before.is_some_and(|before| before.same_result(&result)) {
            return Ok(Found::Same(result));
        }
        let answered = result.release(&caller).await?;
        metrics::counter!("functions_sync_results_total").increment(1);
        Ok(Found::Handed(result, answered))
    };
    found.await.unwrap_or_else(|error: CallError| {
        let is_durable = !matches!(error, CallError::NotDurable(_));
        Found::Error(if is_durable { error.to_string() } else { NOT_DURABLE.to_owned() })
    })
}
