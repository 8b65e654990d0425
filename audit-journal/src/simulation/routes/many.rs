//! A thousand routes of one journal, a hundred of which are dead for an hour.

use std::time::Duration;

use tokio::time::sleep;

use super::scenarios::{HOUR, is_full_share, quiet, runtime};
use super::variants::Variant;
use super::{Customer, Process, Simulation};
use crate::format::BATCH_HEADER_BYTES;
use crate::object_file::HEADER_BYTES;
use crate::simulation::bucket::Refuses;

const ROUTES: usize = 1_000;

/// Room for some batches of a dead route.
const SHARE_BYTES: u64 = 4_096;

/// All shares together may take half of the journal.
const MAX_BYTES: u64 = 2 * ROUTES as u64 * SHARE_BYTES;

/// A segment has room for a batch of each route.
const SEGMENT_BLOCKS: usize = 256;

/// Everybody commits once in this time.
const ROUND: Duration = Duration::from_secs(8 * 60);
const ROUNDS: usize = 7;

/// The least memory that settings may give to deliveries.
const DELIVERY_BYTES: u64 = 1 << 20;

/// The most that a record takes in the journal beyond its line: the header of its object.
const OBJECT_BYTES: u64 = HEADER_BYTES as u64;

/// How much more than its share a route may use: batches are charged with smaller headers than
/// their objects have. A small batch waits, and with the next one it becomes two objects.
const MORE_BYTES: u64 = 2 * (OBJECT_BYTES - BATCH_HEADER_BYTES as u64);

/// A route that is dead, and what was acknowledged before it was.
struct Dead {
    n: usize,
    records: usize,
    bytes: u64,
    committed: usize,
    failed: usize,
}

/// The buckets of a hundred of a thousand routes are unreachable for an hour. No commit to any
/// other route fails, and everything arrives. A commit to a dead route fails exactly if the batch
/// exceeds the route's own share, and what was acknowledged arrives when its bucket is back.
pub(super) fn a_tenth_is_dead(seed: u64, variant: Variant) -> Result<(), String> {
    let dead = runtime().block_on(dead_for_an_hour(seed, variant));
    dead.map_err(|what| format!("seed {seed}: {what}"))
}

async fn dead_for_an_hour(seed: u64, variant: Variant) -> Result<(), String> {
    let mut simulation = quiet(seed, variant, ROUTES);
    simulation.max_bytes = MAX_BYTES;
    simulation.segment_blocks = SEGMENT_BLOCKS..SEGMENT_BLOCKS + 1;
    simulation.delivery_bytes = Some(DELIVERY_BYTES);
    simulation.retention_ms = 60_000;
    simulation.retry_cap_ms = 60_000;
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    for n in 1..=ROUTES {
        simulation.open_route(&mut process, n, true).await?;
    }
    simulation.commit_round(&mut process, &mut []).await?;
    let mut dead: Vec<_> = (0..ROUTES / 10).map(|tenth| Dead::new(&simulation, tenth)).collect();
    let numbers: Vec<_> = dead.iter().map(|dead| dead.n).collect();
    for n in &numbers {
        simulation.customers[*n].bucket.refuse(Refuses::OutOfReach, HOUR);
    }
    for _ in 0..ROUNDS {
        simulation.commit_round(&mut process, &mut dead).await?;
    }
    for Dead { n, committed, failed, .. } in &dead {
        if *committed < 2 || *failed < 2 {
            let name = &simulation.customers[*n].name;
            return Err(format!("of {name}, {committed} batches committed and {failed} failed"));
        }
    }
    // The rest of the hour, and the longest backoff.
    sleep(HOUR).await;
    simulation.clock.advance(i64::try_from(HOUR.as_millis()).unwrap());
    let of = |n: &usize| std::mem::take(&mut simulation.customers[*n].refused);
    let refused: Vec<_> = numbers.iter().map(of).collect();
    simulation.others_are_well(&process, &[]).await?;
    simulation.commit_round(&mut process, &mut []).await?;
    for (n, refused) in numbers.iter().zip(refused) {
        simulation.customers[*n].refused = refused;
    }
    simulation.end_whole(process).await
}

