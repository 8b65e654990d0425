//! Checks that each bucket has its own records and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Customer, Simulation};
use crate::simulation::checkers::delivery::{self as checker, ObjectReading, Reading};
use crate::simulation::destination::{Endpoint, Known, Own};
use crate::startup;

impl Simulation {
    /// The objects in a customer's bucket, and the set-aside objects of its streams.
    fn reading(&self, n: usize) -> Result<Reading, String> {
        let objects = self.customers[n].bucket.objects();
        let mut reading = Own::read(&mut Known::default(), &objects, true)?;
        let mut set_aside = Reading::new();
        checker::add_set_aside(&mut set_aside, &self.disk.files(), Own::lines_of)?;
        for (stream, objects) in set_aside {
            let is_own = |object: &Rc<ObjectReading>| {
                object.lines.iter().all(|line| self.customers[n].owns(line))
            };
            reading.entry(stream).or_default().extend(objects.into_iter().filter(is_own));
        }
        reading.retain(|_, objects| !objects.is_empty());
        reading.values_mut().for_each(|objects| objects.sort_by_key(|object| object.first));
        Ok(reading)
    }

    /// Checks that all acknowledged records of a customer are in its bucket or set aside.
    pub(super) fn is_whole(&self, n: usize) -> Result<(), String> {
        let there = numbered(&self.reading(n)?)?;
        let name = &self.customers[n].name;
        for ((stream, number), line) in &self.customers[n].acknowledged {
            match there.get(&(stream.clone(), *number)) {
                Some(found) if found == line => {}
                Some(_) => return Err(format!("record {number} of {stream} of {name} is another")),
                None => return Err(format!("record {number} of {stream} of {name} is missing")),
            }
        }
        Ok(())
    }

    /// Checks that the buckets have only what was written and, if `whole`, all of it.
    pub(super) fn check(&self, whole: bool) -> Result<(), String> {
        let mut streams: BTreeMap<String, usize> = BTreeMap::new();
        let delivered = checker::delivered(&self.disk.files())?;
        let names = self.names()?;
        for (n, customer) in self.customers.iter().enumerate() {
            let name = &customer.name;
            if let Some(broken) = customer.bucket.broken() {
                return Err(format!("{name}: {broken}"));
            }
            let reading = self.reading(n)?;
            for stream in reading.keys() {
                if streams.insert(stream.clone(), n).is_some() {
                    return Err(format!("stream {stream} is in two buckets"));
                }
            }
            let there = numbered(&reading)?;
            let mut seen = BTreeSet::new();
            for ((stream, number), line) in &there {
                let text = String::from_utf8_lossy(line);
                if !customer.owns(line) {
                    return Err(format!("{name} has what is not its own: {text}"));
                }
                if customer.refused.contains(line) {
                    return Err(format!("{name} has what was refused: {text}"));
                }
                if !seen.insert(line) {
                    return Err(format!("{name} has twice: {text}"));
                }
                let known = customer.acknowledged.get(&(stream.clone(), *number));
                let is_written = match known {
                    Some(expected) => expected == line,
                    None => customer.unknown.contains(line),
                };
                if !is_written {
                    return Err(format!("record {number} of {stream} is not what was written"));
                }
            }
            let own = reading.keys().filter_map(|stream| Some((stream, *delivered.get(stream)?)));
            for (stream, next) in own {
                let missing = (0..next).find(|n| !there.contains_key(&(stream.clone(), *n)));
                if let Some(missing) = missing {
                    return Err(format!(
                        "{stream} is said to be delivered up to {next}, and {missing} is missing"
                    ));
                }
            }
            self.check_followers(n, whole)?;
            let rows: Vec<_> = names.iter().filter(|(_, row)| row.name == *name).collect();
            let is_retired = !rows.is_empty() && rows.iter().all(|(_, row)| row.is_retired);
            if whole || is_retired {
                self.is_whole(n)?;
            }
        }
        // A stream that is in no bucket must not be recorded as delivered.
        let lost =
            delivered.iter().find(|(stream, next)| **next > 0 && !streams.contains_key(*stream));
        if let Some((stream, next)) = lost {
            return Err(format!("{stream} is said to be delivered up to {next}, and is nowhere"));
        }
        if whole {
            let (_, decided) =
                startup::read_whole(&self.disk).map_err(|error| error.to_string())?;
            if let Some(left) = decided.objects.first() {
                let route = decided.route_of(left.plan.stream);
                let row = decided.routes.get(route);
                return Err(format!("{} of {row:?} is still to be sent", left.plan.file_name()));
            }
        }
        Ok(())
    }
}

impl Customer {
    pub(super) fn owns(&self, line: &[u8]) -> bool {
        let of = format!(",\"of\":\"{}\",", self.name);
        String::from_utf8_lossy(line).contains(&of)
    }
}

/// The records by stream and number.
fn numbered(reading: &Reading) -> Result<BTreeMap<(String, u64), Vec<u8>>, String> {
    let mut there = BTreeMap::new();
    for (stream, objects) in reading {
        for object in objects {
            for (number, line) in (object.first..).zip(&object.lines) {
                if there.insert((stream.clone(), number), line.clone()).is_some() {
                    return Err(format!("record {number} of {stream} is there twice"));
                }
            }
        }
    }
    Ok(there)
}
