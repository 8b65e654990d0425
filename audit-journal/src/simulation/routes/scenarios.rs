//! Scenarios of hours, with chosen faults only.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use audit_core::{Batch, Clock};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::followers::Candidate;
use super::variants::Variant;
use super::{Customer, Ended, Process, Simulation};
use crate::simulation::bucket::{Believes, Manners, Refuses, SimulatedBucket};
use crate::simulation::delivery::trouble::Trouble;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

/// A simulation without random faults.
pub(super) fn quiet(seed: u64, variant: Variant, routes: usize) -> Simulation {
    let mut simulation = Simulation::new(seed, variant);
    let manners = Manners {
        faults: 0,
        panics: 0,
        foreign: 0,
        overwrites: false,
        attributes: true,
        believes: Believes::Nothing,
        wants_plans: true,
    };
    simulation.trouble = Arc::new(Trouble::none());
    let disk = &simulation.disk;
    let bucket = || SimulatedBucket::new(seed, manners, disk.clone());
    let customer = |n| Customer::new(n, bucket(), Vec::new());
    simulation.customers = (0..=routes).map(customer).collect();
    simulation
}

impl Simulation {
    /// Commits a batch for each customer whose route is open, then lets a minute pass.
    async fn commit_to_all(&mut self, process: &mut Process) -> Result<(), String> {
        for n in 0..self.customers.len() {
            let lines = [(); 2].map(|()| self.line(n, 400)).to_vec();
            self.persist(process, n, lines);
        }
        self.commit_for(process, MINUTE).await
    }

    /// The next record of a customer, with this many bytes of padding.
    pub(super) fn line(&mut self, n: usize, padding: usize) -> Vec<u8> {
        self.records += 1;
        let (id, name, padding) = (self.records, &self.customers[n].name, "-".repeat(padding));
        format!("{{\"id\":{id},\"of\":\"{name}\",\"@\":\"{padding}\"}}\n").into_bytes()
    }

    /// Persists a batch for a customer if its route is open.
    pub(super) fn persist(&mut self, process: &mut Process, n: usize, lines: Vec<Vec<u8>>) {
        let batch = Batch::from_lines(self.clock.now_ms(), lines.concat().into()).unwrap();
        let (journal, route) = (Arc::clone(&process.journal), self.customers[n].route.clone());
        let persist = match (n, route) {
            (0, _) => tokio::spawn(async move { journal.persist(batch).await }),
            (_, Some(route)) => tokio::spawn(async move { route.persist(batch).await }),
            (_, None) => return,
        };
        process.callers.push((n, lines, persist));
    }

    /// Commits what callers persist, then lets this time pass.
    pub(super) async fn commit_for(
        &mut self,
        process: &mut Process,
        time: Duration,
    ) -> Result<(), String> {
        // The committing thread waits for a segment as long as callers do.
        for _ in 0..18 {
            sleep(Duration::from_secs(1)).await;
            if process.live.bytes() + process.segment_bytes <= self.max_bytes {
                break;
            }
            process.live.want_room();
        }
        self.write(process);
        sleep(time).await;
        self.clock.advance(i64::try_from(time.as_millis()).unwrap());
        self.hear(process).await
    }

    /// Ends the process in order, and checks what is left after a power failure.
    pub(super) async fn end_whole(&mut self, process: Process) -> Result<(), String> {
        if self.end(process).await? != Ended::InOrder {
            return Err("a process died of nothing".to_owned());
        }
        self.forget_handles();
        self.disk.crash();
        self.check(true)
    }

