//! Mismatches: which value a validator rejects, and why.

use std::{borrow::Cow, fmt};

use super::super::Value;
use super::super::shown::shown;
use super::Validator;

#[derive(Default)]
pub(super) struct Path<'a>(pub(super) Vec<Step<'a>>);

pub(super) enum Step<'a> {
    Field(&'a str),
    Element(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Element(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value that its validator rejects. Unions try their members, so only the last mismatch is
/// written out.
pub(super) struct Mismatch<'a, 'v> {
    pub(super) why: Why<'a, 'v>,
    pub(super) value: Cow<'v, Value>,
    pub(super) validator: &'a Validator,
}

pub(super) enum Why<'a, 'v> {
    NotId(&'a str),
    MissingField(&'a str),
    ExtraField(&'v str),
    Other,
}

impl Mismatch<'_, '_> {
    pub(super) fn shown(&self, path: &Path<'_>) -> String {
        let Mismatch { why, value, validator } = self;
        let (label, what) = match why {
            Why::NotId(table) => {
                ("Value", format!("Value is not the ID of a document in table `{table}`."))
            }
            Why::Other => ("Value", "Value does not match validator.".to_owned()),
            Why::MissingField(name) => {
                let what = format!(
                    "Object is missing the required field `{name}`. Consider wrapping the field validator in \
                     `v.optional(...)` if this is expected."
                );
                ("Object", what)
            }
            Why::ExtraField(name) => (
                "Object",
                format!("Object contains extra field `{name}` that is not in the validator."),
            ),
        };
        let path = if path.0.is_empty() { String::new() } else { format!("\nPath: {path}") };
        format!("{what}{path}\n{label}: {}\nValidator: {validator}", shown(value))
    }
}
