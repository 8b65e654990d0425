//! Calls over HTTP: `/api/query` and its like.

use std::convert::Infallible;
use std::sync::Arc;

use audit_host::Connection;
use audit_runtime::RequestContext;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_calls::{Answered, CallError, Caller, Failed, Identity};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::budget::{Received, Share};
use super::pool::{Held, Holder};
use super::problem::Problem;
use super::{Server, export, snapshots};

/// The status by which Convex's clients recognize a failed function.
const FUNCTION_FAILED: u16 = 560;

/// How many queries of a batch are computed at once.
const MAX_BATCHED_AT_ONCE: usize = 16;

/// The body of a call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    path: String,
    // Not flattened: that would build a second tree of the arguments.
    #[serde(default)]
    args: Value,
    #[serde(default)]
    format: Format,
    component_path: Option<String>,
}

/// The body of a call of `/api/query_at_ts`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallAt {
    /// The time that the query reads at.
    ts: String,
    path: String,
    #[serde(default)]
    args: Value,
    #[serde(default)]
    format: Format,
    component_path: Option<String>,
}

/// A call in the query of a URL, with its arguments as JSON text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallInUrl {
    path: String,
    args: Option<String>,
    #[serde(default)]
    format: Format,
    component_path: Option<String>,
}

/// The body of a call of `/api/query_batch`.
#[derive(Debug, Deserialize)]
struct Batch {
    queries: Vec<Call>,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    /// An object, or an array with it.
    #[serde(default)]
    args: Value,
    #[serde(default)]
    format: Format,
}

/// The encoding of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Format {
    /// As plain JSON.
    #[default]
    #[serde(rename = "json")]
    Plain,
    /// In Convex's encoding, which keeps all types apart.
    #[serde(rename = "convex_encoded_json")]
    Encoded,
}

/// The kind of the called function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    Mutation,
    Action,
    Any,
}

type Body = Result<Received, Problem>;

/// The source of a request.
#[derive(Debug)]
pub(super) struct Client {
    request: RequestContext,
    authorization: Option<HeaderValue>,
    connection: Arc<Connection>,
}

impl FromRequestParts<Server> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Server) -> Result<Client, Infallible> {
        let request = parts.extensions.get::<RequestContext>().cloned();
        let connection = parts.extensions.get::<Arc<Connection>>().cloned();
        Ok(Client {
            request: request.expect("the layer of the API adds it"),
            authorization: parts.headers.get(AUTHORIZATION).cloned(),
            connection: connection.expect("connections add themselves"),
        })
    }
}

/// `POST /api/query`
pub(super) async fn query(server: State<Server>, client: Client, body: Body) -> Response {
    call(&server, client, body, Kind::Query).await
}

/// `GET /api/query`: the call in the URL.
pub(super) async fn query_in_url(
    server: State<Server>,
    client: Client,
    url: Result<Query<CallInUrl>, QueryRejection>,
) -> Response {
    let answered = async {
        let caller = client.caller(&server)?;
        let Query(CallInUrl { path, args, format, component_path }) =
            url.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let args = args.as_deref().unwrap_or("{}");
        let share = server.budget().perform(args.as_bytes()).await?;
        let args = serde_json::from_str(args)
            .map_err(|error| Problem::bad_request(format!("args is no JSON: {error}")))?;
        let called = perform(&server, Kind::Query, path, component_path, arguments(args)?, caller);
        Ok(Answer { answered: called.await?, format, share })
    };
    let mut response = respond(&server, &client, answered.await);
    // A cache in between would hand out what nobody logs.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `POST /api/query_batch`: queries that all read what there is at one time.
pub(super) async fn query_batch(server: State<Server>, client: Client, body: Body) -> Response {
    let answered = async {
        let caller = client.caller(&server)?;
        let (Batch { queries }, _share) = parse(body?)?;
        let at = server.functions().latest();
        let held = server.budget().answers().hold(0, &client.holder());
        let answer = async |Call { path, args, format, component_path }: Call| {
            let args = arguments(args)?;
            let answered = async {
                let path = of_app(path, component_path)?;
                server.functions().query_at(&at, &path, &args, &caller).await
            };
            Ok::<_, Problem>((found(answered.await)?, format))
        };
        let mut answers = stream::iter(queries).map(answer).buffered(MAX_BATCHED_AT_ONCE).boxed();
        let mut text = String::from("{\"results\":[");
        while let Some(answered) = answers.next().await {
            let (answered, format) = answered?;
            if !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&written(&answered, format).1);
            held.resize(text.capacity());
        }
        text.push_str("]}");
        Ok(Counted { text, _held: held })
    };
    match answered.await {
        Ok(counted) => {
            ([(CONTENT_TYPE, "application/json")], Bytes::from_owner(counted)).into_response()
        }
        Err(problem) => Problem::into_response(problem),
    }
}

