//! Cuts durable records into objects.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use audit_core::{Buffer, BufferPool, UniqueId};
use tokio::time::Instant;

use crate::destination::{Plan, RecordTime};
use crate::format::{FIRST_GROUP, Found, GroupHeader, Position};
use crate::routes::RunRecords;
use crate::segment::{Segment, SegmentReader, Window};
use crate::segments::LiveSegments;
use crate::watermark::Watermark;

/// Records for one object.
pub(crate) struct Cut {
    pub(crate) stream: UniqueId,
    pub(crate) first_sequence: u64,
    pub(crate) count: u64,
    /// The times at which its records were made, in order.
    pub(crate) times: Vec<RecordTime>,
    /// Whether it is a single system record.
    pub(crate) is_system: bool,
    pub(crate) lines: Buffer,
    pub(crate) since: Instant,
    /// The end of the last group whose records are all in this object or an earlier one.
    pub(crate) end: Position,
    /// The ordinals of the segments with its first and its last record.
    ordinals: (u32, u32),
    /// Whether an earlier process had decided its end.
    pub(crate) is_noted: bool,
}

impl Cut {
    /// Makes an object of the records of a route.
    pub(crate) fn of_route(records: RunRecords) -> Cut {
        let RunRecords { stream, first_sequence, count, times, is_system, lines, since, end } =
            records;
        let (is_noted, ordinals) = (false, (0, 0));
        Cut {
            stream,
            first_sequence,
            count,
            times,
            is_system,
            lines,
            since,
            end,
            ordinals,
            is_noted,
        }
    }

    /// Makes an object of the records of a route for a follower. `ordinals` are those of the
    /// segments with the first and the last record.
    pub(crate) fn followed(records: RunRecords, ordinals: (u32, u32), is_noted: bool) -> Cut {
        Cut { ordinals, is_noted, ..Cut::of_route(records) }
    }

    fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count
    }

    /// The watermarks before its first and after its last record.
    pub(crate) fn watermarks(&self) -> (Watermark, Watermark) {
        let watermark = |ordinal, next| Watermark { ordinal, stream: self.stream, next };
        let (first, last) = self.ordinals;
        (watermark(first, self.first_sequence), watermark(last, self.next_sequence()))
    }

    /// The time at which its first record was made.
    pub(crate) fn time_ms(&self) -> i64 {
        self.times.first().map_or(0, |first| first.time_ms)
    }
}

/// The rule that ends an object.
struct Limit {
    /// The end that an earlier process had decided.
    end: Option<(UniqueId, u64)>,
    bytes: usize,
}

impl Limit {
    /// Whether the object is full with regard to `more` further bytes.
    fn is_reached(&self, cut: &Cut, more: usize) -> bool {
        cut.is_system
            || match self.end.filter(|(stream, _)| *stream == cut.stream) {
                Some((_, end)) => cut.next_sequence() >= end,
                None => cut.lines.len() + more > self.bytes,
            }
    }
}

/// Reads groups in order and collects their batches into objects. A batch is never split.
pub(crate) struct Cutter {
    live: Arc<LiveSegments>,
    reader: Option<SegmentReader>,
    /// Memory for the next reader.
    window: Window,
    next_ordinal: u32,
    /// For each stream, the number of the first record that is not yet in an object.
    planned_to: BTreeMap<UniqueId, u64>,
    pub(crate) pending: Option<Cut>,
    pub(crate) consumed: Position,
    /// The watermark after the last group that was read.
    pub(crate) read_to: Option<Watermark>,
    /// The ends of the next objects, as an earlier process had decided.
    ends: VecDeque<(UniqueId, u64)>,
    /// Whether system records are skipped. They are only for the destination that vouches for the
    /// streams.
    skips_system: bool,
    max_object_bytes: usize,
    /// Memory for the lines of objects, returned once the objects are encoded.
    lines: BufferPool,
}

impl Cutter {
    pub(crate) fn new(
        live: Arc<LiveSegments>,
        planned_to: BTreeMap<UniqueId, u64>,
        max_object_bytes: usize,
    ) -> Cutter {
        let consumed = Position { ordinal: 0, offset: 0 };
        Cutter {
            live,
            reader: None,
            window: Window::default(),
            next_ordinal: 0,
            planned_to,
            pending: None,
            consumed,
            read_to: None,
            ends: VecDeque::new(),
            skips_system: false,
            max_object_bytes,
            // Reserved memory takes no pages before it is written, and a buffer that grows would
            // copy.
            lines: BufferPool::new(max_object_bytes, usize::MAX),
        }
    }

