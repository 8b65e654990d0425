//! How a template becomes the JSON of one log.

use super::{Cut, Template};
use crate::padding::append;
use crate::values::Values;

impl Template {
    /// Appends the JSON with these values to `out`. They must belong to the table of variables that
    /// the template was compiled with.
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
}
