//! Checks that each bucket has its own records and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use audit_core::UniqueId;

use super::{Customer, Simulation};
use crate::plan::DecidedObject;
use crate::simulation::bucket::{SEAL, Stored};
use crate::simulation::checkers::delivery::{self as checker, ObjectReading, Reading};
use crate::simulation::destination::{Endpoint, Own};
use crate::simulation::vouching::OWN;
use crate::startup;

impl Simulation {
    /// The objects in a customer's bucket, and the set-aside objects of its streams.
    fn reading(&self, n: usize) -> Result<Reading, String> {
        let Customer { bucket, known, .. } = &self.customers[n];
        let mut reading = Own::read(&mut known.borrow_mut(), &bucket.objects(), true)?;
        let mut set_aside = Reading::new();
        let conflicts = bucket.conflicts();
        // With a thousand buckets, the files of all of them are not read for each.
        if !conflicts.is_empty() {
            let files = self.disk.files_where(checker::is_set_aside);
            checker::add_set_aside(&mut set_aside, &files, Own::lines_of)?;
        }
        for (stream, objects) in set_aside {
            let is_own = |object: &Rc<ObjectReading>| {
                let name = format!("{stream}-{:012}.", object.first);
                let is_conflict = conflicts.keys().any(|key| key.starts_with(&name));
                let is_own = |line: &Vec<u8>| is_system(line) || self.customers[n].owns(line);
                is_conflict && object.lines.iter().all(is_own)
            };
            let own: Vec<_> = objects.into_iter().filter(is_own).collect();
            reading.entry(stream).or_default().extend(own);
        }
        reading.retain(|_, objects| !objects.is_empty());
        reading.values_mut().for_each(|objects| objects.sort_by_key(|object| object.first));
        Ok(reading)
    }

    /// Checks that all acknowledged records of a customer are in its bucket or set aside.
    pub(super) fn is_whole(&self, n: usize) -> Result<(), String> {
        self.customers[n].is_whole(&numbered(&self.reading(n)?)?)
    }

    /// Verifies a customer's bucket, at any moment. With `is_whole`, all streams must be closed.
    pub(super) fn verify(&self, n: usize, is_whole: bool) -> Result<(), String> {
        let mut own = self.customers[n].bucket.objects();
        own.retain(|_, stored| !stored.foreign);
        Own::verify(&own, &self.customers[n].bucket.shown(), is_whole)
            .map_err(|what| format!("the bucket of {}: {what}", self.customers[n].name))
    }

    /// The number of sealed objects, and of those that end their streams.
    pub(super) fn sealed(&self) -> (u64, u64) {
        let objects = self.customers.iter().flat_map(|customer| customer.bucket.objects());
        let is_sealed = |stored: &Stored| stored.attributes.contains_key(SEAL);
        let sealed: Vec<_> = objects.filter(|(_, stored)| is_sealed(stored)).collect();
        let is_end = |stored: &Stored| stored.bytes.ends_with(b"\"closed\"}\n");
        let closed = sealed.iter().filter(|(_, stored)| is_end(stored)).count();
        (sealed.len() as u64, closed as u64)
    }

