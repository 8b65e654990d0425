//! The memory of one engine.
//!
//! One of the three places in this crate with `unsafe`. The engine is C: where it has no memory for
//! something small, it can lose count of its values or read memory that is not its own, and so end
//! the process. What is small is therefore given beyond the limit too, from a reserve; the call is
//! ended when the engine next looks at the clock. The engine also leaves strings behind when it
//! ends, which are freed with its heap.
//!
//! All that an engine knows is in its heap. So an [`Image`] of it, taken between two calls, makes
//! the engine what it was then, whatever a call did to it: see `realm.rs`.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::MaybeUninit;
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

    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether a block of this size could be given now.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.get().saturating_add(bytes) <= self.limit.get()
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
    /// Where it stands among the blocks that were given, or one of the two below.
    place: usize,
}

/// The place of a block that an image holds.
const KEPT: usize = usize::MAX;

/// The place of a block that an image holds and that the engine has freed since.
const KEPT_AND_FREED: usize = usize::MAX - 1;

const HEADER_BYTES: usize = size_of::<Header>();

/// The layout of a block with its header. None if no machine has so much.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEADER_BYTES)?, align_of::<Header>()).ok()
}

/// Where an engine's blocks come from. All of them are freed with the last clone.
#[derive(Clone)]
pub(super) struct Heap(Rc<RefCell<Blocks>>);

struct Blocks {
    /// Those that no image holds.
    given: Vec<NonNull<Header>>,
    /// Those that the image holds, and their sizes: a header stands where a call could write.
    kept: Vec<(NonNull<Header>, usize)>,
    usage: Rc<Usage>,
}

/// What an engine's heap held at some time.
pub(super) struct Image {
    /// The contents of the kept blocks, in their order.
    contents: Vec<MaybeUninit<u8>>,
    used_bytes: usize,
}

impl Image {
    /// The memory that it and the blocks that it holds take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        2 * self.contents.len()
    }
}

impl Heap {
    pub(super) fn new(usage: Rc<Usage>) -> Heap {
        Heap(Rc::new(RefCell::new(Blocks { given: Vec::new(), kept: Vec::new(), usage })))
    }

    /// What the heap holds now, in place of any earlier image. Its blocks stay where they are from
    /// here on, also if the engine frees them.
    pub(super) fn image(&self) -> Image {
        let blocks = &mut *self.0.borrow_mut();
        blocks.forget_image();
        let mut contents = Vec::new();
        for header in std::mem::take(&mut blocks.given) {
            // SAFETY: the block is alive, and as long as its header says. Its bytes are copied
            // without a look at them: the engine need not have written all.
            unsafe {
                (*header.as_ptr()).place = KEPT;
                let block = header.as_ptr().cast::<MaybeUninit<u8>>().add(HEADER_BYTES);
                let size = header.read().size;
                contents.extend_from_slice(std::slice::from_raw_parts(block, size));
                blocks.kept.push((header, size));
            }
        }
        Image { contents, used_bytes: blocks.usage.bytes.get() }
    }

    /// Makes the heap what it was when its last image was taken.
    ///
    /// # Safety
    ///
    /// `image` is the last one of this heap, whose engine does not run. Nothing outside of the heap
    /// refers to a value that is in it now and was not then, and whatever the engine's values refer
    /// to outside of the heap is as it was then.
    pub(super) unsafe fn restore(&self, image: &Image) {
        let blocks = &mut *self.0.borrow_mut();
        for header in blocks.given.drain(..) {
            // SAFETY: what refers to the block is overwritten below, or gone as the caller says.
            unsafe { free(header, header.read().size) };
        }
        let mut contents = image.contents.as_ptr();
        for &(header, size) in &blocks.kept {
            // SAFETY: the block was kept, so it is where it was and as long as it was: the contents
            // hold as many bytes for it.
            unsafe {
                header.write(Header { size, place: KEPT });
                let block = header.as_ptr().cast::<MaybeUninit<u8>>().add(HEADER_BYTES);
                ptr::copy_nonoverlapping(contents, block, size);
                contents = contents.add(size);
            }
        }
        blocks.usage.bytes.set(image.used_bytes);
        blocks.usage.is_exhausted.set(false);
    }
}

