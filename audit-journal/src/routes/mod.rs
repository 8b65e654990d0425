//! Routes: further destinations of one journal, each with records of its own.
//!
//! A batch names its route, and one sync makes the batches of all routes durable. Each route has
//! streams of its own in each opening, a delivery of its own, and a share of the journal's disk:
//! trouble with its destination affects no other route. The default route, number 0, is the
//! journal's own destination.

mod batch;
mod commits;
mod filling;
mod index;
mod names;
mod retiring;
mod share;
mod unread;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::UniqueId;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

pub(crate) use self::batch::RunRecords;
use self::commits::{Parts as CommitParts, RouteCommits};
pub(crate) use self::commits::{SystemQueue, Turn};
pub(crate) use self::index::{MAX_PLACES, RouteIndex, Waiting};
pub use self::names::check_route_name;
pub(crate) use self::names::{RouteName, RouteNames, read_routes};
pub(crate) use self::share::{Charge, Refused, Share, UncertainBatch};
pub(crate) use self::unread::{Followed, Lag, Unread};
use crate::delivery::{self, Command, Context, JournalDelivery, RouteLane};
use crate::destination::Destination;
use crate::disk::Disk;
use crate::followers::{FollowedRoute, Follower, FollowerMemory, RouteFollowers, check_names};
use crate::health::HealthBoard;
use crate::plan::Decided;
use crate::settings::JournalSettings;
use crate::shared::executor::execute;
use crate::streams::Streams;

/// The parts needed to open a route.
#[derive(Debug)]
pub struct RouteOpening {
    /// Its name in the journal's directory: 1 to 64 lower-case letters, digits, `-`, `_` and `.`. A
    /// later opening of the same name continues where this one ends.
    pub name: String,
    /// The destination of its records.
    pub destination: Arc<dyn Destination>,
    /// Describes the destination to an operator, without secrets. It is durable in the journal's
    /// directory.
    pub place: String,
    /// The health that the route reports to.
    pub health: Arc<HealthBoard>,
    /// Additional destinations of its records, which nothing waits for.
    pub followers: Vec<Follower>,
}

/// Why a route cannot be opened.
#[derive(Debug)]
pub(crate) enum CannotOpen {
    Refused(String),
    /// The file of routes cannot be written.
    Disk(io::Error),
}

/// The routes of an open journal.
pub(crate) struct Routes {
    parts: RouteParts,
    /// `None` once all deliveries have ended, so that the directory is unlocked even if handles of
    /// routes still exist.
    disk: Mutex<Option<Arc<dyn Disk>>>,
    /// Locked while the file of routes is being written.
    names: AsyncMutex<Names>,
    state: Mutex<State>,
    /// The most that each route's share may be used, in bytes.
    limit: Arc<AtomicU64>,
    followers: Arc<RouteFollowers>,
}

/// The routes that this process last read from or wrote to the file of routes.
struct Names {
    names: RouteNames,
    /// Whether the file is known to hold `names`. After a failed write it holds them or the routes
    /// of that write.
    is_written: bool,
}

/// The parts that all routes of a journal share.
pub(crate) struct RouteParts {
    pub(crate) context: Context,
    /// The memory of all followers of routes.
    pub(crate) follower_memory: FollowerMemory,
    /// Whether the host is gone: followers are neither added nor retired, and nothing is kept for
    /// those that are not opened.
    pub(crate) is_rescue: bool,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<u32, Lane>,
    deliveries: JoinSet<JournalDelivery>,
}

/// A route's delivery.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) commits: Arc<RouteCommits>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) share: Arc<Share>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

/// A route that was opened. Dropping this closes the route unless the caller has
/// [taken](Self::taken) it: a route that is left open cannot be opened again in this process.
pub(crate) struct OpenedRoute {
    number: u32,
    /// The stream of the route's next record.
    stream: UniqueId,
    lane: Lane,
    has_caller: bool,
}

impl OpenedRoute {
    /// Its number, the stream of its next record, and its lane.
    pub(crate) fn taken(mut self) -> (u32, UniqueId, Lane) {
        self.has_caller = true;
        (self.number, self.stream, self.lane.clone())
    }
}