    /// Checks that every other customer has everything within a minute, and that none was refused.
    pub(super) async fn others_are_well(
        &self,
        process: &Process,
        dead: &[usize],
    ) -> Result<(), String> {
        let others = self.customers.iter().enumerate().filter(|(n, _)| !dead.contains(n));
        for (n, customer) in others {
            let name = &customer.name;
            if !customer.refused.is_empty() || !customer.unknown.is_empty() {
                return Err(format!("records of {name} were refused"));
            }
            let flushed = match &customer.route {
                Some(route) => timeout(MINUTE, route.flush()).await,
                None if n == 0 => timeout(MINUTE, process.journal.flush()).await,
                None => continue,
            };
            match flushed {
                Ok(Ok(())) => self.is_whole(n)?,
                Ok(Err(error)) => return Err(format!("{name}: {error}")),
                Err(_elapsed) => return Err(format!("{name} is not delivered within a minute")),
            }
        }
        Ok(())
    }
}

/// One bucket is unreachable for an hour. Its route's share fills up and its functions fail with an
/// error that names it; all others continue, in a small journal. Afterwards everything arrives.
pub(super) fn a_dead_route(variant: Variant) -> Result<(), String> {
    (0..3).try_for_each(|seed| runtime().block_on(dead_for_an_hour(seed, variant)))
}

/// The bucket of the default route is unreachable. Its objects and its next one hold memory, and
/// all routes continue, however little memory there is. Afterwards everything arrives.
pub(super) fn a_dead_default_route() -> Result<(), String> {
    (0..6).try_for_each(|seed| {
        let dead = runtime().block_on(without_the_default_bucket(seed));
        dead.map_err(|what| format!("seed {seed}: {what}"))
    })
}

/// The receivers of all followers of one route are unreachable for forty minutes, with the usual
/// share of the journal or without a limit. No commit waits, and the followers of other routes
/// continue. The route's followers are paused, and get later records once their receivers return;
/// the records that they miss are named.
pub(super) fn a_dead_follower(variant: Variant) -> Result<(), String> {
    for (seed, share) in [(0, None), (1, Some(u64::MAX)), (2, Some(0)), (3, None)] {
        let dead = runtime().block_on(with_a_dead_follower(seed, share, variant));
        dead.map_err(|what| format!("seed {seed}: {what}"))?;
    }
    Ok(())
}

/// A route is retired while its first batch waits for its stream to begin, at each moment of that.
/// The batch arrives, unless its caller leaves, and every stream is closed before the route is
/// retired, also if routes that are not open are being retired at the same time.
pub(super) fn a_route_that_closes_early() -> Result<(), String> {
    for (seed, moment) in (0..16).flat_map(|seed| (0..16).map(move |moment| (seed, moment))) {
        let caller_leaves = seed % 4 == 0;
        let closed = retired_while_a_batch_waits(seed, moment, caller_leaves);
        let closed = runtime().block_on(closed);
        closed.map_err(|what| format!("seed {seed}, moment {moment}: {what}"))?;
    }
    Ok(())
}

/// Jobs panic, before their work or after it, while a route's first stream begins. The route is
/// closed, and opened again with a destination that does not vouch for streams. Its records arrive,
/// and the journal opens again.
pub(super) fn a_stream_that_cannot_begin() -> Result<(), String> {
    (0..24).try_for_each(|seed| {
        let closed = runtime().block_on(closed_before_its_stream_began(seed));
        closed.map_err(|what| format!("seed {seed}: {what}"))
    })
}

