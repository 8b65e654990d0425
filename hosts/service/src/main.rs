//! A web service whose reads and writes are audited, small enough to be read in one sitting.
//!
//! Users view and change documents. No view is shown and no change commits before its audit log is
//! durable. Read it in this order: `documents.rs`, the functions and their logs; `app.rs`, from
//! requests to function calls; `database.rs`; `cache.rs`; `memory.rs`, which limits the memory of
//! requests; `tenants.rs`, which tells whose they are, and `reload.rs`, which changes the tenants;
//! `receipts.rs`, which links changes to their records; and this file, which puts everything
//! together. The crate `audit-sqlx` provides the transactions.

mod answer;
mod app;
mod cache;
mod check;
mod database;
mod documents;
mod memory;
mod receipts;
mod reload;
mod settings;
mod tenants;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use audit_core::durable::create_directory;
use audit_host::{
    Connections, Opened, Output, PERSIST_GRACE, Probe, ServeLimits, Shutdown, StoppedError,
    close_after, exit, listen, log_and_trace, notify_ready, notify_stopping,
};
use audit_runtime::{AuditRuntime, AuditSink, RetryPolicy, Vars};
use audit_sink_null::NullSink;
use axum::Router;
#[cfg(feature = "manual")]
use clap::CommandFactory;
use futures::FutureExt;
use futures::future::join_all;

use crate::app::{App, probes};
use crate::database::Database;
use crate::reload::Reload;
use crate::settings::Settings;
use crate::tenants::Tenants;

/// The maximum size of a user's name as JSON, in bytes. It counts toward the size of every log that
/// names the user.
const MAX_USER_JSON_BYTES: u32 = 256;

/// How long a command waits at its end for its output to be read.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the process waits at its end to send the last traces.
const LAST_TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the database is asked whether it answers. With the time limit for its answer, the
/// service is not ready within 5 seconds of losing its database.
const OBSERVE_PERIOD: Duration = Duration::from_secs(2);

/// SQLite has one writer at a time and reports *busy* to others, which counts as a conflict and
/// passes soon.
const RETRY_POLICY: RetryPolicy =
    RetryPolicy { max_attempts: 30, base_backoff_ms: 5, max_backoff_ms: 250 };

/// The files that a start needs: of the runtime, the database, the journal and the listeners.
const FILES: usize = 24;

fn main() {
    let workers = audit_host::processors();
    let runtime = audit_host::check_clock().and_then(|()| audit_host::runtime(FILES, workers));
    runtime.unwrap_or_else(|error| error.exit("audit-service")).block_on(start());
}

async fn start() {
    // The service's files (database, journal, bucket) are private to their owner.
    audit_host::private_files();
    #[cfg(feature = "manual")]
    audit_host::write_manual_if_asked(Settings::command());
    let (settings, sources) = Settings::read().unwrap_or_else(|error| error.exit("audit-service"));
    // After a conflict at commit, PostgreSQL notes that the transaction is already rolled back.
    // That is expected.
    let filter = "warn,sqlx::postgres::notice=error";
    let out = Output::stdout();
    let traces = settings.traces();
    let logging = log_and_trace(filter, settings.log_format(), "audit-service", traces);
    let (errors, traces) = logging
        .unwrap_or_else(|error| exit("audit-service", Err(error.into()), &Output::stderr(), &out));
    let complete = |()| Ok(out.complete(OUTPUT_TIMEOUT)?);
    let result = if settings.print_config {
        settings.print(&sources, &out).and_then(complete)
    } else if settings.check {
        check::check(&settings, &out).await.and_then(complete)
    } else {
        serve(settings, &out).await
    };
    traces.finish(LAST_TRACES_TIMEOUT);
    exit("audit-service", result, &errors, &out)
}

