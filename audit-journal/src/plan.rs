//! Delivery decisions, which are durable before they are carried out.
//!
//! - An *object file* holds a planned object (`object_file`).
//! - A *delivered file* holds the delivery progress of a stream (`progress`). Every stream has one
//!   from before its first record.
//! - A *secret file* holds the secret that vouches for a stream (`secret`).

use std::collections::BTreeMap;
use std::io;

use audit_core::UniqueId;
use bytes::Bytes;

use crate::destination::Plan;
use crate::disk::{Disk, remove_if_there};
use crate::followers::{FollowerRecord, KnownFollowers};
use crate::object_file::{Role, file_bytes, object_of, read_object, write_object_as};
use crate::progress::{self, Progress, read_progress, write_progress};
use crate::recovery_error::RecoveryError;
use crate::routes::RouteNames;
use crate::secret::{self, read_secret};
use crate::shared::pieces::pieces;
use crate::vouching::StreamSecret;

/// The decisions about delivery that an earlier process made.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) delivered: Vec<(UniqueId, Progress)>,
    /// The objects that are not recorded as delivered, in order within each stream.
    pub(crate) objects: Vec<DecidedObject>,
    pub(crate) secrets: BTreeMap<UniqueId, StreamSecret>,
    /// All followers, including retired ones; for an opening, only those of the default route that
    /// it names.
    pub(crate) followers: Vec<FollowerRecord>,
    /// For an opening, the followers of its other routes.
    pub(crate) of_routes: KnownFollowers,
    /// All routes but the default one, including retired ones.
    pub(crate) routes: RouteNames,
}

#[derive(Debug, Clone)]
pub(crate) struct DecidedObject {
    pub(crate) plan: Plan,
    pub(crate) role: Role,
    /// The destination's state after it, in a stream that is vouched for.
    pub(crate) after: Option<Bytes>,
    /// Whether it met a conflict and will not be sent again.
    pub(crate) set_aside: bool,
    pub(crate) file_bytes: u64,
}

impl Decided {
    /// For each stream, the number of the first record that is in no object. Segments are needed
    /// from there on.
    pub(crate) fn planned_to(&self) -> BTreeMap<UniqueId, u64> {
        let delivered = self.delivered.iter().map(|(stream, progress)| (*stream, progress.next));
        let mut planned_to: BTreeMap<_, _> = delivered.collect();
        for DecidedObject { plan, .. } in &self.objects {
            planned_to.insert(plan.stream, plan.next_sequence());
        }
        planned_to
    }

    /// The route of a stream, 0 for the default route.
    pub(crate) fn route_of(&self, stream: UniqueId) -> u32 {
        let known = self.delivered.iter().find(|(of, _)| *of == stream);
        known.map_or(0, |(_, progress)| progress.route)
    }

    /// Takes what is decided about the routes, apart from the default one.
    pub(crate) fn take_routes(&mut self) -> BTreeMap<u32, Decided> {
        let mut routes: BTreeMap<u32, Decided> = BTreeMap::new();
        let mut streams = BTreeMap::new();
        for (stream, progress) in self.delivered.extract_if(.., |(_, progress)| progress.route > 0)
        {
            streams.insert(stream, progress.route);
            routes.entry(progress.route).or_default().delivered.push((stream, progress));
        }
        let is_routed = |object: &mut DecidedObject| streams.contains_key(&object.plan.stream);
        for object in self.objects.extract_if(.., is_routed) {
            let route = streams[&object.plan.stream];
            routes.entry(route).or_default().objects.push(object);
        }
        for (stream, route) in &streams {
            if let Some(secret) = self.secrets.remove(stream) {
                routes.entry(*route).or_default().secrets.insert(*stream, secret);
            }
        }
        routes
    }
}

/// Reads the plans of these streams and removes completed ones. `has_records` tells whether the
/// segments hold records of a stream. Files of other streams are left alone: their deliveries may
/// be writing them.
///
/// Recovery acts on what it reads, so it makes that durable first: if the sync of the directory
/// failed when a file got its name, and only the process ended, the name may be only in the
/// kernel's memory.
///
/// A crash in here changes nothing for the next recovery: files are replaced by identical ones,
/// removed object files are of objects that are at their destination or set aside, and removed
/// secrets are of streams that never began or have ended.
pub(crate) fn recover(
    disk: &dyn Disk,
    is_read: impl Fn(UniqueId) -> bool,
    has_records: impl Fn(UniqueId) -> bool,
) -> Result<Decided, RecoveryError> {
    let mut names = disk.list()?;
    names.sort_unstable();
    let delivered = recover_progress(disk, &names, &is_read)?;
    let objects = recover_objects(disk, &names, &delivered, &is_read, &has_records)?;
    let secrets = recover_secrets(disk, &names, &delivered, &has_records)?;
    // Removes the secrets of streams that never began, and secrets whose removal a crash undid.
    let is_past = |stream| is_read(stream) && !secrets.contains_key(&stream);
    for name in names.iter().filter(|name| secret::stream_of(name).is_some_and(is_past)) {
        remove_if_there(disk, name)?;
    }
    Ok(Decided { delivered, objects, secrets, ..Decided::default() })
}

