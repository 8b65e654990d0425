//! A receiver of a log stream, in this process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::sync::Notify;

/// Serves this router on a port of its own until the test ends. Returns its URL, without a path.
pub(crate) async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    url
}

/// Accepts as many requests as the test allows, none at the start. Then it refuses them, or never
/// answers.
#[derive(Default)]
pub(crate) struct Receiver {
    takes: Mutex<u64>,
    hangs: Mutex<bool>,
    pub(crate) accepted: Mutex<Vec<Vec<Value>>>,
    /// Notified of each request that is not accepted.
    pub(crate) refused: Notify,
    /// Notified of each request that is not answered.
    pub(crate) hung: Notify,
}

impl Receiver {
    pub(crate) async fn start() -> (Arc<Receiver>, String) {
        let receiver = Arc::new(Receiver::default());
        let router = Router::new().route("/", post(receive)).with_state(Arc::clone(&receiver));
        (receiver, serve(router).await + "/")
    }

    /// Accepts this many requests from now on. Later ones are refused, or hang.
    pub(crate) fn take(&self, requests: u64, hangs: bool) {
        (*self.takes.lock().unwrap(), *self.hangs.lock().unwrap()) = (requests, hangs);
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, body: String) -> StatusCode {
    let takes = {
        let mut takes = receiver.takes.lock().unwrap();
        let has = *takes > 0;
        *takes = takes.saturating_sub(1);
        has
    };
    if !takes {
        receiver.refused.notify_one();
        if *receiver.hangs.lock().unwrap() {
            receiver.hung.notify_one();
            std::future::pending::<()>().await;
        }
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let records = body.lines().map(|line| serde_json::from_str(line).unwrap());
    receiver.accepted.lock().unwrap().push(records.collect());
    StatusCode::OK
}
