//! Request bodies.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_LENGTH;
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::Server;
use super::budget::{Budget, FREE_BYTES, MAX_BODY_BYTES, Refused, Share};
use super::problem::Problem;

/// The time limit for draining the rest of a refused body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The complete body of a call, and its shares of the budget.
#[derive(Debug)]
pub(super) struct Received {
    bytes: Vec<u8>,
    _received: Option<Share>,
    performing: Share,
}

impl Received {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Frees the bytes and their share. The caller must hold the call's share until the call has
    /// ended.
    pub(super) fn into_share(self) -> Share {
        self.performing
    }
}

impl FromRequest<Server> for Received {
    type Rejection = Problem;

    async fn from_request(request: Request, server: &Server) -> Result<Received, Problem> {
        let (body, received) = whole(request, server).await?;
        let performing = server.budget().perform(&body).await?;
        Ok(Received { bytes: body, _received: received, performing })
    }
}

/// The body of a request for an HTTP action, which need not be a call, and its shares of the
/// budget.
#[derive(Debug)]
pub(super) struct Anything {
    pub(super) bytes: Vec<u8>,
    pub(super) shares: (Option<Share>, Share),
}

impl FromRequest<Server> for Anything {
    type Rejection = Problem;

    async fn from_request(request: Request, server: &Server) -> Result<Anything, Problem> {
        let (bytes, received) = whole(request, server).await?;
        let performing = server.budget().carry(bytes.len()).await?;
        Ok(Anything { bytes, shares: (received, performing) })
    }
}

/// Reads a whole body. Returns its bytes and their share. Drains a refused body.
async fn whole(request: Request, server: &Server) -> Result<(Vec<u8>, Option<Share>), Problem> {
    let (began, limit) = (Instant::now(), server.limits().body_timeout);
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    let mut chunks = request.into_body().into_data_stream();
    match arrive(&mut chunks, server.budget(), (began, limit), announced).await {
        Ok(arrived) => Ok(arrived),
        Err(refused) => {
            if matches!(refused, Refused::TooLarge | Refused::Busy) {
                discard(chunks).await;
            }
            Err(refused.counted().into())
        }
    }
}

/// Reads a body until it is complete. Returns its bytes and their share.
async fn arrive(
    chunks: &mut BodyDataStream,
    budget: &Budget,
    (began, limit): (Instant, Duration),
    announced: usize,
) -> Result<(Vec<u8>, Option<Share>), Refused> {
    let mut body: Vec<u8> = Vec::new();
    let mut received: Option<Share> = None;
    loop {
        let left = limit.saturating_sub(began.elapsed());
        let chunk = match timeout(left, chunks.next()).await {
            Err(_) => return Err(Refused::TooSlow),
            Ok(None) => return Ok((body, received)),
            Ok(Some(Err(_))) => return Err(Refused::Broken),
            Ok(Some(Ok(chunk))) => chunk,
        };
        if announced.max(body.len() + chunk.len()) > MAX_BODY_BYTES {
            return Err(Refused::TooLarge);
        }
        let beyond = |bytes: usize| bytes.saturating_sub(FREE_BYTES);
        // A growing vector may take twice its length.
        let more = beyond(body.len() + chunk.len()) - beyond(body.len());
        if more > 0 {
            let share = budget.receive(2 * more)?;
            match &mut received {
                Some(received) => received.merge(share),
                None => received = Some(share),
            }
        }
        let needed = body.len() + chunk.len();
        if body.capacity() < needed {
            // No more than the announced length, which most bodies have.
            let most = if announced == 0 { MAX_BODY_BYTES } else { announced };
            let capacity = (2 * body.capacity()).min(most).max(needed);
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(&chunk);
    }
}

/// Drains the body for a moment, since many clients read a response only after they have sent the
/// whole body.
async fn discard(mut chunks: BodyDataStream) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes += chunk.len();
            if bytes > 2 * MAX_BODY_BYTES {
                return;
            }
        }
    };
    drop(timeout(DISCARD_TIMEOUT, reading).await);
}