fn damaged(file: &str, what: &str) -> RecoveryError {
    RecoveryError::Damaged { file: file.to_owned(), offset: 0, what: what.to_owned() }
}

fn recover_progress(
    disk: &dyn Disk,
    names: &[String],
    is_read: &impl Fn(UniqueId) -> bool,
) -> Result<Vec<(UniqueId, Progress)>, RecoveryError> {
    let mut delivered = Vec::new();
    for name in names {
        let Some(stream) = progress::stream_of(name).filter(|stream| is_read(*stream)) else {
            continue;
        };
        let progress = read_progress(disk, name)?;
        write_progress(disk, stream, &progress)?;
        delivered.push((stream, progress));
    }
    Ok(delivered)
}

/// Reads the objects that are not recorded as delivered, in order within each stream.
fn recover_objects(
    disk: &dyn Disk,
    names: &[String],
    delivered: &[(UniqueId, Progress)],
    is_read: &impl Fn(UniqueId) -> bool,
    has_records: &impl Fn(UniqueId) -> bool,
) -> Result<Vec<DecidedObject>, RecoveryError> {
    let pool = pieces();
    let mut objects: Vec<DecidedObject> = Vec::new();
    for name in names {
        let object = object_of(name).filter(|(stream, ..)| is_read(*stream));
        let Some((stream, first_sequence, set_aside)) = object else { continue };
        let known = delivered.iter().find(|(known, _)| *known == stream);
        let known = known.map(|(_, progress)| progress);
        let next = match known {
            Some(progress) => progress.next,
            None if has_records(stream) => {
                return Err(damaged(
                    name,
                    "the delivery progress of this object's stream is missing",
                ));
            }
            // The stream was delivered and removed, and a crash brought this file back.
            None => u64::MAX,
        };
        // An object is delivered whole or not at all.
        if first_sequence < next {
            if !set_aside {
                disk.remove(name)?;
            }
            continue;
        }
        let (plan, role, object) =
            read_object(disk, name, &pool)?.map_err(|what| damaged(name, what))?;
        if (plan.stream, plan.first_sequence) != (stream, first_sequence) {
            return Err(damaged(name, "the file is a different object than its name says"));
        }
        let before = objects.last().filter(|before| before.plan.stream == plan.stream);
        if before.is_some_and(|before| before.set_aside && before.plan == plan) {
            disk.remove(name)?;
            continue;
        }
        let expected = before.map_or(next, |before| before.plan.next_sequence());
        if plan.first_sequence != expected {
            return Err(damaged(name, "the object before this one is missing"));
        }
        // Two objects with the same number would be two histories of one stream.
        let chain = known.and_then(|progress| progress.chain.as_ref());
        let state = match before {
            Some(before) => before.after.as_ref(),
            None => chain.map(|chain| &chain.state),
        };
        if object.seal.as_ref().map(|seal| &seal.before) != state {
            return Err(damaged(
                name,
                "the object's evidence does not continue that of the objects before it",
            ));
        }
        write_object_as(disk, name, &plan, role, &object)?;
        let file_bytes = file_bytes(&object);
        let after = object.seal.map(|seal| seal.after);
        objects.push(DecidedObject { plan, role, after, set_aside, file_bytes });
    }
    Ok(objects)
}

fn recover_secrets(
    disk: &dyn Disk,
    names: &[String],
    delivered: &[(UniqueId, Progress)],
    has_records: &impl Fn(UniqueId) -> bool,
) -> Result<BTreeMap<UniqueId, StreamSecret>, RecoveryError> {
    let mut secrets = BTreeMap::new();
    for (stream, progress) in delivered {
        let Some(chain) = &progress.chain else { continue };
        let name = secret::file_name(*stream);
        if names.binary_search(&name).is_ok() {
            secrets.insert(*stream, read_secret(disk, &name)?);
        } else if !chain.is_closed && (progress.next > 0 || has_records(*stream)) {
            return Err(damaged(&name, "the secret of a stream that is not closed is missing"));
        }
    }
    Ok(secrets)
}

/// All objects that ever met a conflict. Their files stay until an operator removes them.
pub(crate) fn conflicts(disk: &dyn Disk) -> io::Result<Vec<Plan>> {
    let mut names = disk.list()?;
    names.retain(|name| object_of(name).is_some_and(|(_, _, set_aside)| set_aside));
    names.sort_unstable();
    let mut plans = Vec::new();
    let pool = pieces();
    for name in names {
        // Skips a file that cannot be decoded, for example one that was truncated by hand.
        if let Ok((plan, ..)) = read_object(disk, &name, &pool)? {
            plans.push(plan);
        }
    }
    Ok(plans)
}
