//! Segments: files of a fixed size, prepared before they are needed and read group by group.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::format::{
    BLOCK_BYTES, BatchPlace, FIRST_GROUP, Found, GROUP_HEADER_BYTES, GROUP_MARK, GroupHeader,
    Position, SEGMENT_HEADER_BYTES, SegmentHeader, TABLE_MARK, batches, look, look_into,
};

pub(crate) fn file_name(ordinal: u32) -> String {
    format!("{ordinal:08x}.journal")
}

/// The ordinal of the segment with this file name, or `None` for any other file name.
pub(crate) fn ordinal_of(name: &str) -> Option<u32> {
    let ordinal = u32::from_str_radix(name.strip_suffix(".journal")?, 16).ok()?;
    (file_name(ordinal) == name).then_some(ordinal)
}

/// The file name of a segment in preparation. Such a file is unfinished if it exists when a journal
/// is opened.
pub(crate) fn preparing_name(ordinal: u32) -> String {
    format!("{ordinal:08x}.preparing")
}

#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// The zeros written at a time. They take no room in the program's file.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

impl Segment {
    /// Creates a segment that contains only its header. Its space is allocated and zeroed, so that
    /// a commit changes no metadata.
    ///
    /// A crash before the rename leaves a file that recovery removes; a crash after it, an empty
    /// segment, which recovery removes too. The name is durable when this returns, so that synced
    /// groups can be found.
    pub(crate) fn prepare(
        disk: &dyn Disk,
        ordinal: u32,
        bytes: u64,
        salt: u32,
    ) -> io::Result<Segment> {
        let preparing = preparing_name(ordinal);
        let header = SegmentHeader { ordinal, salt, bytes };
        // An attempt that panicked may have left this file.
        let _ = disk.remove(&preparing);
        let made = (|| {
            let file = disk.create(&preparing)?;
            file.write_all_at(&header.encode(), 0)?;
            let mut at = SEGMENT_HEADER_BYTES as u64;
            while at < bytes {
                let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
                let zeros = &ZEROS[..left.min(ZEROS.len())];
                file.write_all_at(zeros, at)?;
                at += zeros.len() as u64;
            }
            file.sync_all()?;
            disk.rename(&preparing, &file_name(ordinal))?;
            disk.sync_directory()?;
            Ok(Segment { header, file })
        })();
        if made.is_err() {
            // Frees the space now. If this fails, the next attempt removes the one file and
            // replaces the other. After a crash, recovery removes both.
            let _ = disk.remove(&preparing);
            let _ = disk.remove(&file_name(ordinal));
        }
        made
    }

    /// Opens an existing segment of a journal.
    pub(crate) fn open(disk: &dyn Disk, ordinal: u32) -> io::Result<Result<Segment, &'static str>> {
        let file = disk.open(&file_name(ordinal))?;
        // Recovery acts on what it reads, so the contents are made durable first: they may be only
        // in the kernel's memory.
        file.sync_all()?;
        let len = file.len()?;
        let mut head = [0; SEGMENT_HEADER_BYTES];
        if len < FIRST_GROUP {
            return Ok(Err("the file was cut off"));
        }
        file.read_exact_at(&mut head, 0)?;
        let Some(header) = SegmentHeader::decode(&head) else {
            return Ok(Err("the header of the segment does not match its checksum"));
        };
        if header.ordinal != ordinal {
            return Ok(Err("the file is a different segment than its name says"));
        }
        if header.bytes != len {
            return Ok(Err("the file does not have the length in its header"));
        }
        Ok(Ok(Segment { header, file }))
    }

    pub(crate) fn position(&self, offset: u64) -> Position {
        Position { ordinal: self.header.ordinal, offset }
    }
}

/// Reads the groups of a segment sequentially, through a window of memory.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    segment: Segment,
    /// The offset of the next group.
    offset: u64,
    /// The end of the part that may be read.
    limit: u64,
    window: Window,
    /// The group at `offset`, if it was looked at and is in the window.
    looked: Option<Looked>,
}

/// A group whose checksums match.
#[derive(Debug)]
struct Looked {
    header: GroupHeader,
    /// Its batches, kept because those of a group that two objects share are asked for twice.
    places: Vec<BatchPlace>,
}

/// The part of a file that is in memory. The memory is reused for the next part.
#[derive(Debug, Default)]
pub(crate) struct Window {
    memory: Vec<u8>,
    /// The part's offset in the file.
    at: u64,
    /// The length of the part in bytes.
    filled: usize,
}

