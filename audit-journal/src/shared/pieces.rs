//! Byte sequences in pieces of reused memory.

use std::io;

use audit_core::{Buffer, BufferPool};
use bytes::Bytes;

/// The size of a piece, in bytes: small compared with an object, but large enough that taking one
/// from the pool costs little.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Creates a pool of pieces. It keeps all of them until it is trimmed.
pub fn pieces() -> BufferPool {
    BufferPool::new(PIECE_BYTES, usize::MAX)
}

/// A sequence of bytes in pieces.
#[derive(Debug)]
pub struct Pieces {
    pool: BufferPool,
    full: Vec<Bytes>,
    last: Option<Buffer>,
}

impl Pieces {
    /// Creates an empty sequence with pieces from this pool.
    pub fn new(pool: &BufferPool) -> Pieces {
        Pieces { pool: pool.clone(), full: Vec::new(), last: None }
    }

    pub fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.fill(|piece| {
                let fits = bytes.len().min(piece.capacity() - piece.len());
                piece.extend_from_slice(&bytes[..fits]);
                &bytes[fits..]
            });
        }
    }

    /// Calls `write` with a piece that has room for at least one byte. `write` must not grow it.
    pub fn fill<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let piece = self.last.get_or_insert_with(|| self.pool.take());
        let written = write(piece);
        debug_assert_eq!(piece.capacity(), self.pool.buffer_bytes(), "a piece does not grow");
        if piece.len() == piece.capacity() {
            self.full.extend(self.last.take().map(Buffer::freeze));
        }
        written
    }

    /// Returns the pieces. Each goes back to its pool when its last owner drops it.
    pub fn into_bytes(self) -> Vec<Bytes> {
        let Pieces { pool: _, mut full, last } = self;
        full.extend(last.map(Buffer::freeze));
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
    fn written_bytes_are_read_back() {
        let pool = pieces();
        for bytes in [0, 1, PIECE_BYTES, 2 * PIECE_BYTES, 5 * PIECE_BYTES + 77] {
            let text: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            let mut written = Pieces::new(&pool);
            text.chunks(1_000_003 % PIECE_BYTES).for_each(|part| written.extend(part));
            let written = written.into_bytes();
            assert_eq!((written.concat(), written.len()), (text, bytes.div_ceil(PIECE_BYTES)));
        }
    }
}
