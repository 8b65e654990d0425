//! Text headers that end with a checksum.

/// Appends the checksum of a header's text, seeded with `salt`.
pub(crate) fn seal(text: &mut Vec<u8>, salt: u32) {
    let sum = crc32c::crc32c_append(salt, text);
    text.extend_from_slice(format!("{sum:08x}\n").as_bytes());
}

/// A header, read field by field.
pub(crate) struct Fields<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of a header whose checksum matches.
    pub(crate) fn of(header: &'a [u8], salt: u32) -> Option<Fields<'a>> {
        let (text, sum) = header.split_at(header.len().checked_sub(9)?);
        let mut fields = Fields { rest: sum };
        let matches = fields.hex32()? == crc32c::crc32c_append(salt, text);
        fields.literal("\n")?;
        matches.then_some(Fields { rest: text })
    }

    pub(crate) fn text(&mut self, len: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    pub(crate) fn literal(&mut self, literal: &str) -> Option<()> {
        (self.text(literal.len())? == literal).then_some(())
    }

    pub(crate) fn hex64(&mut self) -> Option<u64> {
        self.hex(16)
    }

    pub(crate) fn hex32(&mut self) -> Option<u32> {
        u32::try_from(self.hex(8)?).ok()
    }

    /// Lower-case digits without a sign, as the encoders write them.
    pub(crate) fn hex(&mut self, digits: usize) -> Option<u64> {
        let text = self.text(digits)?;
        let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    }
}
