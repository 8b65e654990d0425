//! Decoding: from the bytes of an object to its lines.

use std::fmt;

use audit_core::MAX_BATCH_BYTES;
use sha2::{Digest, Sha256};

use super::decompress::{DecodeError, Decompressor, MAX_OBJECT_BYTES};
use crate::{Compression, ObjectMetadata};

/// Decodes the lines of one object from its bytes, in pieces of any size. Memory: one line, the
/// window of the compression and a buffer, however large the object is.
///
/// It accepts exactly what a sink writes: one complete frame or member with nothing after it, and a
/// line feed at the end. A truncated or extended object is an error, never fewer or more lines.
///
/// ```
/// use audit_sink_s3::layout::{Compression, LineDecoder};
///
/// let mut decoder = LineDecoder::new(Compression::None);
/// let mut lines = Vec::new();
/// for piece in [&b"{\"a\":1}\n{\"a\""[..], b":2}\n"] {
///     decoder.push(piece, |line| lines.push(line.to_vec()))?;
/// }
/// assert_eq!(decoder.finish()?.count, 2);
/// assert_eq!(lines, [b"{\"a\":1}", b"{\"a\":2}"]);
/// # Ok::<(), audit_sink_s3::layout::DecodeError>(())
/// ```
pub struct LineDecoder {
    decompressor: Decompressor,
    lines: LineSplitter,
}

/// A summary of the lines of a whole object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedLines {
    /// The number of lines, at least one.
    pub count: u64,
    /// Their size in bytes, including line feeds.
    pub bytes: u64,
    /// Their SHA-256, including line feeds. `None` if the decoder was
    /// [`unhashed`](LineDecoder::unhashed).
    pub sha256: Option<[u8; 32]>,
}

impl DecodedLines {
    /// The metadata that the object must have if its key has this first sequence number. `None` if
    /// the lines were not hashed.
    pub fn metadata(&self, first_sequence: u64) -> Option<ObjectMetadata> {
        let DecodedLines { count, bytes: _, sha256 } = *self;
        let last_sequence = first_sequence.saturating_add(count - 1);
        sha256.map(|sha256| ObjectMetadata { last_sequence, count, sha256 })
    }
}

impl LineDecoder {
    /// A decoder for an object with this compression.
    pub fn new(compression: Compression) -> LineDecoder {
        LineDecoder::with_hash(compression, Some(Sha256::new()))
    }

    /// A decoder that does not hash the lines, for readers that have nothing to compare the hash
    /// with: hashing takes about as long as decompressing.
    pub fn unhashed(compression: Compression) -> LineDecoder {
        LineDecoder::with_hash(compression, None)
    }

    fn with_hash(compression: Compression, hash: Option<Sha256>) -> LineDecoder {
        let decompressor = Decompressor::new(compression);
        let lines = LineSplitter { rest: Vec::new(), count: 0, bytes: 0, hash };
        LineDecoder { decompressor, lines }
    }

    /// Takes the next bytes of the object and passes each line that they complete to `line`,
    /// without its line feed.
    ///
    /// # Errors
    ///
    /// If these bytes cannot follow the earlier ones. The lines passed so far then belong to a
    /// damaged object.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        let mut left = bytes;
        while self.push_some(&mut left, &mut line)? {}
        Ok(())
    }

    /// As [`push`](Self::push), but takes only some of the bytes from the front of `bytes`: those
    /// that decompress to 128 KiB, or all if the object is not compressed. Returns whether it must
    /// be called again. For a caller that keeps lines: few bytes may decompress to gigabytes of
    /// them.
    ///
    /// # Errors
    ///
    /// Like [`push`](Self::push).
    pub fn push_some(
        &mut self,
        bytes: &mut &[u8],
        mut line: impl FnMut(&[u8]),
    ) -> Result<bool, DecodeError> {
        self.decompressor.step(bytes, &mut |bytes| self.lines.push(bytes, &mut line))
    }

    /// Ends the object, once all bytes were taken.
    ///
    /// # Errors
    ///
    /// If the object is truncated.
    pub fn finish(self) -> Result<DecodedLines, DecodeError> {
        self.decompressor.finish()?;
        let LineSplitter { rest, count, bytes, hash } = self.lines;
        if count == 0 || !rest.is_empty() {
            return Err(DecodeError::CutOff);
        }
        Ok(DecodedLines { count, bytes, sha256: hash.map(|hash| hash.finalize().into()) })
    }
}

impl fmt::Debug for LineDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineDecoder").field("count", &self.lines.count).finish_non_exhaustive()
    }
}

struct LineSplitter {
    /// The incomplete last line.
    rest: Vec<u8>,
    count: u64,
    bytes: u64,
    hash: Option<Sha256>,
}

