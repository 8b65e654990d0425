//! Routes that get nothing more.

use std::io;
use std::sync::Arc;

use super::{RouteName, Routes};
use crate::delivery::Command;

impl Routes {
    /// Makes a route durably retired. It is closed, and everything is delivered.
    ///
    /// After a crash before this returns, the route is in use, with no records, and its followers
    /// are retired or not.
    pub(crate) async fn retire(&self, number: u32) -> io::Result<()> {
        let mut names = self.names.lock().await;
        self.followers.retire(&self.disk()?, number).await?;
        let retired = names.names.retired(number);
        self.write_names(&mut names, retired).await?;
        self.end_lane(number);
        Ok(())
    }

    /// Retires the routes that are not open and have nothing undelivered. Returns those that are
    /// not open and have.
    ///
    /// After a crash before this returns, they are in use, with no records, and their followers are
    /// retired or not.
    pub(crate) async fn retire_unopened(routes: &Arc<Routes>) -> io::Result<Vec<(u32, RouteName)>> {
        let routes = Arc::clone(routes);
        // A task of its own: a write that its caller left must end before the next one begins.
        let retired = tokio::spawn(async move {
            let mut names = routes.names.lock().await;
            let (mut changed, mut left, mut retired) =
                (names.names.clone(), Vec::new(), Vec::new());
            for (number, row) in names.names.iter().filter(|(_, row)| !row.is_retired) {
                let lane = routes.state().lanes.get(&number).cloned();
                let is_ending = lane.as_ref().is_some_and(|lane| lane.streams.are_ending());
                let share = lane.map(|lane| lane.share);
                match share {
                    Some(share) if !share.is_closed() => {}
                    // Nothing is committed to it before it is open.
                    Some(share) if share.used() > 0 || share.is_uncertain() || is_ending => {
                        left.push((number, row.clone()));
                    }
                    Some(_) | None => {
                        changed = changed.retired(number);
                        retired.push(number);
                    }
                }
            }
            for number in &retired {
                routes.followers.retire(&routes.disk()?, *number).await?;
            }
            if !retired.is_empty() {
                routes.write_names(&mut names, changed).await?;
            }
            for number in retired {
                routes.end_lane(number);
            }
            Ok(left)
        });
        retired.await.map_err(io::Error::other).flatten()
    }

    fn end_lane(&self, number: u32) {
        if let Some(lane) = self.state().lanes.remove(&number) {
            let _ = lane.commands.send(Command::Retire);
        }
    }
}