/// `POST /api/mutation`
pub(super) async fn mutation(server: State<Server>, client: Client, body: Body) -> Response {
    call(&server, client, body, Kind::Mutation).await
}

/// `POST /api/action`
pub(super) async fn action(server: State<Server>, client: Client, body: Body) -> Response {
    call(&server, client, body, Kind::Action).await
}

/// `POST /api/function`: a function of any kind.
pub(super) async fn function(server: State<Server>, client: Client, body: Body) -> Response {
    call(&server, client, body, Kind::Any).await
}

/// `POST /api/run/messages/list`: the function in the path, `/` for `:`.
pub(super) async fn run(
    server: State<Server>,
    client: Client,
    Path(path): Path<String>,
    body: Body,
) -> Response {
    let path = path
        .rsplit_once('/')
        .map_or(path.clone(), |(module, function)| format!("{module}:{function}"));
    let answered = async {
        let caller = client.caller(&server)?;
        let (Arguments { args, format }, share) = parse(body?)?;
        let called = perform(&server, Kind::Any, path, None, arguments(args)?, caller);
        Ok(Answer { answered: called.await?, format, share })
    };
    respond(&server, &client, answered.await)
}

/// `POST /api/query_ts`: a time for `/api/query_at_ts`.
pub(super) async fn query_ts(State(server): State<Server>) -> Response {
    let snapshot = server.functions().latest();
    let ts = snapshot.ts();
    server.snapshots().keep(ts, snapshot);
    Json(json!({ "ts": BASE64_STANDARD.encode(ts.to_le_bytes()) })).into_response()
}

/// `POST /api/query_at_ts`: a query at a time from `/api/query_ts`.
pub(super) async fn query_at_ts(server: State<Server>, client: Client, body: Body) -> Response {
    let answered = async {
        let caller = client.caller(&server)?;
        let (CallAt { ts, path, args, format, component_path }, share) = parse(body?)?;
        let bytes =
            BASE64_STANDARD.decode(&ts).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let ts = bytes.map(u64::from_le_bytes);
        let ts = ts.ok_or_else(|| Problem::bad_request("ts is not one that /api/query_ts gave"))?;
        let snapshot = server.snapshots().at(ts).ok_or_else(|| {
            let seconds = snapshots::KEPT_FOR.as_secs();
            let message = format!(
                "nothing can be read at ts: /api/query_ts did not give it within the last \
                 {seconds} seconds"
            );
            Problem::new(StatusCode::BAD_REQUEST, "OutOfRetention", message)
        })?;
        let args = arguments(args)?;
        let answered = async {
            let path = of_app(path, component_path)?;
            server.functions().query_at(&snapshot, &path, &args, &caller).await
        };
        Ok(Answer { answered: found(answered.await)?, format, share })
    };
    respond(&server, &client, answered.await)
}

async fn call(server: &Server, client: Client, body: Body, kind: Kind) -> Response {
    let answered = async {
        let caller = client.caller(server)?;
        let (Call { path, args, format, component_path }, share) = parse(body?)?;
        let called = perform(server, kind, path, component_path, arguments(args)?, caller);
        Ok(Answer { answered: called.await?, format, share })
    };
    respond(server, &client, answered.await)
}

async fn perform(
    server: &Server,
    kind: Kind,
    path: String,
    component: Option<String>,
    args: Value,
    caller: Caller,
) -> Result<Arc<Answered>, Problem> {
    // A call that has begun continues when its client goes away. One that has not is not begun.
    let functions = server.functions();
    let answered = async {
        let path = of_app(path, component)?;
        match kind {
            Kind::Query => {
                let key = functions.query_key(&path, &args, &caller)?;
                // The key holds the arguments.
                drop(args);
                functions.answer(&key, &caller).await
            }
            Kind::Mutation => {
                Ok(Arc::new(functions.mutation(&path, &args, &caller).await?.answered))
            }
            Kind::Action => Ok(Arc::new(functions.action(&path, &args, &caller).await?)),
            Kind::Any => functions.any(&path, &args, &caller).await,
        }
    };
    found(answered.await)
}

/// To the clients of Convex a call of a function that does not exist is one that failed.
fn found(answered: Result<Arc<Answered>, CallError>) -> Result<Arc<Answered>, Problem> {
    match answered {
        Err(CallError::NotFound(message)) => {
            let result = Err(Failed { message, data: None });
            Ok(Arc::new(Answered { result, log_lines: Vec::new() }))
        }
        answered => Ok(answered?),
    }
}

