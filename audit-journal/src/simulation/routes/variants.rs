//! Known-bad routes, which the simulation must catch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Process, Simulation};
use crate::disk::{Disk, DiskFile, read_whole};
use crate::followers::{FollowerRecord, PAUSED, read_paused, write_paused};
use crate::object_file::object_of;
use crate::progress::{Progress, read_progress, stream_of, write_progress};
use crate::routes::{RouteNames, read_routes};
use crate::secret::{self, read_secret, write_secret};
use crate::simulation::disk::SimulatedDisk;

/// The real routes, or known-bad ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsItIs,
    /// Swaps the names of two routes in the file of routes.
    MixesUpRoutes,
    /// Shares one watermark among all routes.
    SharesWatermarks,
    /// Forgets a route's records before they are in a durable object.
    DropsUnplanned,
    /// Does not limit the disk space of a route.
    CountsNoShares,
    /// Charges a route's records to the share of the next one.
    ChargesAnother,
    /// Cuts no objects for a route that cannot deliver, so that its records keep segments.
    KeepsSegments,
    /// Records a route as retired before everything is delivered.
    RetiresEarly,
    /// Keeps another stream's secret as that of a route's stream.
    SwapsSecrets,
    /// Shares one frontier among all routes.
    SharesFrontiers,
    /// Sends objects before their plans are durable.
    PlansUnsynced,
    /// Lets a later stream name a stream that is not recorded as named.
    NamesStreamsUnnoted,
    /// Gives the followers of a route the records of another one.
    MixesUpFollowers,
    /// Shares one watermark among all followers of routes.
    SharesFollowerWatermarks,
    /// Gives the default route's followers the watermarks of those of routes.
    SharesWatermarksWithDefault,
    /// Forgets which records a follower misses.
    ForgetsMissing,
    /// Keeps segments for a follower whatever it takes.
    BlocksForFollowers,
}

impl Variant {
    /// The variants that seeds must catch. Scenarios catch the others.
    pub(super) const BAD: [Variant; 12] = [
        Variant::MixesUpRoutes,
        Variant::SharesWatermarks,
        Variant::DropsUnplanned,
        Variant::RetiresEarly,
        Variant::SwapsSecrets,
        Variant::SharesFrontiers,
        Variant::PlansUnsynced,
        Variant::NamesStreamsUnnoted,
        Variant::MixesUpFollowers,
        Variant::SharesFollowerWatermarks,
        Variant::SharesWatermarksWithDefault,
        Variant::ForgetsMissing,
    ];
}

impl Simulation {
    /// Drops a route's records that are in no object.
    pub(super) fn drop_unplanned(&mut self, process: &Process) {
        let route = u32::try_from(self.dice.within(1..6)).unwrap();
        if let Some(run) = process.live.routes().front(route, 1 << 20)
            && let Ok(cut) = process.live.routes().read_run(run)
        {
            let next = cut.first_sequence + cut.count;
            process.live.routes().planned(route, cut.stream, next);
        }
    }
}

impl Simulation {
    /// Charges a record of this customer to the next one.
    pub(super) fn charge_another(&self, n: usize) {
        let own = self.customers[n].route.as_ref();
        if let Some((own, other)) = own.zip(self.customers[n + 1].route.as_ref()) {
            own.share().free(500);
            other.share().add(500);
        }
    }
}

/// A disk that mistreats the files of routes.
#[derive(Debug)]
pub(super) struct BadDisk {
    inner: SimulatedDisk,
    variant: Variant,
    /// Whether the last name that a file got is that of a plan.
    named_plan: AtomicBool,
}

impl BadDisk {
    pub(super) fn new(inner: SimulatedDisk, variant: Variant) -> BadDisk {
        BadDisk { inner, variant, named_plan: AtomicBool::new(false) }
    }

    fn names(&self) -> io::Result<RouteNames> {
        read_routes(&self.inner).map_err(io::Error::other)
    }

    fn rename_routes(&self) -> io::Result<()> {
        let names = self.names()?;
        let in_use: Vec<_> = names.iter().filter(|(_, row)| !row.is_retired).collect();
        match (self.variant, &in_use[..]) {
            (Variant::MixesUpRoutes, [(one, _), (two, _), ..]) => {
                names.swapped(*one, *two).write(&self.inner)
            }
            (Variant::RetiresEarly, [(one, _), ..]) => names.retired(*one).write(&self.inner),
            _ => Ok(()),
        }
    }

