//! Bodies that are serialized once and rendered many times.

use std::fmt;

use audit_core::Limits;
use serde::Serialize;

use crate::compile::{self, BodyError};
use crate::{Values, Vars};

/// A body that was serialized once: its JSON, and the places where variables go.
///
/// Rendering copies slices of the one between the values of the other: no tree, no allocation for each value, no second
/// serialization. It cannot fail, and what it writes is one JSON object without a line break.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<[u8]>,
    cuts: Box<[Cut]>,
    bound_bytes: u32,
}

/// Here stands a variable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes of text before it.
    pub(crate) at: u32,
    pub(crate) slot: u8,
}

impl Template {
    /// Compiles anything that serializes: a [`body!`](crate::body), a struct or a map with [`Var`](crate::Var)s in it.
    ///
    /// It is written as `serde_json` would, in one pass that also makes all checks. Data is never a variable, whatever it
    /// looks like: an object with a member `$var` is refused like any key that begins with `$`.
    ///
    /// # Errors
    ///
    /// [`BodyError`] says what is wrong and where: not an object, a reserved key, an unknown variable, nesting beyond
    /// [`MAX_DEPTH`](crate::MAX_DEPTH), larger than [`Limits::max_log_bytes`] once variables are at their largest.
    pub fn compile<T: Serialize + ?Sized>(
        vars: &Vars,
        limits: &Limits,
        body: &T,
    ) -> Result<Template, BodyError> {
        compile::body(vars, limits, body)
    }

    /// Compiles JSON text in which an object of exactly one member, `{"$var":"<name>"}`, stands for a variable.
    ///
    /// For hosts whose functions are written in another language: whoever makes the text must have told variables from data
    /// already, as Convex's `log.audit` does with Symbols. White space between values is left out, everything else stays as
    /// it was written: numbers, escapes, the order of members, members that are there twice. A sentinel's key and name are
    /// taken literally: written with escapes (`\u0024var`) the key is a reserved one.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile), and for text that is not JSON (RFC 8259) or that readers disagree about (RFC 7493):
    /// unpaired surrogates, numbers beyond the range of a 64-bit float.
    pub fn from_json(vars: &Vars, limits: &Limits, text: &str) -> Result<Template, BodyError> {
        compile::json_body(vars, limits, text)
    }

    pub(crate) fn new(text: Vec<u8>, cuts: Vec<Cut>, bound_bytes: u32) -> Template {
        Template { text: text.into(), cuts: cuts.into(), bound_bytes }
    }

    /// The largest size that a rendering can have, in bytes, whatever the variables stand for. This is what counts
    /// against the [`Limits`].
    pub fn bound_bytes(&self) -> u32 {
        self.bound_bytes
    }

    /// Appends the JSON with these values to `out`. The values must be of the same table of variables that the template was
    /// compiled with.
    pub fn render(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        out.reserve(self.bound_bytes as usize);
        let mut from = 0;
        for Cut { at, slot } in &self.cuts {
            let at = *at as usize;
            out.extend_from_slice(&self.text[from..at]);
            out.extend_from_slice(values.get(*slot));
            from = at;
        }
        out.extend_from_slice(&self.text[from..]);
    }
}

/// Shows the size and not the content: a body is its owner's secret.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Template { text, cuts, bound_bytes } = self;
        f.debug_struct("Template")
            .field("text_bytes", &text.len())
            .field("variables", &cuts.len())
            .field("bound_bytes", bound_bytes)
            .finish()
    }
}
