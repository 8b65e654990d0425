//! `functions-host serve`: assembles the parts and runs them until the process is told to stop.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use audit_core::durable::create_directory;
use audit_core::{SystemClock, start_thread};
use audit_host::lasting::lasting;
use audit_host::{
    Output, PERSIST_GRACE, Shutdown, StoppedError, close_after, listen, notify_ready,
    notify_stopping,
};
use audit_runtime::{AuditRuntime, AuditSink, Vars};
use audit_sink_null::NullSink;
use functions_calls::{Deployment, FunctionSettings, Functions};
use functions_engine::Limits;
use functions_program::{Env, Program};
use functions_server::auth::Authenticator;
use functions_server::{Server, ServerParts};
use functions_store::Store;
use futures::future::OptionFuture;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::interval;

use crate::settings::Settings;

/// How often the directory of functions is checked for changes.
const POLL_PERIOD: Duration = Duration::from_millis(500);

/// The variable that names the administrator a client acts as. This host has no administrators, so
/// it is null, but functions written for Convex may name it.
const ACTOR: &str = "convexActor";
const MAX_ACTOR_JSON_BYTES: u32 = 1_024;

enum Stop {
    Signal,
    /// The sink or the store has stopped for this reason.
    Stopped(String),
    /// Too many functions hold their threads.
    Exhausted,
}

/// Serves functions until the process is told to stop.
///
/// # Errors
///
/// If the functions, the store, the bucket or a port cannot be opened, if the server fails, or if
/// delivery to the bucket does not end in time at shutdown.
pub(crate) async fn serve(settings: Settings, output: &Output) -> Result<(), Box<dyn Error>> {
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let listener = listen(settings.listen, "").await?;
    let site = settings.site_listen.map(|at| listen(at, " for HTTP actions (site_listen)"));
    let site = OptionFuture::from(site).await.transpose()?;
    let site_address = site.as_ref().map(TcpListener::local_addr).transpose()?;
    let env = env(&settings, listener.local_addr()?, site_address);
    let program = load(&settings.directory, &env)?;
    let has_http = program.has_http();

    let opened = settings.destinations.open_and_show(settings.show_logs, output).await?;
    let sink = opened.sink.clone().unwrap_or_else(|| Arc::new(NullSink::new()));
    let functions = start(&settings, &sink, program, site_address).await?;
    let auth = Authenticator::open(&settings.auth, Arc::new(SystemClock))?;
    let operators =
        settings.operators_listen.map(|at| listen(at, " for operators (operators_listen)"));
    let operators = OptionFuture::from(operators).await.transpose()?;
    // Before this, a signal ends the process at once, since no call was accepted yet.
    let shutdown =
        Shutdown::on_signals().map_err(|error| format!("signals cannot be handled: {error}"))?;
    settings.destinations.announce(&opened, settings.show_logs, output);
    if let Some(operators) = &operators {
        output.line(&format!("probes and metrics are on http://{}", operators.local_addr()?));
    }
    if let Some(site) = site_address.filter(|_| has_http) {
        output.line(&format!("HTTP actions are on http://{site}"));
    }
    output.line(&format!(
        "serving the functions in {}, listening on http://{}",
        settings.directory.display(),
        listener.local_addr()?
    ));
    notify_ready();
    let watching = {
        let (functions, output) = (functions.clone(), output.clone());
        let directory = settings.directory.clone();
        let follow =
            move || follow(functions.clone(), directory.clone(), env.clone(), output.clone());
        tokio::spawn(lasting("the task that deploys changed functions", follow))
    };
    let parts = ServerParts {
        auth,
        proxies: settings.trusted_proxies,
        bucket: opened.sink,
        metrics: Some(recorder),
        operators,
        site,
        limits: settings.network,
    };
    let stop_reason = Arc::new(OnceLock::new());
    let (stopping, is_stopping) = oneshot::channel();
    let stop = {
        let (functions, sink) = (functions.clone(), Arc::clone(&sink));
        let noted = Arc::clone(&stop_reason);
        let stops = (settings.exit_when_stopped, settings.until_input_ends);
        async move {
            let reason = stop(&shutdown, &functions, &*sink, stops).await;
            noted.set(reason).unwrap_or_default();
            notify_stopping();
            // The receiver is dropped only if the host has already ended.
            let _ = stopping.send(());
        }
    };
    let drain_timeout = parts.limits.serve.drain_timeout;
    let scheduled = end_scheduled(&functions, is_stopping, drain_timeout);
    let served = Server::serve(functions.clone(), parts, listener, stop);
    let (served, ()) = tokio::join!(served, scheduled);
    watching.abort();
    served?;

    // All calls have been answered. This delivers the outcomes that are still in memory, or reports
    // that it failed.
    let outcomes = functions.runtime().drain_outcomes();
    let closed = close_after(outcomes, &*sink, settings.close_timeout).await;
    match stop_reason.get() {
        Some(Stop::Stopped(reason)) => Err(StoppedError(reason.clone()).into()),
        Some(Stop::Exhausted) => {
            closed?;
            Err("too many functions never released their threads; restart the host".into())
        }
        Some(Stop::Signal) | None => Ok(closed?),
    }
}

