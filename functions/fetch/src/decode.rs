//! Decompression in bounded steps: a few compressed bytes can expand to very many.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::FetchError;

/// The maximum output of one step, in bytes.
const STEP_BYTES: usize = 16 << 10;

/// The compressed bytes that have arrived and are not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    bytes: Bytes,
    is_complete: bool,
}

/// Fails with `WouldBlock` until more bytes arrive. The decoders then resume where they stopped.
impl Read for Arrived {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let length = found.len().min(into.len());
        into[..length].copy_from_slice(&found[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Arrived {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.is_complete {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, length: usize) {
        self.bytes.advance(length);
    }
}

#[derive(Debug)]
pub(crate) enum Decoder {
    Gzip(Box<MultiGzDecoder<Arrived>>),
    Zlib(Box<ZlibDecoder<Arrived>>),
    /// Raw DEFLATE, which some servers send as `deflate`.
    Raw(Box<DeflateDecoder<Arrived>>),
    /// `deflate` before its first byte, which tells [`Zlib`](Self::Zlib) from [`Raw`](Self::Raw).
    Deflate,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Bytes(Bytes),
    NeedsInput,
    End,
}

impl Decoder {
    /// The decoder for a content coding; `None` for `identity`.
    pub(crate) fn of(coding: &str) -> Result<Option<Decoder>, FetchError> {
        let coding = coding.trim();
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        match () {
            () if coding.is_empty() || is("identity") => Ok(None),
            () if is("gzip") || is("x-gzip") => {
                Ok(Some(Decoder::Gzip(Box::new(MultiGzDecoder::new(Arrived::default())))))
            }
            () if is("deflate") => Ok(Some(Decoder::Deflate)),
            () => Err(FetchError::new(format!(
                "the body has the content coding {coding:?}; this host decodes gzip and deflate"
            ))),
        }
    }

    fn arrived(&mut self) -> Option<&mut Arrived> {
        match self {
            Decoder::Gzip(decoder) => Some(decoder.get_mut()),
            Decoder::Zlib(decoder) => Some(decoder.get_mut()),
            Decoder::Raw(decoder) => Some(decoder.get_mut()),
            Decoder::Deflate => None,
        }
    }

    /// Sets the next input. The decoder must have consumed all input before.
    pub(crate) fn feed(&mut self, bytes: Bytes) {
        if let (Decoder::Deflate, Some(first)) = (&*self, bytes.first()) {
            *self = if first & 0x0f == 8 {
                Decoder::Zlib(Box::new(ZlibDecoder::new(Arrived::default())))
            } else {
                Decoder::Raw(Box::new(DeflateDecoder::new(Arrived::default())))
            };
        }
        if let Some(arrived) = self.arrived() {
            arrived.bytes = bytes;
        }
    }

    /// Marks the input as complete.
    pub(crate) fn finish(&mut self) {
        if let Some(arrived) = self.arrived() {
            arrived.is_complete = true;
        }
    }

    pub(crate) fn step(&mut self) -> Result<Step, FetchError> {
        let mut piece = vec![0; STEP_BYTES];
        let read = match self {
            Decoder::Gzip(decoder) => decoder.read(&mut piece),
            Decoder::Zlib(decoder) => decoder.read(&mut piece),
            Decoder::Raw(decoder) => decoder.read(&mut piece),
            Decoder::Deflate => return Ok(Step::NeedsInput),
        };
        match read {
            Ok(0) => Ok(Step::End),
            Ok(length) => {
                piece.truncate(length);
                Ok(Step::Bytes(piece.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::NeedsInput),
            Err(error) => Err(FetchError::new(format!("the body cannot be decompressed: {error}"))),
        }
    }
}
