//! Incremental decompression of an object.

use std::io;

use audit_core::MAX_BATCH_BYTES;
use zstd::stream::raw::{Decoder as RawDecoder, InBuffer, Operation, OutBuffer};

use super::compression::Compression;

/// Why the bytes are not an object of lines.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed data is invalid, or its checksum does not match.
    #[error("the object is damaged")]
    Damaged(#[source] io::Error),
    /// The object is empty, or ends within its compressed data or last line.
    #[error("the object was cut off")]
    CutOff,
    /// Bytes follow the end of the compressed lines.
    #[error("something was appended to the object")]
    TrailingBytes,
    /// A line has more than [`MAX_BATCH_BYTES`].
    #[error("a line of the object exceeds limit of {MAX_BATCH_BYTES} bytes")]
    LineTooLong,
    /// The lines together have more than [`MAX_OBJECT_BYTES`].
    #[error("the lines of the object exceed limit of {MAX_OBJECT_BYTES} bytes in all")]
    TooLarge,
}

/// The maximum size of an object's lines, in bytes: 1 GiB. By default sinks write 8 MiB. A kilobyte
/// of compressed data may expand to gigabytes, which readers would decompress for hours.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// The largest window of an object, as a power of two: 8 MiB. Sinks use 2 MiB; zstd by default
/// would allow 128 MiB for each object read concurrently.
const MAX_WINDOW_LOG: u32 = 23;

/// How many bytes are decompressed at once.
const BUFFER_BYTES: usize = 128 << 10;

pub(super) enum Decompressor {
    Zstd(Box<ZstdFrame>),
    Gzip(Box<GzipMember>),
    None,
}

type Out<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), DecodeError>;

impl Decompressor {
    pub(super) fn new(compression: Compression) -> Decompressor {
        match compression {
            Compression::Zstd => Decompressor::Zstd(Box::new(ZstdFrame::new())),
            Compression::Gzip => Decompressor::Gzip(Box::new(GzipMember::new())),
            Compression::None => Decompressor::None,
        }
    }

    /// Takes bytes from the front of `bytes`, and passes at most [`BUFFER_BYTES`] that they
    /// decompress to, or all bytes if the object is not compressed, to `out`. Returns whether there
    /// is more to do.
    pub(super) fn step(&mut self, bytes: &mut &[u8], out: Out<'_>) -> Result<bool, DecodeError> {
        match self {
            Decompressor::Zstd(frame) => frame.step(bytes, out),
            Decompressor::Gzip(member) => member.step(bytes, out),
            Decompressor::None => out(std::mem::take(bytes)).map(|()| false),
        }
    }

    /// Checks that the compressed data is complete, once all bytes were taken.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        let ended = match self {
            Decompressor::Zstd(frame) => frame.ended,
            Decompressor::Gzip(member) => member.trailer.len() == GZIP_TRAILER_BYTES,
            Decompressor::None => true,
        };
        if ended { Ok(()) } else { Err(DecodeError::CutOff) }
    }
}

/// One frame of zstd ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).
pub(super) struct ZstdFrame {
    magic: Vec<u8>,
    decoder: RawDecoder<'static>,
    buffer: Vec<u8>,
    ended: bool,
}

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The magic number of skippable frames without its first byte, which is 0x50 to 0x5f.
const SKIPPABLE_MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];

impl ZstdFrame {
    fn new() -> ZstdFrame {
        let mut decoder = RawDecoder::new().expect("a decoder without a dictionary can be made");
        let limit = zstd::zstd_safe::DParameter::WindowLogMax(MAX_WINDOW_LOG);
        decoder.set_parameter(limit).expect("zstd accepts the limit");
        ZstdFrame { magic: Vec::new(), decoder, buffer: vec![0; BUFFER_BYTES], ended: false }
    }

