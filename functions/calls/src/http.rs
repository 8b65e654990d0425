//! Calls of HTTP actions.

use std::sync::atomic::Ordering;

use functions_value::ComponentPath;
use serde_json::json;

use super::call::{CallError, Caller, Internal};
use super::http_action::{HttpError, HttpRequest, HttpResponse, Responding};
use super::{Answered, Failed, Functions, action};

impl Functions {
    /// Calls the HTTP action that the app routes a request to. Returns when it responds; more of
    /// the response may follow.
    ///
    /// # Errors
    ///
    /// See [`HttpError`].
    ///
    /// # Cancellation
    ///
    /// An action that has begun continues until it next sends a piece of the response.
    pub async fn http(
        &self,
        request: HttpRequest,
        caller: &Caller,
    ) -> Result<HttpResponse, HttpError> {
        let deployed = self.inner.deployed();
        let HttpRequest { method, path_and_query, host, headers, body, refused_token } = request;
        let (path, _) = path_and_query.split_once('?').unwrap_or((&path_and_query, ""));
        if deployed.program.routers(path).is_empty() {
            return Err(HttpError::None);
        }
        let origin = match deployed.program.variable("CONVEX_SITE_URL") {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{host}"),
        };
        let described = json!({
            "url": format!("{origin}{path_and_query}"),
            "method": method,
            "headers": headers,
            "length": body.len(),
        });
        let (responding, mut responded) =
            Responding::new(described.to_string(), body, path.to_owned(), refused_token);
        let (functions, caller) = (self.clone(), caller.clone());
        // A separate task, since the response may be complete before the action ends.
        let mut running = tokio::spawn(async move { run(&functions, responding, &caller).await });
        let ended = tokio::select! {
            biased;
            head = &mut responded => match head {
                Ok(response) => return Ok(response),
                // The action ended without a response.
                Err(_) => (&mut running).await,
            },
            ended = &mut running => ended,
        };
        if let Ok(response) = responded.try_recv() {
            return Ok(response);
        }
        match ended {
            Ok(Ok(())) => {
                Err(HttpError::Failed(Internal::logged("an HTTP action did not respond")))
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Err(HttpError::Call(CallError::internal(error))),
        }
    }
}

/// Runs an HTTP action to its end. An error of an action whose client is gone is only logged.
async fn run(
    functions: &Functions,
    responding: Responding,
    caller: &Caller,
) -> Result<(), HttpError> {
    let is_abandoned = responding.is_abandoned();
    let (root, name) = (ComponentPath::root(), "http:default".to_owned());
    match action::run_http(functions, root, name, responding, caller).await {
        Ok(Answered { result: Ok(_), .. }) => Ok(()),
        // At debug level only: clients that disconnect must not be able to fill the log.
        Ok(Answered { result: Err(Failed { message, .. }), .. })
            if is_abandoned.load(Ordering::Relaxed) =>
        {
            tracing::debug!(message, "the client of an HTTP action is gone");
            Ok(())
        }
        Ok(Answered { result: Err(Failed { message, .. }), log_lines }) => {
            let lines = log_lines.join("\n");
            let reason = format!("an HTTP action: {message}\n{lines}");
            Err(HttpError::Failed(Internal::logged(reason.trim_end())))
        }
        Err(error) => Err(HttpError::Call(error)),
    }
}
