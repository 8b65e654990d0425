//! A request for one object, within the deliveries' memory.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use audit_core::DiskFault;
use tokio::time::{Duration, sleep, timeout};

use super::memory::{DeliveryMemory, Memory};
use super::refusals::DISK_PAUSE;
use crate::destination::{Delivery, Destination, Encoded, Plan};
use crate::disk::Disk;
use crate::health::{HealthBoard, Trouble, Watch};
use crate::object_file::read_object;
use crate::shared::executor::{Executor, execute};

/// The time for which a request keeps its memory even if others wait for some. A store usually
/// responds sooner, so only requests to a store that is away or very slow lose their turn.
pub(crate) const TURN: Duration = Duration::from_secs(15);

/// The longest turn. It is longer than any single request may take.
pub(crate) const MAX_TURN: Duration = Duration::from_secs(600);

pub(super) const UNREADABLE: &str = "the file of an object cannot be read";

/// The outcome of a request.
pub(super) type Ended = (Plan, io::Result<Delivery>);

/// Brings a planned object to its destination.
pub(super) struct Request {
    pub(super) plan: Plan,
    /// The size of the object's file, in bytes.
    pub(super) file_bytes: u64,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) memory: Arc<DeliveryMemory>,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) health: Arc<HealthBoard>,
}

impl Request {
    /// Sends the object, which is in memory or only in its file, until its outcome is certain.
    ///
    /// A request without an outcome at the end of its turn frees its memory if others wait for
    /// some, and takes turns with others like it: a destination that is away delays no healthy one,
    /// and every object gets its turn. The outcome of a request that is given up is unknown, and
    /// the same bytes are sent again.
    ///
    /// An error means that the journal was removed, and with it the object's file.
    pub(super) async fn run(self, in_memory: Option<(Encoded, Memory)>) -> Ended {
        let Request { plan, file_bytes, memory, destination, health, .. } = &self;
        let (mut object, mut in_use) = match in_memory {
            Some(object) => object,
            None => {
                let in_use = memory.send(*file_bytes).await;
                match self.load().await {
                    Ok(object) => (object, in_use),
                    Err(error) => return (*plan, Err(error)),
                }
            }
        };
        // Keeps the destination's trouble reported between turns.
        let mut trouble: Option<Watch> = None;
        let mut turn = TURN;
        loop {
            {
                let mut sent = pin!(destination.send(plan, object));
                loop {
                    match timeout(turn, &mut sent).await {
                        Ok(delivery) => {
                            trouble.into_iter().for_each(Watch::over);
                            return (*plan, Ok(delivery));
                        }
                        Err(_elapsed) if in_use.is_wanted() => break,
                        Err(_elapsed) => {}
                    }
                }
                if let Some(known) = health.delivery_trouble() {
                    trouble.get_or_insert_with(|| health.watch()).report(known);
                }
            }
            drop(in_use);
            turn = (turn * 2).min(MAX_TURN);
            in_use = memory.send_again(*file_bytes).await;
            object = match self.load().await {
                Ok(object) => object,
                Err(error) => return (*plan, Err(error)),
            };
        }
    }

    /// Reads the object's file until that succeeds, or the journal was removed.
    async fn load(&self) -> io::Result<Encoded> {
        let mut trouble: Option<Watch> = None;
        loop {
            let (plan, disk, pool) =
                (self.plan, Arc::clone(&self.disk), self.memory.pool().clone());
            let read = execute(&*self.executor, move || {
                let object = read_object(&*disk, &plan.file_name(), &pool)?;
                object.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
            });
            match read.await {
                Ok((_, _, object)) => {
                    trouble.into_iter().for_each(Watch::over);
                    return Ok(object);
                }
                Err(error) if DiskFault::of(&error) == Some(DiskFault::Removed) => {
                    return Err(error);
                }
                Err(error) => {
                    let watch = trouble.get_or_insert_with(|| self.health.watch());
                    watch.report(Trouble::disk(UNREADABLE, &error));
                    sleep(DISK_PAUSE).await;
                }
            }
        }
    }
}
