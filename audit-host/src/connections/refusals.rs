//! Connections that are not accepted.

use std::io;

use audit_core::descriptors_advice;
use tokio::net::TcpStream;

use super::places::PlaceRefusal;

/// Whether the operating system refuses to accept connections. Each change is logged once.
#[derive(Default)]
pub(super) struct Refusing {
    is_logged: bool,
}

impl Refusing {
    /// Notes a failure. Returns whether to wait before the next attempt: a connection that broke
    /// before it was accepted says nothing about others.
    pub(super) fn failed(&mut self, error: &io::Error) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return false;
        }
        if !self.is_logged {
            self.is_logged = true;
            tracing::warn!(
                error = with_advice(error),
                "no connections are accepted, neither of clients nor of probes, until this passes"
            );
        }
        true
    }

    pub(super) fn accepted(&mut self) {
        if std::mem::take(&mut self.is_logged) {
            tracing::warn!("connections are accepted again");
        }
    }
}

/// The error, and what to do if files are lacking.
fn with_advice(error: &io::Error) -> String {
    match descriptors_advice(error) {
        Some(advice) => format!("{error} ({advice})"),
        None => error.to_string(),
    }
}

/// Counts a refusal. It is not logged, so that a flood of connections does not flood the log.
pub(super) fn refused(reason: &'static str) {
    metrics::counter!("audit_connections_refused_total", "reason" => reason).increment(1);
}

pub(super) fn refuse(stream: &TcpStream, refusal: PlaceRefusal) {
    let (reason, status) = match refusal {
        PlaceRefusal::Full => ("connections", "503 Service Unavailable"),
        PlaceRefusal::Address => ("connections_of_address", "429 Too Many Requests"),
    };
    refused(reason);
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
    );
    // The answer normally fits into the socket's empty buffer. If not, the client gets nothing.
    drop(stream.try_write(answer.as_bytes()));
}
