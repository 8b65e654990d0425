//! Delivery of a journal to its destination and, concurrently, to its followers and routes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::delivery::JournalDelivery;
use crate::followers::{Ending, FollowerTask};
use crate::routes::Routes;
use crate::shared::latest;
use crate::shared::panic::catch_in;

/// Runs the delivery to the destination until it, the followers and the routes have ended.
///
/// Once the delivery to the destination has ended, followers, those of routes too, have `patience`
/// to accept the remaining records, as long as they accept them without trouble. Records they do
/// not accept stay in the journal. With `None`, followers have no time limit.
pub(crate) async fn deliver(
    delivery: JournalDelivery,
    tasks: Vec<FollowerTask>,
    routes: Arc<Routes>,
    patience: Option<Duration>,
) {
    let (ending, _) = latest::channel(Ending::Open);
    let mut running = JoinSet::new();
    for task in tasks {
        running.spawn(task.run(ending.subscribe()));
    }
    let delivery = delivery.run().await;
    let was_alone = running.is_empty();
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
    if was_alone && lanes.is_empty() {
        return;
    }
    // Everything is delivered, so segments and progress can be removed. After a panic, the next
    // opening removes them.
    for mut delivery in std::iter::once(delivery).chain(lanes) {
        let _panicked = catch_in(delivery.clean()).await;
    }
}
