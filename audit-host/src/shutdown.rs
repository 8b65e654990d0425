//! Shutdown of a host: in order at the first signal, at once at the second.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use audit_core::{AuditSink, SinkError, descriptors_advice, sources, start_thread};
use tokio::sync::watch;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::{Output, shortened};

/// How long the process waits for readers of its last lines.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// The exit code of a host that stopped in order before all of its logs were delivered.
const EXIT_UNDELIVERED: i32 = 3;

/// The exit code of a host that ends because its sink accepts nothing more before a restart.
const EXIT_STOPPED: i32 = 4;

/// The signal for a host to stop. Cheap to clone.
///
/// # Example
///
/// ```no_run
/// # async fn f(sink: std::sync::Arc<dyn audit_core::AuditSink>, router: axum::Router)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use audit_host::{Connections, ServeLimits, Shutdown, close};
///
/// let shutdown = Shutdown::on_signals()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// // Serves until a signal, then drains requests in flight within a limit.
/// let connections = Connections::new(ServeLimits::default())?;
/// connections.serve(listener, router, shutdown.told()).await;
/// close(&*sink, Duration::from_secs(15)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Shutdown {
    told: watch::Receiver<bool>,
}

impl Shutdown {
    /// From now on, the first SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal is gone) completes
    /// [`told`](Self::told), and a later SIGTERM or SIGINT ends the process at once with code 128
    /// plus the signal's number. Everything acknowledged by then is durable.
    ///
    /// SIGHUP stays ignored if the process was started with it ignored, as by `nohup`. This can be
    /// determined only on Linux; on other systems SIGHUP has its default action.
    ///
    /// Signals are handled on a separate thread, so that the second one works even if the host's
    /// runtime is stuck.
    ///
    /// # Errors
    ///
    /// If a signal handler or a thread cannot be created.
    pub fn on_signals() -> io::Result<Shutdown> {
        let (tell, told) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before this returns, so that no later signal has its default action.
        let mut signals = {
            let _guard = runtime.enter();
            Signals::new()?
        };
        start_thread("audit-signals", None, move || {
            runtime.block_on(async {
                signals.first().await;
                tell.send_replace(true);
                let signal = signals.later().await;
                std::process::exit(128 + signal);
            });
        })?;
        Ok(Shutdown { told })
    }

    /// Completes when the host receives a signal to stop, or can no longer receive one.
    pub fn told(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut told = self.told.clone();
        async move {
            if told.wait_for(|told| *told).await.is_err() {
                // The signals' default action is gone too: nobody could stop the host in order.
                tracing::error!("the thread that waits for signals has ended, so the host stops");
            }
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// `None` if SIGHUP is not handled.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        let hangup = hangup_ends_the_process().then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Signals { interrupt: signal(interrupt)?, terminate: signal(terminate)?, hangup })
    }

    async fn first(&mut self) {
        let mut hangup = self.hangup.take();
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => {
                    hangup.recv().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = hung_up => {}
            _ = self.later() => {}
        }
    }

    /// A terminal that closes may send several hangups, from the system and from the shell, so a
    /// later one does not end the process. The handler of hangups stays installed.
    async fn later(&mut self) -> i32 {
        use tokio::signal::unix::SignalKind;
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// Whether SIGHUP has its default action. Handling it would undo that it is ignored.
#[cfg(unix)]
fn hangup_ends_the_process() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The lowest bit is that of signal 1.
    let bit = 1 << (tokio::signal::unix::SignalKind::hangup().as_raw_value() - 1);
    ignored.is_some_and(|mask| mask & bit == 0)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn first(&mut self) {
        self.later().await;
    }

    async fn later(&mut self) -> i32 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        2
    }
}

/// Closes the sink within a limit, so that pending batches are delivered. No response depends on
/// it.
///
/// # Errors
///
/// If the sink fails, or does not close within the limit. No acknowledged log is lost: without a
/// journal it is in the bucket, and with one it is on disk and is delivered after the next start.
///
/// # Cancellation
///
/// As for [`AuditSink::close`]: nothing is lost.
pub async fn close(sink: &dyn AuditSink, limit: Duration) -> Result<(), CloseError> {
    close_after(std::future::ready(()), sink, limit).await
}

/// Like [`close`], after `last`, which still passes batches to the sink, such as
/// `AuditRuntime::drain_outcomes`. `last` is dropped once it has taken half of the limit.
///
/// # Errors
///
/// Those of [`close`].
///
/// # Cancellation
///
/// Those of [`close`].
pub async fn close_after(
    last: impl Future<Output = ()>,
    sink: &dyn AuditSink,
    limit: Duration,
) -> Result<(), CloseError> {
    let began = tokio::time::Instant::now();
    if tokio::time::timeout(limit / 2, last).await.is_err() {
        tracing::warn!("the sink is closed before it received everything: {:?} passed", limit / 2);
    }
    let left = limit.saturating_sub(began.elapsed());
    let cause = match tokio::time::timeout(left, sink.close()).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => Cause::Failed(error),
        Err(_elapsed) => Cause::Elapsed(limit),
    };
    Err(CloseError { sink: sink.to_string(), cause })
}

