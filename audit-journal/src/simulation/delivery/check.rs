//! Whether what is left keeps what was promised.

use std::collections::BTreeMap;

use super::Simulation;
use crate::simulation::checkers::delivery::{self as checker, Reading};
use crate::simulation::destination::Endpoint;

impl<E: Endpoint> Simulation<E> {
    fn reading(&mut self) -> Result<Reading, String> {
        let objects = self.bucket.objects();
        let mut reading = E::read(&mut self.known, &objects, self.manners.attributes)?;
        checker::add_set_aside(&mut reading, &self.disk.files(), E::lines_of)?;
        reading.values_mut().for_each(|objects| objects.sort_by_key(|object| object.first));
        Ok(reading)
    }

    /// Whether these records of each stream are in the bucket or set aside.
    pub(super) fn there(&mut self, records: &BTreeMap<String, u64>) -> Result<(), String> {
        are_in(&self.reading()?, records)
    }

    /// Whether what is in the bucket is what was acknowledged, and all of it if it is `whole`.
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
                let bounds = |at| at == 0 || ends.clone().any(|end| end == at);
                if !bounds(object.first) || !bounds(next) {
                    return Err(format!(
                        "the object of {id} from {} divides a batch",
                        object.first
                    ));
                }
                let range = usize::try_from(object.first).unwrap()..usize::try_from(next).unwrap();
                let expected = lines
                    .get(range)
                    .ok_or_else(|| format!("{id} has more records than written"))?;
                if expected.iter().zip(&object.lines).any(|(expected, found)| *expected != found) {
                    return Err(format!(
                        "the object of {id} from {} is not what was written",
                        object.first
                    ));
                }
            }
        }
        for (id, next) in checker::delivered(&self.disk.files())? {
            are_in(&reading, &BTreeMap::from([(id, next)]))
                .map_err(|what| format!("all is said to be there, and {what}"))?;
        }
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

/// Whether these records of each stream are among the objects.
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
