//! The names of members in JSON text that the engine is about to parse.
//!
//! The engine keeps each name once, in a hash table without a secret, and checks no clock while it
//! parses. A client could send names that all have the same hash: each would be compared with all
//! earlier ones, and four megabytes of them would hold the thread for minutes.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The most comparisons with other names that parsing a text may need: a tenth of a second.
const MAX_COMPARISONS: usize = 1 << 24;

/// The minimum number of places in the engine's table. It also has at least one place for every two
/// names.
const MIN_PLACES: usize = 512;

/// Whether the engine would compare the names in this text with each other too often. For invalid
/// JSON the result means nothing and does no harm.
pub(super) fn collide(json: &str) -> bool {
    let random = RandomState::new();
    // `known` has the names by a hash that no client can predict, so that each counts once.
    // `hashes` has the engine's hash of each.
    let mut known: HashSet<u64> = HashSet::new();
    let mut hashes: Vec<u32> = Vec::new();
    let mut units = Vec::new();
    let mut rest = json;
    while let Some((_, begin)) = rest.split_once('"') {
        let end = end_of(begin);
        let (name, after) = begin.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        if rest.trim_ascii_start().starts_with(':') {
            unescape(name, &mut units);
            if known.insert(random.hash_one(&units)) {
                hashes.push(hash(&units));
            }
        }
    }
    let places = (hashes.len() / 2).next_power_of_two().max(MIN_PLACES);
    let mut counts = vec![0_usize; places];
    hashes.iter().for_each(|hash| counts[*hash as usize % places] += 1);
    counts.iter().map(|count| count * count / 2).sum::<usize>() > MAX_COMPARISONS
}

/// The index of the quote that ends a string.
fn end_of(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

/// Replaces `units` with the UTF-16 code units of a string in JSON.
fn unescape(text: &str, units: &mut Vec<u16>) {
    units.clear();
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        let unit = match (char, rest.as_str().as_bytes()) {
            ('\\', [b'u', digits @ ..]) => {
                let digits = digits.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
                rest.nth(4);
                digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or_default()
            }
            ('\\', _) => match rest.next().unwrap_or_default() {
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                other => other as u16,
            },
            (char, _) => {
                units.extend_from_slice(char.encode_utf16(&mut [0; 2]));
                continue;
            }
        };
        units.push(unit);
    }
}

/// The engine's hash of a name (`hash_string16` in its `quickjs.c`).
fn hash(name: &[u16]) -> u32 {
    let step = |hash: u32, unit: &u16| hash.wrapping_mul(263).wrapping_add(u32::from(*unit));
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    name.iter().fold(1, step) ^ length.wrapping_mul(0x61c8_8647)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(names: impl Iterator<Item = String>) -> String {
        let members: Vec<String> = names.map(|name| format!("\"{name}\" : 0")).collect();
        format!("{{{}}}", members.join(","))
    }

    fn is_flood(names: impl Iterator<Item = String>) -> bool {
        collide(&object(names))
    }

    /// 8,192 names with the same hash. Each has 13 blocks of letters, and the two variants of a
    /// block change the hash in the same way.
    fn alike() -> impl Iterator<Item = String> {
        let of = |n: u32| (0..13).map(|at| TWINS[(n >> at) as usize % 2]).collect();
        (0..8_192).map(of)
    }

    const TWINS: [&str; 2] = ["fpnlbgw", "lodjsyq"];

    #[test]
    fn names_with_one_hash_are_found_however_they_are_written() {
        assert!(is_flood(alike()));
        let escaped = alike().map(|name| name.replace('f', "\\u0066"));
        assert!(is_flood(escaped));
        let nested =
            alike().map(|name| object(std::iter::once(name))).collect::<Vec<_>>().join(",");
        assert!(collide(&format!("[{nested}]")));
        // The engine's table contains no values, and each name only once.
        let values = alike().map(|name| format!("{{\"a\":\"{name}\"}}")).collect::<Vec<_>>();
        assert!(!collide(&format!("[{}]", values.join(","))));
        assert!(!is_flood((0..8_192).map(|_| TWINS[0].to_owned())));
    }

    #[test]
    fn common_names_are_no_flood() {
        let of = |name: &dyn Fn(u64) -> String| is_flood((0..100_000).map(name));
        assert!(!of(&|n| n.to_string()));
        assert!(!of(&|n| format!("user:{n:08}")));
        assert!(!of(&|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        assert!(!of(&|n| format!("{n}.example.com/äö")));
        assert!(!of(&|n| format!("{}\\n{}\\u00e9", n / 300, n % 300)));
        assert!(!collide("") && !collide("\"") && !collide("\"\\") && !collide("{\"\\u12"));
    }
}
