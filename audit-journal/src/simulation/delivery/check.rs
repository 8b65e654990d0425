//! Checks of the journal's promises, on what a process leaves.

use std::collections::BTreeMap;

use super::{Simulation, is_line};
use crate::simulation::checkers::delivery::{self as checker, Reading};
use crate::simulation::destination::Endpoint;
use crate::simulation::vouching::OWN;

impl<E: Endpoint> Simulation<E> {
    fn reading(&mut self) -> Result<Reading, String> {
        let objects = self.bucket.objects();
        let mut reading = E::read(&mut self.known, &objects, self.manners.attributes)?;
        let files = self.disk.files_where(checker::is_set_aside);
        checker::add_set_aside(&mut reading, &files, E::lines_of)?;
        reading.values_mut().for_each(|objects| objects.sort_by_key(|object| object.first));
        Ok(reading)
    }

    /// Checks that every stream with evidence has its last record, and its secret is deleted.
    pub(super) fn are_closed(&self) -> Result<(), String> {
        let mut own = self.bucket.objects();
        own.retain(|_, stored| !stored.foreign);
        E::verify(&own, &self.bucket.shown(), true)?;
        let is_secret = |name: &String| name.ends_with(".secret");
        match self.disk.names().into_iter().find(is_secret) {
            None => Ok(()),
            Some(secret) => Err(format!("{secret} is not destroyed")),
        }
    }

    /// Checks that these records of each stream are in the bucket or set aside.
    pub(super) fn there(&mut self, records: &BTreeMap<String, u64>) -> Result<(), String> {
        are_in(&self.reading()?, records)
    }

    /// Checks that the bucket has only what was acknowledged and, if `whole`, all of it.
    pub(super) fn check(&mut self, whole: bool) -> Result<(), String> {
        if let Some(broken) = self.bucket.broken() {
            return Err(broken);
        }
        let reading = self.reading()?;
        for (id, objects) in &reading {
            let stream = self.streams.iter().find(|stream| stream.id.to_string() == *id);
            let stream = stream.ok_or_else(|| format!("stream {id} was never written"))?;
            let batches: Vec<_> = stream.groups.iter().flat_map(|group| &group.batches).collect();
            let lines: Vec<_> = batches.iter().copied().flatten().collect();
            let total = lines.len() as u64;
            let mut next = 0;
            for object in objects {
                if object.first < next {
                    return Err(format!("record {} of {id} is there twice", object.first));
                }
                next = object.first + object.lines.len() as u64;
                let ends = batches.iter().scan(0, |at, batch| {
                    *at += batch.len() as u64;
                    Some(*at)
                });
                // After the last committed record, the delivery writes records one by one.
                let bounds = |at| at == 0 || at > total || ends.clone().any(|end| end == at);
                if !bounds(object.first) || !bounds(next) {
                    return Err(format!(
                        "the object of {id} from {} divides a batch",
                        object.first
                    ));
                }
                for (number, found) in (object.first..).zip(&object.lines) {
                    let is_written = match lines.get(usize::try_from(number).unwrap()) {
                        Some(expected) => is_line(expected, found),
                        None => found.starts_with(OWN.as_bytes()),
                    };
                    if !is_written {
                        return Err(format!("record {number} of {id} is not what was written"));
                    }
                }
            }
        }
        let files = self.disk.files_where(checker::is_delivered);
        for (id, next) in checker::delivered(&files)? {
            are_in(&reading, &BTreeMap::from([(id, next)]))
                .map_err(|what| format!("all is said to be there, and {what}"))?;
        }
        let mut own = self.bucket.objects();
        own.retain(|_, stored| !stored.foreign);
        E::verify(&own, &self.bucket.shown(), false)?;
        self.check_followers(false)?;
        if whole {
            are_in(&reading, &self.acknowledged())?;
            let set_aside = reading.values().flatten().filter(|object| object.set_aside).count();
            let conflicts = self.bucket.conflicts().len();
            if set_aside != conflicts {
                return Err(format!(
                    "{conflicts} conflicts, and {set_aside} objects are set aside"
                ));
            }
        }
        Ok(())
    }
}

/// Checks that these records of each stream are in the objects.
fn are_in(reading: &Reading, records: &BTreeMap<String, u64>) -> Result<(), String> {
    for (stream, records) in records {
        let mut next = 0;
        for object in
            reading.get(stream).into_iter().flatten().take_while(|object| object.first <= *records)
        {
            if object.first != next {
                return Err(format!("record {next} of {stream} is missing"));
            }
            next += object.lines.len() as u64;
        }
        if next < *records {
            return Err(format!("record {next} of {stream} is missing"));
        }
    }
    Ok(())
}
