//! The client of a call.

use std::convert::Infallible;
use std::sync::Arc;

use audit_host::{Connection, Holder, Lane};
use audit_runtime::RequestContext;
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use functions_calls::{Caller, Identity};

use crate::Server;
use crate::problem::Problem;

/// The client of a request, from its connection and headers.
#[derive(Debug)]
pub(crate) struct Client {
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

impl Client {
    pub(super) fn lane(&self) -> Lane {
        Lane::of(&self.request)
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder::new(self.request.ip(), Arc::clone(&self.connection))
    }

    /// The caller of an HTTP action, and why its bearer token was rejected, if it was. Anyone may
    /// send any kind of `Authorization`, so none is an error by itself.
    pub(crate) async fn caller_of_http(&self, server: &Server) -> (Caller, Option<String>) {
        let is_bearer = self.authorization.as_ref().is_some_and(|value| {
            let scheme = value.as_bytes().get(..7);
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
        });
        if !is_bearer {
            return (Caller::anonymous(self.request.clone()), None);
        }
        match self.caller(server).await {
            Ok(caller) => (caller, None),
            Err(refused) => (Caller::anonymous(self.request.clone()), Some(refused.message)),
        }
    }

    /// The caller. An invalid token is an error and never makes the caller anonymous.
    pub(super) async fn caller(&self, server: &Server) -> Result<Caller, Problem> {
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
                "this host has no admin keys: it accepts only users, with `Authorization: Bearer`",
            );
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return refuse("the Authorization header must be `Bearer` and a token");
        }
        let token = token.trim();
        let verified = server.verify(token).await.map_err(|refused| {
            if refused.is_temporary() {
                let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, "AuthProviderUnavailable");
                Problem::new(status, code, refused.to_string())
            } else {
                Problem::unauthenticated(refused.to_string())
            }
        })?;
        let identity = Identity::new(verified.claims, token.to_owned());
        Ok(caller.with_identity(Some(Arc::new(identity))))
    }
}
