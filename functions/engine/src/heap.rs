//! The memory of one engine.
//!
//! One of the three files in this crate with `unsafe`. The engine is written in C. When a small
//! allocation fails, it may miscount references or read out of bounds, which can crash the process.
//! Small allocations beyond the limit are therefore served from a reserve, and the call is ended
//! when the engine next checks the clock. The engine also leaks strings when it ends; they are
//! freed with its heap.
//!
//! All state of an engine is in its heap. Restoring an [`Image`] of the heap therefore returns the
//! engine to the state in which the image was taken, whatever a call did to it: see `realm.rs`.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rquickjs::allocator::Allocator;

/// How far an engine may exceed its limit before its call is ended, in bytes. It checks the clock
/// after at most 10,000 steps.
pub(super) const RESERVE_BYTES: usize = 32 << 20;

/// The maximum size of an allocation from the reserve, in bytes. Larger ones are strings, buffers
/// and growing arrays, for which the engine handles failure.
const MAX_SMALL_BYTES: usize = 64 << 10;

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

    /// Sets the limit. Memory that is already in use counts.
    pub(super) fn limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether a block of this size is within the limit.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.get().saturating_add(bytes) <= self.limit.get()
    }

    /// Whether the engine exceeded its limit, which ends its call.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.get()
    }

    /// Counts memory outside of the heap. If it is not available, returns false and ends the call.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let is_free = self.has_room_for(bytes);
        match is_free {
            true => self.bytes.set(self.bytes.get().saturating_add(bytes)),
            false => self.is_exhausted.set(true),
        }
        is_free
    }

    /// Counts `more` bytes for a block of `size` bytes. Returns false if they are not available.
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

    pub(super) fn give_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }
}

#[repr(C, align(16))]
struct Header {
    /// The size of the block, in bytes.
    size: usize,
    /// The block's index in `Blocks::given`, [`KEPT`] or [`KEPT_AND_FREED`].
    place: usize,
}

/// The place of a block that the image contains.
const KEPT: usize = usize::MAX;

/// The place of a block that the image contains and that the engine has freed since.
const KEPT_AND_FREED: usize = usize::MAX - 1;

const HEADER_BYTES: usize = size_of::<Header>();

/// The layout of a block with its header, or `None` if it would overflow.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEADER_BYTES)?, align_of::<Header>()).ok()
}

/// The allocator of an engine. Dropping the last clone frees all blocks.
#[derive(Clone)]
pub(super) struct Heap(Rc<RefCell<Blocks>>);

struct Blocks {
    /// The blocks that are not in the image.
    given: Vec<NonNull<Header>>,
    /// The blocks in the image, and their sizes. The sizes are not read from the headers, which a
    /// call could have overwritten.
    kept: Vec<(NonNull<Header>, usize)>,
    usage: Rc<Usage>,
}

/// The contents of an engine's heap at one moment.
pub(super) struct Image {
    /// The contents of the kept blocks, in their order.
    contents: Vec<MaybeUninit<u8>>,
    used_bytes: usize,
}

impl Image {
    /// The memory of the image and of the blocks in it, in bytes.
    pub(super) fn bytes(&self) -> usize {
        2 * self.contents.len()
    }
}

impl Heap {
    pub(super) fn new(usage: Rc<Usage>) -> Heap {
        Heap(Rc::new(RefCell::new(Blocks { given: Vec::new(), kept: Vec::new(), usage })))
    }

    /// Takes an image of the heap, replacing any earlier one. From now on its blocks stay in place,
    /// even if the engine frees them.
    pub(super) fn image(&self) -> Image {
        let blocks = &mut *self.0.borrow_mut();
        blocks.forget_image();
        let mut contents = Vec::new();
        for header in std::mem::take(&mut blocks.given) {
            // SAFETY: the block is alive, and as long as its header says. Its bytes are copied as
            // `MaybeUninit`, since the engine may not have written all of them.
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

    /// Restores the heap to its last image.
    ///
    /// # Safety
    ///
    /// `image` is the last image of this heap, and the engine is not running. Nothing outside the
    /// heap refers to a value in it that was created since, and everything outside the heap that
    /// the engine's values refer to is as it was when the image was taken.
    pub(super) unsafe fn restore(&self, image: &Image) {
        let blocks = &mut *self.0.borrow_mut();
        for header in blocks.given.drain(..) {
            // SAFETY: all references to the block are in the heap, which is overwritten below, or
            // are gone as the caller guarantees.
            unsafe { free(header, header.read().size) };
        }
        let mut contents = image.contents.as_ptr();
        for &(header, size) in &blocks.kept {
            // SAFETY: the block was kept, so its address and size are unchanged, and the contents
            // have as many bytes for it.
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
    /// Drops the image: its blocks become ordinary ones.
    fn forget_image(&mut self) {
        for (header, size) in std::mem::take(&mut self.kept) {
            // SAFETY: a kept block is alive, and the engine no longer uses one that it freed.
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

    /// Allocates a block of `size` bytes that are already counted.
    fn give(&mut self, size: usize, take: unsafe fn(Layout) -> *mut u8) -> *mut u8 {
        let Some(layout) = layout(size) else { return ptr::null_mut() };
        // SAFETY: the layout includes a header, so it is not empty.
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

    /// Frees a block that is no longer counted. A block in the image stays allocated.
    ///
    /// # Safety
    ///
    /// This heap allocated the block, and nothing uses it afterwards.
    unsafe fn release(&mut self, header: NonNull<Header>) {
        // SAFETY: guaranteed by the caller.
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

/// The header of a block.
///
/// # Safety
///
/// A [`Heap`] allocated `block`, and it has not been freed.
unsafe fn header_of(block: *mut u8) -> NonNull<Header> {
    // SAFETY: `Blocks::give` and `realloc` return addresses behind a header.
    unsafe { NonNull::new_unchecked(block.sub(HEADER_BYTES).cast()) }
}

// SAFETY: `alloc`, `calloc` and `realloc` return null, or memory of the global allocator that has
// at least `size` bytes after its header and is aligned to 16 bytes; `usable_size` returns the
// requested size. `given` holds exactly the headers of the live blocks, each at its `place`, except
// for those in the image, which are in `kept`.
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
        // SAFETY: the engine frees a block of this heap once.
        unsafe {
            let header = header_of(block);
            let blocks = &mut *self.0.borrow_mut();
            blocks.usage.give_back(header.read().size);
            blocks.release(header);
        }
    }

    unsafe fn realloc(&mut self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the engine passes a block of this heap. On failure the block stays valid.
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
        // SAFETY: the engine passes a block of this heap.
        unsafe { header_of(block).read().size }
    }
}

/// Frees a block.
///
/// # Safety
///
/// `header` is that of a block of `size` bytes of a [`Heap`], and nothing uses it afterwards.
unsafe fn free(header: NonNull<Header>, size: usize) {
    if let Some(layout) = layout(size) {
        // SAFETY: the block was allocated with this layout, or reallocated to it.
        unsafe { alloc::dealloc(header.as_ptr().cast(), layout) };
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for header in self.given.drain(..) {
            // SAFETY: the engine is gone, since its runtime drops its allocator last.
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
