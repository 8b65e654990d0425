//! Detection of members that occur twice in an object.
//!
//! Readers disagree about such an object: some take the first, some the last, some fail (RFC 7493
//! forbids it). An attacker who could add a second member to a log could forge the first.

use std::borrow::Cow;
use std::ops::Range;

use crate::search::find_special;

/// The names of one object, checked while it is written.
///
/// For most objects a few instructions per name suffice: the names ascend, as in a sorted map, or a
/// small filter has no collision. Otherwise all names are read again at the object's end and
/// sorted, so that no choice of names makes the check quadratic.
pub(super) struct Names {
    /// Where the object begins.
    start: usize,
    order: Order,
    filter: Filter,
}

enum Order {
    /// Each name is greater than the one before it.
    Ascending(Ascent),
    /// The filter has seen each name.
    Any,
}

struct Ascent {
    count: usize,
    last: Words,
    last_start: usize,
    /// The places of the first names, to be added to the filter if a later name does not ascend.
    /// Names in no order seldom ascend for longer.
    first: [NamePlace; 8],
}

/// A filter of 256 bits.
#[derive(Default)]
struct Filter {
    taken: [u64; 4],
    /// Nonzero if a bit was set twice.
    hits: u64,
}

/// The place of a name in the filter. It is computed at compile time if the name is a constant.
#[derive(Clone, Copy)]
pub(super) struct NamePlace(u8);

impl NamePlace {
    #[inline(always)]
    pub(super) fn of(name: &[u8]) -> NamePlace {
        Words::of(name).place()
    }
}

impl Filter {
    #[inline(always)]
    fn add(&mut self, NamePlace(place): NamePlace) {
        let (word, bit) = (usize::from(place >> 6), 1 << (place & 63));
        self.hits |= self.taken[word] & bit;
        self.taken[word] |= bit;
    }
}

impl Names {
    /// The names of an object that begins at this byte of a text.
    #[inline]
    pub(super) fn at(start: usize) -> Names {
        // Less than any name but the empty one.
        let last = Words { first: 0, last: 0, len: 0 };
        let ascent = Ascent { count: 0, last, last_start: 0, first: [NamePlace(0); 8] };
        Names { start, order: Order::Ascending(ascent), filter: Filter::default() }
    }

    /// As [`at`](Self::at), for an object whose names are not expected to ascend.
    #[inline]
    pub(super) fn unordered_at(start: usize) -> Names {
        Names { start, order: Order::Any, filter: Filter::default() }
    }

    /// A name written with escapes: it is compared at the object's end.
    #[inline]
    pub(super) fn add_escaped(&mut self) {
        (self.order, self.filter.hits) = (Order::Any, 1);
    }

    /// The next name, at this range of `text`, without quotes or escapes.
    #[inline]
    pub(super) fn add(&mut self, text: &[u8], name: Range<usize>) {
        let words = Words::of(&text[name.clone()]);
        if let Order::Ascending(ascent) = &mut self.order {
            let Ascent { count, last, last_start, first } = ascent;
            let is_ascending = last
                .is_less(&words)
                .unwrap_or_else(|| text[*last_start..*last_start + last.len] < text[name.clone()]);
            if is_ascending {
                if let Some(place) = first.get_mut(*count) {
                    *place = words.place();
                }
                *count += 1;
                (*last, *last_start) = (words, name.start);
                return;
            }
            match first.get(..*count) {
                Some(places) => places.iter().for_each(|place| self.filter.add(*place)),
                None => self.filter.hits = 1,
            }
            self.order = Order::Any;
        }
        self.filter.add(words.place());
    }

    /// The next name of an object made with [`unordered_at`](Self::unordered_at).
    #[inline(always)]
    pub(super) fn add_place(&mut self, place: NamePlace) {
        self.filter.add(place);
    }

    /// Ends the object. Returns a name that occurs twice, as spelled in the text.
    #[inline]
    pub(super) fn duplicate(&self, text: &[u8], end: usize) -> Option<String> {
        if self.filter.hits == 0 { None } else { duplicate(&text[self.start..end]) }
    }
}

/// The part of a name that distinguishes it from most others.
#[derive(Clone, Copy)]
struct Words {
    /// The first eight bytes of the name, the first being the most significant. A shorter name is
    /// followed by zeros.
    first: u64,
    /// The last eight bytes of the name; 0 if the name is shorter.
    last: u64,
    len: usize,
}

