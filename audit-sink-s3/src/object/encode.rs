//! Encodes lines: compresses and hashes them.

use std::io::Write;

use audit_core::BufferPool;
use audit_evidence::{HashedObject, ObjectHasher};
use bytes::Bytes;
use flate2::GzBuilder;
use object_store::PutPayload;
use sha2::{Digest, Sha256};
use zstd::zstd_safe::{CCtx, CParameter};

use super::pieces::Pieces;
use crate::Compression;

const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

/// The size from which lines are hashed on another thread while they are compressed. Hashing
/// 256 KiB takes about 0.2 ms, and starting a thread a fraction of that.
const MIN_HASH_BESIDE: usize = 1 << 18;

/// Encodes objects one after another, and reuses memory between them.
pub(crate) struct ObjectEncoder {
    pool: BufferPool,
    /// Created at its first use.
    zstd: Option<Zstd>,
}

struct Zstd {
    context: CCtx<'static>,
    /// The compressed object, before it is copied into pieces.
    out: Vec<u8>,
}

impl ObjectEncoder {
    /// Creates an encoder whose payloads consist of buffers of `pool`.
    pub(crate) fn new(pool: BufferPool) -> ObjectEncoder {
        ObjectEncoder { pool, zstd: None }
    }

    /// Encodes `lines`. Returns their SHA-256 too.
    pub(crate) fn encode(
        &mut self,
        lines: &[u8],
        compression: Compression,
    ) -> (PutPayload, [u8; 32]) {
        self.compress_and(lines, compression, || Sha256::digest(lines).into())
    }

    /// Like [`encode`](Self::encode), for a stream with evidence, in which the object is still to
    /// be sealed after its predecessors.
    pub(crate) fn encode_unsealed(
        &mut self,
        lines: &[u8],
        mut hasher: ObjectHasher,
        compression: Compression,
    ) -> (PutPayload, HashedObject) {
        let hash = move || {
            hasher.lines(lines);
            hasher.finish()
        };
        self.compress_and(lines, compression, hash)
    }

    fn compress_and<H: Send>(
        &mut self,
        lines: &[u8],
        compression: Compression,
        hash: impl FnOnce() -> H + Send,
    ) -> (PutPayload, H) {
        let (pieces, hashed) = if lines.len() < MIN_HASH_BESIDE {
            (self.compress(lines, compression), hash())
        } else {
            std::thread::scope(|scope| {
                let hash = scope.spawn(hash);
                let pieces = self.compress(lines, compression);
                (pieces, hash.join().expect("hashing does not panic"))
            })
        };
        (pieces.into_iter().collect(), hashed)
    }

    fn compress(&mut self, lines: &[u8], compression: Compression) -> Vec<Bytes> {
        let mut pieces = Pieces::new(&self.pool);
        match compression {
            Compression::Zstd => {
                pieces.extend(self.zstd.get_or_insert_with(Zstd::new).compress(lines))
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = GzBuilder::new().mtime(0).write(pieces, level);
                encoder.write_all(lines).expect(TO_MEMORY);
                pieces = encoder.finish().expect(TO_MEMORY);
            }
            Compression::None => pieces.extend(lines),
        }
        pieces.into_bytes()
    }
}

impl Zstd {
    fn new() -> Zstd {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).expect(TO_MEMORY);
        context.set_parameter(CParameter::ChecksumFlag(true)).expect(TO_MEMORY);
        Zstd { context, out: Vec::new() }
    }

    /// Compresses all lines in one call. This is twice as fast as streaming, which copies the lines
    /// into a window and searches it in two parts.
    fn compress(&mut self, lines: &[u8]) -> &[u8] {
        let Zstd { context, out } = self;
        out.clear();
        // The reserve costs address space only: pages that the object does not reach stay unused.
        out.reserve(zstd::compress_bound(lines.len()));
        context.compress2(out, lines).expect(TO_MEMORY);
        out
    }
}

const TO_MEMORY: &str = "compressing from memory to memory does not fail";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::object::pieces::pieces;
    use std::io::Read;

    fn encode(lines: &[u8], compression: Compression) -> PutPayload {
        ObjectEncoder::new(pieces()).encode(lines, compression).0
    }

    pub(in crate::object) fn decoded(payload: PutPayload, compression: Compression) -> Vec<u8> {
        let bytes: Bytes = payload.into();
        let mut lines = Vec::new();
        match compression {
            Compression::Zstd => {
                zstd::Decoder::new(&bytes[..]).unwrap().single_frame().read_to_end(&mut lines)
            }
            Compression::Gzip => {
                flate2::bufread::GzDecoder::new(&bytes[..]).read_to_end(&mut lines)
            }
            Compression::None => (&bytes[..]).read_to_end(&mut lines),
        }
        .unwrap();
        lines
    }

    /// A journal's objects share one zstd context.
    #[test]
    fn an_object_does_not_depend_on_those_before_it() {
        let lines = |n: usize| {
            let line = |i| {
                format!(
                    "{{\"n\":{},\"x\":\"{:x}\"}}\n",
                    i,
                    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                )
            };
            (0..n).map(line).collect::<String>().into_bytes()
        };
        let mut one = ObjectEncoder::new(pieces());
        for n in [1, 200_000, 3, 60_000, 100] {
            let (payload, _) = one.encode(&lines(n), Compression::Zstd);
            let alone = encode(&lines(n), Compression::Zstd);
            assert_eq!(decoded(payload.clone(), Compression::Zstd), lines(n));
            assert_eq!(Bytes::from(payload), Bytes::from(alone), "{n} lines");
        }
    }

    #[test]
    fn a_gzip_header_names_no_time_and_no_host() {
        let bytes: Bytes = encode(b"{}\n", Compression::Gzip).into();
        assert_eq!(&bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }
}
