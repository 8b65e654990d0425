//! Thrift's compact protocol, in which Parquet files describe themselves.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a file.
pub(super) type Wrong = String;

/// Reads values of `bytes`, the next one at the offset `at`.
pub(super) struct Reader<'f> {
    pub(super) bytes: &'f [u8],
    pub(super) at: usize,
}

/// The types of fields.
pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
const BYTE: u8 = 3;
pub(super) const I16: u8 = 4;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
const DOUBLE: u8 = 7;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
const SET: u8 = 10;
pub(super) const STRUCT: u8 = 12;

/// The maximum depth of nested structs and lists. Parquet's have seven levels.
const MAX_DEPTH: u32 = 16;

/// A field of a struct: its number and its type.
pub(super) type Field = (i64, u8);

impl<'f> Reader<'f> {
    pub(super) fn broken<T>(&self) -> Result<T, Wrong> {
        Err(format!("what it says about itself ends or is invalid at byte {}", self.at))
    }

    fn byte(&mut self) -> Result<u8, Wrong> {
        let Some(byte) = self.bytes.get(self.at) else { return self.broken() };
        self.at += 1;
        Ok(*byte)
    }

    fn unsigned(&mut self) -> Result<u64, Wrong> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        self.broken()
    }

    pub(super) fn number(&mut self) -> Result<i64, Wrong> {
        let number = self.unsigned()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// Reads the number of a field.
    pub(super) fn number_into(
        &mut self,
        fields: &mut BTreeMap<i64, i64>,
        field: i64,
    ) -> Result<(), Wrong> {
        fields.insert(field, self.number()?);
        Ok(())
    }

    pub(super) fn binary(&mut self) -> Result<&'f [u8], Wrong> {
        let len = self.unsigned()?;
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let found = end.and_then(|end| Some((self.bytes.get(self.at..end)?, end)));
        let Some((bytes, end)) = found else { return self.broken() };
        self.at = end;
        Ok(bytes)
    }

    /// The type of a list's elements, and their number.
    pub(super) fn list(&mut self) -> Result<(u8, u64), Wrong> {
        let head = self.byte()?;
        let len = match head >> 4 {
            15 => self.unsigned()?,
            len => u64::from(len),
        };
        Ok((head & 15, len))
    }

    /// Reads a struct. `take` reads each field's value.
    pub(super) fn fields(
        &mut self,
        mut take: impl FnMut(&mut Self, Field) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let (mut last, mut seen) = (0i64, BTreeSet::new());
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            last = match head >> 4 {
                0 => self.number()?,
                step => last.saturating_add(i64::from(step)),
            };
            // Readers disagree about which of two fields with the same number counts.
            if !seen.insert(last) {
                return self.broken();
            }
            take(self, (last, head & 15))?;
        }
    }

    pub(super) fn skip(&mut self, kind: u8, depth: u32) -> Result<(), Wrong> {
        if depth > MAX_DEPTH {
            return self.broken();
        }
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.unsigned().map(drop),
            DOUBLE => (0..8).try_for_each(|_| self.byte().map(drop)),
            BINARY => self.binary().map(drop),
            LIST | SET => {
                let (kind, len) = self.list()?;
                // A truth value takes a byte in a list. In a struct, the field's type contains it.
                let kind = if matches!(kind, TRUE | FALSE) { BYTE } else { kind };
                (0..len).try_for_each(|_| self.skip(kind, depth + 1))
            }
            STRUCT => self.fields(|reader, (_, kind)| reader.skip(kind, depth + 1)),
            _ => self.broken(),
        }
    }

    /// Reads a list of structs.
    pub(super) fn structs(
        &mut self,
        mut take: impl FnMut(&mut Self) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        match self.list()? {
            (STRUCT, len) => (0..len).try_for_each(|_| take(self)),
            (_, 0) => Ok(()),
            _ => self.broken(),
        }
    }

    /// Reads a struct whose fields are all numbers or, as 0 and 1, truth values.
    pub(super) fn numbers(&mut self) -> Result<BTreeMap<i64, i64>, Wrong> {
        let mut found = BTreeMap::new();
        self.fields(|reader, (field, kind)| {
            let number = match kind {
                TRUE => 1,
                FALSE => 0,
                I32 => reader.number()?,
                _ => return reader.broken(),
            };
            found.insert(field, number);
            Ok(())
        })?;
        Ok(found)
    }
}
