//! The memory of one engine.
//!
//! One of the two places in this crate with `unsafe`. The engine is C: where it has no memory for
//! something small, it can lose count of its values or read memory that is not its own, and so end
//! the process. What is small is therefore given beyond the limit too, from a reserve; the call is
//! ended when the engine next looks at the clock. The engine also leaves strings behind when it
//! ends, which are freed with its heap.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::fmt;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rquickjs::allocator::Allocator;

/// What an engine can take beyond its limit, in bytes, until its call is ended: it looks at the
/// clock after at most 10,000 steps.
pub(super) const RESERVE_BYTES: usize = 32 << 20;

/// What is larger is refused beyond the limit: strings, buffers, and arrays that grow, where the
/// engine expects it.
const MAX_SMALL_BYTES: usize = 64 << 10;

/// What an engine has taken.
#[derive(Debug)]
pub(super) struct Usage {
    bytes: Cell<usize>,
    limit: Cell<usize>,
    is_exhausted: Cell<bool>,
}

impl Usage {
    pub(super) fn unlimited() -> Usage {
        let (bytes, limit) = (Cell::new(0), Cell::new(usize::MAX));
        Usage { bytes, limit, is_exhausted: Cell::new(false) }
    }

    /// From here on. What was taken before counts.
    pub(super) fn limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }

    /// Whether the engine went beyond its limit, which ends its call for good.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.get()
    }

    /// Counts `more` bytes for a block of `size`; false if there are none for it.
    fn take(&self, more: usize, size: usize) -> bool {
        let bytes = self.bytes.get().saturating_add(more);
        let limit = self.limit.get();
        if bytes > limit {
            if size > MAX_SMALL_BYTES {
                return false;
            }
            self.is_exhausted.set(true);
            if bytes - limit > RESERVE_BYTES {
                return false;
            }
        }
        self.bytes.set(bytes);
        true
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }
}

/// What stands before each block.
#[repr(C, align(16))]
struct Header {
    /// Of the block, in bytes.
    size: usize,
    /// Where it stands among the heap's blocks.
    place: usize,
}

const HEADER_BYTES: usize = size_of::<Header>();

/// The layout of a block with its header. None if no machine has so much.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEADER_BYTES)?, align_of::<Header>()).ok()
}

/// Where an engine's blocks come from. All of them are freed with it.
pub(super) struct Heap {
    blocks: Vec<NonNull<Header>>,
    usage: Rc<Usage>,
}

impl Heap {
    pub(super) fn new(usage: Rc<Usage>) -> Heap {
        Heap { blocks: Vec::new(), usage }
    }

    fn take(&mut self, size: usize, take: unsafe fn(Layout) -> *mut u8) -> *mut u8 {
        let Some(layout) = layout(size) else { return ptr::null_mut() };
        if !self.usage.take(size, size) {
            return ptr::null_mut();
        }
        // SAFETY: the layout is that of a header at least, so not empty.
        let block = unsafe { take(layout) };
        let Some(header) = NonNull::new(block.cast::<Header>()) else {
            self.usage.give_back(size);
            return ptr::null_mut();
        };
        // SAFETY: the block was just allocated with room for a header, and aligned for one.
        unsafe { header.write(Header { size, place: self.blocks.len() }) };
        self.blocks.push(header);
        // SAFETY: the block is at least as long as its header.
        unsafe { block.add(HEADER_BYTES) }
    }
}

/// The header of a block that a [`Heap`] gave.
///
/// # Safety
///
/// A heap gave `block`, which was not freed since.
unsafe fn header_of(block: *mut u8) -> NonNull<Header> {
    // SAFETY: `Heap::take` and `realloc` give what stands behind a header.
    unsafe { NonNull::new_unchecked(block.sub(HEADER_BYTES).cast()) }
}

// SAFETY: `alloc`, `calloc` and `realloc` give null, or memory of the global allocator that is at
// least `size` bytes long behind its header and aligned to 16 bytes; `usable_size` gives the size
// that was asked for. `blocks` holds exactly the headers of the blocks that were given and not
// freed, each at its `place`.
unsafe impl Allocator for Heap {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        self.take(size, alloc::alloc)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        match count.checked_mul(size) {
            Some(bytes) => self.take(bytes, alloc::alloc_zeroed),
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&mut self, block: *mut u8) {
        // SAFETY: the engine frees what this heap gave, once.
        unsafe {
            let header = header_of(block);
            let Header { size, place } = header.read();
            self.blocks.swap_remove(place);
            if let Some(moved) = self.blocks.get(place) {
                (*moved.as_ptr()).place = place;
            }
            self.usage.give_back(size);
            free(header, size);
        }
    }

