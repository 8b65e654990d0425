//! Conditions on records: `/user=ada`, `/n>=7`, or a text anywhere.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use crate::decimal::Decimal;
use crate::query::Pointer;

#[derive(Debug, Clone)]
pub(crate) struct Condition {
    /// The condition as it was written.
    shown: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    /// Some name or value in the record contains a text.
    Anywhere(Text),
    /// The member exists, even if it is null.
    Exists(Pointer),
    Missing(Pointer),
    /// The member has one of these values.
    Equals(Pointer, Vec<Value>),
    /// The member does not have this value, or does not exist.
    Differs(Pointer, Value),
    Contains(Pointer, Text),
    /// The member has the same type as the bound, and compares to it in one of these ways.
    Compares(Pointer, &'static [Ordering], Bound),
}

#[derive(Debug, Clone)]
struct Text(Finder<'static>);

#[derive(Debug, Clone)]
enum Value {
    /// Equal only to this string.
    Text(Text),
    /// Equal to this value and to the string with the same spelling: 7 equals 7.0 and "7".
    Json(Text, Box<RawValue>),
}

#[derive(Debug, Clone)]
enum Bound {
    Number(Decimal),
    Text(String),
}

/// The operators, longer ones before their own prefixes.
const OPERATORS: [&str; 8] = ["!=", "<=", ">=", "=", "<", ">", "~", " in "];

/// The form of a condition, for errors.
const EXAMPLES: &str = "a condition is a JSON pointer, an operator and a value: /user=ada, /user!=ada, /n<7, /n>=7, \
    /user~ad (contains), /user in ada,eve; or /user (is there), !/user (is not there)";

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let shown = text.to_owned();
        if let Some(pointer) = text.strip_prefix('!') {
            return Ok(Condition { shown, test: Test::Missing(pointer_alone(pointer)?) });
        }
        let (pointer, rest) = split_pointer(text)?;
        let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator))
        else {
            return match rest.trim() {
                "" => Ok(Condition { shown, test: Test::Exists(pointer) }),
                rest => Err(format!("{rest} is no operator; {EXAMPLES}")),
            };
        };
        let value = rest[operator.len()..].trim();
        use Ordering::{Equal, Greater, Less};
        let test = match operator {
            "=" => Test::Equals(pointer, vec![Value::new(value)]),
            "!=" => Test::Differs(pointer, Value::new(value)),
            "~" => Test::Contains(pointer, Text::new(&unquoted(value))),
            " in " => Test::Equals(pointer, values(value)),
            "<" => Test::Compares(pointer, &[Less], Bound::new(value)?),
            "<=" => Test::Compares(pointer, &[Less, Equal], Bound::new(value)?),
            ">" => Test::Compares(pointer, &[Greater], Bound::new(value)?),
            _ => Test::Compares(pointer, &[Greater, Equal], Bound::new(value)?),
        };
        Ok(Condition { shown, test })
    }
}

/// Splits a pointer from the rest. A quoted pointer may contain any character.
fn split_pointer(text: &str) -> Result<(Pointer, &str), String> {
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let quoted = values.next().and_then(Result::ok);
        let quoted = quoted.ok_or_else(|| format!("the quoted pointer has no end; {EXAMPLES}"))?;
        let rest = &text[values.byte_offset()..];
        let blanks = rest.len() - rest.trim_start().len();
        let rest = if rest.starts_with(" in ") { rest } else { &rest[blanks..] };
        return Ok((quoted.parse()?, rest));
    }
    let is_operator = |at: usize| {
        let rest = &text[at..];
        // ~0 and ~1 are escapes of the pointer, if an operator follows.
        let is_escape = rest.starts_with("~0") || rest.starts_with("~1");
        !is_escape && OPERATORS.iter().any(|operator| rest.starts_with(operator))
    };
    let at = text.char_indices().map(|(at, _)| at).find(|at| is_operator(*at));
    // If there is no other operator, `/ip~10.` means that the address contains `10.`.
    let at = at.or_else(|| text.find('~'));
    let (pointer, rest) = text.split_at(at.unwrap_or(text.len()));
    Ok((pointer.trim_end().parse()?, rest))
}