    /// Creates a cutter for a follower: it starts at this watermark, skips system records, and ends
    /// the first objects at `ends`.
    pub(crate) fn following(
        live: Arc<LiveSegments>,
        watermark: Watermark,
        ends: VecDeque<(UniqueId, u64)>,
        max_object_bytes: usize,
    ) -> Cutter {
        let planned_to = BTreeMap::from([(watermark.stream, watermark.next)]);
        Cutter {
            next_ordinal: watermark.ordinal,
            read_to: Some(watermark),
            ends,
            skips_system: true,
            ..Cutter::new(live, planned_to, max_object_bytes)
        }
    }

    /// The number of the stream's first record that is not yet in an object.
    pub(crate) fn planned_to(&self, stream: UniqueId) -> u64 {
        self.planned_to.get(&stream).copied().unwrap_or(0)
    }

    /// Records a planned object that was not cut here.
    pub(crate) fn planned(&mut self, plan: &Plan) {
        self.planned_to.insert(plan.stream, plan.next_sequence());
    }

    /// Takes the collected records as an object.
    pub(crate) fn take(&mut self) -> Option<Cut> {
        let cut = self.pending.take()?;
        let place = (cut.stream, cut.next_sequence());
        self.planned_to.insert(cut.stream, cut.next_sequence());
        let is_noted = self.ends.pop_front_if(|end| *end == place).is_some();
        Some(Cut { end: self.consumed, is_noted, ..cut })
    }

    /// Continues reading. Returns an object if one is full, and whether all durable records were
    /// read.
    pub(crate) fn read(&mut self) -> io::Result<(Option<Cut>, bool)> {
        loop {
            let Some(live) = self.live.from(self.reader_ordinal()) else { return Ok((None, true)) };
            let ordinal = live.segment.header.ordinal;
            let reader = self.reader_of(&live.segment);
            if reader.position().offset >= live.end {
                if live.sealed_at.is_none() {
                    return Ok((None, true));
                }
                self.next_ordinal = ordinal + 1;
                self.close_reader();
                continue;
            }
            reader.limit(live.end);
            if self.pending.as_ref().is_some_and(|pending| pending.stream != live.stream) {
                return Ok((self.take(), false));
            }
            let is_full = self.read_group(ordinal)?;
            let limit = self.limit();
            if is_full || self.pending.as_ref().is_some_and(|cut| limit.is_reached(cut, 1)) {
                return Ok((self.take(), false));
            }
        }
    }

    /// Collects the next group of the segment, which is durable. Returns whether the object is full
    /// before the end of the group, which is then read again for the next one.
    fn read_group(&mut self, ordinal: u32) -> io::Result<bool> {
        let reader = self.reader.as_mut().expect("the segment is being read");
        // A group that has only records of routes is not read.
        let header = match reader.header()?.filter(|header| header.count == 0) {
            Some(header) => header,
            None => {
                let Found::Group(header) = reader.look()? else {
                    let what = format!("a durable group has disappeared at {}", reader.position());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                };
                if self.collect(ordinal, &header)? {
                    return Ok(true);
                }
                header
            }
        };
        let reader = self.reader.as_mut().expect("the segment is being read");
        reader.step_over(&header);
        self.consumed = reader.position();
        let next = header.first_sequence + u64::from(header.count);
        self.read_to = Some(Watermark { ordinal, stream: header.stream, next });
        Ok(false)
    }

