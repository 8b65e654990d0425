//! Engines that a thread keeps for later calls.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::realm::Realm;
use super::{Call, Env, Modules};

thread_local! {
    static POOL: RefCell<Option<Pool>> = const { RefCell::new(None) };
}

/// The memory of the engines that threads keep ready, all threads together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeptEngines(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: usize,
    taken: AtomicUsize,
    /// The number of calls of [`KeptEngines::drop_all`].
    dropped: AtomicUsize,
}

impl KeptEngines {
    /// Keeps engines within `limit_bytes` of memory. With 0 none is kept, and each call starts a
    /// new engine.
    pub fn new(limit_bytes: usize) -> KeptEngines {
        let (taken, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        KeptEngines(Arc::new(Budget { limit: limit_bytes, taken, dropped }))
    }

    /// The memory of the kept engines and their images, in bytes. The memory that a running call
    /// allocates in addition does not count.
    pub fn bytes(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Keeps engines on this thread until the result is dropped. From the second call of a module's
    /// functions on, [`run`](super::run) finds an engine that is ready.
    #[must_use = "engines are kept until this is dropped"]
    pub fn on_this_thread(&self) -> Keeping {
        let pool = Pool {
            budget: Arc::clone(&self.0),
            idle: Vec::new(),
            dropped: self.0.dropped.load(Ordering::Relaxed),
        };
        let before = POOL.replace((self.0.limit > 0).then_some(pool));
        Keeping { before, _not_send: PhantomData }
    }

    /// Makes every thread drop its engines when it next calls [`trim`](Self::trim) or ends a call.
    pub fn drop_all(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether [`trim`](Self::trim) would drop an engine.
    pub fn has_to_trim() -> bool {
        POOL.with_borrow(|pool| pool.as_ref().is_some_and(Pool::has_to_trim))
    }

    /// Drops this thread's engines whose program is gone, or all of them if
    /// [`drop_all`](Self::drop_all) was called since they were kept.
    pub fn trim() {
        let gone = POOL.with_borrow_mut(|pool| pool.as_mut().map(Pool::trim));
        drop(gone);
    }
}

/// Makes its thread keep engines until it is dropped.
pub struct Keeping {
    before: Option<Pool>,
    /// Belongs to the thread that created it.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        // When the thread ends, the pool may already be gone.
        drop(POOL.try_with(|pool| pool.replace(self.before.take())));
    }
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}

/// The idle engines of one thread, most recently used last.
struct Pool {
    budget: Arc<Budget>,
    idle: Vec<Idle>,
    dropped: usize,
}

struct Idle {
    modules: Weak<Modules>,
    module: String,
    env: Env,
    realm: Realm,
    _share: Share,
}

struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn take(budget: &Arc<Budget>, bytes: usize) -> Option<Share> {
        let take = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= budget.limit);
        budget.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Share { budget: Arc::clone(budget), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Idle {
    fn is_for(&self, call: &Call<'_>) -> bool {
        std::ptr::eq(self.modules.as_ptr(), Arc::as_ptr(call.modules))
            && self.module == call.module
            && self.env.is(call.env)
    }
}

impl Pool {
    fn has_to_trim(&self) -> bool {
        self.dropped != self.budget.dropped.load(Ordering::Relaxed)
            || self.idle.iter().any(|idle| idle.modules.strong_count() == 0)
    }

    /// Removes the engines that are no longer needed.
    fn trim(&mut self) -> Vec<Idle> {
        let dropped = self.budget.dropped.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.dropped, dropped) != dropped {
            return std::mem::take(&mut self.idle);
        }
        self.idle.extract_if(.., |idle| idle.modules.strong_count() == 0).collect()
    }
}

/// Whether this thread keeps engines.
pub(super) fn is_on() -> bool {
    POOL.with_borrow(Option::is_some)
}

/// Takes an engine that is ready for a call, if there is one.
pub(super) fn take(call: &Call<'_>) -> Option<Realm> {
    KeptEngines::trim();
    POOL.with_borrow_mut(|pool| {
        let idle = &mut pool.as_mut()?.idle;
        let place = idle.iter().rposition(|idle| idle.is_for(call))?;
        Some(idle.remove(place).realm)
    })
}

/// Keeps an engine after a call, if the budget allows it. Makes room by dropping the least recently
/// used engines of this thread.
pub(super) fn put_back(call: &Call<'_>, mut realm: Realm) {
    let Some(bytes) = realm.kept_bytes() else { return };
    realm.restore();
    let mut gone = Vec::new();
    POOL.with_borrow_mut(|pool| {
        let Some(pool) = pool else { return };
        gone.extend(pool.trim().into_iter().map(|idle| idle.realm));
        let share = loop {
            match Share::take(&pool.budget, bytes) {
                Some(share) => break share,
                None if pool.idle.is_empty() => return,
                None => gone.push(pool.idle.remove(0).realm),
            }
        };
        pool.idle.push(Idle {
            modules: Arc::downgrade(call.modules),
            module: call.module.to_owned(),
            env: call.env.clone(),
            realm,
            _share: share,
        });
    });
}
