//! Faults of everything but disk and destination: panics and delays.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::SeededRandom;
use audit_core::{Random, async_trait};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::Plan;
use crate::delivery::DeliveryMemory;
use crate::shared::executor::{Executor, Work};
use crate::simulation::disk::Dice;
use crate::simulation::disk::faulty::panic_silently;

/// Random panics of a process, and its requests, which can be aborted.
#[derive(Debug)]
pub(in crate::simulation) struct Trouble {
    pub(in crate::simulation) requests: Mutex<Vec<(Plan, AbortHandle)>>,
    dice: Mutex<Dice>,
    /// How many of 1,000 disk calls, jobs and sleeps panic.
    pub(in crate::simulation) panics: AtomicUsize,
    /// Whether jobs may run later.
    delays: bool,
}

impl Trouble {
    pub(in crate::simulation) fn new(dice: &mut Dice) -> Trouble {
        let panics = [0, 0, 4, 20][dice.below(4)];
        let delays = dice.chance(1, 2);
        let requests = Mutex::default();
        Trouble {
            requests,
            dice: Mutex::new(Dice::new(dice.draw())),
            panics: panics.into(),
            delays,
        }
    }

    pub(in crate::simulation) fn none() -> Trouble {
        let (requests, dice) = (Mutex::default(), Mutex::new(Dice::new(0)));
        Trouble { requests, dice, panics: 0.into(), delays: false }
    }

    /// No panics. Jobs may run later.
    #[cfg(test)]
    pub(in crate::simulation) fn only_delays(seed: u64) -> Trouble {
        Trouble { dice: Mutex::new(Dice::new(seed)), delays: true, ..Trouble::none() }
    }

    /// Whether to panic here, and whether only after the operation.
    pub(in crate::simulation) fn panics(&self) -> Option<bool> {
        let mut dice = self.dice.lock().unwrap();
        let panics = self.panics.load(Ordering::Relaxed);
        dice.chance(panics, 1_000).then(|| dice.chance(1, 2))
    }
}

/// Runs jobs at once or later, with panics before or after.
#[derive(Debug)]
pub(in crate::simulation) struct SimulatedExecutor(pub(in crate::simulation) Arc<Trouble>);

#[async_trait]
impl Executor for SimulatedExecutor {
    async fn execute(&self, work: Work) {
        let delay = |most: usize| {
            let mut dice = self.0.dice.lock().unwrap();
            let some = self.0.delays && dice.chance(1, 3);
            Duration::from_millis(if some { dice.below(most) as u64 } else { 0 })
        };
        let (before, after) = (delay(50), delay(50));
        if !before.is_zero() {
            sleep(before).await;
        }
        let panics = self.0.panics();
        if panics != Some(false) {
            work();
        }
        if panics.is_some() {
            panic_silently();
        }
        if !after.is_zero() {
            sleep(after).await;
        }
    }

    fn began(&self, plan: &Plan, request: AbortHandle) {
        let mut requests = self.0.requests.lock().unwrap();
        requests.retain(|(_, request)| !request.is_finished());
        requests.push((*plan, request));
    }
}

/// Memory for one object at a time or for all, and some cores.
pub(in crate::simulation) fn any_memory(dice: &mut Dice) -> Arc<DeliveryMemory> {
    DeliveryMemory::new([1, 1 << 20, 48 << 20][dice.below(3)], dice.within(1..5))
}

/// Panics at random, as the parts of a request outside the bucket's client may.
#[derive(Debug)]
pub(in crate::simulation) struct PanickyRandom(
    pub(in crate::simulation) SeededRandom,
    pub(in crate::simulation) Arc<Trouble>,
);

impl Random for PanickyRandom {
    fn next_u64(&self) -> u64 {
        if self.1.panics().is_some() {
            panic_silently();
        }
        self.0.next_u64()
    }
}