    unsafe fn realloc(&mut self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the engine grows and shrinks what this heap gave. On failure the block stays.
        unsafe {
            let header = header_of(block);
            let Header { size: old_size, place } = header.read();
            let (Some(old), Some(new)) = (layout(old_size), layout(size)) else {
                return ptr::null_mut();
            };
            let more = size.saturating_sub(old_size);
            if more > 0 && !self.usage.take(more, size) {
                return ptr::null_mut();
            }
            let moved = alloc::realloc(header.as_ptr().cast(), old, new.size());
            let Some(header) = NonNull::new(moved.cast::<Header>()) else {
                self.usage.give_back(more);
                return ptr::null_mut();
            };
            header.write(Header { size, place });
            self.blocks[place] = header;
            self.usage.give_back(old_size.saturating_sub(size));
            moved.add(HEADER_BYTES)
        }
    }

    unsafe fn usable_size(block: *mut u8) -> usize {
        // SAFETY: the engine asks about what this heap gave.
        unsafe { header_of(block).read().size }
    }
}

/// # Safety
///
/// `header` is that of a block of `size` bytes of a [`Heap`], and nothing uses it afterwards.
unsafe fn free(header: NonNull<Header>, size: usize) {
    if let Some(layout) = layout(size) {
        // SAFETY: it was allocated with this layout, or reallocated to it.
        unsafe { alloc::dealloc(header.as_ptr().cast(), layout) };
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for header in self.blocks.drain(..) {
            // SAFETY: the engine is gone: its runtime drops its allocator last.
            unsafe { free(header, header.read().size) };
        }
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("usage", &self.usage).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn beyond_the_limit_small_blocks_come_from_the_reserve() {
        let usage = Rc::new(Usage::unlimited());
        let mut heap = Heap::new(Rc::clone(&usage));
        usage.limit(1 << 20);
        assert!(heap.alloc(2 << 20).is_null());
        assert!(!usage.is_exhausted(), "what is refused at once leaves the call as it was");
        let mut given = 0;
        while !heap.alloc(MAX_SMALL_BYTES).is_null() {
            given += MAX_SMALL_BYTES;
        }
        assert!(usage.is_exhausted());
        assert_eq!(given, (1 << 20) + RESERVE_BYTES);
        assert!(heap.alloc(MAX_SMALL_BYTES + 1).is_null());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take { size: usize, is_zeroed: bool },
        Resize { which: usize, size: usize },
        Free { which: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = 1..100_000_usize;
        prop_oneof![
            (size.clone(), any::<bool>())
                .prop_map(|(size, is_zeroed)| Step::Take { size, is_zeroed }),
            (any::<usize>(), size).prop_map(|(which, size)| Step::Resize { which, size }),
            any::<usize>().prop_map(|which| Step::Free { which }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Each block keeps what was written to it, whatever happens to the others, and what is
        /// counted is what is there.
        #[test]
        fn blocks_are_apart_and_counted(steps in prop::collection::vec(step(), 0..60)) {
            let usage = Rc::new(Usage::unlimited());
            let mut heap = Heap::new(Rc::clone(&usage));
            let mut blocks: Vec<(*mut u8, usize, u8)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let mark = u8::try_from(number + 1).unwrap();
                match step {
                    Step::Take { size, is_zeroed } => {
                        let block = if is_zeroed { heap.calloc(1, size) } else { heap.alloc(size) };
                        if is_zeroed {
                            // SAFETY: the block is that long, and zeroed.
                            let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                            prop_assert!(bytes.iter().all(|byte| *byte == 0));
                        }
                        // SAFETY: the block is that long.
                        unsafe { block.write_bytes(mark, size) };
                        blocks.push((block, size, mark));
                    }
                    Step::Resize { .. } | Step::Free { .. } if blocks.is_empty() => {}
                    Step::Resize { which, size } => {
                        let which = which % blocks.len();
                        let (block, old_size, mark) = blocks[which];
                        // SAFETY: the heap gave the block; of the new one this much is written.
                        unsafe {
                            let block = heap.realloc(block, size);
                            let kept = std::slice::from_raw_parts(block, size.min(old_size));
                            prop_assert!(kept.iter().all(|byte| *byte == mark));
                            block.write_bytes(mark, size);
                            blocks[which] = (block, size, mark);
                        }
                    }
                    Step::Free { which } => {
                        let (block, size, mark) = blocks.swap_remove(which % blocks.len());
                        // SAFETY: the heap gave the block, and all of it was written.
                        unsafe {
                            let bytes = std::slice::from_raw_parts(block, size);
                            prop_assert!(bytes.iter().all(|byte| *byte == mark));
                            prop_assert_eq!(Heap::usable_size(block), size);
                            heap.dealloc(block);
                        }
                    }
                }
                let sum: usize = blocks.iter().map(|(_, size, _)| size).sum();
                prop_assert_eq!(usage.bytes.get(), sum);
                prop_assert_eq!(heap.blocks.len(), blocks.len());
            }
        }
    }
}
