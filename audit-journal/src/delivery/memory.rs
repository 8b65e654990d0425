//! The memory of a journal's deliveries: one budget, however many routes there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use audit_core::BufferPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shared::pieces::{PIECE_BYTES, pieces};

/// The memory that all deliveries of a journal share, and the cores that encode for them.
///
/// Half of it is for records that are cut and encoded, until the object's plan is durable. Three
/// eighths are for objects that are sent, and one eighth is for those whose destination did not
/// respond in time. So a disk that refuses plans does not delay objects that are planned, and
/// destinations that are away share a part of their own. Deliveries that wait are served in turn.
///
/// While the default route's destination is away, the route holds memory for the object that it
/// fills. No object takes more than half of the part for cutting, so other routes continue.
#[derive(Debug)]
pub(crate) struct DeliveryMemory {
    cutting: Share,
    sending: Share,
    sending_again: Share,
    encoders: Arc<Semaphore>,
    cores: usize,
    pool: BufferPool,
}

/// A part of the memory.
#[derive(Debug)]
struct Share {
    free: Arc<Semaphore>,
    bytes: u32,
    waiting: Arc<AtomicUsize>,
}

/// Memory in use. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Memory {
    permit: OwnedSemaphorePermit,
    waiting: Arc<AtomicUsize>,
}

impl DeliveryMemory {
    /// Creates a budget of `bytes` bytes, for encoding on `cores` cores.
    pub(crate) fn new(bytes: u64, cores: usize) -> Arc<DeliveryMemory> {
        DeliveryMemory::of([bytes / 2, bytes / 8 * 3, bytes / 8], cores)
    }

    /// Creates a budget for those who send objects in the memory in which they cut them, in bytes:
    /// for that, and for objects whose destination did not respond in time.
    pub(crate) fn without_sending(cutting: u64, sending_again: u64) -> Arc<DeliveryMemory> {
        DeliveryMemory::of([cutting, 0, sending_again], 1)
    }

    fn of([cutting, sending, sending_again]: [u64; 3], cores: usize) -> Arc<DeliveryMemory> {
        Arc::new(DeliveryMemory {
            cutting: Share::new(cutting),
            sending: Share::new(sending),
            sending_again: Share::new(sending_again),
            encoders: Arc::new(Semaphore::new(cores)),
            cores,
            pool: pieces(),
        })
    }

    /// The number of objects that are encoded at once.
    pub(crate) fn cores(&self) -> usize {
        self.cores
    }

    /// The pool for the bytes of encoded objects.
    pub(crate) fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Memory for the records of an object, if it is free.
    pub(crate) fn try_cut(&self, bytes: u64) -> Option<Memory> {
        self.cutting.try_take(self.cutting.half(bytes))
    }

    /// Waits for memory for the records of an object.
    pub(crate) async fn cut(&self, bytes: u64) -> Memory {
        self.cutting.take(self.cutting.half(bytes)).await
    }

    /// Memory for sending an object of this size, if it is free.
    pub(crate) fn try_send(&self, bytes: u64) -> Option<Memory> {
        self.sending.try_take(in_pieces(bytes))
    }

    /// Waits for memory for sending an object of this size.
    pub(crate) async fn send(&self, bytes: u64) -> Memory {
        self.sending.take(in_pieces(bytes)).await
    }

    /// Waits for memory for sending an object whose destination did not respond in time.
    pub(crate) async fn send_again(&self, bytes: u64) -> Memory {
        self.sending_again.take(in_pieces(bytes)).await
    }

    /// Waits for a core to encode on.
    pub(crate) async fn encoder(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.encoders).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// Frees the pool's buffers if no delivery uses memory.
    pub(crate) fn rest(&self) {
        if self.is_unused() {
            self.pool.trim();
        }
    }

    /// The size of all parts, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        let parts = [&self.cutting, &self.sending, &self.sending_again];
        parts.map(|part| u64::from(part.bytes)).iter().sum()
    }

    /// Whether no delivery uses memory.
    pub(crate) fn is_unused(&self) -> bool {
        let is_free = |share: &Share| share.free.available_permits() == share.bytes as usize;
        [&self.cutting, &self.sending, &self.sending_again].into_iter().all(is_free)
    }
}

/// The memory that an object of this size takes, in bytes: whole pieces.
fn in_pieces(bytes: u64) -> u64 {
    bytes.next_multiple_of(PIECE_BYTES as u64)
}

impl Share {
    fn new(bytes: u64) -> Share {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(2);
        let free = Arc::new(Semaphore::new(bytes as usize));
        Share { free, bytes, waiting: Arc::default() }
    }

    /// The bytes to take for a request of this size: at most half of the share.
    fn half(&self, bytes: u64) -> u64 {
        bytes.min(u64::from(self.bytes / 2))
    }

    /// The bytes to take for a request of this size: at most the whole share.
    fn at_most(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes)
    }

    fn try_take(&self, bytes: u64) -> Option<Memory> {
        let bytes = self.at_most(bytes);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Memory { permit, waiting: Arc::clone(&self.waiting) })
    }

    async fn take(&self, bytes: u64) -> Memory {
        let _waits = Waits::new(&self.waiting);
        let permit = Arc::clone(&self.free).acquire_many_owned(self.at_most(bytes)).await;
        let permit = permit.expect("the semaphore is never closed");
        Memory { permit, waiting: Arc::clone(&self.waiting) }
    }
}

/// Counts a task that waits for memory, until dropped.
struct Waits<'a>(&'a AtomicUsize);

impl Waits<'_> {
    fn new(waiting: &AtomicUsize) -> Waits<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// Whether others wait for memory of this kind.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Frees all but what an object of this size takes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let kept = usize::try_from(in_pieces(bytes as u64)).unwrap_or(usize::MAX);
        drop(self.permit.split(self.permit.num_permits().saturating_sub(kept)));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn the_parts_of_the_memory_are_apart() {
        let memory = DeliveryMemory::new(16 * MIB, 1);
        let mut large = memory.cut(100 * MIB).await;
        let rest = memory.cut(4 * MIB).await;
        assert!(memory.try_cut(1).is_none());
        let sent = memory.send(6 * MIB).await;
        assert!(memory.try_send(1).is_none() && !sent.is_wanted());
        let other = memory.send(1);
        let mut other = std::pin::pin!(other);
        assert!((&mut other).now_or_never().is_none() && sent.is_wanted());
        let again = memory.send_again(2 * MIB).await;
        assert!(!again.is_wanted());
        drop((sent, again));
        drop(other.await);
        large.shrink(100_000);
        let freed = memory.try_cut(4 * MIB - 2 * PIECE_BYTES as u64);
        assert!(freed.is_some() && memory.try_cut(1).is_none());
        assert!(!memory.is_unused());
        drop((large, rest, freed));
        assert!(memory.is_unused());
    }

    #[tokio::test]
    async fn one_object_leaves_memory_for_another() {
        for bytes in [0, 1, 1_000, 16 * MIB, u64::MAX] {
            let memory = DeliveryMemory::new(bytes, 1);
            let one = memory.try_cut(u64::MAX);
            let other = memory.try_cut(u64::MAX);
            assert!(one.is_some() && other.is_some(), "{bytes} bytes");
            drop((one, other));
            assert!(memory.is_unused());
        }
    }
}