/// The bytes read at once, unless a group is larger. They are still in a core's cache when they are
/// checked and copied, and the system reads ahead for a file that is read in order.
pub(crate) const WINDOW_BYTES: u64 = 64 << 10;

/// The most memory that a window keeps, in bytes. Most groups are smaller; the memory for a larger
/// one is freed after it.
const MAX_KEPT_BYTES: u64 = 5 << 20;

impl SegmentReader {
    /// Creates a reader at the group at `offset` that reuses the memory of this window.
    pub(crate) fn new(segment: Segment, offset: u64, window: Window) -> SegmentReader {
        let limit = segment.header.bytes;
        let window = Window { filled: 0, ..window };
        SegmentReader { segment, offset, limit, window, looked: None }
    }

    /// Returns the window for another reader.
    pub(crate) fn into_window(self) -> Window {
        self.window
    }

    /// Frees the memory of the window.
    pub(crate) fn trim(&mut self) {
        (self.window, self.looked) = (Window::default(), None);
    }

    /// Limits reading to the bytes before `limit`: a commit may be writing beyond it, and bytes
    /// read ahead would be stale.
    pub(crate) fn limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The position of the next group, if there is one.
    pub(crate) fn position(&self) -> Position {
        self.segment.position(self.offset)
    }

    /// Classifies the content at the reader's position without moving it.
    pub(crate) fn look(&mut self) -> io::Result<Found> {
        if let Some(Looked { header, .. }) = &self.looked {
            return Ok(Found::Group(*header));
        }
        let (salt, left) = (self.segment.header.salt, self.limit - self.offset);
        let Some(header) = self.header()? else {
            return Ok(look(self.at(self.offset, left.min(BLOCK_BYTES))?, salt));
        };
        let group = self.at(self.offset, left.min(header.group_bytes()))?;
        Ok(match look_into(group, salt) {
            Ok((header, places)) => {
                self.looked = Some(Looked { header, places });
                Found::Group(header)
            }
            Err(found) => found,
        })
    }

    /// The header of the group at the reader's position, if it matches its checksum. The rest of
    /// the group is not looked at.
    pub(crate) fn header(&mut self) -> io::Result<Option<GroupHeader>> {
        if let Some(Looked { header, .. }) = &self.looked {
            return Ok(Some(*header));
        }
        let (salt, left) = (self.segment.header.salt, self.limit - self.offset);
        let head = self.at(self.offset, left.min(BLOCK_BYTES))?;
        let head = head.get(..GROUP_HEADER_BYTES);
        Ok(head.and_then(|head| GroupHeader::decode(head, salt)))
    }

    /// Moves past a group that [`look`](Self::look) or [`header`](Self::header) found.
    pub(crate) fn step_over(&mut self, header: &GroupHeader) {
        self.offset = header.end(self.offset).min(self.segment.header.bytes);
        self.looked = None;
    }