impl Words {
    #[inline(always)]
    fn of(name: &[u8]) -> Words {
        let len = name.len();
        if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
            let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
            return Words { first, last, len };
        }
        let first = if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
            let (first, last) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
            // The two halves may overlap, and hold the same bytes where they do.
            u64::from(first) << 32 | u64::from(last) << (64 - 8 * len)
        } else {
            let byte = |(n, byte): (usize, &u8)| u64::from(*byte) << (56 - 8 * n);
            name.iter().enumerate().map(byte).sum()
        };
        Words { first, last: 0, len }
    }

    /// Whether this name is less, as far as the words decide. Names have no zero byte.
    #[inline]
    fn is_less(&self, other: &Words) -> Option<bool> {
        if self.first != other.first {
            Some(self.first < other.first)
        } else if self.len == other.len && self.len <= 16 {
            // Where the first words are equal, the last words hold the rest of both names.
            Some(self.last < other.last)
        } else {
            None
        }
    }

    /// The name's place in the filter.
    #[inline(always)]
    fn place(&self) -> NamePlace {
        let word = self.first ^ self.last.rotate_left(29) ^ self.len as u64;
        NamePlace((word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
    }
}

#[cold]
#[inline(never)]
fn duplicate(object: &[u8]) -> Option<String> {
    let spelled: Vec<&[u8]> = names(object).collect();
    if spelled.is_sorted_by(|a, b| a < b) && !spelled.iter().any(|name| name.contains(&b'\\')) {
        return None;
    }
    let mut names: Vec<_> = spelled.into_iter().map(|name| (unescaped(name), name)).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some(String::from_utf8_lossy(twice[1].1).into_owned())
}

/// The names of the members of an object, whose text begins with its brace and may end anywhere
/// between two members. Values may be missing where variables go.
fn names(object: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    let mut depth = 0u32;
    let mut is_name_next = false;
    std::iter::from_fn(move || {
        while let Some(byte) = object.get(at) {
            at += 1;
            match byte {
                b'{' | b'[' => {
                    depth += 1;
                    is_name_next = depth == 1;
                }
                b'}' | b']' => depth -= 1,
                b',' if depth == 1 => is_name_next = true,
                b'"' => {
                    let start = at;
                    loop {
                        at = find_special(object, at);
                        match object.get(at) {
                            Some(b'\\') => at += 2,
                            Some(b'"') | None => break,
                            Some(_) => at += 1,
                        }
                    }
                    let name = &object[start..at.min(object.len())];
                    at += 1;
                    if std::mem::take(&mut is_name_next) {
                        return Some(name);
                    }
                }
                _ => {}
            }
        }
        None
    })
}

/// The content of a JSON string, unescaped. Its escapes are known to be valid.
fn unescaped(spelled: &[u8]) -> Cow<'_, [u8]> {
    if !spelled.contains(&b'\\') {
        return Cow::Borrowed(spelled);
    }
    let unit = |at: usize| {
        let digits = spelled.get(at + 2..at + 6)?;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    };
    let mut name = Vec::with_capacity(spelled.len());
    let mut at = 0;
    while let Some(byte) = spelled.get(at) {
        if *byte != b'\\' {
            name.push(*byte);
            at += 1;
            continue;
        }
        let escaped = match spelled.get(at + 1) {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let mut code = unit(at).unwrap_or(0);
                at += 4;
                if let (0xd800..0xdc00, Some(low)) = (code, unit(at + 2)) {
                    code = 0x10000 + ((code - 0xd800) << 10) + (low & 0x3ff);
                    at += 6;
                }
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            Some(other) => char::from(*other),
            None => char::REPLACEMENT_CHARACTER,
        };
        at += 2;
        name.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_compared_byte_by_byte(a in "[ab]{0,20}", b in "[ab]{0,20}", same: u8) {
            let is_less = |a: &[u8], b: &[u8]| {
                Words::of(a).is_less(&Words::of(b)).is_none_or(|less| less == (a < b))
            };
            prop_assert!(is_less(a.as_bytes(), b.as_bytes()));
            // Of equal length, and equal up to some place.
            let mut c = a.clone().into_bytes();
            if let Some(byte) = c.get_mut(usize::from(same) % a.len().max(1)) {
                *byte ^= 3;
            }
            prop_assert!(is_less(a.as_bytes(), &c));
        }

        #[test]
        fn names_are_unescaped_as_serde_json_does(name: String, escape in any::<bool>()) {
            let mut json = serde_json::to_string(&name).unwrap();
            if escape {
                let units = name.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
                json = format!("\"{}\"", units.collect::<String>());
            }
            prop_assert_eq!(&*unescaped(&json.as_bytes()[1..json.len() - 1]), name.as_bytes());
        }
    }
}
