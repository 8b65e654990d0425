//! Faults that tests inject into the host. Empty except in tests.

#[cfg(test)]
use std::sync::{Arc, Mutex, mpsc};

use functions_store::StoreError;
#[cfg(test)]
use tokio::sync::oneshot;

/// The scripted faults. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    at: Arc<Mutex<Option<(String, Fault)>>>,
}

#[cfg(test)]
pub(super) enum Fault {
    /// The store fails, with a reason that clients must not see.
    Store(&'static str),
    Panic,
    /// The thread sends on `reached`, and continues when the sender of `hold` is dropped.
    Hang {
        reached: oneshot::Sender<()>,
        hold: mpsc::Receiver<()>,
    },
}

#[cfg(test)]
impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fault")
    }
}

#[cfg(not(test))]
impl Faults {
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "a test has faults here")]
    pub(super) fn meet(&self, _operation: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
impl Faults {
    /// Makes the next operation of this name fail, once.
    pub(super) fn script(&self, operation: &str, fault: Fault) {
        *self.at() = Some((operation.to_owned(), fault));
    }

    pub(super) fn is_over(&self) -> bool {
        self.at().is_none()
    }

    pub(super) fn meet(&self, operation: &str) -> Result<(), StoreError> {
        let fault = self.at().take_if(|(at, _)| at == operation);
        match fault {
            None => Ok(()),
            Some((_, Fault::Store(reason))) => Err(StoreError::failed(reason)),
            Some((_, Fault::Panic)) => panic!("a test's panic at {operation}"),
            Some((_, Fault::Hang { reached, hold })) => {
                reached.send(()).unwrap();
                // Fails when the sender is dropped, since nothing is ever sent.
                hold.recv().unwrap_err();
                Ok(())
            }
        }
    }

    fn at(&self) -> std::sync::MutexGuard<'_, Option<(String, Fault)>> {
        super::lock(&self.at)
    }
}
