//! A web service whose reads and writes are audited, small enough to be read in one sitting.
//!
//! Users view and change documents. No view leaves and no change commits before its audit log is in
//! the bucket. Read it in this order: `documents.rs`, what the functions do and log; `app.rs`, how
//! a request becomes a function call; `database.rs`, what the audit runtime needs to know of
//! transactions; `cache.rs`; `shown.rs`; and this file, which puts them together.

mod app;
mod cache;
mod database;
mod documents;
mod settings;
mod shown;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use audit_core::Observed;
use audit_runtime::{AuditRuntime, AuditSink, RetryPolicy, Vars};
use audit_sink_null::NullSink;
use audit_sink_s3::S3Sink;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::database::Database;
use crate::settings::{Destination, Settings};
use crate::shown::show;

/// What a user's name may have as JSON, in bytes: it is charged to every log that names the user.
const MAX_USER_JSON_BYTES: u32 = 256;

/// How much longer than the sink itself the runtime waits: the sink's error says what it waited
/// for.
const PERSIST_GRACE: Duration = Duration::from_secs(5);

/// SQLite has one writer at a time, and tells others that it is busy: that counts as a conflict,
/// and passes soon.
const RETRY_POLICY: RetryPolicy =
    RetryPolicy { max_attempts: 30, base_backoff_ms: 5, max_backoff_ms: 250 };

/// How long the end of the process waits for what is on its way to the bucket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> ExitCode {
    // PostgreSQL notes that a transaction whose commit met a conflict was rolled back already. That
    // is as it should be.
    let quiet = "warn,sqlx::postgres::notice=error";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    match serve(Settings::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("audit-service: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("  because {error}");
                source = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    let (sink, store): (Arc<dyn AuditSink>, Option<Arc<S3Sink>>) = match settings.destination()? {
        Destination::None => (Arc::new(NullSink::new()), None),
        Destination::Bucket { url, settings } => {
            let store = Arc::new(S3Sink::open(&url, settings).await?);
            (Arc::new(Observed::new(Arc::clone(&store), show)), Some(store))
        }
    };

    let mut vars = Vars::new();
    let user = vars.register("user", MAX_USER_JSON_BYTES)?;
    let runtime = AuditRuntime::builder(Arc::clone(&sink))
        .with_vars(vars)
        .with_persist_timeout(Duration::from_millis(settings.persist_timeout_ms) + PERSIST_GRACE)
        .with_retry_policy(RETRY_POLICY)
        .with_provenance(settings.provenance)
        .build();

    let database = Database::open(&settings.database_url()?).await?;
    let app = App::new(runtime, database, store, user);
    let listener = tokio::net::TcpListener::bind(settings.listen).await?;
    say(&match settings.destination()? {
        Destination::None => "no bucket: audit logs are checked and thrown away".to_owned(),
        Destination::Bucket { url: _, settings } => match settings.journal {
            None => format!("audit logs go to {sink}, and are shown here once they are there"),
            Some(journal) => format!(
                "audit logs go to {sink} by way of {}, and are shown here once they are durable",
                journal.directory.display()
            ),
        },
    });
    say(&format!("listening on http://{}", listener.local_addr()?));

    let router =
        app.router(settings.trusted_proxies).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router).with_graceful_shutdown(stop_signal()).await?;

    // Nothing that was answered waits for this. It lets what is on its way arrive, and says if it
    // did not.
    match tokio::time::timeout(CLOSE_TIMEOUT, sink.close()).await {
        Ok(closed) => Ok(closed?),
        Err(_elapsed) => {
            Err(format!("{sink} did not take everything within {CLOSE_TIMEOUT:?}").into())
        }
    }
}

/// A line for whoever started the service. A closed pipe is no reason to stop serving.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is gone");
    }
}

/// Returns when the process is asked to stop, by Ctrl-C or SIGTERM.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
}
