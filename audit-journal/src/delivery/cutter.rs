//! Cuts durable records into objects.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use audit_core::UniqueId;
use tokio::time::Instant;

use crate::destination::{Plan, RecordTime};
use crate::format::{FIRST_GROUP, Found, Position};
use crate::segment::{SegmentReader, Window};
use crate::segments::LiveSegments;

/// Records for one object.
pub(super) struct Cut {
    pub(super) stream: UniqueId,
    pub(super) first_sequence: u64,
    pub(super) count: u64,
    /// When its records were made, the first one first.
    pub(super) times: Vec<RecordTime>,
    /// Whether it is a single system record.
    pub(super) is_system: bool,
    pub(super) lines: Vec<u8>,
    pub(super) since: Instant,
    /// Where the last group ends all of whose records are in this object or an earlier one.
    pub(super) end: Position,
}

impl Cut {
    /// When its first record was made.
    pub(super) fn time_ms(&self) -> i64 {
        self.times.first().map_or(0, |first| first.time_ms)
    }
}

/// Reads groups in order and gathers their batches into objects. A batch is never divided.
pub(super) struct Cutter {
    live: Arc<LiveSegments>,
    reader: Option<SegmentReader>,
    /// For the next reader.
    window: Window,
    next_ordinal: u32,
    /// The number of each stream's first record that is in no object yet.
    planned_to: BTreeMap<UniqueId, u64>,
    pub(super) pending: Option<Cut>,
    pub(super) consumed: Position,
    max_object_bytes: usize,
    /// Memory for the lines of the next object.
    lines: Vec<u8>,
}

impl Cutter {
    pub(super) fn new(
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
            max_object_bytes,
            lines: Vec::new(),
        }
    }

    /// The number of the stream's first record that is in no object yet.
    pub(super) fn planned_to(&self, stream: UniqueId) -> u64 {
        self.planned_to.get(&stream).copied().unwrap_or(0)
    }

    /// Notes an object with records that are in no segment.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.planned_to.insert(plan.stream, plan.next_sequence());
    }

    /// Takes the gathered records. Later ones go into another object.
    pub(super) fn take(&mut self) -> Option<Cut> {
        let cut = self.pending.take()?;
        self.planned_to.insert(cut.stream, cut.first_sequence + cut.count);
        Some(Cut { end: self.consumed, ..cut })
    }

    /// Continues to read. Returns an object if one is full, and whether everything durable was
    /// read.
    pub(super) fn read(&mut self) -> io::Result<(Option<Cut>, bool)> {
        loop {
            let Some(live) = self.live.from(self.reader_ordinal()) else { return Ok((None, true)) };
            let ordinal = live.segment.header.ordinal;
            // The one that was read to its end may have been removed since.
            if self.reader.as_ref().is_none_or(|reader| reader.segment().header.ordinal != ordinal)
            {
                self.close_reader();
                let window = std::mem::take(&mut self.window);
                self.reader = Some(SegmentReader::new(live.segment.clone(), FIRST_GROUP, window));
            }
            let reader = self.reader.as_mut().expect("made above");
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
            let Found::Group(header) = reader.look()? else {
                let what = format!("a durable group is not there, at {}", reader.position());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            let planned_to = self.planned_to.get(&header.stream).copied().unwrap_or(0);
            let (places, payload) = reader.batches(&header)?;
            let mut sequence = header.first_sequence;
            let mut full = false;
            for place in places {
                let first_sequence = sequence;
                sequence += u64::from(place.count);
                if let Some(pending) = &self.pending {
                    // This batch was gathered before, or is the first that does not fit.
                    if first_sequence < pending.first_sequence + pending.count {
                        continue;
                    }
                    full = pending.is_system
                        || place.is_system
                        || pending.lines.len() + place.lines.len() > self.max_object_bytes;
                    if full {
                        break;
                    }
                }
                if first_sequence < planned_to {
                    continue;
                }
                let lines = &mut self.lines;
                let pending = self.pending.get_or_insert_with(|| Cut {
                    stream: header.stream,
                    first_sequence,
                    count: 0,
                    times: Vec::new(),
                    is_system: place.is_system,
                    lines: {
                        // Of what is reserved, only what is written is ever touched; growing would
                        // move it.
                        lines.reserve(self.max_object_bytes);
                        std::mem::take(lines)
                    },
                    since: Instant::now(),
                    end: self.consumed,
                });
                if pending.times.last().is_none_or(|last| last.time_ms != place.time_ms) {
                    pending.times.push(RecordTime { first_sequence, time_ms: place.time_ms });
                }
                pending.lines.extend_from_slice(&payload[place.lines]);
                pending.count += u64::from(place.count);
            }
            if full {
                return Ok((self.take(), false));
            }
            reader.step_over(&header);
            self.consumed = reader.position();
            let is_full = |cut: &Cut| cut.is_system || cut.lines.len() >= self.max_object_bytes;
            if self.pending.as_ref().is_some_and(is_full) {
                return Ok((self.take(), false));
            }
        }
    }

    fn close_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.window = reader.into_window();
        }
    }

    /// Takes back the memory of an object's lines. The memory of a larger batch is freed.
    pub(super) fn give_back(&mut self, mut lines: Vec<u8>) {
        if lines.capacity() <= 2 * self.max_object_bytes {
            lines.clear();
            self.lines = lines;
        }
    }

    /// Frees the memory for reading.
    pub(super) fn trim(&mut self) {
        (self.lines, self.window) = (Vec::new(), Window::default());
        if let Some(reader) = &mut self.reader {
            reader.trim();
        }
    }

    fn reader_ordinal(&self) -> u32 {
        self.reader.as_ref().map_or(self.next_ordinal, |reader| reader.segment().header.ordinal)
    }
}
