//! The delivery of a journal to its destination, and that to its followers beside it.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::delivery::JournalDelivery;
use crate::followers::{Ending, FollowerTask};
use crate::shared::latest;
use crate::shared::panic::catch_in;

/// Runs the delivery to its end, and that to the followers beside it.
///
/// Once the delivery has ended, followers have `patience` to take what is left, as long as they
/// take it without trouble. What they do not take stays in the journal. Without a limit, they take
/// everything.
pub(crate) async fn deliver(
    delivery: JournalDelivery,
    tasks: Vec<FollowerTask>,
    patience: Option<Duration>,
) {
    let (ending, _) = latest::channel(Ending::Open);
    let mut running = JoinSet::new();
    for task in tasks {
        running.spawn(task.run(ending.subscribe()));
    }
    let mut delivery = delivery.run().await;
    if running.is_empty() {
        return;
    }
    let all_ended = async { while running.join_next().await.is_some() {} };
    match patience {
        None => all_ended.await,
        Some(patience) => {
            ending.send(Ending::Settle);
            let _ = timeout(patience, all_ended).await;
            ending.send(Ending::Stop);
            while running.join_next().await.is_some() {}
        }
    }
    // What stays is removed by the next opening.
    let _panicked = catch_in(delivery.clean()).await;
}