impl Drop for OpenedRoute {
    fn drop(&mut self) {
        if !self.has_caller {
            self.lane.share.close();
        }
    }
}

/// The share of each route, in bytes. All routes together take at most half of the journal's disk
/// space, so that no trouble with their destinations fills it.
fn limit(journal: &JournalSettings, names: &RouteNames) -> u64 {
    journal.max_bytes / 2 / names.in_use().max(1)
}

impl Routes {
    /// Starts the deliveries of routes of which an earlier opening left files. Until such a route
    /// is opened, its records wait; those in a segment that is to be removed are cut into objects.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        parts: RouteParts,
        decided: &mut Decided,
    ) -> Arc<Routes> {
        let names = std::mem::take(&mut decided.routes);
        let followers = std::mem::take(&mut decided.of_routes);
        let Context { live, executor, journal, .. } = &parts.context;
        let limit = Arc::new(limit(journal, &names).into());
        let share = if parts.is_rescue { 0 } else { journal.max_bytes / 2 };
        let (live, executor) = (Arc::clone(live), Arc::clone(executor));
        let memory = parts.follower_memory.clone();
        let followers = RouteFollowers::new(live, executor, share, memory, &names, followers);
        let is_retired = |(number, row): (u32, &RouteName)| row.is_retired.then_some(number);
        let retired: Vec<_> = names.iter().filter_map(is_retired).collect();
        let routes = Routes {
            followers: Arc::new(followers),
            limit,
            names: AsyncMutex::new(Names { names, is_written: true }),
            state: Mutex::default(),
            disk: Mutex::new(Some(disk)),
            parts,
        };
        for (number, decided) in decided.take_routes() {
            for (stream, _) in &decided.delivered {
                routes.parts.context.live.routes().add_stream(*stream, number);
            }
            if let Some(lane) = routes.start_lane(&mut routes.state(), number, decided)
                && retired.contains(&number)
            {
                lane.streams.tell_all();
            }
        }
        Arc::new(routes)
    }

    /// Starts a route's delivery. Returns `None` if the journal is closed.
    fn start_lane(&self, state: &mut State, number: u32, decided: Decided) -> Option<Lane> {
        let Context { live, executor, clock, random, .. } = &self.parts.context;
        let disk = self.disk().ok()?;
        let durable = live.routes().listen(number)?;
        let (commands, received) = mpsc::unbounded_channel();
        let (share, streams) = (Share::closed(), Arc::new(Streams::recovered(&decided)));
        share.add(live.routes().waiting(number, 0).map_or(0, |waiting| waiting.bytes));
        let delivery = JournalDelivery::new(delivery::Parts {
            disk,
            context: self.parts.context.clone(),
            health: HealthBoard::new(format!("route {number}")),
            streams: Arc::clone(&streams),
            followers: Arc::default(),
            durable,
            commands: received,
            route: Some(RouteLane {
                number,
                share: Arc::clone(&share),
                is_open: false,
                file_bytes: 0,
                limit: Arc::clone(&self.limit),
            }),
            decided,
        });
        // Drops the deliveries that have ended, which are those of retired routes.
        while state.deliveries.try_join_next().is_some() {}
        state.deliveries.spawn(delivery.run());
        let commits = Arc::new(RouteCommits::new(CommitParts {
            route: number,
            streams: Arc::clone(&streams),
            share: Arc::clone(&share),
            commands: commands.clone(),
            live: Arc::clone(live),
            executor: Arc::clone(executor),
            clock: Arc::clone(clock),
            random: Arc::clone(random),
        }));
        let lane = Lane { commits, streams, share, commands };
        state.lanes.insert(number, lane.clone());
        Some(lane)
    }

    /// Opens a route.
    pub(crate) async fn open(
        routes: &Arc<Routes>,
        opening: RouteOpening,
    ) -> Result<OpenedRoute, CannotOpen> {
        let routes = Arc::clone(routes);
        // Runs in a task of its own: if the caller goes away, its write must still end before the
        // next one begins.
        let opened = tokio::spawn(async move { routes.open_named(opening).await });
        match opened.await {
            Ok(opened) => opened,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and with it the waiting task.
            Err(_cancelled) => std::future::pending().await,
        }
    }

    async fn open_named(&self, opening: RouteOpening) -> Result<OpenedRoute, CannotOpen> {
        let RouteOpening { name, destination, place, health, followers } = opening;
        let refused = CannotOpen::Refused;
        check_route_name(&name).map_err(refused)?;
        check_names(&followers).map_err(|what| refused(format!("route {name:?}: {what}")))?;
        let mut names = self.names.lock().await;
        let is_closed =
            || refused(format!("route {name:?} cannot be opened: the journal is closed"));
        if self.disk().is_err() {
            return Err(is_closed());
        }
        let known = names.names.find(&name);
        let lane = known.and_then(|number| self.state().lanes.get(&number).cloned());
        if lane.is_some_and(|lane| !lane.share.is_closed()) {
            return Err(refused(format!("route {name:?} is open already")));
        }
        let (changed, number) = match known {
            Some(number) => (names.names.moved(number, &place), number),
            None => match names.names.with(&name, &place) {
                Some((names, number)) => (Some(names), number),
                None => return Err(refused("the journal has no numbers left for routes".into())),
            },
        };
        let unwritten = || (!names.is_written).then(|| names.names.clone());
        if let Some(changed) = changed.or_else(unwritten) {
            self.write_names(&mut names, changed).await.map_err(CannotOpen::Disk)?;
        }
        let lane = {
            let mut state = self.state();
            match state.lanes.get(&number).cloned() {
                Some(lane) => Some(lane),
                None => self.start_lane(&mut state, number, Decided::default()),
            }
        };
        let Some(lane) = lane else { return Err(is_closed()) };
        let disk = self.disk().map_err(|_| is_closed())?;
        let stream = lane.commits.open(Arc::clone(&destination));
        let route = FollowedRoute { number, name: &name, stream };
        let followed = self.followers.open(&disk, route, followers, !self.parts.is_rescue);
        let is_open = followed.await.map_err(CannotOpen::Disk)?;
        lane.share.show(&health, self.limit());
        if !is_open || lane.commands.send(Command::Open(destination, health)).is_err() {
            return Err(is_closed());
        }
        lane.share.open();
        Ok(OpenedRoute { number, stream, lane, has_caller: false })
    }

    /// Replaces the file of routes. An error or a crash leaves the previous names or these.
    async fn write_names(&self, names: &mut Names, changed: RouteNames) -> io::Result<()> {
        let (disk, written) = (self.disk()?, changed.clone());
        names.is_written = false;
        execute(&*self.parts.context.executor, move || written.write(&*disk)).await?;
        let limit = limit(&self.parts.context.journal, &changed);
        self.limit.store(limit, Ordering::Relaxed);
        for lane in self.state().lanes.values() {
            lane.share.show_limit(limit);
        }
        *names = Names { names: changed, is_written: true };
        Ok(())
    }

    pub(crate) fn followers(&self) -> &Arc<RouteFollowers> {
        &self.followers
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Completes once the deliveries of all routes have ended: after the journal was closed, and
    /// everything is delivered except the records of routes that are not open. Nothing uses the
    /// directory from then on, except what the returned deliveries clean.
    pub(crate) async fn ended(&self) -> Vec<JournalDelivery> {
        let mut deliveries = std::mem::take(&mut self.state().deliveries);
        let mut ended = Vec::new();
        while let Some(delivery) = deliveries.join_next().await {
            // A delivery without a result was cancelled with the runtime.
            ended.extend(delivery);
        }
        // Waits for writes under way.
        let _names = self.names.lock().await;
        let lanes: Vec<_> = self.state().lanes.values().cloned().collect();
        for lane in lanes {
            lane.commits.released().await;
        }
        self.lock_disk().take();
        ended
    }

    /// Whether the directory may still be used.
    pub(crate) fn is_open(&self) -> bool {
        self.lock_disk().is_some()
    }

    /// The journal's directory.
    ///
    /// # Errors
    ///
    /// If the journal is closed.
    pub(crate) fn disk(&self) -> io::Result<Arc<dyn Disk>> {
        self.lock_disk().clone().ok_or_else(|| io::Error::other("the journal is closed"))
    }

    fn lock_disk(&self) -> MutexGuard<'_, Option<Arc<dyn Disk>>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}
