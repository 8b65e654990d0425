//! The threads of a journal.

use std::io;

use tokio::sync::watch;

/// Starts a thread that drops `running` once `work` and all that it owns are dropped. The journal's
/// directory can then be opened again.
pub(super) fn start_thread(
    name: &str,
    running: watch::Sender<()>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    audit_core::start_thread(name, None, move || {
        work();
        drop(running);
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_has_ended_once_all_that_it_owned_is_gone() {
        struct Owned(mpsc::Sender<()>, mpsc::Receiver<()>);
        impl Drop for Owned {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
                self.1.recv().unwrap();
            }
        }
        let (dropping, dropped) = mpsc::channel();
        let (go_on, waits) = mpsc::channel();
        let owned = Owned(dropping, waits);
        let (running, mut ended) = watch::channel(());
        start_thread("audit-test", running, move || {
            let _ = &owned;
        })
        .unwrap();
        dropped.recv().unwrap();
        assert!(ended.has_changed().is_ok(), "the thread still owns something");
        go_on.send(()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(ended.changed()).unwrap_err();
    }
}
