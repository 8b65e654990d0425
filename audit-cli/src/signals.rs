//! Ctrl-C and SIGTERM.

use std::time::Duration;

use tokio::sync::oneshot;

/// How long a command may take to end by itself. A command whose output nobody reads would never
/// end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Resolves with the exit code when the process receives a signal to stop. Half a second later the
/// process ends in any case.
pub(crate) async fn stopped() -> u8 {
    let (tell, told) = oneshot::channel();
    // In a separate task, since the command may block its thread.
    tokio::spawn(async move {
        let code = signal().await;
        let _ = tell.send(code);
        tokio::time::sleep(PATIENCE).await;
        std::process::exit(i32::from(code));
    });
    match told.await {
        Ok(code) => code,
        Err(_gone) => std::future::pending().await,
    }
}

async fn signal() -> u8 {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = interrupt => 130,
                _ = terminate.recv() => 143,
            };
        }
    }
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
    130
}