    /// Collects the default route's batches of a group. Returns true if the object ends before one
    /// of them.
    fn collect(&mut self, ordinal: u32, header: &GroupHeader) -> io::Result<bool> {
        let (limit, planned_to) = (self.limit(), self.planned_to(header.stream));
        let reader = self.reader.as_mut().expect("the segment is being read");
        let (places, payload) = reader.batches(header)?;
        for place in places.into_iter().filter(|place| place.route == 0) {
            let first_sequence = place.first_sequence;
            let next_sequence = first_sequence + u64::from(place.count);
            if let Some(pending) = &self.pending {
                if first_sequence < pending.next_sequence() {
                    // The batch is in the object already.
                    continue;
                }
                if place.is_system || limit.is_reached(pending, place.lines.len()) {
                    return Ok(true);
                }
            }
            if first_sequence < planned_to {
                continue;
            }
            if place.is_system && self.skips_system {
                self.planned_to.insert(header.stream, next_sequence);
                continue;
            }
            let lines = &self.lines;
            let pending = self.pending.get_or_insert_with(|| Cut {
                stream: header.stream,
                first_sequence,
                count: 0,
                times: Vec::new(),
                is_system: place.is_system,
                lines: lines.take(),
                since: Instant::now(),
                end: self.consumed,
                ordinals: (ordinal, ordinal),
                is_noted: false,
            });
            if pending.times.last().is_none_or(|last| last.time_ms != place.time_ms) {
                pending.times.push(RecordTime { first_sequence, time_ms: place.time_ms });
            }
            pending.lines.extend_from_slice(&payload[place.lines]);
            pending.count += u64::from(place.count);
            pending.ordinals.1 = ordinal;
        }
        Ok(false)
    }

    /// The reader of this segment, at the first group that was not read.
    fn reader_of(&mut self, segment: &Segment) -> &mut SegmentReader {
        let ordinal = segment.header.ordinal;
        // The reader's segment may have been read to its end and removed since.
        if self.reader.as_ref().is_some_and(|reader| reader.segment().header.ordinal != ordinal) {
            self.close_reader();
        }
        let window = &mut self.window;
        self.reader.get_or_insert_with(|| {
            SegmentReader::new(segment.clone(), FIRST_GROUP, std::mem::take(window))
        })
    }

    /// The rule that ends the object that is being collected.
    fn limit(&self) -> Limit {
        Limit { end: self.ends.front().copied(), bytes: self.max_object_bytes }
    }

    fn close_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.window = reader.into_window();
        }
    }

    /// Frees the buffers for reading.
    pub(crate) fn trim(&mut self) {
        self.lines.trim();
        self.window = Window::default();
        if let Some(reader) = &mut self.reader {
            reader.trim();
        }
    }

    fn reader_ordinal(&self) -> u32 {
        self.reader.as_ref().map_or(self.next_ordinal, |reader| reader.segment().header.ordinal)
    }
}

#[cfg(test)]
mod tests {
    use audit_core::Batch;

    use super::*;
    use crate::format::{EncodedBatch, RouteStream};
    use crate::routes::MAX_PLACES;
    use crate::segment_writer::SegmentWriter;
    use crate::segments::Publisher;
    use crate::shared::latest;
    use crate::simulation::disk::SimulatedDisk;

    /// Damage to the records of a route does not stop the default route's delivery.
    #[test]
    fn groups_of_other_routes_are_not_read() {
        let segment = Segment::prepare(&SimulatedDisk::new(1), 1, 64 << 10, 7).unwrap();
        let (stream, start) = (UniqueId::from_bits(7), segment.position(FIRST_GROUP));
        let route = RouteStream { route: 1, stream: UniqueId::from_bits(8) };
        let live = LiveSegments::recovered(&[], &BTreeMap::new(), MAX_PLACES).unwrap();
        let (durable, received) = latest::channel(start);
        let publisher = Publisher::new(Arc::clone(&live), stream, durable);
        let mut writer = SegmentWriter::new(stream, start, 1_000);
        for (line, is_own) in [("{\"a\":1}\n", false), ("{\"b\":2}\n", true), ("{}\n", false)] {
            let batch = Batch::from_lines(7, line.to_owned().into()).unwrap();
            let batch = match is_own {
                true => EncodedBatch::new(batch),
                false => EncodedBatch::routed(batch, route),
            };
            let committed = writer.commit(&[batch], || Some(segment.clone())).unwrap();
            publisher.publish(&committed, committed.count);
            if !is_own {
                let place = committed.batches[0];
                segment.file.write_all_at(b"!", place.offset + place.bytes - 2).unwrap();
            }
        }
        let mut cutter = Cutter::new(live, BTreeMap::new(), 1 << 20);
        let (full, caught_up) = cutter.read().unwrap();
        assert!(full.is_none() && caught_up);
        assert_eq!(cutter.consumed, received.get());
        let cut = cutter.take().unwrap();
        assert_eq!((&cut.lines[..], cut.end), (&b"{\"b\":2}\n"[..], received.get()));
    }
}
