//! Calls over HTTP: `/api/query` and its siblings.

mod client;
mod request;
mod response;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_calls::{Answered, CallError, Caller, Failed};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

pub(crate) use self::client::Client;
use self::request::{Arguments, Batch, Call, CallAt, CallInUrl, arguments, parse};
use self::response::{Answer, counted_json, respond, written};
use super::body::Received;
use super::problem::Problem;
use super::{Server, snapshots};

pub(crate) use self::request::{of_app, one_object};

/// The maximum number of queries of a batch that are computed at once.
const MAX_BATCHED_AT_ONCE: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    Mutation,
    Action,
    Any,
}

type Body = Result<Received, Problem>;

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
        let caller = client.caller(&server).await?;
        let Query(CallInUrl { path, args, format, component_path }) =
            url.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let args = args.as_deref().unwrap_or("{}");
        let share = server.budget().perform(args.as_bytes()).await?;
        let args = serde_json::from_str(args)
            .map_err(|error| Problem::bad_request(format!("args is not JSON: {error}")))?;
        let called = perform(&server, Kind::Query, path, component_path, arguments(args)?, caller);
        Ok(Answer { answered: called.await?, format, share })
    };
    let mut response = respond(&server, &client, answered.await);
    // A cache between the client and this host would hand out results without logs.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `POST /api/query_batch`: queries that all read the same snapshot.
pub(super) async fn query_batch(
    server: State<Server>,
    client: Client,
    body: Body,
) -> Result<Response, Problem> {
    let caller = client.caller(&server).await?;
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
    Ok(counted_json(text, held))
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
        let caller = client.caller(&server).await?;
        let (Arguments { args, format }, share) = parse(body?)?;
        let called = perform(&server, Kind::Any, path, None, arguments(args)?, caller);
        Ok(Answer { answered: called.await?, format, share })
    };
    respond(&server, &client, answered.await)
}

/// `POST /api/query_ts`: a time for `/api/query_at_ts`.
pub(super) async fn query_ts(State(server): State<Server>, client: Client) -> Response {
    let snapshot = server.functions().latest();
    let ts = snapshot.ts();
    server.snapshots().keep(client.lane(), ts, snapshot);
    Json(json!({ "ts": BASE64_STANDARD.encode(ts.to_le_bytes()) })).into_response()
}

/// `POST /api/query_at_ts`: a query at a time that `/api/query_ts` returned.
pub(super) async fn query_at_ts(server: State<Server>, client: Client, body: Body) -> Response {
    let answered = async {
        let caller = client.caller(&server).await?;
        let (CallAt { ts, path, args, format, component_path }, share) = parse(body?)?;
        let bytes =
            BASE64_STANDARD.decode(&ts).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let ts = bytes.map(u64::from_le_bytes);
        let ts = ts.ok_or_else(|| Problem::bad_request("ts must be one from /api/query_ts"))?;
        let snapshot = server.snapshots().at(ts).ok_or_else(|| {
            let seconds = snapshots::KEPT_FOR.as_secs();
            let message = format!(
                "ts is not readable: /api/query_ts did not return it within the last {seconds} \
                 seconds"
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
        let caller = client.caller(server).await?;
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
    // A call that has begun continues when its client goes away; otherwise it does not begin.
    let functions = server.functions();
    let answered = async {
        let path = of_app(path, component)?;
        match kind {
            Kind::Query => {
                let key = functions.query_key(&path, &args, &caller)?;
                // The key contains the arguments.
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

/// Turns the call of a missing function into a failed one, as Convex's clients expect.
fn found(answered: Result<Arc<Answered>, CallError>) -> Result<Arc<Answered>, Problem> {
    match answered {
        Err(CallError::NotFound(message)) => {
            let result = Err(Failed { message, data: None });
            Ok(Arc::new(Answered { result, log_lines: Vec::new() }))
        }
        answered => Ok(answered?),
    }
}
