//! A client's session on one WebSocket.
//!
//! One task owns the state and waits for the next event: a message, the end of a mutation or
//! action, the results of a step, or a watch that fires. Another task writes to the socket, so that
//! a slow reader holds up only its own session.
//!
//! Permits limit the buffers. A request holds one of a few permits until its response is written;
//! without a free one nothing is read. A step holds the only permit for steps until it is written,
//! so a slow client gets fewer steps, each to the newest time. The bytes of both count with all
//! other responses until they are written.

mod arguments;
mod calls;
mod end;
mod outbox;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use audit_host::Holder;
use audit_runtime::RequestContext;
use axum::extract::ws::{Message, WebSocket};
use convex_sync_types::{AuthenticationToken, ClientMessage, QuerySetModification};
use functions_calls::{Answered, Caller, Identity, Lane};
use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, SplitStream};
use serde_json::Value as Json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::arguments::SubscribedArguments;
use self::calls::{Ended, Requested};
use self::end::End;
use self::outbox::Outbox;
use self::steps::Steps;
use super::mutations::Connection;
use super::protocol::{self, Answer, Failure};
use super::query_set::Query;
use crate::Server;
use crate::calls::one_object;
use crate::inflow::Inflow;

pub(crate) use self::calls::MutationOutcome;

/// How long the socket is drained at the end, so that the last messages arrive.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of mutations and actions of one client in flight, including those with
/// unwritten responses.
const MAX_IN_FLIGHT: usize = 64;

/// The maximum duration of the timer for a token's expiry. Clients reconnect more often.
const MAX_SESSION: Duration = Duration::from_secs(24 * 60 * 60);

const NO_ADMIN: &str = "this host has no admin keys: it accepts only users";

struct Session {
    server: Server,
    /// The context of the upgrade request. Each call has its address and User-Agent, and its own
    /// request id.
    request: RequestContext,
    identity: Option<Arc<Identity>>,
    /// The client's lane, in which its work takes turns with that of others.
    lane: Lane,
    expires: Option<Expiry>,
    client: Option<Connection<MutationOutcome>>,
    /// How far the client's clock is ahead of this host's, in milliseconds.
    clock_skew_ms: Option<i64>,
    arguments: SubscribedArguments,
    inflow: Arc<Inflow>,
    last_heard: Instant,
    steps: Steps,
    in_flight: FuturesUnordered<BoxFuture<'static, Ended>>,
    outbox: Outbox,
    request_permits: Arc<Semaphore>,
    next_request: Option<OwnedSemaphorePermit>,
}

/// When a token expires. A timer misses the time in which the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    at_ms: i64,
}

/// Serves one client until either side ends.
pub(super) async fn serve(
    socket: WebSocket,
    server: Server,
    request: RequestContext,
    holder: Holder,
    inflow: Arc<Inflow>,
) {
    let _counted = Counted::new();
    let (sink, mut stream) = socket.split();
    let unread = Arc::clone(server.budget().answers());
    let (outbox, mut writer) = Outbox::open(sink, unread, holder.clone());
    let mut session = Session::new(server, request, outbox, &holder, inflow);
    let end = session.run(&mut stream, &mut writer).await;
    end.tell(&session.outbox);
    drop(session);
    // Writes the rest. The client's messages are drained, since unread data would reset the
    // connection and lose what was written.
    let drain = async { while let Some(Ok(_)) = stream.next().await {} };
    if !writer.is_finished() {
        drop(tokio::time::timeout(CLOSE_TIMEOUT, futures::future::join(&mut writer, drain)).await);
        writer.abort();
    }
}

/// Counts a session in the metrics until it ends, also if its task panics or is dropped.
struct Counted;

impl Counted {
    fn new() -> Counted {
        metrics::gauge!("functions_sync_sessions").increment(1.0);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("functions_sync_sessions").decrement(1.0);
    }
}