    fn step(&mut self, bytes: &mut &[u8], out: Out<'_>) -> Result<bool, DecodeError> {
        if self.ended {
            return at_end(bytes);
        }
        // The decoder would skip a skippable frame, and the lines behind it would be reported as
        // trailing bytes.
        let mut begin = *bytes;
        fill(&mut self.magic, ZSTD_MAGIC.len(), &mut begin);
        if !ZSTD_MAGIC.starts_with(&self.magic) {
            let may_be_skippable =
                self.magic[0] >> 4 == 5 && SKIPPABLE_MAGIC.starts_with(&self.magic[1..]);
            if !may_be_skippable {
                return Err(damaged("it does not begin with a zstd frame"));
            }
            if self.magic.len() == ZSTD_MAGIC.len() {
                return Err(damaged("a skippable frame stands before the lines"));
            }
        }
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(self.buffer.as_mut_slice());
        let left = self.decoder.run(&mut input, &mut output).map_err(DecodeError::Damaged)?;
        let (read, written) = (input.pos, output.pos());
        *bytes = &bytes[read..];
        self.ended = left == 0;
        out(&self.buffer[..written])?;
        // If the buffer is not full, the input so far has no more output.
        Ok(self.ended || !bytes.is_empty() || written == self.buffer.len())
    }
}

/// One member of gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)), with a header that has
/// no optional fields.
pub(super) struct GzipMember {
    header: Vec<u8>,
    inflate: flate2::Decompress,
    buffer: Vec<u8>,
    crc: flate2::Crc,
    inflated: bool,
    trailer: Vec<u8>,
}

const GZIP_HEADER_BYTES: usize = 10;

const GZIP_TRAILER_BYTES: usize = 8;

/// Magic, deflate, no flags. A time and hints follow.
const GZIP_HEADER: [u8; 4] = [0x1f, 0x8b, 8, 0];

impl GzipMember {
    fn new() -> GzipMember {
        GzipMember {
            header: Vec::new(),
            inflate: flate2::Decompress::new(false),
            buffer: vec![0; BUFFER_BYTES],
            crc: flate2::Crc::new(),
            inflated: false,
            trailer: Vec::new(),
        }
    }

    fn step(&mut self, bytes: &mut &[u8], out: Out<'_>) -> Result<bool, DecodeError> {
        fill(&mut self.header, GZIP_HEADER_BYTES, bytes);
        if !self.header.starts_with(&GZIP_HEADER[..self.header.len().min(GZIP_HEADER.len())]) {
            return Err(damaged("this is not a gzip member without optional fields"));
        }
        if self.header.len() < GZIP_HEADER_BYTES {
            return Ok(false);
        }
        if !self.inflated {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let flush = flate2::FlushDecompress::None;
            let status = self.inflate.decompress(bytes, &mut self.buffer, flush);
            self.inflated = match status.map_err(|error| DecodeError::Damaged(error.into()))? {
                flate2::Status::StreamEnd => true,
                flate2::Status::Ok | flate2::Status::BufError => false,
            };
            // Both differences are at most the length of a slice, so they fit.
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            *bytes = &bytes[read..];
            self.crc.update(&self.buffer[..written]);
            out(&self.buffer[..written])?;
            // If the buffer is not full, the input so far has no more output.
            return Ok(self.inflated || !bytes.is_empty() || written == self.buffer.len());
        }
        fill(&mut self.trailer, GZIP_TRAILER_BYTES, bytes);
        let expected = [self.crc.sum().to_le_bytes(), self.crc.amount().to_le_bytes()].concat();
        if self.trailer.len() == GZIP_TRAILER_BYTES && self.trailer != expected {
            return Err(damaged("the lines do not match their checksum"));
        }
        at_end(bytes)
    }
}

/// After the end of the frame or member: there is nothing left to do, and more bytes are an error.
fn at_end(bytes: &[u8]) -> Result<bool, DecodeError> {
    if bytes.is_empty() { Ok(false) } else { Err(DecodeError::TrailingBytes) }
}

/// Moves bytes from the front of `bytes` until `part` has `len`.
fn fill(part: &mut Vec<u8>, len: usize, bytes: &mut &[u8]) {
    let (head, rest) = bytes.split_at(bytes.len().min(len - part.len()));
    part.extend_from_slice(head);
    *bytes = rest;
}

fn damaged(what: &str) -> DecodeError {
    DecodeError::Damaged(io::Error::new(io::ErrorKind::InvalidData, what))
}
