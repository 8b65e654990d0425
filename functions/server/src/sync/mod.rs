//! The sync protocol over WebSocket, for clients that subscribe to queries.
//!
//! `protocol.rs` has the messages, `query_set.rs` a client's queries and their results, and
//! `mutations.rs` its mutations; `session` combines them.

mod mutations;
mod protocol;
mod query_set;
mod session;

use std::sync::Arc;

use audit_host::{Connection, Holder};
use audit_runtime::RequestContext;
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

pub(super) use mutations::Mutations;
pub(super) use session::MutationOutcome;

use super::Server;
use super::budget::MAX_BODY_BYTES;
use super::inflow::Inflow;
use super::problem::Problem;

/// `GET /api/sync` and `GET /api/{version of the client}/sync`
pub(super) async fn upgrade(
    State(server): State<Server>,
    Extension(request): Extension<RequestContext>,
    Extension(connection): Extension<Arc<Connection>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) => {
            let session = server.session();
            upgrade.max_message_size(MAX_BODY_BYTES).max_frame_size(MAX_BODY_BYTES).on_upgrade(
                async move |socket| {
                    let inflow = Arc::new(Inflow::new(Arc::clone(server.budget())));
                    let counted = Arc::clone(&inflow);
                    connection.on_received(move |bytes| counted.received(bytes));
                    let holder = Holder::new(request.ip(), connection);
                    session::serve(socket, server, request, holder, inflow).await;
                    drop(session);
                },
            )
        }
        Err(rejection) => Problem::new(
            StatusCode::BAD_REQUEST,
            "NotAWebSocket",
            format!("this path serves only WebSockets: {rejection}"),
        )
        .into_response(),
    }
}
