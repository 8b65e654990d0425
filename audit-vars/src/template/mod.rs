//! Bodies that are serialized once and rendered many times.

mod render;

use std::fmt;

use crate::padding::LONGEST_CHUNK;

/// A body serialized once: its JSON and the positions of its variables.
///
/// Rendering copies slices of the JSON between the values of the variables: no tree, no allocation
/// for each value, no second serialization. It cannot fail, and it writes one JSON object without a
/// line break.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    /// Padded with [`SPARE_BYTES`](Template::SPARE_BYTES), so that a short piece can be copied as a
    /// longer chunk.
    padded: Vec<u8>,
    cuts: Vec<Cut>,
    bound_bytes: u32,
}

/// The position of a variable in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The number of bytes of text before the variable.
    pub(crate) at: u32,
    pub(crate) slot: u8,
}

impl Template {
    /// How many bytes beyond its bound a rendering reserves while it writes.
    #[doc(hidden)]
    pub const SPARE_BYTES: usize = LONGEST_CHUNK;

    pub(crate) fn new(text: &[u8], cuts: &[Cut], bound_bytes: u32) -> Template {
        let mut padded = Vec::with_capacity(text.len() + Template::SPARE_BYTES);
        padded.extend_from_slice(text);
        padded.extend_from_slice(&[0; Template::SPARE_BYTES]);
        Template { padded, cuts: cuts.to_vec(), bound_bytes }
    }

    /// The largest size of a rendering in bytes, with any values. This size counts against the
    /// [`Limits`](audit_core::Limits).
    pub fn bound_bytes(&self) -> u32 {
        self.bound_bytes
    }

    fn text_bytes(&self) -> usize {
        self.padded.len() - Template::SPARE_BYTES
    }
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