fn pointer_alone(text: &str) -> Result<Pointer, String> {
    match split_pointer(text)? {
        (pointer, "") => Ok(pointer),
        (_, rest) if rest.starts_with("~0") || rest.starts_with("~1") => text.parse(),
        (_, rest) => Err(format!("nothing may follow the pointer after !, but {rest} does")),
    }
}

/// The text in quotes, or the text itself.
fn unquoted(text: &str) -> String {
    serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
}

/// The values of a JSON array, or those between commas.
fn values(text: &str) -> Vec<Value> {
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(values) => values.into_iter().map(|value| Value::new(value.get())).collect(),
        Err(_) => text.split(',').map(|value| Value::new(value.trim())).collect(),
    }
}

impl Text {
    fn new(text: &str) -> Text {
        Text(Finder::new(text.as_bytes()).into_owned())
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.find(bytes).is_some()
    }

    /// Whether a string in the line may contain the text, literally or with escapes.
    fn may_be_in(&self, line: &[u8]) -> bool {
        self.is_in(line) || memchr::memchr(b'\\', line).is_some()
    }

    /// Whether a quoted JSON string contains the text once it is unescaped.
    fn is_in_string(&self, token: &str) -> bool {
        if memchr::memchr(b'\\', token.as_bytes()).is_none() {
            return self.is_in(token.trim_matches('"').as_bytes());
        }
        serde_json::from_str::<String>(token).is_ok_and(|text| self.is_in(text.as_bytes()))
    }

    /// Whether the line contains the text literally, or in a name or a string once it is unescaped.
    fn is_anywhere_in(&self, line: &[u8]) -> bool {
        if self.is_in(line) {
            return true;
        }
        let mut rest = line;
        // Without a backslash, nothing in the line is escaped.
        while memchr::memchr(b'\\', rest).is_some() {
            let Some(begin) = memchr::memchr(b'"', rest) else { return false };
            let token = string_at(&rest[begin..]);
            if std::str::from_utf8(token).is_ok_and(|token| self.is_in_string(token)) {
                return true;
            }
            rest = &rest[begin + token.len()..];
        }
        false
    }
}

/// The quoted JSON string that begins here.
fn string_at(text: &[u8]) -> &[u8] {
    let mut at = 1;
    while let Some(next) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += next;
        if text[at] == b'"' {
            return &text[..=at];
        }
        at += 2;
    }
    text
}

impl Value {
    fn new(text: &str) -> Value {
        match serde_json::from_str::<Box<RawValue>>(text) {
            Ok(json) if json.get().starts_with('"') => Value::Text(Text::new(&unquoted(text))),
            Ok(json) => Value::Json(Text::new(text), json),
            Err(_) => Value::Text(Text::new(text)),
        }
    }

    /// Whether the line may contain the value. Most lines do not.
    fn may_be_in(&self, line: &[u8]) -> bool {
        match self {
            Value::Text(text) => text.may_be_in(line),
            // A value has several spellings.
            Value::Json(..) => true,
        }
    }

    fn equals(&self, found: &RawValue) -> bool {
        let (text, json) = match self {
            Value::Text(text) => (text, None),
            Value::Json(text, json) => (text, Some(json)),
        };
        let is_text = || {
            serde_json::from_str(found.get())
                .is_ok_and(|found: String| found.as_bytes() == text.0.needle())
        };
        (found.get().starts_with('"') && is_text()) || json.is_some_and(|json| same(found, json))
    }
}

