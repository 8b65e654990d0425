//! The names and numbers of routes: the file `routes`.

use std::collections::BTreeMap;
use std::io;

use crate::disk::{Disk, read_whole, write_durably};
use crate::format::{Fields, MAX_ROUTE, seal};
use crate::recovery_error::RecoveryError;

/// The file's name. A journal without it has the default route only.
pub(crate) const ROUTES: &str = "routes";

/// The longest name of a route, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// The longest text that describes a destination, in bytes. A longer one is cut.
const MAX_DESTINATION_BYTES: usize = 1_024;

/// All routes of a journal but the default one, by number. A number is never used again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RouteNames {
    rows: BTreeMap<u32, RouteName>,
}

/// A route, as the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteName {
    pub(crate) name: String,
    /// Describes where its records go, for an operator. It contains no secrets.
    pub(crate) destination: String,
    /// Whether it is retired: everything is delivered, and nothing will be added.
    pub(crate) is_retired: bool,
}

/// Checks that a route may have this name.
///
/// # Errors
///
/// If it may not, with the reason.
pub fn check_route_name(name: &str) -> Result<(), String> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a name of a route: it must have 1 to {MAX_NAME_BYTES} lower-case letters, \
         digits, `-`, `_` or `.`"
    ))
}

fn is_valid_name(name: &str) -> bool {
    let is_valid = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_valid)
}

impl RouteNames {
    pub(crate) fn get(&self, route: u32) -> Option<&RouteName> {
        self.rows.get(&route)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &RouteName)> {
        self.rows.iter().map(|(number, row)| (*number, row))
    }

    /// The number of the route with this name that is not retired.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let mut rows = self.rows.iter();
        rows.find(|(_, row)| !row.is_retired && row.name == name).map(|(number, _)| *number)
    }

    /// The number of routes that are not retired.
    pub(crate) fn in_use(&self) -> u64 {
        self.rows.values().filter(|row| !row.is_retired).count() as u64
    }

    /// These routes and a new one, with its number. `None` if there are no numbers left.
    pub(crate) fn with(&self, name: &str, destination: &str) -> Option<(RouteNames, u32)> {
        let number = self.rows.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut names = self.clone();
        let (name, is_retired) = (name.to_owned(), false);
        let destination = cut(destination).to_owned();
        names.rows.insert(number, RouteName { name, destination, is_retired });
        (number < MAX_ROUTE).then_some((names, number))
    }

    /// These routes, with `destination` for this one. `None` if it has that destination already.
    pub(crate) fn moved(&self, route: u32, destination: &str) -> Option<RouteNames> {
        let mut names = self.clone();
        let row = names.rows.get_mut(&route)?;
        let destination = cut(destination);
        if row.destination == destination {
            return None;
        }
        destination.clone_into(&mut row.destination);
        Some(names)
    }

    /// These routes, with this one retired.
    pub(crate) fn retired(&self, route: u32) -> RouteNames {
        let mut names = self.clone();
        if let Some(row) = names.rows.get_mut(&route) {
            row.is_retired = true;
        }
        names
    }

    /// These routes with the names of two of them exchanged, for a known-bad journal.
    #[cfg(test)]
    pub(crate) fn swapped(&self, one: u32, two: u32) -> RouteNames {
        let mut names = self.clone();
        if let (Some(first), Some(second)) = (self.rows.get(&one), self.rows.get(&two)) {
            names.rows.insert(one, second.clone());
            names.rows.insert(two, first.clone());
        }
        names
    }

    /// Makes the routes durable.
    ///
    /// A crash before this returns leaves the previous routes or these. Nothing is committed to a
    /// new route before that, so a number that a crash takes back belongs to no records.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        write_durably(disk, ROUTES, [&self.encode()[..]])
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!("audit routes 1 count {:08x} ", self.rows.len());
        for (number, RouteName { name, destination, is_retired }) in &self.rows {
            let state = if *is_retired { "r" } else { "a" };
            text += &format!(
                "route {number:08x} state {state} name {:08x} {name} to {:08x} {destination} ",
                name.len(),
                destination.len()
            );
        }
        let mut text = text.into_bytes();
        seal(&mut text, 0);
        text
    }

    fn decode(file: &[u8]) -> Option<RouteNames> {
        let mut fields = Fields::of(file, 0)?;
        fields.literal("audit routes 1 count ")?;
        let count = fields.hex32()?;
        fields.literal(" ")?;
        let mut rows = BTreeMap::new();
        for _ in 0..count {
            fields.literal("route ")?;
            let number = fields.hex32().filter(|number| (1..MAX_ROUTE).contains(number))?;
            fields.literal(" state ")?;
            let is_retired = match fields.text(1)? {
                "a" => false,
                "r" => true,
                _ => return None,
            };
            fields.literal(" name ")?;
            let bytes = usize::try_from(fields.hex32()?).ok()?;
            fields.literal(" ")?;
            let name = fields.text(bytes)?.to_owned();
            fields.literal(" to ")?;
            let bytes = usize::try_from(fields.hex32()?).ok()?;
            fields.literal(" ")?;
            let destination = fields.text(bytes)?.to_owned();
            fields.literal(" ")?;
            rows.insert(number, RouteName { name, destination, is_retired });
        }
        Some(RouteNames { rows })
    }
}

fn cut(destination: &str) -> &str {
    &destination[..destination.floor_char_boundary(MAX_DESTINATION_BYTES)]
}

/// Reads the routes, and makes them durable again: a recovery acts on what it reads. A crash in
/// here leaves the same routes.
pub(crate) fn read_routes(disk: &dyn Disk) -> Result<RouteNames, RecoveryError> {
    let file = match read_whole(disk, ROUTES) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RouteNames::default()),
        Err(error) => return Err(error.into()),
    };
    let unreadable = || RecoveryError::unreadable(ROUTES, &file, "audit routes ");
    let names = RouteNames::decode(&file).ok_or_else(unreadable)?;
    names.write(disk)?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn routes_round_trip_and_damage_is_detected(
            rows in prop::collection::vec(("[a-z0-9_.-]{1,64}", ".{0,40}", any::<bool>()), 0..6),
            bit: prop::sample::Index,
        ) {
            let mut names = RouteNames::default();
            for (name, destination, is_retired) in rows {
                prop_assert!(is_valid_name(&name));
                let (with, number) = names.with(&name, &destination).unwrap();
                prop_assert!(names.get(number).is_none(), "a number is used once");
                names = if is_retired { with.retired(number) } else { with };
            }
            let mut file = names.encode();
            prop_assert_eq!(RouteNames::decode(&file), Some(names));
            let bit = bit.index(file.len() * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RouteNames::decode(&file), None);
            prop_assert_eq!(RouteNames::decode(&file[..bit / 8]), None);
        }
    }
}
