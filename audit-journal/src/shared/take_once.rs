//! A value that can be taken once: by the task that works on it, or by the caller when it gives up.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holds a value until it is taken.
#[derive(Debug)]
pub struct TakeOnce<T>(Mutex<Option<T>>);

impl<T> TakeOnce<T> {
    pub fn new(value: T) -> TakeOnce<T> {
        TakeOnce(Mutex::new(Some(value)))
    }

    /// Takes the value. Only the first caller gets it.
    pub fn take(&self) -> Option<T> {
        self.lock().take()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty holder, as if the value had been taken.
impl<T> Default for TakeOnce<T> {
    fn default() -> TakeOnce<T> {
        TakeOnce(Mutex::new(None))
    }
}