impl Simulation {
    /// Commits a batch for each customer, and checks which commits failed and what the journal
    /// takes.
    async fn commit_round(
        &mut self,
        process: &mut Process,
        dead: &mut [Dead],
    ) -> Result<(), String> {
        let numbers: Vec<_> = dead.iter().map(|dead| dead.n).collect();
        let mut fits = Vec::new();
        for n in 0..self.customers.len() {
            let is_dead = numbers.contains(&n);
            let padding = if is_dead { self.dice.within(500..1_500) } else { 500 };
            let line = self.line(n, padding);
            if is_dead {
                let used = self.customers[n].used();
                let bytes = (BATCH_HEADER_BYTES + line.len()) as u64;
                fits.push(used == 0 || used + bytes <= SHARE_BYTES);
            }
            self.persist(process, n, vec![line]);
        }
        self.commit_for(process, ROUND).await?;
        if !process.callers.is_empty() {
            return Err(format!("{} callers still wait", process.callers.len()));
        }
        if let (Variant::ChargesAnother, [first, ..]) = (self.variant, &*dead) {
            self.charge_another(first.n);
        }
        for (dead, fits) in dead.iter_mut().zip(fits) {
            dead.check(&mut self.customers[dead.n], fits)?;
        }
        self.others_are_well(process, &numbers).await?;
        for n in (1..=ROUTES).filter(|n| !numbers.contains(n)) {
            let (name, used) = (&self.customers[n].name, self.customers[n].used());
            if used > 0 {
                return Err(format!("{name} has everything, and uses {used} bytes"));
            }
        }
        let bytes: usize = self.disk.files().values().map(Vec::len).sum();
        if bytes as u64 > MAX_BYTES {
            return Err(format!("the journal takes {bytes} bytes, and may take {MAX_BYTES}"));
        }
        Ok(())
    }
}

impl Customer {
    /// The bytes of its share that are used.
    fn used(&self) -> u64 {
        let health = self.route.as_ref().map(|route| route.health());
        health.and_then(|health| health.journal_bytes).unwrap_or(0)
    }

    fn acknowledged_bytes(&self) -> u64 {
        self.acknowledged.values().map(|line| line.len() as u64).sum()
    }
}

impl Dead {
    fn new(simulation: &Simulation, tenth: usize) -> Dead {
        let n = 10 * tenth + 3;
        let customer = &simulation.customers[n];
        let (records, bytes) = (customer.acknowledged.len(), customer.acknowledged_bytes());
        Dead { n, records, bytes, committed: 0, failed: 0 }
    }

    /// Checks the outcome of a batch that fits into the share or not, and what of it is used.
    fn check(&mut self, customer: &mut Customer, fits: bool) -> Result<(), String> {
        let (name, used) = (&customer.name, customer.used());
        if !customer.unknown.is_empty() {
            return Err(format!("the outcome of a batch of {name} is unknown"));
        }
        match customer.refusal.take() {
            None if fits => self.committed += 1,
            None => return Err(format!("a batch of {name} exceeds its share and is committed")),
            Some(error) if fits => {
                return Err(format!("a batch of {name} fits into its share and fails: {error}"));
            }
            Some(error) if is_full_share(&error.to_string(), name, SHARE_BYTES) => self.failed += 1,
            Some(error) => return Err(format!("a batch of {name} fails with {error}")),
        }
        let records = (customer.acknowledged.len() - self.records) as u64;
        let lines = customer.acknowledged_bytes() - self.bytes;
        let most = lines + records * OBJECT_BYTES;
        if used < lines || used > most {
            return Err(format!("{name} uses {used} bytes: {records} records of {lines} bytes"));
        }
        if used > SHARE_BYTES + MORE_BYTES {
            return Err(format!("{name} uses {used} bytes, and its share is {SHARE_BYTES}"));
        }
        Ok(())
    }
}
