//! What the value of a setting must be, for errors.

use std::error::Error as _;

use clap::builder::ValueParser;
use clap::{Arg, Command};

/// What the value of a setting must be, where its parser's own error does not say so: a number with
/// its range.
pub(super) fn expected(setting: &Arg) -> Option<String> {
    let parser = setting.get_value_parser();
    // A parser of numbers is recognized by its error for a text that is not a number.
    let signs = ["invalid digit", " is not in "];
    refusal(parser, "x").filter(|why| signs.iter().any(|sign| why.contains(sign)))?;
    let outside = ["18446744073709551615", "4294967296", "0", "-1"];
    let refused = outside.iter().filter_map(|number| refusal(parser, number));
    let mut ranges = refused.filter_map(|why| Some(why.rsplit_once(" is not in ")?.1.to_owned()));
    Some(match ranges.next_back().as_deref().and_then(|range| range.split_once("..")) {
        Some((first, last)) if last.trim_start_matches('=') == u64::MAX.to_string() => {
            format!("a whole number from {first} on")
        }
        Some((first, last)) => match last.strip_prefix('=') {
            Some(last) => format!("a whole number from {first} to {last}"),
            None => format!("a whole number from {first} on"),
        },
        None => "a whole number".to_owned(),
    })
}

/// Why a parser refuses a value.
fn refusal(parser: &ValueParser, value: &str) -> Option<String> {
    let setting = Arg::new("value").long("value").value_parser(parser.clone());
    let alone = Command::new("host").no_binary_name(true).arg(setting);
    let error = alone.try_get_matches_from([format!("--value={value}")]).err()?;
    error.source().map(ToString::to_string)
}

/// Whether a value in place of a number was meant as one, such as `10s` or `1_000`. Anything else
/// may be a misplaced secret.
pub(super) fn is_like_a_number(value: &str) -> bool {
    const MAX_UNIT: usize = 4;
    let unsigned = value.strip_prefix(['-', '+']).unwrap_or(value);
    let unit = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || ",._' ".contains(c));
    unsigned.starts_with(|first: char| first.is_ascii_digit())
        && unit.len() <= MAX_UNIT
        && unit.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'%')
}

#[cfg(test)]
mod tests {
    use clap::value_parser;

    use super::*;

    #[test]
    fn numbers_are_described() {
        let x = || Arg::new("x");
        let number = |range: &str| Some(format!("a whole number{range}"));
        for (setting, range) in [
            (x().value_parser(value_parser!(u16)), " from 0 to 65535"),
            (x().value_parser(value_parser!(u16).range(1..=256)), " from 1 to 256"),
            (x().value_parser(value_parser!(u32).range(1..)), " from 1 to 4294967295"),
            (x().value_parser(value_parser!(u64).range(1..=86_400_000)), " from 1 to 86400000"),
            (x().value_parser(value_parser!(u64).range(4..)), " from 4 on"),
            (x().value_parser(value_parser!(u64)), ""),
            (x().value_parser(value_parser!(usize)), ""),
        ] {
            assert_eq!(expected(&setting), number(range), "{range}");
        }
        for own in [ValueParser::string(), ValueParser::path_buf(), ValueParser::bool()] {
            assert_eq!(expected(&x().value_parser(own)), None);
        }
    }

    #[test]
    fn numbers_with_units_are_no_secrets() {
        for number in ["1", "-5", "1_000", "10s", "10 MiB", "1.5", "99%", "1,000ms"] {
            assert!(is_like_a_number(number), "{number}");
        }
        for other in ["", "-", "x", "hunter2", "7hunter2", "5-ab", "sk_live_1", "1a2b3c"] {
            assert!(!is_like_a_number(other), "{other}");
        }
    }
}
