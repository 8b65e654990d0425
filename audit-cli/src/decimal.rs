//! Exact values of JSON numbers of any length and spelling.

use std::cmp::Ordering;
use std::fmt;

/// A number: `0.DIGITS` times ten to the power of `exponent`, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    /// Neither begins nor ends with a zero. Empty for zero.
    digits: String,
    exponent: i128,
}

impl Decimal {
    /// Parses a JSON number. `None` if it is not one, or its exponent has more than 36 digits.
    pub(crate) fn read(text: &str) -> Option<Decimal> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        let written = format!("{whole}{part}");
        let digits = written.trim_start_matches('0');
        if digits.is_empty() {
            return Some(Decimal { negative: false, digits: String::new(), exponent: 0 });
        }
        let exponent = exponent_of(exponent)?;
        let leading_zeros = written.len() - digits.len();
        let point = i128::try_from(whole.len()).ok()? - i128::try_from(leading_zeros).ok()?;
        Some(Decimal {
            negative,
            digits: digits.trim_end_matches('0').to_owned(),
            exponent: exponent + point,
        })
    }
}

/// The most zeros that are written out: beyond, a number gets an exponent.
const MAX_ZEROS: i128 = 20;

/// The one spelling of a value, as JSON: an integer of usual size has neither point nor exponent.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal { negative, digits, exponent } = self;
        if digits.is_empty() {
            return f.write_str("0");
        }
        let sign = if *negative { "-" } else { "" };
        let count = digits.len() as i128;
        let zeros = |count: i128| "0".repeat(usize::try_from(count).unwrap_or_default());
        match *exponent {
            whole if whole >= count && whole - count <= MAX_ZEROS => {
                write!(f, "{sign}{digits}{}", zeros(whole - count))
            }
            whole if whole > 0 && whole < count => {
                let (whole, part) = digits.split_at(usize::try_from(whole).unwrap_or_default());
                write!(f, "{sign}{whole}.{part}")
            }
            whole if whole <= 0 && -whole <= MAX_ZEROS => {
                write!(f, "{sign}0.{}{digits}", zeros(-whole))
            }
            whole => {
                let (first, rest) = digits.split_at(1);
                let point = if rest.is_empty() { "" } else { "." };
                write!(f, "{sign}{first}{point}{rest}e{}", whole - 1)
            }
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let sign = |number: &Decimal| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        // Digits begin after the decimal point, so that they sort like text.
        let size = || (self.exponent, &self.digits).cmp(&(other.exponent, &other.digits));
        match (sign(self), sign(other)) {
            (1, 1) => size(),
            (-1, -1) => size().reverse(),
            (one, other) => one.cmp(&other),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn exponent_of(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_start_matches('0');
    if digits.len() > 36 {
        return None;
    }
    let size: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigInt;
    use proptest::prelude::*;

    /// The model: the number in units of 10^-400, as a big integer.
    fn scaled(text: &str) -> BigInt {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: BigInt = format!("{whole}{part}").parse().unwrap();
        let exponent: i64 = exponent.parse().unwrap();
        let power = 400 + exponent - i64::try_from(part.len()).unwrap();
        digits * BigInt::from(10).pow(u32::try_from(power).unwrap())
    }

    proptest! {
        #[test]
        fn spellings_compare_as_their_values_do(
            numbers in prop::collection::vec(
                "-?(0|[1-9][09]{0,3}|900719925474099[23])(\\.[019]{1,3}|\\.0{1,20})?([eE][+-]?0?[0-3])?",
                2..12,
            ),
        ) {
            for a in &numbers {
                for b in &numbers {
                    let (one, other) = (Decimal::read(a).unwrap(), Decimal::read(b).unwrap());
                    prop_assert_eq!(one == other, scaled(a) == scaled(b), "{} {}", a, b);
                    prop_assert_eq!(one.cmp(&other), scaled(a).cmp(&scaled(b)), "{} {}", a, b);
                    let shown = [one.to_string(), other.to_string()];
                    prop_assert_eq!(one == other, shown[0] == shown[1], "{} {}", a, b);
                    prop_assert_eq!(Decimal::read(&shown[0]), Some(one));
                }
            }
        }
    }

    #[test]
    fn values_have_one_spelling() {
        for (text, shown) in [
            ("1.0", "1"),
            ("1e0", "1"),
            ("-0.0", "0"),
            ("-12.50", "-12.5"),
            ("5e-3", "0.005"),
            ("12e20", "1200000000000000000000"),
            ("1795132800000", "1795132800000"),
            ("9007199254740993.0", "9007199254740993"),
            ("1e99", "1e99"),
            ("-123e98", "-1.23e100"),
            ("10e-99", "1e-98"),
            ("1e999999999999999999", "1e999999999999999999"),
        ] {
            let number = Decimal::read(text).unwrap();
            assert_eq!(number.to_string(), shown);
            assert_eq!(Decimal::read(shown), Some(number));
            let json: &serde_json::value::RawValue = serde_json::from_str(shown).unwrap();
            assert_eq!(json.get(), shown);
        }
    }

    #[test]
    fn spellings_of_one_value_are_one() {
        let same = [
            &["7", "7.0", "70e-1", "0.7e1", "7E+00", "0.0007e4"][..],
            &["0", "-0", "0.0", "0e99", "-0.000E-7"],
            &["9007199254740993", "9007199254740993.0", "9.007199254740993e15"],
            &["123456789012345678901234567890", "12345678901234567890123456789.0e1"],
            &["1e999999999999", "10e999999999998"],
            &["-1.5", "-15e-1"],
        ];
        let read = |text: &str| Decimal::read(text).unwrap();
        for (n, values) in same.iter().enumerate() {
            for (m, others) in same.iter().enumerate() {
                for (a, b) in values.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                    assert_eq!(read(a) == read(b), n == m, "{a} {b}");
                }
            }
        }
        for other in ["", "-", ".5", "1x", "0x10", "\"7\"", "null"] {
            assert_eq!(Decimal::read(other), None, "{other}");
        }
        assert_eq!(Decimal::read(&format!("1e{}", "9".repeat(40))), None);
    }
}
