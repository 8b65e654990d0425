use std::collections::BTreeMap;

use audit_core::Batch;

use super::state::Part;
use super::*;
use crate::format::{EncodedBatch, RouteStream};
use crate::segment::Segment;
use crate::segment_writer::SegmentWriter;
use crate::simulation::disk::{Dice, SimulatedDisk};

fn stream_of(route: u32) -> UniqueId {
    UniqueId::from_bits(u128::from(route) + 1)
}

/// Writes groups to a journal.
struct Journal {
    disk: SimulatedDisk,
    writer: SegmentWriter,
    segment_bytes: u64,
    segments: u32,
}

impl Journal {
    fn new(segment_bytes: u64) -> Journal {
        let start = Position { ordinal: 1, offset: FIRST_GROUP };
        let writer = SegmentWriter::new(stream_of(0), start, usize::MAX);
        Journal { disk: SimulatedDisk::new(1), writer, segment_bytes, segments: 0 }
    }

    /// Commits one group of batches of these routes: their lines, and whether they are system
    /// records.
    fn commit(&mut self, batches: &[(u32, String, bool)]) -> Committed {
        let encoded = batches.iter().zip(0..).map(|((route, lines, is_system), time_ms)| {
            let batch = Batch::from_lines(time_ms, lines.clone().into()).unwrap();
            let of = RouteStream { route: *route, stream: stream_of(*route) };
            match is_system {
                true => EncodedBatch::system(batch, Some(of)),
                false => EncodedBatch::routed(batch, of),
            }
        });
        let encoded: Vec<_> = encoded.collect();
        let (disk, bytes, segments) = (&self.disk, self.segment_bytes, &mut self.segments);
        let next = || {
            *segments += 1;
            Some(Segment::prepare(disk, *segments, bytes, 7).unwrap())
        };
        self.writer.commit(&encoded, next).unwrap()
    }
}

/// A group with up to four batches of three routes.
fn group(dice: &mut Dice) -> Vec<(u32, String, bool)> {
    let batches = (0..dice.within(1..5)).map(|_| {
        let is_system = dice.chance(1, 40);
        let lines = if is_system { 1 } else { dice.within(1..4) };
        let line =
            |_| format!("{{\"n\":{},\"@\":\"{}\"}}\n", dice.draw(), "-".repeat(dice.below(90)));
        let lines = (0..lines).map(line).collect();
        (u32::try_from(dice.within(1..4)).unwrap(), lines, is_system)
    });
    batches.collect()
}

/// The places in memory, counted one by one.
fn places(index: &RouteIndex) -> usize {
    let state = index.state();
    let of_part = |part: &Part| match part {
        Part::Batches(_, _, batches) => batches.len(),
        Part::Stretch { .. } => 1,
    };
    let places = state.routes.values().map(|of| of.parts.iter().map(of_part).sum::<usize>());
    let places = places.sum();
    assert_eq!(state.places, places);
    places
}

/// A thousand routes that log small batches, and none of them is cut.
#[test]
fn places_do_not_grow_with_the_number_of_batches() {
    const ROUTES: usize = 1_000;
    const MAX: usize = 2_000;
    let (mut journal, index) = (Journal::new(2 << 20), RouteIndex::new(MAX));
    let batches: Vec<_> = (1..).map(|route| (route, "{}\n".to_owned(), false)).take(100).collect();
    let (mut batches_in_all, mut most) = (0, 0);
    for n in 0..200 {
        let shift = n % 10 * 100;
        let batches = batches.iter().map(|(route, lines, _)| (route + shift, lines.clone(), false));
        index.committed(&journal.commit(&batches.collect::<Vec<_>>()), Instant::now());
        batches_in_all += 100;
        most = most.max(places(&index));
    }
    let segments = journal.segments as usize;
    assert!(batches_in_all >= 2 * (MAX + ROUTES * segments), "{segments} segments");
    assert!(most <= MAX + ROUTES * segments, "{most} places");
}

