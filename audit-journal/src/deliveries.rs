//! The deliveries of a recovered journal: to its destination, its followers and its routes, all
//! concurrently.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::delivery::{self, Command, Context, JournalDelivery};
use crate::disk::Disk;
use crate::followers::{
    Ending, Follower, FollowerMemory, FollowerParts, FollowerRecord, FollowerTask, Followers,
    Standing,
};
use crate::format::Position;
use crate::health::HealthBoard;
use crate::plan::Decided;
use crate::routes::{RouteParts, Routes};
use crate::shared::latest;
use crate::shared::panic::catch_in;
use crate::streams::Streams;

/// The parts of a journal's [`Deliveries`].
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) context: Context,
    /// The memory of all followers of routes.
    pub(crate) follower_memory: FollowerMemory,
    /// Whether the host is gone, and nothing will be committed.
    pub(crate) is_rescue: bool,
    pub(crate) health: Arc<HealthBoard>,
    /// The default route's followers.
    pub(crate) followers: Vec<(Follower, FollowerRecord)>,
    /// The default route's followers that this process does not deliver to. Nothing is kept for
    /// them.
    pub(crate) left: Vec<FollowerRecord>,
    pub(crate) durable: latest::Receiver<Position>,
    pub(crate) decided: Decided,
}

/// All deliveries of a journal. Those of routes run, the others are not started.
pub(crate) struct Deliveries {
    pub(crate) followers: Arc<Followers>,
    pub(crate) routes: Arc<Routes>,
    /// The state of the default route's streams.
    pub(crate) streams: Arc<Streams>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    delivery: JournalDelivery,
    tasks: Vec<FollowerTask>,
}

impl Deliveries {
    pub(crate) fn new(parts: Parts) -> Deliveries {
        let Parts {
            disk,
            context,
            follower_memory,
            is_rescue,
            health,
            followers,
            left,
            durable,
            mut decided,
        } = parts;
        let route_parts = RouteParts { context: context.clone(), follower_memory, is_rescue };
        let routes = Routes::start(Arc::clone(&disk), route_parts, &mut decided);
        let follower_parts = FollowerParts {
            disk: Arc::clone(&disk),
            live: Arc::clone(&context.live),
            executor: Arc::clone(&context.executor),
            durable: durable.clone(),
            journal_bytes: context.journal.max_bytes,
        };
        let (mut own, tasks) = follower_parts.start(followers);
        own.extend(left.into_iter().map(|record| {
            let name = record.name.clone();
            Arc::new(Standing::new(record, name.clone(), HealthBoard::new(name), 0))
        }));
        let of_routes = Some(Arc::clone(routes.followers()));
        let followers = Arc::new(Followers { own, of_routes });
        let streams = Arc::new(Streams::recovered(&decided));
        let (commands, received) = mpsc::unbounded_channel();
        let delivery = JournalDelivery::new(delivery::Parts {
            disk,
            context,
            health,
            streams: Arc::clone(&streams),
            followers: Arc::clone(&followers),
            durable,
            commands: received,
            route: None,
            decided,
        });
        Deliveries { followers, routes, streams, commands, delivery, tasks }
    }

    /// Runs until nothing more will be committed and the deliveries to the destination, the
    /// followers and the routes have ended.
    ///
    /// Once the delivery to the destination has ended, followers, those of routes too, have
    /// `patience` to accept the remaining records, as long as they accept them without trouble.
    /// Records they do not accept stay in the journal. With `None`, followers have no time limit.
    ///
    /// Returns `false` if the journal's directory was removed before everything was delivered.
    pub(crate) async fn run(self, patience: Option<Duration>) -> bool {
        let Deliveries { routes, delivery, tasks, commands, .. } = self;
        drop(commands);
        let (ending, _) = latest::channel(Ending::Open);
        let mut running = JoinSet::new();
        for task in tasks {
            running.spawn(task.run(ending.subscribe()));
        }
        let delivery = delivery.run().await;
        let was_alone = running.is_empty();
        // Without the directory, followers can read nothing more either.
        let patience = patience.or(delivery.is_gone().then_some(Duration::ZERO));
        let end = |now| {
            ending.send(now);
            routes.followers().end(now);
        };
        if patience.is_some() {
            end(Ending::Settle);
        }
        let mut of_routes = routes.followers().take_tasks();
        let mut all_ended = async || {
            while running.join_next().await.is_some() {}
            while of_routes.join_next().await.is_some() {}
        };
        match patience {
            None => all_ended().await,
            Some(patience) => {
                let _ = timeout(patience, all_ended()).await;
                end(Ending::Stop);
                all_ended().await;
            }
        }
        let lanes = routes.ended().await;
        if delivery.is_gone() || lanes.iter().any(JournalDelivery::is_gone) {
            return false;
        }
        if was_alone && lanes.is_empty() {
            return true;
        }
        // Everything is delivered, so segments and progress can be removed. After a panic, the next
        // opening removes them.
        for mut delivery in std::iter::once(delivery).chain(lanes) {
            let _panicked = catch_in(delivery.clean()).await;
        }
        true
    }
}