impl Blocks {
    /// The blocks of the image are like all others again.
    fn forget_image(&mut self) {
        for (header, size) in std::mem::take(&mut self.kept) {
            // SAFETY: a kept block is alive, and the engine does not use one that it freed.
            unsafe {
                if (*header.as_ptr()).place == KEPT_AND_FREED {
                    free(header, size);
                } else {
                    (*header.as_ptr()).place = self.given.len();
                    self.given.push(header);
                }
            }
        }
    }

    /// A block for `size` bytes that are counted already.
    fn give(&mut self, size: usize, take: unsafe fn(Layout) -> *mut u8) -> *mut u8 {
        let Some(layout) = layout(size) else { return ptr::null_mut() };
        // SAFETY: the layout is that of a header at least, so not empty.
        let block = unsafe { take(layout) };
        let Some(header) = NonNull::new(block.cast::<Header>()) else { return ptr::null_mut() };
        // SAFETY: the block was just allocated with room for a header, and aligned for one.
        unsafe { header.write(Header { size, place: self.given.len() }) };
        self.given.push(header);
        // SAFETY: the block is at least as long as its header.
        unsafe { block.add(HEADER_BYTES) }
    }

    fn take(&mut self, size: usize, take: unsafe fn(Layout) -> *mut u8) -> *mut u8 {
        if !self.usage.take(size, size) {
            return ptr::null_mut();
        }
        let block = self.give(size, take);
        if block.is_null() {
            self.usage.give_back(size);
        }
        block
    }

    /// Frees a block, which is counted no more already. One that an image holds stays.
    ///
    /// # Safety
    ///
    /// A heap gave the block, and nothing uses it afterwards.
    unsafe fn release(&mut self, header: NonNull<Header>) {
        // SAFETY: as the caller says.
        unsafe {
            let Header { size, place } = header.read();
            if place == KEPT {
                (*header.as_ptr()).place = KEPT_AND_FREED;
                return;
            }
            self.given.swap_remove(place);
            if let Some(moved) = self.given.get(place) {
                (*moved.as_ptr()).place = place;
            }
            free(header, size);
        }
    }
}

/// The header of a block that a [`Heap`] gave.
///
/// # Safety
///
/// A heap gave `block`, which was not freed since.
unsafe fn header_of(block: *mut u8) -> NonNull<Header> {
    // SAFETY: `Blocks::give` and `realloc` give what stands behind a header.
    unsafe { NonNull::new_unchecked(block.sub(HEADER_BYTES).cast()) }
}

// SAFETY: `alloc`, `calloc` and `realloc` give null, or memory of the global allocator that is at
// least `size` bytes long behind its header and aligned to 16 bytes; `usable_size` gives the size
// that was asked for. `given` holds exactly the headers of the blocks that were given and not
// freed, each at its `place`, but for those of the image, which are in `kept`.
unsafe impl Allocator for Heap {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        self.0.borrow_mut().take(size, alloc::alloc)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        match count.checked_mul(size) {
            Some(bytes) => self.0.borrow_mut().take(bytes, alloc::alloc_zeroed),
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&mut self, block: *mut u8) {
        // SAFETY: the engine frees what this heap gave, once.
        unsafe {
            let header = header_of(block);
            let blocks = &mut *self.0.borrow_mut();
            blocks.usage.give_back(header.read().size);
            blocks.release(header);
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
            let blocks = &mut *self.0.borrow_mut();
            let more = size.saturating_sub(old_size);
            if more > 0 && !blocks.usage.take(more, size) {
                return ptr::null_mut();
            }
            let moved = if place == KEPT {
                let moved = blocks.give(size, alloc::alloc);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, size.min(old_size));
                    blocks.release(header);
                }
                moved
            } else {
                let moved = alloc::realloc(header.as_ptr().cast(), old, new.size());
                match NonNull::new(moved.cast::<Header>()) {
                    Some(header) => {
                        header.write(Header { size, place });
                        blocks.given[place] = header;
                        moved.add(HEADER_BYTES)
                    }
                    None => ptr::null_mut(),
                }
            };
            blocks.usage.give_back(if moved.is_null() {
                more
            } else {
                old_size.saturating_sub(size)
            });
            moved
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

impl Drop for Blocks {
    fn drop(&mut self) {
        for header in self.given.drain(..) {
            // SAFETY: the engine is gone: its runtime drops its allocator last.
            unsafe { free(header, header.read().size) };
        }
        for (header, size) in self.kept.drain(..) {
            // SAFETY: as above.
            unsafe { free(header, size) };
        }
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("usage", &self.0.borrow().usage).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
