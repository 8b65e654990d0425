//! The followers of routes.
//!
//! Each open route has followers of its own, which its opening names. Segments are also kept for
//! followers of routes that are not open, up to the followers' shares.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::{FollowerHealth, UniqueId};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::paused::may_go;
use super::record::{FollowerRecord, FollowerState};
use super::task::{Ending, FollowerMemory, FollowerTask, Parts, RouteSource};
use super::{Follower, Standing};
use crate::disk::Disk;
use crate::routes::RouteNames;
use crate::segments::LiveSegments;
use crate::shared::executor::{Executor, execute};
use crate::shared::latest;
use crate::watermark::{HeldRecords, Watermark};

/// How long followers that are about to be retired have for the remaining records.
const PATIENCE: Duration = Duration::from_secs(5);

/// The followers of routes that an opening finds.
#[derive(Debug, Default)]
pub(crate) struct KnownFollowers {
    /// The records of the followers that are not retired.
    pub(crate) records: Vec<FollowerRecord>,
    /// The highest number that any follower of the journal ever had.
    last_number: u32,
}

impl KnownFollowers {
    /// Selects the followers of routes from all that a recovery found. `own` are the followers of
    /// the default route in this opening.
    pub(crate) fn new(all: Vec<FollowerRecord>, own: &[FollowerRecord]) -> KnownFollowers {
        let last_number = all.iter().chain(own).map(|record| record.number).max().unwrap_or(0);
        let is_left =
            |record: &FollowerRecord| record.route > 0 && record.state != FollowerState::Retired;
        KnownFollowers { records: all.into_iter().filter(is_left).collect(), last_number }
    }
}

/// The followers of a journal's routes.
pub(crate) struct RouteFollowers {
    live: Arc<LiveSegments>,
    executor: Arc<dyn Executor>,
    memory: FollowerMemory,
    /// The share of a follower whose settings name none, in bytes.
    max_kept_bytes: u64,
    state: Mutex<State>,
}

struct State {
    /// The followers that are not retired, by number.
    followed: BTreeMap<u32, LiveFollower>,
    last_number: u32,
    tasks: JoinSet<()>,
    ending: Ending,
}

struct LiveFollower {
    route: u32,
    standing: Arc<Standing>,
    running: Option<Running>,
}

/// A task that delivers to a follower.
struct Running {
    ending: latest::Sender<Ending>,
    ended: oneshot::Receiver<()>,
}

/// A route whose followers are opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FollowedRoute<'a> {
    pub(crate) number: u32,
    pub(crate) name: &'a str,
    /// The stream of the route's next record.
    pub(crate) stream: UniqueId,
}

/// The name of a route's follower in the log and in metrics.
fn label(follower: &str, route: &str) -> String {
    format!("{follower}@{route}")
}

impl RouteFollowers {
    /// The followers that earlier openings left. None of them gets anything before its route is
    /// open. `max_kept_bytes` is the share of a follower whose settings name none.
    pub(crate) fn new(
        live: Arc<LiveSegments>,
        executor: Arc<dyn Executor>,
        max_kept_bytes: u64,
        memory: FollowerMemory,
        names: &RouteNames,
        known: KnownFollowers,
    ) -> RouteFollowers {
        let KnownFollowers { records, last_number } = known;
        let followed = records.into_iter().map(|record| {
            let (number, route) = (record.number, record.route);
            let name = names.get(route).map_or("", |row| &row.name);
            let label = label(&record.name, name);
            let standing = Standing::of_route(record, label, max_kept_bytes, true);
            (number, LiveFollower { route, standing: Arc::new(standing), running: None })
        });
        let state = State {
            followed: followed.collect(),
            last_number,
            tasks: JoinSet::new(),
            ending: Ending::Open,
        };
        RouteFollowers { live, executor, memory, max_kept_bytes, state: Mutex::new(state) }
    }

