//! Scenarios of hours and days, with chosen faults only.

use std::sync::Arc;
use std::time::Duration;

use audit_core::{Commits, HealthState};
use tokio::time::{Instant, sleep};

use super::followers::Candidate;
use super::trouble::Trouble;
use super::variants::Variant;
use super::{Ended, Process, Simulation, died};
use crate::simulation::bucket::{Manners, Refuses, SimulatedBucket};
use crate::simulation::destination::{Endpoint, Known};

/// A simulation without random faults.
fn quiet<E: Endpoint>(seed: u64) -> Simulation<E> {
    let mut simulation = Simulation::new(seed, Variant::AsItIs);
    simulation.manners =
        Manners { faults: 0, panics: 0, foreign: 0, overwrites: false, ..simulation.manners };
    simulation.trouble = Arc::new(Trouble::none());
    simulation.cancels = 0;
    simulation.candidates.clear();
    simulation.bucket = SimulatedBucket::new(seed, simulation.manners, simulation.disk.clone());
    simulation
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl<E: Endpoint> Simulation<E> {
    fn files(&self, suffix: &str) -> usize {
        self.disk.files().keys().filter(|name| name.ends_with(suffix)).count()
    }

    /// Commits a group each minute.
    async fn commit_for(&mut self, process: &mut Process, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.commit(process).unwrap();
            sleep(MINUTE).await;
            self.clock.advance(60_000);
        }
    }
}

/// A day without the destination costs only disk space.
pub async fn a_day_without_the_destination<E: Endpoint>() {
    let mut simulation = quiet::<E>(0);
    simulation.retry_cap_ms = 60_000;
    let mut process = simulation.open(false).unwrap().unwrap();
    simulation.commit_for(&mut process, 5 * MINUTE).await;
    simulation.bucket.refuse(Refuses::OutOfReach, DAY);
    let mut most = 0;
    for _ in 0..24 * 4 {
        simulation.commit_for(&mut process, 15 * MINUTE).await;
        most = most.max(simulation.files(".object"));
    }
    // Each object in memory has its file, and at most two concurrent requests.
    assert!((1..=4).contains(&most), "{most} objects are in memory");
    assert!(
        simulation.bucket.most_under_way() <= 2 * most,
        "{}",
        simulation.bucket.most_under_way()
    );
    assert!(simulation.files(".journal") > 20, "{} segments", simulation.files(".journal"));
    assert!(simulation.records > 2_000);
    // The outage ended unobserved.
    simulation.flush(&mut process);
    sleep(10 * MINUTE).await;
    simulation.answered(&mut process).unwrap();
    assert!(process.flushes.is_empty(), "drained");
    assert_eq!(simulation.files(".object"), 0);
    assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
    simulation.check(true).unwrap();
    assert!(
        simulation.files(".journal") <= 12,
        "{} segments are left",
        simulation.files(".journal")
    );
}

/// A follower that is unreachable for a day is paused once its share is used up, and then resumes
/// by itself. The destination never waits for it.
pub async fn a_day_without_a_follower<E: Endpoint>() {
    const SHARE: u64 = 40 * 4096;
    let mut simulation = quiet::<E>(0);
    simulation.retention = Some(Duration::ZERO);
    simulation.candidates = vec![Candidate::steady(SHARE)];
    let receiver = simulation.candidates[0].receiver.clone();
    let mut process = simulation.open(false).unwrap().unwrap();
    let follower = |process: &Process| process.sink.health().followers[0].clone();
    simulation.commit_for(&mut process, 20 * MINUTE).await;
    sleep(MINUTE).await;
    let before = receiver.records().len();
    assert!(before > 0 && follower(&process).lag_bytes == 0, "{:?}", follower(&process));

    receiver.set_away(true);
    for _ in 0..24 {
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        simulation.flush(&mut process);
        sleep(MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "the destination has everything");
        let kept = simulation.files(".journal");
        assert!(kept <= 17, "{kept} segments of 3 to 7 blocks are kept");
        simulation.check_followers(false).unwrap();
    }
    let health = follower(&process);
    assert!(health.is_paused && health.missing_records > 0 && health.lag_bytes > 0);
    assert!(matches!(health.state, HealthState::Retrying { .. }), "{health:?}");
    let all = process.sink.health();
    assert_eq!((all.state, all.commits), (HealthState::Ok, Commits::Accepted));
    assert_eq!(receiver.records().len(), before);

    receiver.set_away(false);
    simulation.commit_for(&mut process, 10 * MINUTE).await;
    sleep(MINUTE).await;
    let again = follower(&process);
    assert!(!again.is_paused && again.lag_bytes == 0, "{again:?}");
    assert!(again.missing_records >= health.missing_records, "{again:?}");
    assert!(receiver.records().len() > before);
    simulation.check_followers(true).unwrap();
    assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
    simulation.check(true).unwrap();
}

