//! Identifiers that sort by creation time.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::{Clock, Random};

/// A 128-bit identifier: 48 bits of milliseconds since the Unix epoch, then 80 random bits. Its
/// text is 26 characters of Crockford's base 32 (a [ULID](https://github.com/ulid/spec)), so that
/// text order is time order to the millisecond.
///
/// Identifies streams, executions and, unless a proxy gave them an id, requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueId(Ulid);

impl UniqueId {
    /// The length of the text, in bytes.
    pub const TEXT_BYTES: usize = ulid::ULID_LEN;

    /// A new identifier for the current millisecond. Times before the Unix epoch count as the
    /// epoch.
    pub fn generate(clock: &dyn Clock, random: &dyn Random) -> UniqueId {
        let ms = u64::try_from(clock.now_ms()).unwrap_or(0);
        let bits = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        UniqueId(Ulid::from_parts(ms, bits))
    }

    /// The identifier with these bits: the inverse of [`to_bits`](Self::to_bits).
    pub fn from_bits(bits: u128) -> UniqueId {
        UniqueId(Ulid(bits))
    }

    /// The 128 bits; earlier identifiers are smaller numbers.
    pub fn to_bits(self) -> u128 {
        self.0.0
    }

    /// When it was generated, in milliseconds since the Unix epoch.
    pub fn time_ms(self) -> u64 {
        self.0.timestamp_ms()
    }

    /// Writes the text form into `buffer` without allocating.
    fn encode(self, buffer: &mut [u8; UniqueId::TEXT_BYTES]) -> &str {
        self.0.array_to_str(buffer)
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.encode(&mut [0; UniqueId::TEXT_BYTES]))
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an identifier: 26 characters of Crockford's base 32 that fit into 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an identifier is 26 characters of Crockford's base 32, at most 7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
)]
pub struct InvalidId;

impl FromStr for UniqueId {
    type Err = InvalidId;

    /// Parses only the canonical form that [`Display`](fmt::Display) writes, so that an identifier
    /// has one name in a bucket.
    fn from_str(text: &str) -> Result<UniqueId, InvalidId> {
        let id = UniqueId(Ulid::from_string(text).map_err(|_| InvalidId)?);
        if id.encode(&mut [0; UniqueId::TEXT_BYTES]) == text { Ok(id) } else { Err(InvalidId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ManualClock, SeededRandom};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_order_is_bit_order_and_text_reads_back(a: u128, b: u128) {
            let (a, b) = (UniqueId::from_bits(a), UniqueId::from_bits(b));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }
    }

    #[test]
    fn an_identifier_carries_its_millisecond() {
        let clock = ManualClock::at(1_700_000_000_123);
        let id = UniqueId::generate(&clock, &SeededRandom::new(1));
        assert_eq!(id.time_ms(), 1_700_000_000_123);
        assert_eq!(UniqueId::generate(&ManualClock::at(-5), &SeededRandom::new(1)).time_ms(), 0);
    }

    #[test]
    fn non_canonical_spellings_are_rejected() {
        let id = UniqueId::from_bits(77).to_string();
        for text in
            ["", "short", &id.to_lowercase().replace('0', "o"), "8ZZZZZZZZZZZZZZZZZZZZZZZZZ"]
        {
            assert_eq!(text.parse::<UniqueId>(), Err(InvalidId), "{text}");
        }
    }
}