/// However few places there are, an object ends at the same record, and as much of the share is
/// freed: also if more is committed while an object is read, or if a delivery that has started over
/// is still reading its object, before or after the next one is planned.
#[test]
fn objects_are_the_same_however_few_places_there_are() {
    let (mut objects, mut divided) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut journal = Journal::new(64 << 10);
        let indexes = [usize::MAX, 0, 12].map(RouteIndex::new);
        let mut committed = BTreeMap::<u32, u64>::new();
        let mut commit = |dice: &mut Dice, committed: &mut BTreeMap<u32, u64>| {
            let group = journal.commit(&group(dice));
            indexes.iter().for_each(|index| index.committed(&group, Instant::now()));
            for batch in &group.batches {
                *committed.entry(batch.route.unwrap()).or_default() += batch.bytes;
            }
        };
        for _ in 0..dice.within(20..150) {
            commit(&mut dice, &mut committed);
            if dice.chance(1, 3) {
                continue;
            }
            let route = u32::try_from(dice.within(1..4)).unwrap();
            let [most, other] = [(); 2].map(|()| dice.below(1_500) as u64);
            let runs = indexes.each_ref().map(|index| index.front(route, most));
            let mut abandoned = indexes.each_ref().map(|index| index.front(route, other));
            let moment = dice.below(3);
            let mut read_abandoned = |now| {
                for (index, run) in indexes.iter().zip(&mut abandoned).filter(|_| now == moment) {
                    run.take().map(|run| index.read_run(run).unwrap());
                }
            };
            read_abandoned(0);
            if dice.chance(1, 4) {
                commit(&mut dice, &mut committed);
            }
            let mut cuts = Vec::new();
            for (index, run) in indexes.iter().zip(runs) {
                let Some(run) = run else { continue };
                let before = places(index);
                let RunRecords { stream, first_sequence, count, times, is_system, lines, .. } =
                    index.read_run(run).unwrap();
                divided += places(index) - before;
                let times: Vec<_> =
                    times.iter().map(|time| (time.first_sequence, time.time_ms)).collect();
                let next = first_sequence + count;
                cuts.push((stream, first_sequence, next, times, is_system, lines.to_vec()));
            }
            let Some((stream, _, next, ..)) = cuts.first() else { continue };
            assert!(cuts.len() == 3 && cuts.iter().all(|cut| *cut == cuts[0]), "seed {seed}");
            if dice.chance(1, 4) {
                continue;
            }
            if dice.chance(1, 4) {
                commit(&mut dice, &mut committed);
            }
            objects += 1;
            let freed = indexes.each_ref().map(|index| index.planned(route, *stream, *next));
            *committed.get_mut(&route).unwrap() -= freed[0];
            read_abandoned(1);
            let left = (committed[&route] > 0).then_some(committed[&route]);
            for (index, freed_here) in indexes.iter().zip(freed) {
                let waiting = index.waiting(route, 0);
                assert_eq!((freed_here, waiting.map(|of| of.bytes)), (freed[0], left));
                let bounds = |index: &RouteIndex| index.waiting(route, 0).map(|of| of.is_bounded);
                assert_eq!(bounds(index), bounds(&indexes[0]), "seed {seed}");
                places(index);
            }
        }
        for ordinal in 1..=journal.segments {
            let holds = indexes.each_ref().map(|index| index.holds(ordinal));
            assert_eq!(holds, [holds[0]; 3], "seed {seed}");
        }
    }
    assert!(objects > 1_000 && divided > 1_000, "{objects} objects, {divided} divisions");
}

/// Once half of the places are used, the routes with more than others cut their records.
#[test]
fn the_largest_are_cut_first() {
    let (mut journal, index) = (Journal::new(64 << 10), RouteIndex::new(64));
    let mut commit = |routes: &[u32]| {
        let batches: Vec<_> = routes.iter().map(|of| (*of, "{}\n".to_owned(), false)).collect();
        index.committed(&journal.commit(&batches), Instant::now());
    };
    let is_wanted = || [1, 2, 3].map(|route| index.waiting(route, 0).is_some_and(|w| w.is_wanted));
    commit(&[1, 2, 3]);
    for _ in 0..28 {
        commit(&[2]);
        assert_eq!(is_wanted(), [false; 3]);
    }
    commit(&[3]);
    assert_eq!(is_wanted(), [false, true, false]);
    index.planned(2, stream_of(2), 29);
    assert_eq!((is_wanted(), places(&index)), ([false; 3], 3));
}