/// The journal's limit exceeds the disk, so that only the disk reports that it is full.
pub async fn a_disk_without_room<E: Endpoint>() {
    for seed in 0..3 {
        let mut simulation = quiet::<E>(seed);
        simulation.retention = Some(DAY);
        let mut process = simulation.open(false).unwrap().unwrap();
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        let kept = simulation.files(".journal");
        assert!(kept > 5, "{kept} segments are kept for their age");

        // Enough to record progress, but not for a segment or the plan of an object.
        let used: usize = simulation.disk.files().values().map(Vec::len).sum();
        let room = if simulation.vouches { 500 } else { 200 };
        simulation.disk.set_room(used as u64 + room);
        simulation.bucket.refuse(Refuses::OutOfReach, 5 * MINUTE);
        let before = simulation.acknowledged();
        simulation.commit_for(&mut process, 20 * MINUTE).await;
        assert!(simulation.files(".journal") < kept, "{kept} segments are still there");
        assert_ne!(simulation.acknowledged(), before, "commits go on");
        simulation.flush(&mut process);
        sleep(10 * MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "delivered without a restart, and without more room");
        assert_eq!(process.health.health(0).state, HealthState::Ok);
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
        simulation.check(true).unwrap();
    }
}

/// Expired credentials and other refusals that end need no restart.
pub async fn refusals_that_end<E: Endpoint>() {
    let mut simulation = quiet::<E>(7);
    let mut process = simulation.open(false).unwrap().unwrap();
    simulation.commit_for(&mut process, 2 * MINUTE).await;
    for how in [Refuses::ExpiredCredentials, Refuses::Permission, Refuses::NoBucket] {
        simulation.bucket.refuse(how, 60 * MINUTE);
        simulation.commit_for(&mut process, 50 * MINUTE).await;
        let HealthState::Blocked { reason } = process.health.health(0).state else {
            panic!("{:?}", process.health.health(0));
        };
        assert!(reason.contains(E::advice(how)), "{reason}");
        simulation.flush(&mut process);
        sleep(20 * MINUTE).await;
        simulation.answered(&mut process).unwrap();
        assert!(process.flushes.is_empty(), "drained without a restart");
        assert_eq!(process.health.health(0).state, HealthState::Ok);
    }
    assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
    simulation.check(true).unwrap();
}

/// Later streams get earlier ids.
pub async fn clock_jumps_backwards<E: Endpoint>() {
    for seed in 0..4 {
        let mut simulation = quiet::<E>(seed);
        let year = 365 * 24 * 60 * 60 * 1000;
        // Streams that begin later and whose ids sort before the others.
        for _ in 0..3 {
            let mut process = simulation.open(false).unwrap().unwrap();
            simulation.commit_for(&mut process, 20 * MINUTE).await;
            simulation.bucket.refuse(Refuses::OutOfReach, 60 * MINUTE);
            simulation.clock.advance(-year);
            simulation.commit_for(&mut process, 20 * MINUTE).await;
            assert_eq!(died(process).await.unwrap(), Ended::Died);
            simulation.disk.crash();
            simulation.clock.advance(-year);
        }
        let mut process = simulation.open(false).unwrap().unwrap();
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        simulation.clock.advance(-year);
        simulation.commit_for(&mut process, 60 * MINUTE).await;
        sleep(5 * MINUTE).await;
        assert!(
            simulation.files(".journal") <= 12,
            "{} segments are kept",
            simulation.files(".journal")
        );
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
        simulation.check(true).unwrap();
        let streams = E::read(&mut Known::default(), &simulation.bucket.objects(), false).unwrap();
        // Streams with evidence change from time to time.
        assert!(streams.len() == 4 || simulation.vouches && streams.len() > 4);
    }
}

/// A step that writes nothing adds no record that a recovery may find.
#[cfg(test)]
pub(super) async fn unwritten_is_known<E: Endpoint>() {
    let mut steps = 0;
    for seed in 0..10 {
        let mut simulation = quiet::<E>(seed);
        let mut process = simulation.open(false).unwrap().unwrap();
        simulation.commit_for(&mut process, MINUTE).await;
        for _ in 0..3 {
            simulation.write_own(&mut process);
            let writes = simulation.disk.calls().writes;
            simulation.write_own(&mut process);
            assert_eq!(simulation.disk.calls().writes, writes, "nothing is due");
            let unknown = &simulation.streams.last().unwrap().unknown;
            assert!(unknown.is_empty(), "seed {seed}: {unknown:?}");
            steps += u32::from(process.is_vouched_for);
        }
        assert_eq!(simulation.end(process).await.unwrap(), Ended::InOrder);
    }
    assert!(steps > 0, "no stream has system records");
}
