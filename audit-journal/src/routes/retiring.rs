//! Retires routes, which then get no more records.

use std::io;
use std::sync::Arc;

use super::{Lane, RouteName, Routes};
use crate::delivery::Command;

impl Lane {
    /// Whether the route is closed, its stream has ended, and nothing of it is left to deliver.
    fn is_done(&self) -> bool {
        let is_left = || self.share.used() > 0 || self.share.is_uncertain();
        // The stream is checked first: once it has ended, `are_ending` counts it.
        let has_ended = self.share.is_closed() && self.commits.has_ended();
        has_ended && !is_left() && !self.streams.are_ending()
    }
}

impl Routes {
    /// Retires a route durably. It was closed, and all its records were delivered.
    ///
    /// # Errors
    ///
    /// If the file of routes cannot be written, or the route was opened again meanwhile: what is
    /// committed to it would have no delivery.
    ///
    /// After a crash before this returns, the route is retired or in use, without undelivered
    /// records. If it is in use, each of its followers is retired or not.
    pub(crate) async fn retire(&self, number: u32) -> io::Result<()> {
        // No route is opened while the names are locked.
        let mut names = self.names.lock().await;
        if self.state().lanes.get(&number).is_some_and(|lane| !lane.is_done()) {
            return Err(io::Error::other("it was opened again while it was being retired"));
        }
        self.followers.retire(&self.disk()?, number).await?;
        let retired = names.names.retired(number);
        self.write_names(&mut names, retired).await?;
        self.end_lane(number);
        Ok(())
    }

    /// Retires the routes that are not open and have nothing undelivered. Returns the other routes
    /// that are not open.
    ///
    /// After a crash before this returns, either all routes that were to be retired are, or all are
    /// in use. If they are in use, each of their followers is retired or not.
    pub(crate) async fn retire_unopened(routes: &Arc<Routes>) -> io::Result<Vec<(u32, RouteName)>> {
        let routes = Arc::clone(routes);
        // Runs in a task of its own: if the caller goes away, its write must still end before the
        // next one begins.
        let retired = tokio::spawn(async move {
            let mut names = routes.names.lock().await;
            let (mut changed, mut left, mut retired) =
                (names.names.clone(), Vec::new(), Vec::new());
            for (number, row) in names.names.iter().filter(|(_, row)| !row.is_retired) {
                match routes.state().lanes.get(&number) {
                    Some(lane) if !lane.share.is_closed() => {}
                    Some(lane) if !lane.is_done() => left.push((number, row.clone())),
                    // Nothing is committed to a route before it is open.
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