/// Whether the error says that the route's share of this size is full.
pub(super) fn is_full_share(error: &str, route: &str, limit: u64) -> bool {
    let start = format!("route {route:?} has no room in the journal within 20000 ms: ");
    error.starts_with(&start)
        && error.contains(&format!(" of {limit} bytes of its share are used; "))
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

async fn retired_while_a_batch_waits(
    seed: u64,
    moment: usize,
    caller_leaves: bool,
) -> Result<(), String> {
    const CLOSING: usize = 1;
    let mut simulation = quiet(seed, Variant::AsItIs, CLOSING);
    simulation.customers[CLOSING].vouches = true;
    if caller_leaves {
        simulation.trouble = Arc::new(Trouble::only_delays(seed));
    }
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    simulation.open_route(&mut process, CLOSING, true).await?;
    let route = simulation.customers[CLOSING].route.clone().ok_or("the route is closed")?;
    let lines = simulation.lines(CLOSING);
    let batch = Batch::from_lines(simulation.clock.now_ms(), lines.concat().into()).unwrap();
    let persist = tokio::spawn(async move { route.persist(batch).await });
    process.callers.push((CLOSING, lines, persist));
    for _ in 0..moment {
        yield_now().await;
        simulation.write(&mut process);
    }
    if caller_leaves {
        process.callers[0].2.abort();
    }
    simulation.retire(CLOSING);
    // In small steps: what a route lacks when it is retired may come a moment later.
    for round in 0..100_000 {
        yield_now().await;
        if round % 20 == 0 {
            sleep(Duration::from_millis(1)).await;
            simulation.write(&mut process);
            simulation.hear(&mut process).await?;
        }
        if caller_leaves && round % 4 == 0 {
            simulation.retire_unopened(&process).await?;
        }
        simulation.hear_retired().await?;
        if simulation.customers[CLOSING].retired.is_none() {
            break;
        }
    }
    simulation.hear(&mut process).await?;
    if simulation.figures.retired == 0 {
        return Err("the route is not retired".to_owned());
    }
    if !caller_leaves && simulation.customers[CLOSING].acknowledged.is_empty() {
        return Err("its batch was not committed".to_owned());
    }
    for _ended_and_opened_again in 0..2 {
        if simulation.end(process).await? != Ended::InOrder {
            return Err("a process died of nothing".to_owned());
        }
        simulation.check(true)?;
        simulation.forget_handles();
        process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    }
    Ok(())
}

async fn closed_before_its_stream_began(seed: u64) -> Result<(), String> {
    const CLOSING: usize = 1;
    let mut simulation = quiet(seed, Variant::AsItIs, CLOSING);
    simulation.customers[CLOSING].vouches = true;
    simulation.trouble = Arc::new(Trouble::only_delays(seed));
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    simulation.open_route(&mut process, CLOSING, true).await?;
    let route = simulation.customers[CLOSING].route.take().ok_or("the route is closed")?;
    let batch = Batch::from_lines(simulation.clock.now_ms(), (&b"{}\n"[..]).into()).unwrap();
    simulation.trouble.panics.store(1_000, Ordering::Relaxed);
    let persisted = timeout(MINUTE, route.persist(batch)).await;
    simulation.trouble.panics.store(0, Ordering::Relaxed);
    if matches!(persisted, Ok(Ok(_))) {
        return Err("the stream began".to_owned());
    }
    route.close().await.map_err(|error| error.to_string())?;
    simulation.customers[CLOSING].vouches = false;
    simulation.open_route(&mut process, CLOSING, true).await?;
    simulation.commit_to_all(&mut process).await?;
    simulation.others_are_well(&process, &[]).await?;
    if simulation.end(process).await? != Ended::InOrder {
        return Err("a process died of nothing".to_owned());
    }
    simulation.check(true)?;
    simulation.forget_handles();
    simulation.disk.crash();
    simulation.open(true).await?.map(drop).ok_or_else(|| "a journal cannot be opened".to_owned())
}

async fn without_the_default_bucket(seed: u64) -> Result<(), String> {
    const DEAD: usize = 0;
    let mut simulation = quiet(seed, Variant::AsItIs, 6);
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    for n in 1..simulation.customers.len() {
        simulation.open_route(&mut process, n, true).await?;
    }
    for _ in 0..5 {
        simulation.commit_to_all(&mut process).await?;
    }
    simulation.customers[DEAD].bucket.refuse(Refuses::OutOfReach, HOUR);
    for _ in 0..20 {
        simulation.commit_to_all(&mut process).await?;
        simulation.others_are_well(&process, &[DEAD]).await?;
    }
    sleep(HOUR).await;
    simulation.commit_to_all(&mut process).await?;
    simulation.others_are_well(&process, &[]).await?;
    match simulation.end(process).await? {
        Ended::InOrder => Ok(()),
        Ended::Died => Err("a process died of nothing".to_owned()),
    }
}

async fn with_a_dead_follower(
    seed: u64,
    share: Option<u64>,
    variant: Variant,
) -> Result<(), String> {
    const DEAD: usize = 1;
    let mut simulation = quiet(seed, variant, 6);
    simulation.max_bytes = 100 * 4096;
    simulation.retention_ms = 60_000;
    for customer in &mut simulation.customers[1..] {
        customer.followers = vec![Candidate::steady(share)];
    }
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    for n in 1..simulation.customers.len() {
        simulation.open_route(&mut process, n, true).await?;
    }
    simulation.commit_to_all(&mut process).await?;
    simulation.customers[DEAD].followers[0].receiver.set_away(true);
    for _ in 0..40 {
        simulation.commit_to_all(&mut process).await?;
        simulation.others_are_well(&process, &[]).await?;
        for (n, customer) in simulation.customers.iter().enumerate().skip(1) {
            let there = customer.followers[0].receiver.records().len();
            if n != DEAD && there < customer.acknowledged.len() {
                let all = customer.acknowledged.len();
                return Err(format!("the follower of {} has {there} of {all}", customer.name));
            }
        }
    }
    let Some(route) = simulation.customers[DEAD].route.clone() else {
        return Err("the route is closed".to_owned());
    };
    let health = route.health();
    let [follower] = &health.followers[..] else {
        return Err(format!("the route has {:?}", health.followers));
    };
    if !follower.is_paused || follower.missing_records == 0 || follower.lag_bytes == 0 {
        return Err(format!("it is not paused: {follower:?}"));
    }
    simulation.customers[DEAD].followers[0].receiver.set_away(false);
    sleep(MINUTE).await;
    for _ in 0..3 {
        simulation.commit_to_all(&mut process).await?;
    }
    let followers = route.health().followers;
    if followers[0].is_paused || followers[0].lag_bytes > 0 {
        return Err(format!("it does not go on: {followers:?}"));
    }
    drop(route);
    simulation.end_whole(process).await
}

async fn dead_for_an_hour(seed: u64, variant: Variant) -> Result<(), String> {
    const DEAD: usize = 1;
    let mut simulation = quiet(seed, variant, 6);
    simulation.max_bytes = 100 * 4096;
    simulation.retention_ms = 60_000;
    let mut process = simulation.open(true).await?.ok_or("a journal cannot be opened")?;
    for n in 1..simulation.customers.len() {
        simulation.open_route(&mut process, n, true).await?;
    }
    simulation.commit_to_all(&mut process).await?;
    simulation.customers[DEAD].bucket.refuse(Refuses::OutOfReach, HOUR);
    for _ in 0..40 {
        simulation.commit_to_all(&mut process).await?;
        simulation.others_are_well(&process, &[DEAD]).await?;
    }
    let Some(route) = simulation.customers[DEAD].route.clone() else {
        return Err("the route is closed".to_owned());
    };
    let used = route.health().journal_bytes.unwrap_or(0);
    let limit = simulation.max_bytes / 2 / 6;
    if used > limit {
        return Err(format!("a route uses {used} bytes, and its share is {limit}"));
    }
    if simulation.customers[DEAD].refused.is_empty() {
        return Err("the share of a dead route is never full".to_owned());
    }
    let batch = Batch::from_lines(0, [b'1'; 1_000].map(|b| [b, b'\n']).concat().into()).unwrap();
    let error = route.persist(batch).await.map(drop).map_err(|error| error.to_string());
    let error = error.expect_err("its share is used up");
    assert!(is_full_share(&error, "customer-1", limit), "{error}");
    sleep(HOUR).await;
    simulation.customers[DEAD].refused.clear();
    for _ in 0..3 {
        simulation.commit_to_all(&mut process).await?;
    }
    simulation.others_are_well(&process, &[]).await?;
    simulation.end_whole(process).await
}