    fn swap_secret(&self, of: &str) -> io::Result<()> {
        let is_other = |name: &&String| name.ends_with(".secret") && *name != of;
        let names = self.inner.list()?;
        let other = names.iter().find(is_other);
        let other = other.map(|other| read_secret(&self.inner, other)).transpose();
        let other = other.map_err(io::Error::other)?;
        match (secret::stream_of(of), other) {
            (Some(stream), Some(other)) => write_secret(&self.inner, stream, &other),
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> io::Result<Progress> {
        read_progress(&self.inner, name).map_err(io::Error::other)
    }

    fn share_frontier(&self, of: &str) -> io::Result<()> {
        let Some(chain) = self.read(of)?.chain else { return Ok(()) };
        for name in self.inner.list()?.iter().filter(|name| *name != of) {
            let Some(stream) = stream_of(name) else { continue };
            let mut other = self.read(name)?;
            if let Some(of_other) = other.chain.as_mut().filter(|other| !other.is_closed) {
                of_other.state = chain.state.clone();
                write_progress(&self.inner, stream, &other)?;
            }
        }
        Ok(())
    }

    fn share_watermark(&self, of: &str) -> io::Result<()> {
        let progress = self.read(of)?;
        if progress.route == 0 {
            return Ok(());
        }
        for name in self.inner.list()? {
            let Some(stream) = stream_of(&name) else { continue };
            let mut other = self.read(&name)?;
            if other.route > 0 {
                other.next = progress.next;
                write_progress(&self.inner, stream, &other)?;
            }
        }
        Ok(())
    }
}

impl BadDisk {
    fn mistreat_follower(&self, of: &str) -> io::Result<()> {
        let read = |name: &str| {
            Ok::<_, io::Error>(FollowerRecord::decode(&read_whole(&self.inner, name)?))
        };
        let Some(mut record) = read(of)?.filter(|record| record.route > 0) else { return Ok(()) };
        if self.variant == Variant::ForgetsMissing && !record.missing.is_empty() {
            record.missing.clear();
            return record.write(&self.inner);
        }
        let with_default = self.variant == Variant::SharesWatermarksWithDefault;
        if self.variant != Variant::SharesFollowerWatermarks && !with_default {
            return Ok(());
        }
        let is_treated = |other: &FollowerRecord| (other.route == 0) == with_default;
        for name in self.inner.list()?.iter().filter(|name| name.ends_with(".follower")) {
            if let Some(mut other) = read(name)?.filter(is_treated) {
                other.watermark = record.watermark;
                other.write(&self.inner)?;
            }
        }
        Ok(())
    }
}

impl Disk for BadDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        // A route's second object is not written while its first one waits.
        if self.variant == Variant::KeepsSegments
            && let Some((stream, ..)) = name.strip_suffix(".preparing").and_then(object_of)
        {
            let progress = read_whole(&self.inner, &format!("{stream}.delivered"))?;
            let is_routed = progress.starts_with(b"audit delivered 3 ")
                || progress.starts_with(b"audit delivered 4 ");
            let is_other = |other: &&String| other.starts_with(&stream.to_string());
            let names = self.inner.list()?;
            let mut planned = names.iter().filter(is_other).filter(|n| n.ends_with(".object"));
            if is_routed && planned.next().is_some() {
                return Err(io::Error::other("not now"));
            }
        }
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.variant == Variant::BlocksForFollowers && to == PAUSED {
            return Err(io::Error::other("not now"));
        }
        if self.variant == Variant::NamesStreamsUnnoted && to.ends_with(".delivered") {
            let file = read_whole(&self.inner, from)?;
            if String::from_utf8_lossy(&file).contains(" told 1 ") {
                return self.inner.remove(from);
            }
        }
        self.named_plan.store(to.ends_with(".object"), Ordering::Relaxed);
        self.inner.rename(from, to)?;
        match to {
            _ if to.ends_with(".follower") => self.mistreat_follower(to),
            PAUSED if self.variant == Variant::ForgetsMissing => {
                let mut paused = read_paused(&self.inner).map_err(io::Error::other)?;
                paused.iter_mut().for_each(|record| record.missing.clear());
                write_paused(&self.inner, &paused)
            }
            "routes" => self.rename_routes(),
            _ if self.variant == Variant::SharesWatermarks && to.ends_with(".delivered") => {
                self.share_watermark(to)
            }
            _ if self.variant == Variant::SharesFrontiers && to.ends_with(".delivered") => {
                self.share_frontier(to)
            }
            _ if self.variant == Variant::SwapsSecrets && to.ends_with(".secret") => {
                self.swap_secret(to)
            }
            _ => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.variant == Variant::PlansUnsynced && self.named_plan.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.sync_directory()
    }
}