impl Session {
    fn new(
        server: Server,
        request: RequestContext,
        outbox: Outbox,
        holder: &Holder,
        inflow: Arc<Inflow>,
    ) -> Session {
        let arguments = SubscribedArguments::new(server.budget().followed(), holder);
        Session {
            server,
            request,
            identity: None,
            lane: Lane::unique(),
            expires: None,
            client: None,
            clock_skew_ms: None,
            arguments,
            inflow,
            last_heard: Instant::now(),
            steps: Steps::new(holder.clone()),
            in_flight: FuturesUnordered::new(),
            outbox,
            request_permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            next_request: None,
        }
    }

    async fn run(
        &mut self,
        stream: &mut SplitStream<WebSocket>,
        writer: &mut JoinHandle<()>,
    ) -> End {
        let began = Instant::now();
        let mut stopping = self.server.stopping();
        let outdated = Arc::clone(&self.steps.outdated);
        loop {
            if self.has_expired() {
                return self.expired();
            }
            self.begin_step();
            let (expires, retry_at) = (self.expires.map(|it| it.at), self.steps.retry_at);
            let limits = self.server.limits();
            let (limit, since) = match self.client {
                Some(_) => (limits.serve.idle_timeout, self.last_heard),
                None => (limits.first_message_timeout, began),
            };
            let silent_for = limit.saturating_sub(since.elapsed());
            let preparing = OptionFuture::from(self.steps.preparing.as_mut());
            tokio::select! {
                permit = Arc::clone(&self.request_permits).acquire_owned(), if self.next_request.is_none() => {
                    self.next_request = permit.ok();
                    // The client may have sent messages while nothing was read.
                    self.last_heard = Instant::now();
                }
                permit = Arc::clone(&self.steps.permits).acquire_owned(), if self.steps.next.is_none() => {
                    self.steps.next = permit.ok();
                }
                message = stream.next(), if self.next_request.is_some() => {
                    if self.has_expired() {
                        return self.expired();
                    }
                    if let Err(end) = self.receive(message).await {
                        return end;
                    }
                }
                () = sleep(silent_for), if self.next_request.is_some() => {
                    return End::Silent { has_connected: self.client.is_some() };
                }
                Some(ended) = self.in_flight.next() => self.respond(ended),
                Some(prepared) = preparing => {
                    self.steps.preparing = None;
                    let now_ms = self.server.clock().now_ms();
                    let message = self.steps.end(&self.server, prepared, self.clock_skew_ms, now_ms);
                    if let Some((text, permit)) = message {
                        self.outbox.send(text, permit);
                    }
                }
                () = outdated.notified() => self.steps.request(),
                Some(()) = OptionFuture::from(retry_at.map(sleep_until)) => {
                    self.steps.retry_at = None;
                    self.steps.request();
                }
                Some(()) = OptionFuture::from(expires.map(sleep_until)) => {
                    return self.expired();
                }
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    return End::Stopping;
                }
                _ = &mut *writer => return End::Gone,
            }
        }
    }

    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|it| it.at_ms <= self.server.clock().now_ms())
    }

    fn expired(&self) -> End {
        let error = "the token has expired".to_owned();
        let base_version = self.steps.queries.identity().saturating_sub(1);
        End::Unauthenticated { error, base_version, update_attempted: false }
    }

    /// Prepares a step if one is due.
    fn begin_step(&mut self) {
        let (server, request) = (&self.server, &self.request);
        let (identity, lane) = (&self.identity, self.lane);
        self.steps.begin(server, || caller(server, request, identity, lane));
    }

    async fn receive(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.last_heard = Instant::now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Binary(_))) => {
                return Err(End::Fatal("messages must be text".to_owned()));
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
                let (session, address) = (session_id.as_u128(), Lane::of(&self.request));
                self.client = Some(self.server.mutations().connect(session, address));
                let now_ms = self.server.clock().now_ms();
                self.clock_skew_ms = client_ts
                    .and_then(|ts| i64::try_from(ts).ok())
                    .map(|ts| ts.saturating_sub(now_ms));
                Ok(())
            }
            ClientMessage::Connect { .. } => Err(End::Fatal("Connect was sent before".to_owned())),
            _ if !is_connected => Err(End::Fatal("the first message must be Connect".to_owned())),
            ClientMessage::ModifyQuerySet { base_version, new_version, modifications } => {
                self.modify(base_version, new_version, modifications).map_err(End::Fatal)
            }
            ClientMessage::Authenticate { base_version, token } => {
                self.authenticate(base_version, token).await
            }
            ClientMessage::Mutation { request_id, udf_path, args, component_path } => {
                let (path, component) = (String::from(udf_path), component_path);
                self.mutate(Requested { request_id, path, component, args: args.get(), share })
            }
            ClientMessage::Action { request_id, udf_path, args, component_path } => {
                let (path, component) = (String::from(udf_path), component_path);
                self.act(Requested { request_id, path, component, args: args.get(), share })
            }
            // Telemetry of clients.
            ClientMessage::Event(_) => Ok(()),
        }
    }

    /// Subscribes to queries, and ends subscriptions.
    fn modify(
        &mut self,
        base: u32,
        new: u32,
        modifications: Vec<QuerySetModification>,
    ) -> Result<(), String> {
        self.steps.queries.advance(base, new)?;
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
                    self.steps.queries.add(query_id, query)?;
                    self.arguments.add(query_id, added.args.get())?;
                }
                QuerySetModification::Remove { query_id } => {
                    self.steps.queries.remove(query_id.get_id())?;
                    self.arguments.remove(query_id.get_id());
                }
            }
        }
        self.arguments.hold();
        self.steps.request();
        Ok(())
    }

    async fn authenticate(
        &mut self,
        base_version: u32,
        token: AuthenticationToken,
    ) -> Result<(), End> {
        let refuse =
            |error: String| End::Unauthenticated { error, base_version, update_attempted: true };
        let (identity, expires) = match token {
            AuthenticationToken::None => (None, None),
            AuthenticationToken::Admin(..) => return Err(refuse(NO_ADMIN.to_owned())),
            AuthenticationToken::User(token) => {
                let verified = self.server.verify(&token).await;
                // No message was read while the keys were fetched.
                self.last_heard = Instant::now();
                let verified = verified.map_err(|refused| {
                    if refused.is_temporary() {
                        // A client that connects again sends its token again.
                        End::Busy(refused.to_string())
                    } else {
                        refuse(refused.to_string())
                    }
                })?;
                let at_ms = verified.expires_ms;
                let left_ms = at_ms.saturating_sub(self.server.clock().now_ms());
                // A day is within the range of timers.
                let left =
                    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(MAX_SESSION);
                let expiry = Expiry { at: Instant::now() + left, at_ms };
                (Some(Arc::new(Identity::new(verified.claims, token))), Some(expiry))
            }
        };
        let claims = |identity: &Option<Arc<Identity>>| {
            identity.as_ref().map(|identity| identity.claims().clone())
        };
        let is_somebody_else = claims(&identity) != claims(&self.identity);
        self.steps.queries.identify(base_version, is_somebody_else).map_err(End::Fatal)?;
        (self.identity, self.expires) = (identity, expires);
        self.steps.request();
        Ok(())
    }

    /// The caller of one call, which is this client with a new request id.
    fn caller(&self) -> Caller {
        caller(&self.server, &self.request, &self.identity, self.lane)
    }
}

fn caller(
    server: &Server,
    request: &RequestContext,
    identity: &Option<Arc<Identity>>,
    lane: Lane,
) -> Caller {
    let request = server.request_like(request);
    Caller::anonymous(request).with_identity(identity.clone()).with_lane(lane)
}

/// Parses arguments, which are an array with one object.
fn read_args(text: &str) -> Result<Json, String> {
    one_object(serde_json::from_str(text).map_err(|error| format!("args is not JSON: {error}"))?)
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
