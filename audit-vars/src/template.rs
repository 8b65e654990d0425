//! Bodies that are serialized once and rendered many times.

use std::fmt;

use audit_core::Limits;
use serde::Serialize;

use crate::compile::{self, BodyError};
use crate::{Values, Vars};

/// A body that was serialized once: its JSON, and the places where variables go.
///
/// Rendering copies slices of the one between the values of the other: no tree, no allocation for
/// each value, no second serialization. It cannot fail, and what it writes is one JSON object
/// without a line break.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    /// With [`SPARE_BYTES`](Template::SPARE_BYTES) behind its end, so that a short piece of it can
    /// be copied as a long one.
    padded: Vec<u8>,
    cuts: Vec<Cut>,
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
    /// Compiles anything that serializes: a [`body!`](crate::body), a struct or a map with
    /// [`Var`](crate::Var)s in it.
    ///
    /// It is written as `serde_json` would, in one pass that also makes all checks. Data is never a
    /// variable, whatever it looks like: an object with a member `$var` is refused like any key
    /// that begins with `$`.
    ///
    /// # Errors
    ///
    /// [`BodyError`] says what is wrong and where: not an object, a reserved key, a key that stands
    /// twice in an object (as written, however it was spelled or made), an unknown variable,
    /// nesting beyond [`MAX_DEPTH`](crate::MAX_DEPTH), larger than [`Limits::max_log_bytes`] once
    /// variables are at their largest.
    pub fn compile<T: Serialize + ?Sized>(
        vars: &Vars,
        limits: &Limits,
        body: &T,
    ) -> Result<Template, BodyError> {
        compile::body(vars, limits, body)
    }

    /// Compiles JSON text in which an object of exactly one member, `{"$var":"<name>"}`, stands for
    /// a variable.
    ///
    /// For hosts whose functions are written in another language: whoever makes the text must have
    /// told variables from data already, as Convex's `log.audit` does with Symbols. White space
    /// between values is left out and what ends a line for some readers is escaped (U+0085, U+2028,
    /// U+2029: the same string, as JSON); everything else stays as it was written: numbers,
    /// escapes, the order of members. A sentinel's key and name are taken literally: written with
    /// escapes (`\u0024var`) the key is a reserved one.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile), and for text that is not JSON (RFC 8259) or that readers
    /// disagree about (RFC 7493): unpaired surrogates, numbers beyond the range of a 64-bit float.
    pub fn from_json(vars: &Vars, limits: &Limits, text: &str) -> Result<Template, BodyError> {
        compile::json_body(vars, limits, text)
    }

    /// How many bytes more than its bound a rendering has reserved while it writes.
    pub const SPARE_BYTES: usize = LONGEST_CHUNK;

    pub(crate) fn new(text: &[u8], cuts: &[Cut], bound_bytes: u32) -> Template {
        let mut padded = Vec::with_capacity(text.len() + Template::SPARE_BYTES);
        padded.extend_from_slice(text);
        padded.extend_from_slice(&[0; Template::SPARE_BYTES]);
        Template { padded, cuts: cuts.to_vec(), bound_bytes }
    }

    /// The largest size that a rendering can have, in bytes, whatever the variables stand for. This
    /// is what counts against the [`Limits`].
    pub fn bound_bytes(&self) -> u32 {
        self.bound_bytes
    }

    /// Appends the JSON with these values to `out`. The values must be of the same table of
    /// variables that the template was compiled with.
    pub fn render(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        out.reserve(self.bound_bytes as usize + Template::SPARE_BYTES);
        let mut from = 0;
        for Cut { at, slot } in &self.cuts {
            let at = *at as usize;
            append(out, &self.padded[from..], at - from);
            let value = values.get(*slot);
            append(out, value.padded, value.len);
            from = at;
        }
        append(out, &self.padded[from..], self.text_bytes() - from);
    }

    fn text_bytes(&self) -> usize {
        self.padded.len() - Template::SPARE_BYTES
    }
}

/// Most pieces between variables, and most values, are not longer than this.
pub(crate) const SHORT_CHUNK: usize = 64;

/// Beyond this, copying takes longer than calling the one who copies.
const LONGEST_CHUNK: usize = 128;

/// What memcpy copies in a loop, whatever the processor.
const LOOPED: usize = 2_048;

/// Appends the first `len` of these bytes. Where there are enough behind them, they are copied as a
/// chunk whose size the compiler knows, and what is too much is taken away: a few instructions
/// instead of a call. The smallest chunk that will do, since it is the stores that take the time.
#[inline(always)]
fn append(out: &mut Vec<u8>, padded: &[u8], len: usize) {
    let is_copied = match len {
        0..=16 => append_chunk::<16>(out, padded, len),
        17..=32 => append_chunk::<32>(out, padded, len),
        33..=SHORT_CHUNK => append_chunk::<SHORT_CHUNK>(out, padded, len),
        65..=LONGEST_CHUNK => append_chunk::<LONGEST_CHUNK>(out, padded, len),
        _ => false,
    };
    if !is_copied {
        append_long(out, &padded[..len]);
    }
}

/// False if there are no `N` bytes.
#[inline(always)]
fn append_chunk<const N: usize>(out: &mut Vec<u8>, padded: &[u8], len: usize) -> bool {
    let Some(chunk) = padded.first_chunk::<N>() else { return false };
    let end = out.len() + len;
    out.extend_from_slice(chunk);
    out.truncate(end);
    true
}

fn append_long(out: &mut Vec<u8>, bytes: &[u8]) {
    // From some KB on memcpy uses an instruction that is slower than its own loops for less.
    bytes.chunks(LOOPED).for_each(|chunk| out.extend_from_slice(chunk));
}

/// Shows the size and not the content: a body is its owner's secret.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Template { padded: _, cuts, bound_bytes } = self;
        f.debug_struct("Template")
            .field("text_bytes", &self.text_bytes())
            .field("variables", &cuts.len())
            .field("bound_bytes", bound_bytes)
            .finish()
    }
}