impl LineSplitter {
    fn push(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) -> Result<(), DecodeError> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_OBJECT_BYTES {
            return Err(DecodeError::TooLarge);
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            self.check_line(end)?;
            if self.rest.is_empty() {
                line(head);
            } else {
                self.rest.extend_from_slice(head);
                line(&self.rest);
                self.rest.clear();
            }
            self.count += 1;
            bytes = tail;
        }
        self.check_line(bytes.len())?;
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Checks the length of the current line with `more` further bytes. The limit holds however the
    /// object is divided into pieces.
    fn check_line(&self, more: usize) -> Result<(), DecodeError> {
        let fits = self.rest.len() + more <= MAX_BATCH_BYTES;
        fits.then_some(()).ok_or(DecodeError::LineTooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::encoded::EncodedObject;
    use bytes::Bytes;
    use proptest::prelude::*;

    const COMPRESSIONS: [Compression; 3] =
        [Compression::Zstd, Compression::Gzip, Compression::None];

    fn object(lines: &[Vec<u8>], compression: Compression) -> (Bytes, EncodedObject) {
        let whole: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
        let object = EncodedObject::of_lines(&whole, 7, lines.len() as u64, compression);
        (object.payload.clone().into(), object)
    }

    fn decode(
        bytes: &[u8],
        piece: usize,
        compression: Compression,
    ) -> Result<(Vec<Vec<u8>>, DecodedLines), DecodeError> {
        let mut decoder = LineDecoder::new(compression);
        let mut lines = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece, |line| lines.push(line.to_vec()))?;
        }
        Ok((lines, decoder.finish()?))
    }

    proptest! {
        #[test]
        fn lines_round_trip_in_any_pieces(
            lines in prop::collection::vec("[^\n]{1,300}", 1..20),
            piece in 1..2_000usize,
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
            for compression in COMPRESSIONS {
                let (bytes, object) = object(&lines, compression);
                let (found, decoded) = decode(&bytes, piece, compression).unwrap();
                prop_assert_eq!(&found, &lines);
                prop_assert_eq!(decoded.metadata(7), Some(object.metadata));
                let mut unhashed = LineDecoder::unhashed(compression);
                let mut same = Vec::new();
                unhashed.push(&bytes, |line| same.push(line.to_vec())).unwrap();
                prop_assert_eq!(&same, &lines);
                let unhashed = unhashed.finish().unwrap();
                prop_assert_eq!(unhashed, DecodedLines { sha256: None, ..decoded.clone() });
                prop_assert_eq!(decoded.bytes, lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>());
            }
        }

        #[test]
        fn truncated_or_extended_objects_are_errors(
            lines in prop::collection::vec("[^\n]{1,300}", 1..20),
            cut in 0.0..1.0f64,
            piece in 1..2_000usize,
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
            for compression in [Compression::Zstd, Compression::Gzip] {
                let (bytes, _) = object(&lines, compression);
                // At least one byte is missing.
                let kept = (bytes.len() as f64 * cut) as usize;
                let error = decode(&bytes[..kept], piece, compression).unwrap_err();
                prop_assert!(matches!(error, DecodeError::CutOff), "{:?} of {}: {:?}", kept, bytes.len(), error);
                let twice = [&bytes[..], &bytes[..]].concat();
                let error = decode(&twice, piece, compression).unwrap_err();
                prop_assert!(matches!(error, DecodeError::TrailingBytes), "{:?}", error);
            }
        }
    }

    #[test]
    fn a_step_passes_few_lines_however_much_the_bytes_expand() {
        let whole = b"{}\n".repeat(1 << 20);
        for compression in COMPRESSIONS {
            let object = EncodedObject::of_lines(&whole, 0, 1 << 20, compression);
            let bytes: Bytes = object.payload.into();
            let (mut decoder, mut found, mut most) = (LineDecoder::new(compression), 0, 0);
            for mut piece in bytes.chunks(16 << 10) {
                loop {
                    let mut lines = 0;
                    let has_more = decoder.push_some(&mut piece, |_| lines += 1).unwrap();
                    (found, most) = (found + lines, most.max(lines));
                    if !has_more {
                        break;
                    }
                }
                assert!(piece.is_empty());
            }
            assert_eq!((found, decoder.finish().unwrap().count), (1 << 20, 1 << 20));
            assert!(most <= (128 << 10) / 3 + 1, "{compression:?}: {most}");
        }
    }

