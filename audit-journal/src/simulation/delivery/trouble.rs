//! Trouble of whatever is neither disk nor destination: what panics, and what is done later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit_core::testing::SeededRandom;
use audit_core::{Random, async_trait};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::Plan;
use crate::shared::executor::{Executor, Work};
use crate::simulation::disk::Dice;
use crate::simulation::disk::faulty::panic_silently;

/// Panics of whatever a process has, from a seed, and its requests, to be aborted.
#[derive(Debug)]
pub(in crate::simulation) struct Trouble {
    pub(in crate::simulation) requests: Mutex<Vec<(Plan, AbortHandle)>>,
    dice: Mutex<Dice>,
    /// Of 1,000 calls of the disk, pieces of work, and pauses, in how many.
    pub(in crate::simulation) panics: AtomicUsize,
    /// How often work is done later.
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

    /// Whether to panic here, and whether to do before what was asked for.
    pub(in crate::simulation) fn panics(&self) -> Option<bool> {
        let mut dice = self.dice.lock().unwrap();
        let panics = self.panics.load(Ordering::Relaxed);
        dice.chance(panics, 1_000).then(|| dice.chance(1, 2))
    }
}

/// Does work at once or later, and panics before or after it.
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

/// Panics now and then: as whatever of a request is not the bucket's client.
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
