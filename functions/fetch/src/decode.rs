//! Decompression, a bounded piece at a time: few bytes can stand for very many.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::FetchError;

/// The most bytes that one step gives.
const STEP_BYTES: usize = 16 << 10;

/// What is to be decoded: what arrived of it so far.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    bytes: Bytes,
    is_whole: bool,
}

/// Without bytes it would block, until all have arrived: the decoders go on where they were.
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
        if self.bytes.is_empty() && !self.is_whole {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, length: usize) {
        self.bytes.advance(length);
    }
}

/// A decoder of a response's body.
#[derive(Debug)]
pub(crate) enum Decoder {
    Gzip(Box<MultiGzDecoder<Arrived>>),
    Zlib(Box<ZlibDecoder<Arrived>>),
    /// What some servers send as `deflate`.
    Raw(Box<DeflateDecoder<Arrived>>),
    /// `deflate`, before its first byte.
    Deflate,
}

/// What a step gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Bytes(Bytes),
    /// More has to arrive.
    Hungry,
    End,
}

impl Decoder {
    /// For a content coding; none for `identity`.
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
                "the body has the content coding {coding:?}, and this host decodes gzip and deflate"
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

    /// Adds what arrived, after all before it was taken.
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

    /// All has arrived.
    pub(crate) fn finish(&mut self) {
        if let Some(arrived) = self.arrived() {
            arrived.is_whole = true;
        }
    }

    pub(crate) fn step(&mut self) -> Result<Step, FetchError> {
        let mut piece = vec![0; STEP_BYTES];
        let read = match self {
            Decoder::Gzip(decoder) => decoder.read(&mut piece),
            Decoder::Zlib(decoder) => decoder.read(&mut piece),
            Decoder::Raw(decoder) => decoder.read(&mut piece),
            Decoder::Deflate => return Ok(Step::Hungry),
        };
        match read {
            Ok(0) => Ok(Step::End),
            Ok(length) => {
                piece.truncate(length);
                Ok(Step::Bytes(piece.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::Hungry),
            Err(error) => Err(FetchError::new(format!("the body cannot be decompressed: {error}"))),
        }
    }
}