    #[test]
    fn changed_bytes_never_change_lines_silently() {
        let lines: Vec<Vec<u8>> = (0..40).map(|i| format!("{{\"i\":{i}}}").into_bytes()).collect();
        for compression in [Compression::Zstd, Compression::Gzip] {
            let (bytes, _) = object(&lines, compression);
            let mut noticed = 0;
            for at in 0..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x10;
                // An unused bit, or the time in a gzip header, may change.
                match decode(&changed, 4_096, compression) {
                    Ok((found, _)) => assert!(found == lines, "byte {at} of {compression:?}"),
                    Err(_) => noticed += 1,
                }
            }
            assert!(noticed + 8 > bytes.len(), "{noticed} of {} for {compression:?}", bytes.len());
        }
    }

    #[test]
    fn incomplete_or_empty_lines_are_errors() {
        for bytes in [&b""[..], b"{}", b"{}\n{"] {
            assert!(matches!(decode(bytes, 1, Compression::None), Err(DecodeError::CutOff)));
        }
        let long = vec![b'x'; MAX_BATCH_BYTES + 1];
        assert!(matches!(decode(&long, 1 << 20, Compression::None), Err(DecodeError::LineTooLong)));
    }

    #[test]
    fn the_longest_line_is_the_same_in_all_pieces() {
        for (len, fits) in [(MAX_BATCH_BYTES, true), (MAX_BATCH_BYTES + 1, false)] {
            let whole = [&vec![b'x'; len][..], b"\n"].concat();
            for compression in COMPRESSIONS {
                let object = EncodedObject::of_lines(&whole, 0, 1, compression);
                let bytes: Bytes = object.payload.into();
                for piece in [9_973, 1 << 20, usize::MAX] {
                    let found = decode(&bytes, piece, compression);
                    let is_too_long = matches!(found, Err(DecodeError::LineTooLong));
                    assert_eq!((found.is_ok(), is_too_long), (fits, !fits), "{len} in {piece}");
                }
            }
        }
    }

    #[test]
    fn what_stands_before_the_lines_is_named() {
        let (ours, _) = object(&[b"{}".to_vec()], Compression::Zstd);
        let skippable = b"\x5f\x2a\x4d\x18\x04\0\0\0abcd";
        let before = "a skippable frame stands before the lines";
        for (parts, says) in [
            ([&skippable[..], &ours[..]], Some(before)),
            ([&skippable[..], b""], Some(before)),
            ([b"{}\n", &ours[..]], Some("it does not begin with a zstd frame")),
            // A frame of zstd 0.7, which is older than RFC 8878, but which some decoders read.
            ([b"\x27\xb5\x2f\xfd", &ours[4..]], Some("it does not begin with a zstd frame")),
            ([&ours[..], skippable], None),
            ([&ours[..], b"\0"], None),
        ] {
            let bytes = parts.concat();
            for piece in 1..=bytes.len() {
                let error = decode(&bytes, piece, Compression::Zstd).unwrap_err();
                let Some(says) = says else {
                    assert!(matches!(error, DecodeError::TrailingBytes), "{error}");
                    continue;
                };
                let DecodeError::Damaged(why) = error else { panic!("{error}") };
                assert_eq!(why.to_string(), says);
            }
        }
    }

    #[test]
    fn lines_without_end_are_rejected() {
        let mut decoder = LineDecoder::unhashed(Compression::None);
        // As if that many bytes of lines had been decoded before.
        decoder.lines.bytes = MAX_OBJECT_BYTES - 3;
        decoder.push(b"{}\n", |_| {}).unwrap();
        let error = decoder.push(b"\n", |_| {}).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge), "{error:?}");
    }

    #[test]
    fn oversized_windows_are_rejected() {
        use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};
        let bomb = |window_log| {
            let mut encoder = Encoder::new(1).unwrap();
            encoder.set_parameter(CParameter::WindowLog(window_log)).unwrap();
            let mut bytes = vec![0; 4096];
            let line = b"{}\n";
            let mut out = OutBuffer::around(bytes.as_mut_slice());
            encoder.run(&mut InBuffer::around(line), &mut out).unwrap();
            encoder.finish(&mut out, true).unwrap();
            let len = out.pos();
            bytes.truncate(len);
            decode(&bytes, 64, Compression::Zstd)
        };
        assert_eq!(bomb(23).unwrap().1.count, 1);
        let error = bomb(24).unwrap_err();
        assert!(matches!(error, DecodeError::Damaged(_)), "{error:?}");
    }

    #[test]
    fn highly_compressed_objects_take_little_memory() {
        let line = vec![b'x'; 8 << 20];
        for compression in COMPRESSIONS {
            let (bytes, _) = object(std::slice::from_ref(&line), compression);
            let (found, decoded) = decode(&bytes, 1 << 20, compression).unwrap();
            assert_eq!((found.len(), decoded.count), (1, 1));
            assert!(found[0] == line);
        }
    }
}
