//! The evidence of a stream, as its host writes it.

use std::fmt;
use std::io::BufRead as _;

use sha2::{Digest, Sha256};

use crate::hash::{decode_array, encode};
use crate::{
    Certificate, Checkpoint, CompactRange, InvalidKey, KeyKind, MAX_STREAM_RECORDS, ObjectHead,
    Salts, SignerKey, is_host_name, origin,
};

/// Hashes the lines of one object. It does not depend on earlier objects, so several objects can be
/// encoded in parallel; [`StreamSigner::seal`] then takes them in the order of their records.
pub struct ObjectHasher {
    stable: u64,
    seed: [u8; 32],
    salts: Salts,
    digest: Sha256,
    range: CompactRange,
}

/// The lines of one object, reduced to hashes.
#[derive(Clone)]
pub struct HashedObject {
    stable: u64,
    seed: [u8; 32],
    sha256: [u8; 32],
    range: CompactRange,
}

impl ObjectHasher {
    /// Begins with record `first`. `key` is the object's key below the bucket's prefix; all records
    /// below `stable` were acknowledged; `seed` must come from a cryptographic generator and be
    /// used for no other object.
    ///
    /// # Panics
    ///
    /// If `first` is [`MAX_STREAM_RECORDS`] or more.
    pub fn new(key: &str, first: u64, stable: u64, seed: [u8; 32]) -> ObjectHasher {
        assert!(first < MAX_STREAM_RECORDS, "a stream has at most 2^28 records");
        let (salts, range) = (Salts::new(key, stable, &seed), CompactRange::new(first));
        ObjectHasher { stable, seed, salts, digest: Sha256::new(), range }
    }

    /// Adds whole lines, each with its line feed.
    ///
    /// Each line is hashed twice while it is in the cache: for the object's `sha256`, and as a
    /// leaf.
    pub fn lines(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let rest = lines;
            let bytes = lines.skip_until(b'\n').expect("memory is read without failure");
            let line = &rest[..bytes];
            self.digest.update(line);
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            self.range.push(self.salts.leaf(self.range.end(), line));
        }
    }

    /// Ends the object.
    pub fn finish(self) -> HashedObject {
        let ObjectHasher { stable, seed, salts: _, digest, range } = self;
        HashedObject { stable, seed, sha256: digest.finalize().into(), range }
    }
}

impl HashedObject {
    /// The number of its records.
    pub fn count(&self) -> u64 {
        self.range.end() - self.range.begin()
    }

    /// Its records as a part of the stream's tree.
    pub fn range(&self) -> &CompactRange {
        &self.range
    }

    /// SHA-256 of its lines, line feeds included.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

// Hashes reveal nothing without the salts; the seed becomes public with the object.
impl fmt::Debug for HashedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashedObject").field("range", &self.range).finish_non_exhaustive()
    }
}

impl fmt::Debug for ObjectHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectHasher").field("range", &self.range).finish_non_exhaustive()
    }
}

/// Signs the objects of one stream with the stream's own key, which the host certified.
///
/// ```
/// use audit_evidence::*;
///
/// // Seeds are random; these are for the example.
/// let host = SignerKey::from_seed("example.com/api", KeyKind::Ed25519, &[1; 32])?;
/// let stream = "01M86YQH3BN92MTRKE2RS1CKJ5";
/// let signer = StreamSigner::new(&host, stream, &[2; 32])?;
///
/// let key = format!("dt=2026-11-24/hour=14/{stream}-000000000000.ndjson.zst");
/// let mut hasher = ObjectHasher::new(&key, 0, 0, [3; 32]);
/// hasher.lines(b"{\"action\":\"view\"}\n{\"action\":\"edit\"}\n");
/// let (head, after) = signer.seal(CompactRange::default(), &hasher.finish());
/// assert_eq!(head.verify(host.verifier()), Ok(()));
/// assert_eq!((head.count, after.end()), (2, 2), "the next object is sealed behind `after`");
/// # Ok::<(), InvalidKey>(())
/// ```
#[derive(Debug)]
pub struct StreamSigner {
    /// The host's name.
    name: String,
    key: SignerKey,
    certificate: Certificate,
}

const SECRET: &str = "audit stream key 1";

impl StreamSigner {
    /// Has the host certify a new key for `stream`. `seed` must come from a cryptographic
    /// generator.
    ///
    /// # Errors
    ///
    /// [`InvalidKey::Name`] if the host's name cannot be stored in metadata: see [`is_host_name`].
    pub fn new(
        host: &SignerKey,
        stream: &str,
        seed: &[u8; 32],
    ) -> Result<StreamSigner, InvalidKey> {
        let name = host.verifier().name();
        if !is_host_name(name) {
            return Err(InvalidKey::Name);
        }
        let key = SignerKey::from_seed(&origin(name, stream), KeyKind::Ed25519, seed)?;
        let certificate = Certificate::issue(host, key.verifier());
        Ok(StreamSigner { name: name.to_owned(), key, certificate })
    }

    /// The text that [`parse`](Self::parse) reads. It contains the stream's secret: write it only
    /// to a file that is deleted once the stream is delivered.
    pub fn to_secret_text(&self) -> String {
        let certificate = encode(self.certificate.signature());
        format!("{SECRET}\n{}\n{certificate}\n", self.key.to_secret_text())
    }

    /// Reads the text of a `stream`'s key and certificate.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says which part is invalid, and shows none of it.
    pub fn parse(stream: &str, text: &str) -> Result<StreamSigner, InvalidKey> {
        let lines = text.strip_suffix('\n').ok_or(InvalidKey::Form)?;
        let [SECRET, key, certificate] = lines.split('\n').collect::<Vec<_>>()[..] else {
            return Err(InvalidKey::Form);
        };
        let key = SignerKey::parse(key)?;
        let name = key.verifier().name().strip_suffix(stream).and_then(|n| n.strip_suffix('/'));
        let name = name.filter(|name| is_host_name(name)).ok_or(InvalidKey::Name)?.to_owned();
        let signature = decode_array(certificate).map_err(|_| InvalidKey::Form)?;
        let certificate = Certificate::from_parts(key.verifier().clone(), signature);
        Ok(StreamSigner { name, key, certificate })
    }

    /// The name of the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's certificate of the stream's key.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Signs an object that follows the records `before`. Returns its head, and the range before
    /// the next object.
    ///
    /// # Panics
    ///
    /// If the object does not begin where `before` ends, has no records, or has some beyond
    /// [`MAX_STREAM_RECORDS`].
    pub fn seal(&self, before: CompactRange, object: &HashedObject) -> (ObjectHead, CompactRange) {
        let HashedObject { stable, seed, sha256, range } = object;
        let after = before.clone().join(range).expect("an object begins where those before it end");
        assert!(object.count() > 0, "an object has records");
        assert!(after.end() <= MAX_STREAM_RECORDS, "a stream has at most 2^28 records");
        let root = after.root().expect("the records before an object begin at 0");
        let checkpoint = Checkpoint::new(self.key.verifier().name(), after.end(), root)
            .expect("a key's name is an origin");
        let head = ObjectHead {
            first: range.begin(),
            count: object.count(),
            sha256: *sha256,
            stable: *stable,
            seed: *seed,
            before,
            root,
            signature: checkpoint.sign(&self.key),
            name: self.name.clone(),
            certificate: self.certificate.clone(),
        };
        (head, after)
    }
}
