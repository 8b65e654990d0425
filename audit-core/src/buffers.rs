//! Reusable buffers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// A pool of buffers of one size, which return to it when they are dropped.
///
/// For buffers of megabytes that one thread fills repeatedly and another drops. An allocator either
/// returns such memory to the system, which then clears every page before it is used again, or
/// keeps what each thread dropped, so that the process grows to several times what it holds at
/// once. Clones share the pool.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    buffer_bytes: usize,
    max_free: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BufferPool {
    /// A pool of buffers with a capacity of `buffer_bytes` each, which keeps at most `max_free`
    /// unused ones.
    pub fn new(buffer_bytes: usize, max_free: usize) -> BufferPool {
        BufferPool { shared: Arc::new(Shared { buffer_bytes, max_free, free: Mutex::default() }) }
    }

    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let bytes = self.shared.free().pop();
        let bytes = bytes.unwrap_or_else(|| Vec::with_capacity(self.shared.buffer_bytes));
        Buffer { bytes, pool: Some(self.clone()) }
    }

    /// The capacity of a buffer, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Frees the unused buffers.
    pub fn trim(&self) {
        drop(std::mem::take(&mut *self.shared.free()));
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("buffer_bytes", &self.shared.buffer_bytes)
            .field("free", &self.shared.free().len())
            .finish_non_exhaustive()
    }
}

/// A growable buffer. One from a pool returns to it when it is dropped, or when the last of the
/// [`Bytes`] made from it is.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Option<BufferPool>,
}

impl Buffer {
    /// A buffer of this capacity, in bytes, that belongs to no pool.
    pub fn with_capacity(bytes: usize) -> Buffer {
        Buffer { bytes: Vec::with_capacity(bytes), pool: None }
    }

    /// The content, immutable and cheap to clone.
    pub fn freeze(mut self) -> Bytes {
        if self.pool.is_some() {
            Bytes::from_owner(self)
        } else {
            std::mem::take(&mut self.bytes).into()
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Shows the size and not the content.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(BufferPool { shared }) = self.pool.take() else { return };
        let mut bytes = std::mem::take(&mut self.bytes);
        // A buffer that grew no longer has the pool's size.
        if bytes.capacity() == shared.buffer_bytes {
            bytes.clear();
            let mut free = shared.free();
            if free.len() < shared.max_free {
                free.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dropped_buffers_are_reused() {
        let pool = BufferPool::new(1_000, 2);
        let filled = |byte| {
            let mut buffer = pool.take();
            assert!(buffer.is_empty());
            buffer.resize(1_000, byte);
            buffer.freeze()
        };
        let (a, b) = (filled(1), filled(2));
        let kept = b.slice(10..20);
        let place = a.as_ptr();
        drop((a, b));
        assert_eq!(pool.shared.free().len(), 1, "a part of the other is still held");
        let again = filled(3);
        assert_eq!((again.as_ptr(), &kept[..]), (place, &[2; 10][..]));
        drop((again, kept, filled(4)));
        assert_eq!(pool.shared.free().len(), 2, "no more are kept");
        pool.trim();
        assert_eq!(pool.shared.free().len(), 0);
    }

    #[test]
    fn buffers_that_grew_or_have_no_pool_are_not_kept() {
        let pool = BufferPool::new(10, 5);
        let mut buffer = pool.take();
        buffer.extend_from_slice(&[0; 11]);
        drop(buffer.freeze());
        assert_eq!(pool.shared.free().len(), 0);
        let mut buffer = Buffer::with_capacity(3);
        buffer.push(7);
        assert_eq!(buffer.freeze(), &[7][..]);
    }
}