/// Completes when the host must end. A sink or store that has stopped is a reason only with
/// `exits_when_stopped`, and the end of standard input only with `until_input_ends`.
async fn stop(
    shutdown: &Shutdown,
    functions: &Functions,
    sink: &dyn AuditSink,
    (exits_when_stopped, until_input_ends): (bool, bool),
) -> Stop {
    tokio::select! {
        () = shutdown.told() => Stop::Signal,
        () = input_ended(), if until_input_ends => Stop::Signal,
        reason = sink.stopped(), if exits_when_stopped => Stop::Stopped(reason),
        reason = functions.store().stopped(), if exits_when_stopped => Stop::Stopped(reason),
        () = functions.exhausted() => Stop::Exhausted,
    }
}

/// Completes at the end of standard input, or when it cannot be read.
async fn input_ended() {
    let (ended, is_ended) = oneshot::channel::<()>();
    let read = move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(ended);
    };
    // Not a thread of the runtime, which would be waited for when the host ends for another reason.
    let _ = start_thread("audit-input", None, read);
    let _ = is_ended.await;
}

/// Ends scheduled functions once the host is stopping. Those that become due from then on run after
/// the next start. Running ones get as long as calls do, since an action may take ten minutes.
async fn end_scheduled(
    functions: &Functions,
    is_stopping: oneshot::Receiver<()>,
    drain_timeout: Duration,
) {
    // An error means that the server failed before it was told to stop.
    let _ = is_stopping.await;
    if tokio::time::timeout(drain_timeout, functions.stop_scheduler()).await.is_err() {
        tracing::warn!(
            "scheduled functions did not end within {drain_timeout:?} of being told to stop"
        );
    }
}

/// Opens the store and starts the functions, whose logs go to this sink.
async fn start(
    settings: &Settings,
    sink: &Arc<dyn AuditSink>,
    program: Program,
    site: Option<SocketAddr>,
) -> Result<Functions, Box<dyn Error>> {
    let mut vars = Vars::new();
    vars.register(ACTOR, MAX_ACTOR_JSON_BYTES)?;
    let runtime = AuditRuntime::builder(Arc::clone(sink))
        .with_vars(vars)
        .with_persist_timeout(settings.persist_timeout + PERSIST_GRACE)
        .with_provenance(settings.provenance)
        .with_outcomes(settings.outcomes)
        .build();
    create_directory(&settings.data_dir).map_err(|error| {
        format!("the directory {} cannot be created: {error}", settings.data_dir.display())
    })?;
    let documents = Store::open(&settings.data_dir.join("documents"))?;
    documents.set_reserve(settings.store_reserve_bytes);
    Ok(Functions::start(runtime, documents, program, function_settings(settings, site)).await?)
}

/// The variables of `process.env`: the addresses of this host, and those of the settings, which
/// take precedence.
pub(crate) fn env(settings: &Settings, listen: SocketAddr, site: Option<SocketAddr>) -> Env {
    let mut variables = BTreeMap::new();
    variables.insert("CONVEX_CLOUD_URL".to_owned(), format!("http://{listen}"));
    if let Some(site) = site {
        variables.insert("CONVEX_SITE_URL".to_owned(), format!("http://{site}"));
    }
    variables.extend(settings.env.0.clone());
    Env::new(variables, [ACTOR.to_owned()])
}

fn load(directory: &Path, env: &Env) -> Result<Program, Box<dyn Error>> {
    let program = Program::load(directory, env)?;
    for warning in program.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(program)
}

fn function_settings(settings: &Settings, site: Option<SocketAddr>) -> FunctionSettings {
    let defaults = FunctionSettings::default();
    let memory_bytes = settings.limits.memory_bytes;
    let limits = Limits { time: settings.limits.time, memory_bytes, ..defaults.limits };
    let action_limits =
        Limits { time: settings.limits.action_time, memory_bytes, ..defaults.action_limits };
    let crate::settings::Deployment { name, region, class } = settings.deployment.clone();
    let deployment = Deployment { name, region, class: class.as_str().to_owned() };
    let mut fetch = settings.fetch.clone();
    fetch.own_addresses.extend(site);
    FunctionSettings {
        deployment,
        limits,
        action_limits,
        query_cache_bytes: settings.query_cache_bytes,
        kept_engine_bytes: settings.kept_engine_bytes,
        fetch,
        ..defaults
    }
}

/// Deploys the functions again whenever their files change. If that fails, the error is printed
/// once and the previous functions remain deployed.
async fn follow(functions: Functions, directory: PathBuf, env: Env, output: Output) {
    let mut polls = interval(POLL_PERIOD);
    let mut printed = None;
    loop {
        polls.tick().await;
        let (current, directory, env) = (functions.clone(), directory.clone(), env.clone());
        // Loading blocks its thread for a while.
        let loaded = tokio::task::spawn_blocking(move || {
            current.has_changed().then(|| Program::load(&directory, &env))
        })
        .await;
        let deployed = match loaded {
            Ok(None) => continue,
            Ok(Some(Ok(program))) => {
                functions.deploy(program).await.map_err(|error| error.to_string())
            }
            Ok(Some(Err(error))) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match deployed {
            Ok(()) => {
                printed = None;
                output.line("the functions have changed and were deployed again");
            }
            Err(problem) if printed.as_ref() == Some(&problem) => {}
            Err(problem) => {
                output
                    .line(&format!("the functions have changed and cannot be deployed: {problem}"));
                printed = Some(problem);
            }
        }
    }
}
