//! Memory for what is on its way, in pieces that are used again.
//!
//! While a backlog drains, objects of megabytes are made and let go of all the time, on whatever thread. An allocator keeps what each
//! thread let go of, so that the process comes to have several times what is held at once. Pieces of one size that go back to where they
//! came from are as many as were held at once, and no more.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The size of a piece, in bytes: small against an object, and large against what it costs to take one.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces that nobody holds.
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Lets go of the memory of pieces that nobody holds.
    pub(crate) fn trim(&self) {
        drop(std::mem::take(&mut *self.free()));
    }

    fn take(self: &Arc<Pool>) -> Piece {
        let bytes = self.free().pop().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        Piece { bytes, pool: Arc::clone(self) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("free", &self.free().len()).finish()
    }
}

/// A piece that somebody holds. It goes back when it is dropped.
struct Piece {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool.free().push(bytes);
    }
}

/// Bytes one after the other, in pieces.
pub(crate) struct Pieces {
    pool: Arc<Pool>,
    full: Vec<Bytes>,
    last: Option<Piece>,
    len: usize,
}

impl Pieces {
    pub(crate) fn new(pool: &Arc<Pool>) -> Pieces {
        Pieces { pool: Arc::clone(pool), full: Vec::new(), last: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.fill(|piece| {
                let fits = bytes.len().min(piece.capacity() - piece.len());
                piece.extend_from_slice(&bytes[..fits]);
                &bytes[fits..]
            });
        }
    }

    /// Lets `write` append to a piece that has room for at least one byte. It must not let it grow.
    pub(crate) fn fill<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let piece = &mut self.last.get_or_insert_with(|| self.pool.take()).bytes;
        let before = piece.len();
        let written = write(piece);
        debug_assert_eq!(piece.capacity(), PIECE_BYTES, "a piece does not grow");
        self.len += piece.len() - before;
        if piece.len() == piece.capacity() {
            self.full.extend(self.last.take().map(Bytes::from_owner));
        }
        written
    }

    /// The pieces. Each goes back to its pool when the last one who has it drops it.
    pub(crate) fn into_bytes(self) -> Vec<Bytes> {
        let Pieces { pool: _, mut full, last, len: _ } = self;
        full.extend(last.map(Bytes::from_owner));
        full
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_and_what_is_dropped_is_used_again() {
        let pool = Arc::new(Pool::default());
        let text: Vec<u8> = (0..5 * PIECE_BYTES + 77).map(|n| (n % 251) as u8).collect();
        let fill = || {
            let mut pieces = Pieces::new(&pool);
            text.chunks(1_000_003 % PIECE_BYTES).for_each(|part| pieces.extend(part));
            assert_eq!(pieces.len(), text.len());
            pieces.into_bytes()
        };
        let first = fill();
        assert_eq!(first.concat(), text);
        assert_eq!((first.len(), pool.free().len()), (6, 0));
        let kept = first[2].clone();
        drop(first);
        assert_eq!(pool.free().len(), 5, "one is still held");
        let second = fill();
        assert_eq!(second.concat(), text);
        assert_eq!(&kept[..], &text[2 * PIECE_BYTES..3 * PIECE_BYTES], "it was not written over");
        drop((second, kept));
        assert_eq!(pool.free().len(), 7);
        pool.trim();
        assert_eq!(pool.free().len(), 0);
    }

    #[test]
    fn full_pieces_leave_nothing_behind() {
        let pool = Arc::new(Pool::default());
        let mut pieces = Pieces::new(&pool);
        pieces.extend(&vec![1; 2 * PIECE_BYTES]);
        assert_eq!(pieces.into_bytes().len(), 2);
        assert_eq!(Pieces::new(&pool).into_bytes().len(), 0);
        assert_eq!(pool.free().len(), 2);
    }
}