impl Client {
    fn holder(&self) -> Holder {
        Holder::new(self.request.ip(), Arc::clone(&self.connection))
    }

    /// The caller. An invalid token is an error, never an anonymous call.
    fn caller(&self, server: &Server) -> Result<Caller, Problem> {
        let caller = Caller::anonymous(self.request.clone());
        let Some(authorization) = &self.authorization else {
            return Ok(caller);
        };
        let refuse = |message: &str| Err(Problem::unauthenticated(message));
        let Ok(text) = authorization.to_str() else {
            return refuse("the Authorization header is not ASCII");
        };
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("convex") {
            return refuse(
                "this host has no admin keys: it knows users only, by `Authorization: Bearer`",
            );
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return refuse("the Authorization header is not `Bearer` and a token");
        }
        let token = token.trim();
        let verified = server
            .auth()
            .verify(token)
            .map_err(|refused| Problem::unauthenticated(refused.to_string()))?;
        let identity = Identity::new(verified.claims, token.to_owned());
        Ok(caller.with_identity(Some(Arc::new(identity))))
    }
}

/// The path of a function of the app itself. Functions of components are called by functions; from
/// outside only an administrator could.
pub(super) fn of_app(path: String, component: Option<String>) -> Result<String, CallError> {
    match component.filter(|component| !component.is_empty()) {
        Some(component) => Err(CallError::NotFound(format!(
            "{path} of the component {component:?} can only be called by functions: this host has no admin keys"
        ))),
        None => Ok(path),
    }
}

/// The parsed body, and the share of memory of the call. The text is freed.
fn parse<T: for<'de> Deserialize<'de>>(body: Received) -> Result<(T, Share), Problem> {
    let parsed = serde_json::from_slice(body.bytes())
        .map_err(|error| Problem::bad_request(format!("the body is no call: {error}")))?;
    Ok((parsed, body.into_share()))
}

fn arguments(args: Value) -> Result<Value, Problem> {
    one_object(args).map_err(Problem::bad_request)
}

/// The one argument of a function: an object, or an array with one.
pub(super) fn one_object(args: Value) -> Result<Value, String> {
    let refused = || Err("args is an object, or an array with one object".to_owned());
    match args {
        Value::Object(_) => Ok(args),
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Array(mut args) => match (args.pop(), args.is_empty()) {
            (None, _) => Ok(Value::Object(Map::new())),
            (Some(object @ Value::Object(_)), true) => Ok(object),
            (Some(_), _) => refused(),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => refused(),
    }
}

/// The end of a call, and its share of memory until the response is written.
struct Answer {
    answered: Arc<Answered>,
    format: Format,
    share: Share,
}

/// Responses of up to this many bytes are not counted. Each connection has one at a time.
const SMALL_ANSWER_BYTES: usize = 16 << 10;

/// A body that is counted until its end is written, or until it is dropped with its connection.
struct Counted {
    text: String,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn respond(server: &Server, client: &Client, answer: Result<Answer, Problem>) -> Response {
    let Answer { answered, format, share } = match answer {
        Ok(answer) => answer,
        Err(problem) => return problem.into_response(),
    };
    let (status, text) = written(&answered, format);
    let body = if text.len() > SMALL_ANSWER_BYTES {
        let held = server.budget().answers().hold(text.len(), &client.holder());
        Bytes::from_owner(Counted { text, _held: held })
    } else {
        text.into()
    };
    drop(share);
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn written(answered: &Answered, format: Format) -> (StatusCode, String) {
    let Answered { result, log_lines } = answered;
    let mut body = String::new();
    let status = match result {
        Ok(value) => {
            body.push_str("{\"status\":\"success\",\"value\":");
            write_value(&mut body, value, format);
            StatusCode::OK
        }
        Err(Failed { message, data }) => {
            body.push_str("{\"status\":\"error\",\"errorMessage\":");
            body.push_str(&text(message));
            if let Some(data) = data {
                body.push_str(",\"errorData\":");
                write_value(&mut body, data, format);
            }
            StatusCode::from_u16(FUNCTION_FAILED).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    body.push_str(",\"logLines\":");
    body.push_str(&text(log_lines));
    body.push('}');
    (status, body)
}

/// A function's value, which is JSON text in Convex's encoding.
fn write_value(body: &mut String, value: &str, format: Format) {
    match format {
        Format::Encoded => body.push_str(value),
        Format::Plain => export::plain(value, body),
    }
}

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings are JSON")
}