    /// Checks that the buckets have only what was written and, if `whole`, all of it.
    pub(super) fn check(&self, whole: bool) -> Result<(), String> {
        let mut streams: BTreeSet<String> = BTreeSet::new();
        let delivered = checker::delivered(&self.disk.files_where(checker::is_delivered))?;
        let followers = self.follower_readings()?;
        let names = self.names()?;
        for (n, customer) in self.customers.iter().enumerate() {
            let name = &customer.name;
            if let Some(broken) = customer.bucket.broken() {
                return Err(format!("{name}: {broken}"));
            }
            let reading = self.reading(n)?;
            for stream in reading.keys() {
                if !streams.insert(stream.clone()) {
                    return Err(format!("stream {stream} is in two buckets"));
                }
            }
            self.verify(n, whole && customer.is_open_last)?;
            let there = numbered(&reading)?;
            let mut seen = BTreeSet::new();
            for (place @ (stream, number), line) in &there {
                if is_system(line) && customer.vouches {
                    continue;
                }
                let text = || String::from_utf8_lossy(line);
                if !customer.owns(line) {
                    return Err(format!("{name} has what is not its own: {}", text()));
                }
                if customer.refused.contains(*line) {
                    return Err(format!("{name} has what was refused: {}", text()));
                }
                if !seen.insert(line) {
                    return Err(format!("{name} has twice: {}", text()));
                }
                let is_written = match customer.acknowledged.get(place) {
                    Some(expected) => expected == *line,
                    None => customer.unknown.contains(*line),
                };
                if !is_written {
                    return Err(format!("record {number} of {stream} is not what was written"));
                }
            }
            let own = reading.keys().filter_map(|stream| Some((stream, *delivered.get(stream)?)));
            for (stream, next) in own {
                let id = id_of(stream)?;
                let missing = (0..next).find(|n| !there.contains_key(&(id, *n)));
                if let Some(missing) = missing {
                    return Err(format!(
                        "{stream} is said to be delivered up to {next}, and {missing} is missing"
                    ));
                }
            }
            self.check_followers(n, &followers, whole)?;
            let rows: Vec<_> = names.iter().filter(|(_, row)| row.name == *name).collect();
            let is_retired = !rows.is_empty() && rows.iter().all(|(_, row)| row.is_retired);
            if whole || is_retired {
                customer.is_whole(&there)?;
            }
        }
        // A stream that is in no bucket must not be recorded as delivered.
        let lost = delivered.iter().find(|(stream, next)| **next > 0 && !streams.contains(*stream));
        if let Some((stream, next)) = lost {
            return Err(format!("{stream} is said to be delivered up to {next}, and is nowhere"));
        }
        if whole {
            let (recovered, decided) =
                startup::read_whole(&self.disk).map_err(|error| error.to_string())?;
            for stream in decided.secrets.keys() {
                let row = decided.routes.get(decided.route_of(*stream));
                let name = row.map_or("default", |row| &row.name);
                let is_its = |customer: &Customer| customer.is_open_last && customer.name == name;
                let progress = decided.delivered.iter().find(|(of, _)| of == stream);
                let mut in_segments = recovered.segments.iter().flat_map(|s| s.all_routed());
                // A stream that began while the journal was being closed has no records, and keeps
                // its secret.
                let has_records = progress.is_some_and(|(_, progress)| progress.next > 0)
                    || in_segments.any(|records| records.stream == *stream);
                if has_records && self.customers.iter().any(is_its) {
                    return Err(format!("the secret of {stream} of {name} is not destroyed"));
                }
            }
            // A route that only ever had a system record need not be opened in the end, so its
            // objects may remain.
            let is_due = |object: &&DecidedObject| {
                let row = decided.routes.get(decided.route_of(object.plan.stream));
                let is_its = |customer: &&Customer| row.is_some_and(|r| r.name == customer.name);
                let customer = self.customers.iter().find(is_its);
                customer.is_none_or(|customer| !customer.vouches || customer.is_open_last)
            };
            if let Some(left) = decided.objects.iter().find(is_due) {
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
        String::from_utf8_lossy(line).contains(&self.of)
    }

    /// Checks that these records have all that were acknowledged.
    fn is_whole(&self, there: &Numbered<'_>) -> Result<(), String> {
        let name = &self.name;
        for (place @ (stream, number), line) in &self.acknowledged {
            match there.get(place) {
                Some(found) if *found == line => {}
                Some(_) => return Err(format!("record {number} of {stream} of {name} is another")),
                None => return Err(format!("record {number} of {stream} of {name} is missing")),
            }
        }
        Ok(())
    }
}

fn is_system(line: &[u8]) -> bool {
    line.starts_with(OWN.as_bytes())
}

/// Records by stream and number.
type Numbered<'a> = BTreeMap<(UniqueId, u64), &'a Vec<u8>>;

fn id_of(stream: &str) -> Result<UniqueId, String> {
    stream.parse().map_err(|_| format!("{stream} is no stream"))
}

fn numbered(reading: &Reading) -> Result<Numbered<'_>, String> {
    let mut there = BTreeMap::new();
    for (stream, objects) in reading {
        let id = id_of(stream)?;
        for object in objects {
            for (number, line) in (object.first..).zip(&object.lines) {
                if there.insert((id, number), line).is_some() {
                    return Err(format!("record {number} of {stream} is there twice"));
                }
            }
        }
    }
    Ok(there)
}