    /// Delivers a route's records to these followers from now on. With `may_change`, a new follower
    /// begins with the next record of the route, and the route's other followers are retired.
    /// Otherwise all of these followers must be known. Returns false if the journal is closed.
    ///
    /// One call at a time. After a crash in here, the next opening of the route does the rest.
    pub(crate) async fn open(
        &self,
        disk: &Arc<dyn Disk>,
        route: FollowedRoute<'_>,
        followers: Vec<Follower>,
        may_change: bool,
    ) -> io::Result<bool> {
        let kept: Vec<_> = followers.iter().map(|follower| follower.name.clone()).collect();
        self.stop_route(route.number, &kept).await;
        let mut opened = Vec::new();
        for follower in followers {
            let known = self.find(route.number, &follower.name);
            let known = known.or_else(|| may_change.then(|| self.add(route, &follower.name)));
            let Some((number, standing)) = known else { continue };
            let (on, settled) = (Arc::clone(disk), Arc::clone(&standing));
            execute(&*self.executor, move || settled.settle(&*on)).await?;
            opened.push((number, standing, follower));
        }
        if may_change {
            let kept: Vec<_> = opened.iter().map(|(number, ..)| *number).collect();
            self.retire_others(disk, route.number, &kept).await?;
        }
        for (number, standing, follower) in opened {
            if !self.start(disk, route.number, number, standing, follower) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find(&self, route: u32, name: &str) -> Option<(u32, Arc<Standing>)> {
        let state = self.lock();
        let mut of_route = state.followed.iter().filter(|(_, followed)| followed.route == route);
        let (number, found) = of_route.find(|(_, followed)| followed.standing.has_name(name))?;
        Some((*number, Arc::clone(&found.standing)))
    }

    /// Adds a follower that has no file yet: segments are kept for it from now on.
    fn add(&self, route: FollowedRoute<'_>, name: &str) -> (u32, Arc<Standing>) {
        let FollowedRoute { number: route, name: of, stream } = route;
        let watermark = match self.live.routes().in_segments(route).last() {
            None => Watermark { ordinal: 0, stream, next: 0 },
            // The next record may be in the same segment.
            Some(HeldRecords { ordinal, stream, records }) => {
                Watermark { ordinal: *ordinal, stream: *stream, next: records.end }
            }
        };
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        let record = FollowerRecord {
            number,
            route,
            name: name.to_owned(),
            writes: 0,
            state: FollowerState::Following,
            watermark,
            cuts: Default::default(),
            missing: Vec::new(),
        };
        let standing = Standing::of_route(record, label(name, of), self.max_kept_bytes, false);
        let standing = Arc::new(standing);
        let followed = LiveFollower { route, standing: Arc::clone(&standing), running: None };
        state.followed.insert(number, followed);
        (number, standing)
    }

    /// Starts the task of a follower. Returns false if the journal is closed.
    fn start(
        &self,
        disk: &Arc<dyn Disk>,
        route: u32,
        number: u32,
        standing: Arc<Standing>,
        follower: Follower,
    ) -> bool {
        let Some(durable) = self.live.routes().listen_as_follower(route) else { return false };
        let share = follower.max_kept_bytes.unwrap_or(self.max_kept_bytes);
        standing.open(Arc::clone(&follower.health), share);
        let parts = Parts {
            disk: Arc::clone(disk),
            live: Arc::clone(&self.live),
            executor: Arc::clone(&self.executor),
            durable,
            max_bytes_under_way: usize::MAX,
        };
        let source = RouteSource::new(route, number, self.memory.clone());
        let task = FollowerTask::new(parts, follower, standing, Some(source));
        let mut state = self.lock();
        let (ending, receiver) = latest::channel(state.ending);
        let (ends, ended) = oneshot::channel::<()>();
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn(async move {
            // Dropped once the task has ended, even if it was aborted.
            let _ends = ends;
            task.run(receiver).await;
        });
        if let Some(followed) = state.followed.get_mut(&number) {
            followed.running = Some(Running { ending, ended });
        }
        true
    }

    /// Ends the tasks of a route's followers: those in `kept` at once, and others within
    /// [`PATIENCE`], in which they get what they lack as long as they accept it.
    async fn stop_route(&self, route: u32, kept: &[String]) {
        let mut running = Vec::new();
        for (number, followed) in &mut self.lock().followed {
            if followed.route == route
                && let Some(task) = followed.running.take()
            {
                let is_kept = kept.iter().any(|name| followed.standing.has_name(name));
                task.ending.send(if is_kept { Ending::Stop } else { Ending::Settle });
                running.push((*number, task));
            }
        }
        let until = Instant::now() + PATIENCE;
        for (number, Running { ending, mut ended }) in running {
            // The sender is dropped when the task has ended.
            if timeout_at(until, &mut ended).await.is_err() {
                ending.send(Ending::Stop);
                let _dropped = ended.await;
            }
            self.live.routes().unfollow(route, number);
        }
    }

    /// Retires the followers of a route to which nothing more is committed. The records that they
    /// still lack after [`PATIENCE`] are recorded as missing.
    ///
    /// After a crash in here, each follower is retired or not: see [`Standing::retire`].
    pub(crate) async fn retire(&self, disk: &Arc<dyn Disk>, route: u32) -> io::Result<()> {
        self.stop_route(route, &[]).await;
        self.retire_others(disk, route, &[]).await
    }

    /// Retires the followers of a route except these. Their tasks have ended.
    async fn retire_others(
        &self,
        disk: &Arc<dyn Disk>,
        route: u32,
        kept: &[u32],
    ) -> io::Result<()> {
        let others: Vec<_> = {
            let state = self.lock();
            let others = state
                .followed
                .iter()
                .filter(|(number, followed)| followed.route == route && !kept.contains(*number));
            others.map(|(number, other)| (*number, Arc::clone(&other.standing))).collect()
        };
        for (number, standing) in others {
            let (disk, held) = (Arc::clone(disk), self.live.routes().in_segments(route));
            execute(&*self.executor, move || standing.retire(&*disk, &held)).await?;
            self.lock().followed.remove(&number);
        }
        Ok(())
    }

    /// Tells all tasks when to end.
    pub(crate) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        state.ending = ending;
        for followed in state.followed.values() {
            if let Some(running) = &followed.running {
                running.ending.send(ending);
            }
        }
    }

    /// The tasks of all followers.
    pub(crate) fn take_tasks(&self) -> JoinSet<()> {
        std::mem::take(&mut self.lock().tasks)
    }

    /// Whether this segment, the oldest one, may be removed: see [`may_go`].
    pub(crate) fn may_go(
        &self,
        disk: &dyn Disk,
        ordinal: u32,
        kept: u64,
        must_go: bool,
    ) -> io::Result<bool> {
        let followed: Vec<_> = {
            let state = self.lock();
            let followed = state.followed.values();
            followed.map(|followed| (followed.route, Arc::clone(&followed.standing))).collect()
        };
        let routes = self.live.routes();
        let with_records = |(route, standing)| (routes.in_segment(ordinal, route), standing);
        let followed: Vec<_> = followed.into_iter().map(with_records).collect();
        may_go(disk, &followed, kept, must_go)
    }

    /// The health of a route's followers.
    pub(crate) fn health(&self, route: u32) -> Vec<FollowerHealth> {
        let state = self.lock();
        let of_route = state.followed.values().filter(|followed| followed.route == route);
        of_route.map(|followed| followed.standing.health()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RouteFollowers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFollowers").finish_non_exhaustive()
    }
}