impl Bound {
    fn new(text: &str) -> Result<Bound, String> {
        if let Some(number) = Decimal::read(text) {
            return Ok(Bound::Number(number));
        }
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(serde_json::Value::String(text)) => Ok(Bound::Text(text)),
            Ok(_) => Err(format!("only numbers and texts are ordered, and {text} is neither")),
            Err(_) => Ok(Bound::Text(text.to_owned())),
        }
    }

    /// The order of the found value relative to the bound, if they are comparable.
    fn order(&self, found: &RawValue) -> Option<Ordering> {
        match self {
            Bound::Number(bound) => Some(Decimal::read(found.get())?.cmp(bound)),
            Bound::Text(bound) => {
                Some(serde_json::from_str::<String>(found.get()).ok()?.as_str().cmp(bound))
            }
        }
    }
}

impl Condition {
    /// The condition that some name or value contains this text.
    pub(crate) fn anywhere(text: &str) -> Condition {
        Condition { shown: text.to_owned(), test: Test::Anywhere(Text::new(text)) }
    }

    /// Parses a search query: a condition on a member if it has the form of one with an operator,
    /// otherwise a text anywhere.
    pub(crate) fn searched(text: &str) -> Result<Condition, String> {
        let is_pointer = text.starts_with(['/', '!']) || text.starts_with("\"/");
        match text.parse::<Condition>() {
            Ok(condition) if is_pointer && !matches!(condition.test, Test::Exists(_)) => {
                Ok(condition)
            }
            Ok(_) | Err(_) if text.is_empty() => Err("there is nothing to search for".to_owned()),
            Ok(_) | Err(_) => Ok(Condition::anywhere(text)),
        }
    }

    pub(crate) fn holds(&self, line: &[u8]) -> bool {
        let found = |pointer: &Pointer| pointer.find(line);
        match &self.test {
            Test::Anywhere(text) => text.is_anywhere_in(line),
            Test::Exists(pointer) => found(pointer).is_some(),
            Test::Missing(pointer) => found(pointer).is_none(),
            Test::Equals(pointer, values) => {
                values.iter().any(|value| value.may_be_in(line))
                    && found(pointer)
                        .is_some_and(|found| values.iter().any(|value| value.equals(found)))
            }
            Test::Differs(pointer, value) => {
                !value.may_be_in(line) || found(pointer).is_none_or(|found| !value.equals(found))
            }
            Test::Contains(pointer, text) => {
                text.may_be_in(line)
                    && found(pointer).is_some_and(|found| match found.get() {
                        string if string.starts_with('"') => text.is_in_string(string),
                        other => text.is_in(other.as_bytes()),
                    })
            }
            Test::Compares(pointer, orders, bound) => found(pointer)
                .and_then(|found| bound.order(found))
                .is_some_and(|order| orders.contains(&order)),
        }
    }

    /// The member that a matching record must have, if any.
    pub(crate) fn member(&self) -> Option<&Pointer> {
        match &self.test {
            Test::Anywhere(_) | Test::Missing(_) | Test::Differs(..) => None,
            Test::Exists(pointer)
            | Test::Equals(pointer, _)
            | Test::Contains(pointer, _)
            | Test::Compares(pointer, ..) => Some(pointer),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Whether two values are equal: numbers by value, strings by characters, objects regardless of
/// order.
///
/// The recursion is as deep as `wanted`, which the user typed.
fn same(found: &RawValue, wanted: &RawValue) -> bool {
    let (found, wanted) = (found.get(), wanted.get());
    if found == wanted {
        return true;
    }
    match (found.as_bytes().first(), wanted.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both(found, wanted, |found: &Members<'_>, wanted| {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }),
        (Some(b'['), Some(b'[')) => both(found, wanted, |found: &Vec<&RawValue>, wanted| {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| same(a, b))
        }),
        (Some(b'"'), Some(b'"')) => both(found, wanted, |found: &String, wanted| found == wanted),
        _ => Decimal::read(found).is_some_and(|found| Some(found) == Decimal::read(wanted)),
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether two JSON texts have the same value of this type.
fn both<'a, T: serde::Deserialize<'a>>(
    found: &'a str,
    wanted: &'a str,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    match (serde_json::from_str(found), serde_json::from_str(wanted)) {
        (Ok(found), Ok(wanted)) => same(&found, &wanted),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests;
