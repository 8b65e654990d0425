//! The operations behind `fetch`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_engine::{Later, SyscallError};
use functions_fetch::{FetchError, FetchRequest, Fetches, Head, RedirectMode};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;

/// The number of the fetch, in the arguments of every operation.
#[derive(Deserialize)]
struct Named {
    id: u32,
}

/// The arguments of `host/fetch`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Begun {
    url: String,
    method: String,
    redirect: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    is_stream: bool,
}

fn failed(error: impl std::fmt::Display) -> SyscallError {
    SyscallError::new(error.to_string())
}

/// Begins an operation of a fetch. `later` answers it.
pub(super) fn begin(
    fetches: &Fetches,
    tasks: &Handle,
    op: &str,
    args: &Json,
    later: Later,
) -> Result<(), SyscallError> {
    let Named { id } = Named::deserialize(args).map_err(failed)?;
    match op {
        "host/fetch" => {
            let request = request(Begun::deserialize(args).map_err(failed)?)?;
            let done = |head: Result<Head, FetchError>| {
                later.complete(head.map(|head| described(&head)).map_err(failed));
            };
            fetches.begin(id, request, done).map_err(failed)
        }
        "host/fetchSend" => {
            let text = args.get("bytes").and_then(Json::as_str).unwrap_or_default();
            let sending = fetches.send(id, bytes(text)?).map_err(failed)?;
            tasks.spawn(async move { later.complete(nothing(sending.await)) });
            Ok(())
        }
        "host/fetchSendEnd" => {
            let sending = fetches.send_end(id).map_err(failed)?;
            tasks.spawn(async move { later.complete(nothing(sending.await)) });
            Ok(())
        }
        "host/fetchRead" => {
            let reading = fetches.read(id).map_err(failed)?;
            tasks.spawn(async move {
                // No piece is empty, so an empty answer means the end.
                let piece = reading.await.map(Option::unwrap_or_default);
                later.complete(piece.map(|piece| BASE64_STANDARD.encode(piece)).map_err(failed));
            });
            Ok(())
        }
        "host/fetchCancel" => {
            fetches.cancel(id);
            later.complete(nothing(Ok(())));
            Ok(())
        }
        _ => Err(failed(format_args!("{op} is not an operation of fetch"))),
    }
}

fn nothing(done: Result<(), FetchError>) -> Result<String, SyscallError> {
    done.map(|()| "null".to_owned()).map_err(failed)
}

fn bytes(text: &str) -> Result<Vec<u8>, SyscallError> {
    BASE64_STANDARD.decode(text).map_err(failed)
}

fn request(begun: Begun) -> Result<FetchRequest, SyscallError> {
    let Begun { url, method, redirect, headers, body, is_stream } = begun;
    let redirect = match &*redirect {
        "follow" => RedirectMode::Follow,
        "manual" => RedirectMode::Manual,
        _ => RedirectMode::Error,
    };
    let request = FetchRequest::new(&url, &method, &headers, redirect).map_err(failed)?;
    Ok(match body {
        _ if is_stream => request.with_stream(),
        Some(text) => request.with_body(bytes(&text)?),
        None => request,
    })
}

fn described(head: &Head) -> String {
    let Head { status, status_text, url, redirected, headers, has_body } = head;
    json!({
        "status": status, "statusText": status_text, "url": url, "redirected": redirected,
        "headers": headers, "hasBody": has_body,
    })
    .to_string()
}