    /// The batches of a group that [`look`](Self::look) found, and the payload that holds them.
    pub(crate) fn batches(&mut self, header: &GroupHeader) -> io::Result<(Vec<BatchPlace>, &[u8])> {
        let (salt, offset) = (self.segment.header.salt, self.offset);
        // If the window no longer holds the group, it is read again, and checked again.
        self.at(offset, header.group_bytes())?;
        let places = self.looked.as_ref().map(|looked| looked.places.clone());
        let group = self.at(offset, header.group_bytes())?;
        let payload = &group[GROUP_HEADER_BYTES..];
        let places = places.or_else(|| batches(header, payload, salt)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a group changed while it was read")
        })?;
        Ok((places, payload))
    }

    /// The batches of a group that has a table of routes, and none of any other.
    pub(crate) fn routed(&mut self, header: &GroupHeader) -> io::Result<Vec<BatchPlace>> {
        let bytes = header.group_bytes().min((GROUP_HEADER_BYTES + TABLE_MARK.len()) as u64);
        let head = self.at(self.offset, bytes)?;
        if head[GROUP_HEADER_BYTES..] != *TABLE_MARK.as_bytes() {
            return Ok(Vec::new());
        }
        Ok(self.batches(header)?.0)
    }

    /// Whether a group follows anywhere after the reader's position.
    pub(crate) fn has_group_behind(&mut self) -> io::Result<bool> {
        let salt = self.segment.header.salt;
        let mut offset = self.offset + BLOCK_BYTES;
        while offset + (GROUP_HEADER_BYTES as u64) <= self.segment.header.bytes {
            let head = self.at(offset, GROUP_HEADER_BYTES as u64)?;
            if head.starts_with(GROUP_MARK.as_bytes()) && GroupHeader::decode(head, salt).is_some()
            {
                return Ok(true);
            }
            offset += BLOCK_BYTES;
        }
        Ok(false)
    }

    /// Returns these bytes of the file, reading ahead.
    fn at(&mut self, offset: u64, len: u64) -> io::Result<&[u8]> {
        let Window { memory, at, filled } = &mut self.window;
        if offset < *at || offset + len > *at + *filled as u64 {
            let read = len.max(WINDOW_BYTES).min(self.limit - offset);
            let most = usize::try_from(read.max(MAX_KEPT_BYTES)).map_err(io::Error::other)?;
            let read = usize::try_from(read).map_err(io::Error::other)?;
            // The part of a group that showed its length is not read again.
            let mut known = 0;
            if (*at..*at + *filled as u64).contains(&offset) && memory.len() >= read {
                let from = usize::try_from(offset - *at).map_err(io::Error::other)?;
                memory.copy_within(from..*filled, 0);
                known = *filled - from;
            }
            if memory.len() > most {
                memory.truncate(most);
                memory.shrink_to_fit();
            }
            if memory.len() < read {
                // Reallocated rather than grown, since the old contents are not needed.
                *memory = Vec::new();
                *memory = vec![0; read];
            }
            (*filled, self.looked) = (0, None);
            self.segment.file.read_exact_at(&mut memory[known..read], offset + known as u64)?;
            (*at, *filled) = (offset, read);
        }
        let from = usize::try_from(offset - *at).map_err(io::Error::other)?;
        Ok(&memory[from..from + usize::try_from(len).map_err(io::Error::other)?])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use audit_core::{Batch, UniqueId};

    use super::*;
    use crate::format::EncodedBatch;
    use crate::segment_writer::SegmentWriter;
    use crate::simulation::disk::SimulatedDisk;

    /// Counts the bytes that are read.
    #[derive(Debug)]
    struct Counted(Arc<dyn DiskFile>, AtomicU64);

    impl DiskFile for Counted {
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_all_at(bytes, offset)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(buffer, offset)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn sync_all(&self) -> io::Result<()> {
            self.0.sync_all()
        }
    }

    #[test]
    fn no_byte_of_a_large_group_is_read_twice() {
        const SEGMENT_BYTES: u64 = 24 << 20;
        let segment = Segment::prepare(&SimulatedDisk::new(1), 1, SEGMENT_BYTES, 7).unwrap();
        let start = segment.position(FIRST_GROUP);
        let mut writer = SegmentWriter::new(UniqueId::from_bits(7), start, usize::MAX);
        let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(900_000));
        // Groups are smaller than what is read at once, larger, and much larger.
        let mut end = 0;
        for batches in [1, 4, 1, 1, 3, 4, 2, 1] {
            let batch = || EncodedBatch::new(Batch::from_lines(7, line.clone().into()).unwrap());
            let batches: Vec<_> = (0..batches).map(|_| batch()).collect();
            end = writer.commit(&batches, || Some(segment.clone())).unwrap().end;
        }
        let file = Arc::new(Counted(Arc::clone(&segment.file), AtomicU64::new(0)));
        let counted = Segment { file: Arc::clone(&file) as Arc<dyn DiskFile>, ..segment };
        // The window's memory grows with the first large group.
        let mut window = Window { memory: vec![0; 4 << 20], ..Window::default() };
        let mut read = Vec::new();
        for _ in 0..2 {
            file.1.store(0, Ordering::Relaxed);
            let mut reader = SegmentReader::new(counted.clone(), FIRST_GROUP, window);
            reader.limit(end);
            let mut records = 0;
            while reader.position().offset < end {
                let Found::Group(header) = reader.look().unwrap() else { panic!("a group") };
                let (places, payload) = reader.batches(&header).unwrap();
                for place in places {
                    assert_eq!(&payload[place.lines], line.as_bytes());
                    records += place.count;
                }
                reader.step_over(&header);
            }
            assert_eq!(records, 17);
            read.push(file.1.load(Ordering::Relaxed));
            window = reader.into_window();
        }
        assert!(read.iter().all(|read| *read <= end - FIRST_GROUP), "{read:?} of {end}");
    }
}
