//! Unhandled rejections.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use rquickjs::{Ctx, Persistent, Runtime, Value};

/// The unhandled rejected promises of a runtime.
///
/// Holds values of the engine, so it must be dropped before the engine.
pub(super) struct Rejections(Rc<RefCell<Unhandled>>);

#[derive(Default)]
struct Unhandled {
    /// The promise and the reason, in the order of rejection. Keeping the promise prevents its
    /// address from being reused.
    promises: BTreeMap<u64, [Persistent<Value<'static>>; 2]>,
    /// The position of each promise in that order.
    order: HashMap<u64, u64>,
    next: u64,
}

impl Rejections {
    pub(super) fn of(runtime: &Runtime) -> Rejections {
        let unhandled: Rc<RefCell<Unhandled>> = Rc::default();
        let tracked = Rc::clone(&unhandled);
        runtime.set_host_promise_rejection_tracker(Some(Box::new(
            move |ctx, promise, reason, is_handled| {
                track(&tracked, &ctx, promise, reason, is_handled);
            },
        )));
        Rejections(unhandled)
    }

    pub(super) fn first<'js>(&self, ctx: &Ctx<'js>) -> Option<Value<'js>> {
        let unhandled = self.0.borrow();
        let [_, reason] = unhandled.promises.values().next()?;
        reason.clone().restore(ctx).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().promises.is_empty()
    }

    pub(super) fn clear(&self) {
        let unhandled = std::mem::take(&mut *self.0.borrow_mut());
        drop(unhandled);
    }
}

impl Drop for Rejections {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Called when a promise is rejected without a handler, and when it gets one later.
fn track<'js>(
    unhandled: &RefCell<Unhandled>,
    ctx: &Ctx<'js>,
    promise: Value<'js>,
    reason: Value<'js>,
    is_handled: bool,
) {
    let identity = identity(&promise);
    let mut unhandled = unhandled.borrow_mut();
    let freed = if is_handled {
        let place = unhandled.order.remove(&identity);
        place.and_then(|place| unhandled.promises.remove(&place))
    } else {
        let place = unhandled.next;
        unhandled.next += 1;
        unhandled.order.insert(identity, place);
        let pair = [promise, reason].map(|value| Persistent::save(ctx, value));
        unhandled.promises.insert(place, pair)
    };
    drop(unhandled);
    drop(freed);
}

/// The identity of a value, unique among those alive.
fn identity(value: &Value<'_>) -> u64 {
    struct Bits(u64);
    impl Hasher for Bits {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = self.0 << 8 | u64::from(*byte);
            }
        }
        // The tag, which is always that of an object.
        fn write_i32(&mut self, _: i32) {}
        fn write_u64(&mut self, bits: u64) {
            self.0 = bits;
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut bits = Bits(0);
    value.hash(&mut bits);
    bits.finish()
}
