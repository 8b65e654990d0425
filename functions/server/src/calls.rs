//! Calls over HTTP: `/api/query` and its like.

use std::borrow::Cow;
use std::sync::Arc;

use audit_runtime::RequestContext;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_calls::{Answered, CallError, Caller, Failed, Identity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::budget::{Received, Share};
use super::{Server, export, snapshots};

/// What the clients of Convex take for a function that failed.
const FUNCTION_FAILED: u16 = 560;

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

#[derive(Debug, Deserialize)]
struct Arguments {
    /// An object, or an array with it.
    #[serde(default)]
    args: Value,
    #[serde(default)]
    format: Format,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Format {
    /// As plain JSON.
    #[default]
    #[serde(rename = "json")]
    Plain,
    /// So that each value is told from each other.
    #[serde(rename = "convex_encoded_json")]
    Encoded,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    Mutation,
    Action,
    Any,
}

type Body = Result<Received, Problem>;

/// `POST /api/query`
pub(super) async fn query(
    server: State<Server>,
    request: Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(call(server.0, request.0, &headers, body, Kind::Query).await)
}

/// `POST /api/mutation`
pub(super) async fn mutation(
    server: State<Server>,
    request: Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(call(server.0, request.0, &headers, body, Kind::Mutation).await)
}

/// `POST /api/action`
pub(super) async fn action(
    server: State<Server>,
    request: Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(call(server.0, request.0, &headers, body, Kind::Action).await)
}

/// `POST /api/function`: of whatever kind.
pub(super) async fn function(
    server: State<Server>,
    request: Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(call(server.0, request.0, &headers, body, Kind::Any).await)
}

/// `POST /api/run/messages/list`: the function in the path, `/` for `:`.
pub(super) async fn run(
    server: State<Server>,
    request: Extension<RequestContext>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let path = path
        .rsplit_once('/')
        .map_or(path.clone(), |(module, function)| format!("{module}:{function}"));
    let called = async {
        let caller = caller(&server.0, request.0, &headers)?;
        let (Arguments { args, format }, _share) = parse(body?)?;
        Ok((perform(&server.0, Kind::Any, path, arguments(args)?, caller).await?, format))
    };
    answer(called.await)
}

/// `POST /api/query_ts`: a time for `/api/query_at_ts`.
pub(super) async fn query_ts(State(server): State<Server>) -> Response {
    let snapshot = server.functions().latest();
    let ts = snapshot.ts();
    server.snapshots().keep(ts, snapshot);
    Json(json!({ "ts": BASE64_STANDARD.encode(ts.to_le_bytes()) })).into_response()
}

/// `POST /api/query_at_ts`: a query that reads what there was at a time that `/api/query_ts` gave.
pub(super) async fn query_at_ts(
    State(server): State<Server>,
    Extension(request): Extension<RequestContext>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let called = async {
        let caller = caller(&server, request, &headers)?;
        let (CallAt { ts, path, args, format, component_path }, _share) = parse(body?)?;
        let bytes =
            BASE64_STANDARD.decode(&ts).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let ts = bytes.map(u64::from_le_bytes);
        let ts = ts.ok_or_else(|| Problem::bad_request("ts is not one that /api/query_ts gave"))?;
        let snapshot = server.snapshots().at(ts).ok_or_else(|| {
            let seconds = snapshots::KEPT_FOR.as_secs();
            let message = format!(
                "nothing can be read at ts: /api/query_ts did not give it within the last {seconds} seconds"
            );
            Problem::new(StatusCode::BAD_REQUEST, "OutOfRetention", message)
        })?;
        let path = of_app(path, component_path)?;
        let args = arguments(args)?;
        Ok((server.functions().query_at(&snapshot, &path, &args, &caller).await?, format))
    };
    answer(called.await)
}

async fn call(
    server: Server,
    request: RequestContext,
    headers: &HeaderMap,
    body: Body,
    kind: Kind,
) -> Result<(Arc<Answered>, Format), Problem> {
    let caller = caller(&server, request, headers)?;
    // The share of memory is held until the call has ended.
    let (Call { path, args, format, component_path }, _share) = parse(body?)?;
    let path = of_app(path, component_path)?;
    Ok((perform(&server, kind, path, arguments(args)?, caller).await?, format))
}

async fn perform(
    server: &Server,
    kind: Kind,
    path: String,
    args: Value,
    caller: Caller,
) -> Result<Arc<Answered>, Problem> {
    // What has begun goes on when a client goes away; what has not is not begun.
    let functions = server.functions();
    let answered = match kind {
        Kind::Query => {
            let key = functions.query_key(&path, &args, &caller)?;
            // The key holds them from here on.
            drop(args);
            functions.answer(&key, &caller).await?
        }
        Kind::Mutation => Arc::new(functions.mutation(&path, &args, &caller).await?.answered),
        Kind::Action => Arc::new(functions.action(&path, &args, &caller).await?),
        Kind::Any => functions.any(&path, &args, &caller).await?,
    };
    Ok(answered)
}

/// Whose call it is. A token that is not valid is no reason to call as nobody.
fn caller(
    server: &Server,
    request: RequestContext,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        return Ok(Caller::anonymous(request));
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
    Ok(Caller::anonymous(request).with_identity(Some(Arc::new(identity))))
}

/// The path of a function of the app itself. Those of components are called by functions; from
/// outside only an administrator could.
pub(super) fn of_app(path: String, component: Option<String>) -> Result<String, CallError> {
    match component.filter(|component| !component.is_empty()) {
        Some(component) => Err(CallError::NotFound(format!(
            "{path} of the component {component:?} can only be called by functions: this host has no admin keys"
        ))),
        None => Ok(path),
    }
}

/// What a body says, and the share of memory of what becomes of it. The text is freed.
fn parse<T: for<'de> Deserialize<'de>>(body: Received) -> Result<(T, Share), Problem> {
    let parsed = serde_json::from_slice(body.bytes())
        .map_err(|error| Problem::bad_request(format!("the body is no call: {error}")))?;
    Ok((parsed, body.into_share()))
}

fn arguments(args: Value) -> Result<Value, Problem> {
    one_object(args).map_err(Problem::bad_request)
}

/// The one argument of a function, which is an object and may stand in an array.
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

fn answer(called: Result<(Arc<Answered>, Format), Problem>) -> Response {
    called.map_or_else(Problem::into_response, |(answered, format)| respond(&answered, format))
}

fn respond(answered: &Answered, format: Format) -> Response {
    let Answered { result, log_lines } = answered;
    let (status, members) = match result {
        Ok(value) => (
            StatusCode::OK,
            vec![("status", "\"success\"".into()), ("value", written(value, format))],
        ),
        Err(Failed { message, data }) => {
            let mut members =
                vec![("status", "\"error\"".into()), ("errorMessage", text(message).into())];
            members.extend(data.as_ref().map(|data| ("errorData", written(data, format))));
            (
                StatusCode::from_u16(FUNCTION_FAILED).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                members,
            )
        }
    };
    let mut body = String::from("{");
    for (name, json) in members {
        body.push_str(&format!("\"{name}\":"));
        body.push_str(&json);
        body.push(',');
    }
    body.push_str("\"logLines\":");
    body.push_str(&text(log_lines));
    body.push('}');
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A value of a function's, which is JSON text in Convex's encoding.
fn written(value: &str, format: Format) -> Cow<'_, str> {
    match format {
        Format::Encoded => value.into(),
        Format::Plain => {
            let value = serde_json::from_str(value).expect("a function's value is JSON");
            export::plain(value).to_string().into()
        }
    }
}

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings are JSON")
}

/// What goes wrong before a function can answer, or instead. In the shape in which Convex has it.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Problem {
        Problem { status, code, message: message.into() }
    }

    fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "BadJsonBody", message)
    }

    fn unauthenticated(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, code, message } = self;
        let mut response =
            (status, Json(json!({ "code": code, "message": message }))).into_response();
        match status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<CallError> for Problem {
    fn from(refused: CallError) -> Problem {
        let (status, code) = match refused {
            CallError::NotFound(_) => (StatusCode::NOT_FOUND, "FunctionNotFound"),
            CallError::Invalid(_) => (StatusCode::BAD_REQUEST, "BadArguments"),
            CallError::NotDurable(_) => (StatusCode::SERVICE_UNAVAILABLE, "AuditLogNotDurable"),
            CallError::Conflict(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "OptimisticConcurrencyControlFailure")
            }
            CallError::Overloaded(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "TooManyConcurrentRequests")
            }
            CallError::Internal(_) | CallError::Unknown(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError")
            }
        };
        Problem::new(status, code, refused.to_string())
    }
}
