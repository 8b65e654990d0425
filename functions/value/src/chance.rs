//! The random bits of one execution, from a cryptographic generator.

use std::fmt;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// A stream of random bits from a seed. No part of it can be computed from another, so an id or
/// number that a function reveals says nothing about the others.
pub struct Chance(ChaCha12Rng);

/// The seed of a [`Chance`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChanceSeed([u8; 32]);

impl Chance {
    /// The stream of this seed.
    pub fn new(seed: ChanceSeed) -> Chance {
        Chance(ChaCha12Rng::from_seed(seed.0))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// The next 128 bits.
    pub fn next_u128(&mut self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }

    /// A seed for an independent stream.
    pub fn next_seed(&mut self) -> ChanceSeed {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        ChanceSeed(seed)
    }
}

impl ChanceSeed {
    /// A seed from four calls of `bits`. It is unpredictable if the bits are.
    pub fn from_bits(mut bits: impl FnMut() -> u64) -> ChanceSeed {
        let mut seed = [0; 32];
        for part in seed.as_chunks_mut::<8>().0 {
            *part = bits().to_le_bytes();
        }
        ChanceSeed(seed)
    }
}

/// A predictable seed, for tests and benchmarks.
impl From<u64> for ChanceSeed {
    fn from(number: u64) -> ChanceSeed {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        ChanceSeed(seed)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance(..)")
    }
}

impl fmt::Debug for ChanceSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChanceSeed(..)")
    }
}