async fn serve(settings: Settings, out: &Output) -> Result<(), Box<dyn Error>> {
    let destinations = settings.destinations()?;
    let settings = Arc::new(settings);
    let opened = destinations.open_and_show(settings.show_logs, out).await?;
    let Opened { sink, routes } = opened.clone();
    let sink = sink.unwrap_or_else(|| Arc::new(NullSink::new()));

    let mut vars = Vars::new();
    let user = vars.register("user", MAX_USER_JSON_BYTES)?;
    let runtime = runtimes(&settings, vars);
    let own = runtime(Arc::clone(&sink));
    let tenants = match settings.routes {
        None => Tenants::none(own),
        Some(_) => {
            let routes = routes.sinks().into_iter();
            Tenants::new(own, routes.map(|(name, route)| (name, runtime(route))).collect())
        }
    };

    create_directory(&settings.data_dir).map_err(|error| {
        format!("the directory {} cannot be created: {error}", settings.data_dir.display())
    })?;
    let database = Database::open(&settings.database_url()?, settings.turns()).await;
    let database = database.map_err(|error| format!("the database cannot be opened: {error}"))?;
    let answering = database.observe(OBSERVE_PERIOD);
    let receipts = receipts::router(database.clone());
    let app = App::new(
        tenants.clone(),
        database,
        user,
        Duration::from_millis(settings.request_timeout_ms),
        settings.request_memory_mib << 20,
    );
    let proxies = settings.trusted_proxies.clone();
    let proxies = proxies.with_header(settings.client_address_header.clone());
    let stopped = settings.exit_when_stopped.then(|| sink.stopped());
    let answers = move || answering.borrow().clone();
    let probe =
        Probe::with_part(opened.sink.clone(), "database", answers).with_routes(routes.clone());
    // Before this, a signal ends the process at once, since no request was accepted yet.
    let shutdown =
        Shutdown::on_signals().map_err(|error| format!("signals cannot be handled: {error}"))?;

    destinations.announce(&opened, settings.show_logs, out);
    let limits = settings.limits();
    if let Some(address) = settings.operators_listen()? {
        let mut operators = probes(probe.clone(), |answer| answer).merge(receipts);
        if settings.routes.is_some() {
            let (settings, tenants, out) = (Arc::clone(&settings), tenants.clone(), out.clone());
            let runtime = Box::new(runtime);
            operators =
                operators.merge(reload::router(Reload { settings, routes, tenants, runtime, out }));
        }
        serve_operators(address, operators, limits, out).await?;
    }
    let listener = listen(settings.listen, "").await?;
    out.line(&format!("listening on http://{}", listener.local_addr()?));
    notify_ready();

    let why = Arc::new(OnceLock::new());
    let (noted, stopping) = (Arc::clone(&why), probe.clone());
    let stopped = async move {
        match stopped {
            Some(stopped) => stopped.await,
            None => std::future::pending().await,
        }
    };
    let told = async move {
        tokio::select! {
            () = shutdown.told() => {}
            reason = stopped => noted.set(reason).unwrap_or_default(),
        }
        stopping.stopping();
        notify_stopping();
    };
    let exempt = proxies.clone();
    let connections = Connections::new(limits)?.exempting(move |address| exempt.trust(address));
    connections.serve(listener, app.router(proxies, probe.clone()), told).await;
    let close_timeout = Duration::from_millis(settings.close_timeout_ms);
    let runtimes = tenants.runtimes();
    let drained = join_all(runtimes.iter().map(AuditRuntime::drain_outcomes));
    let closed = close_after(drained.map(drop), &*sink, close_timeout).await;
    match why.get() {
        Some(reason) => Err(StoppedError(reason.clone()).into()),
        None => Ok(closed?),
    }
}

/// Makes the runtimes of this host and of its tenants, each on a sink.
fn runtimes(
    settings: &Settings,
    vars: Vars,
) -> impl Fn(Arc<dyn AuditSink>) -> AuditRuntime + Send + Sync + use<> {
    let persist_timeout = Duration::from_millis(settings.persist_timeout_ms) + PERSIST_GRACE;
    let (provenance, outcomes) = (settings.provenance, settings.outcomes);
    move |sink| {
        AuditRuntime::builder(sink)
            .with_vars(vars.clone())
            .with_persist_timeout(persist_timeout)
            .with_retry_policy(RETRY_POLICY)
            .with_provenance(provenance)
            .with_outcomes(outcomes)
            .build()
    }
}

/// Starts to serve operators, until the process ends.
async fn serve_operators(
    address: SocketAddr,
    operators: Router,
    limits: ServeLimits,
    out: &Output,
) -> Result<(), Box<dyn Error>> {
    let listener = listen(address, "").await?;
    out.line(&format!("probes are answered on http://{}", listener.local_addr()?));
    let connections = Connections::for_operators(limits)?;
    tokio::spawn(
        async move { connections.serve(listener, operators, std::future::pending()).await },
    );
    Ok(())
}
