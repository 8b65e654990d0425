//! The receiver of a log stream.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Events by the stream and number of their records, by which a receiver recognizes repeats.
type Events = BTreeMap<(String, u64), Json>;

/// Receives webhook events. Dropping it ends the receiver.
#[derive(Debug)]
pub(super) struct Receiver {
    url: String,
    events: Arc<Mutex<Events>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub(super) async fn start() -> Result<Receiver, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/logs", listener.local_addr()?);
        let events = Arc::new(Mutex::new(Events::new()));
        let kept = Arc::clone(&events);
        let keep = move |body: String| async move {
            let mut events = kept.lock().unwrap_or_else(PoisonError::into_inner);
            match keep_all(&mut events, &body) {
                Some(()) => StatusCode::OK,
                None => StatusCode::BAD_REQUEST,
            }
        };
        let router = Router::new().route("/logs", post(keep));
        // A receiver that fails receives nothing, which the proof finds.
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Receiver { url, events, serving })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// All events so far, each once.
    pub(super) fn events(&self) -> Vec<Json> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.values().cloned().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Keeps the events of a request, unless one has no id.
fn keep_all(events: &mut Events, body: &str) -> Option<()> {
    for event in serde_json::from_str::<Vec<Json>>(body).ok()? {
        let record = &event["record"];
        let id = (record["stream"].as_str()?.to_owned(), record["sequence"].as_u64()?);
        events.entry(id).or_insert(event);
    }
    Some(())
}
