//! Values that several users share for as long as one of them has it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Values by key. It keeps none itself: a value is dropped with its last user.
pub struct Shared<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K: Eq + Hash, V> Shared<K, V> {
    /// The value of this key. If nobody has one, `make` makes it; callers wait for each other, so
    /// that only one is made.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        key: K,
        make: impl FnOnce(&K) -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return Ok(value);
        }
        let value = Arc::new(make(&key)?);
        values.retain(|_, value| value.strong_count() > 0);
        values.insert(key, Arc::downgrade(&value));
        Ok(value)
    }
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Shared<K, V> {
        Shared(Mutex::default())
    }
}

/// Shows no key, which may hold secrets.
impl<K, V> fmt::Debug for Shared<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shared_and_dropped_with_their_last_user() {
        let shared = Shared::default();
        let get = |key: u8| shared.get_or_make(key, |key| Ok::<_, ()>(vec![*key])).unwrap();
        let (one, other) = (get(1), get(2));
        assert!(Arc::ptr_eq(&one, &get(1)) && !Arc::ptr_eq(&one, &other));
        assert_eq!(shared.get_or_make(3, |_| Err("broken")).unwrap_err(), "broken");
        assert_eq!(*get(3), [3], "a failure is not kept");
        let dropped = Arc::downgrade(&one);
        drop(one);
        assert!(dropped.upgrade().is_none());
        assert_eq!(*get(1), [1]);
        // Keys without a value are removed when a value is made.
        assert_eq!(*get(4), [4]);
        assert_eq!(shared.0.lock().unwrap().len(), 2);
    }
}