/// A sink that did not close in order.
#[derive(Debug)]
pub struct CloseError {
    sink: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Failed(SinkError),
    Elapsed(Duration),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CloseError { sink, cause } = self;
        match cause {
            Cause::Failed(_) => write!(f, "{sink} did not close in order"),
            Cause::Elapsed(limit) => write!(
                f,
                "{sink} did not deliver everything within {limit:?} of being closed; what a \
                 journal holds is delivered after the next start"
            ),
        }
    }
}

impl Error for CloseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Failed(error) => Some(error),
            Cause::Elapsed(_) => None,
        }
    }
}

/// The error of a host whose sink accepts nothing more until the process is restarted, with the
/// reason, such as a failed sync of the journal. Only a new process can determine what is on the
/// disk.
#[derive(Debug, thiserror::Error)]
#[error("ended so that it can be restarted: {0}")]
pub struct StoppedError(pub String);

/// Ends the process: writes the error and its sources to `errors`, waits at most a second for the
/// readers of both outputs, and exits.
///
/// Unlike returning from `main`, this does not drop the runtime, which would wait for threads: one
/// that is stuck on a disk or a destination would keep the process alive forever.
///
/// The exit code is 0 for success, 3 for a [`CloseError`] (not all logs were delivered), 4 for a
/// [`StoppedError`] (the host should be restarted) and 1 for any other error.
pub fn exit(program: &str, result: Result<(), Box<dyn Error>>, errors: &Output, out: &Output) -> ! {
    let code = match &result {
        Ok(()) => 0,
        Err(error) if error.is::<CloseError>() => EXIT_UNDELIVERED,
        Err(error) if error.is::<StoppedError>() => EXIT_STOPPED,
        Err(_) => 1,
    };
    if let Err(error) = result {
        let shown = |text: String| shortened(&text).into_owned();
        let causes: Vec<_> = sources(&*error).map(|cause| shown(cause.to_string())).collect();
        let advice = descriptors_advice(&*error);
        let error = shown(error.to_string());
        if errors.is_json() {
            let mut timestamp = String::new();
            let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
            let mut line = serde_json::json!({
                "timestamp": timestamp, "level": "ERROR", "target": program,
                "message": "the host ends", "error": error, "code": code,
            });
            if !causes.is_empty() {
                line["because"] = causes.join(": ").into();
            }
            if let Some(advice) = advice {
                line["advice"] = advice.into();
            }
            errors.line(&line.to_string());
        } else {
            errors.line(&format!("{program}: {error}"));
            causes.iter().for_each(|cause| errors.line(&format!("  because {cause}")));
            if let Some(advice) = advice {
                errors.line(&format!("  {advice}"));
            }
        }
    }
    out.finish(LAST_WORDS_TIMEOUT);
    errors.finish(LAST_WORDS_TIMEOUT);
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use audit_core::{Batch, Receipt};

    use super::*;

    #[derive(Debug)]
    struct Stuck;

    impl fmt::Display for Stuck {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Stuck")
        }
    }

    #[async_trait]
    impl AuditSink for Stuck {
        async fn persist(&self, _: Batch) -> Result<Receipt, SinkError> {
            std::future::pending().await
        }

        async fn flush(&self) -> Result<(), SinkError> {
            std::future::pending().await
        }

        async fn close(&self) -> Result<(), SinkError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_host_that_no_signal_can_reach_stops() {
        let (tell, told) = watch::channel(false);
        drop(tell);
        Shutdown { told }.told().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_never_closes_is_abandoned() {
        let error = close(&Stuck, Duration::from_secs(15)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Stuck did not deliver everything within 15s of being closed; what a journal holds is \
             delivered after the next start"
        );
        for limit in [Duration::from_secs(15), Duration::MAX] {
            close(&audit_sink_null::NullSink::new(), limit).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_before_a_close_takes_half_of_its_limit() {
        let began = tokio::time::Instant::now();
        let sink = audit_sink_null::NullSink::new();
        let limit = Duration::from_secs(15);
        close_after(std::future::pending(), &sink, limit).await.unwrap();
        assert_eq!(began.elapsed(), limit / 2);
        close_after(std::future::pending(), &Stuck, limit).await.unwrap_err();
        assert_eq!(began.elapsed(), limit / 2 + limit);
    }
}
