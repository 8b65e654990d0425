//! Fetches from test servers, some of them hostile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
mod bodies;
mod lives;
mod redirects;
mod requests;
mod site;

use std::time::Duration;

use functions_fetch::{
    FetchError, FetchRequest, FetchSettings, Fetcher, Fetches, Head, RedirectMode,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Settings that allow fetches from the test servers but not from other local addresses.
fn settings() -> FetchSettings {
    let networks = vec!["127.0.0.1/32".parse().unwrap()];
    FetchSettings { networks, timeout: Duration::from_secs(60), ..FetchSettings::default() }
}

fn request(url: &str) -> FetchRequest {
    requested("GET", url, &[]).unwrap()
}

fn requested(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<FetchRequest, FetchError> {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    FetchRequest::new(url, method, &headers, RedirectMode::Follow)
}

struct Call(Fetches);

impl Call {
    fn new(settings: FetchSettings) -> Call {
        Call(Fetcher::new(settings).fetches(Handle::current()))
    }

    /// The head and body of a response.
    async fn fetch(&self, id: u32, request: FetchRequest) -> Result<(Head, Vec<u8>), FetchError> {
        let head = self.begin(id, request).await.unwrap()?;
        let body = if head.has_body { self.rest(id).await? } else { Vec::new() };
        Ok((head, body))
    }

    fn begin(&self, id: u32, request: FetchRequest) -> oneshot::Receiver<Result<Head, FetchError>> {
        let (sender, head) = oneshot::channel();
        self.0.begin(id, request, |head| drop(sender.send(head))).unwrap();
        head
    }

    async fn rest(&self, id: u32) -> Result<Vec<u8>, FetchError> {
        let mut all = Vec::new();
        while let Some(piece) = self.0.read(id)?.await? {
            assert!(!piece.is_empty());
            all.extend(piece);
        }
        Ok(all)
    }

    async fn failure(&self, request: FetchRequest) -> String {
        let (head, body) = match self.fetch(1, request).await {
            Err(error) => return error.to_string(),
            Ok(responded) => responded,
        };
        panic!("{head:?} with {} bytes", body.len())
    }
}
