//! Objects that are written from maps.

use std::mem;
use std::ops::Range;

use serde::ser::{self, Serialize};

use crate::compile::key::KeySerializer;
use crate::compile::names::Names;
use crate::compile::{BodyError, Compiler};

/// An object being written from a map.
pub(in crate::compile) struct Members<'c, 'v> {
    pub(super) compiler: &'c mut Compiler<'v>,
    pub(super) first: bool,
    /// The range of the key whose value comes next, without quotes.
    pub(super) key: Option<Range<usize>>,
    pub(super) names: Names,
}

impl Members<'_, '_> {
    /// Writes a key and returns its range, without quotes.
    #[inline(always)]
    fn write_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<Range<usize>, BodyError> {
        let is_first = mem::take(&mut self.first);
        let before = if is_first { "\"" } else { ",\"" };
        let start = self.compiler.text.len() + before.len();
        let written = key.serialize(KeySerializer { compiler: &mut *self.compiler, is_first });
        written.map_err(|error| self.compiler.failed(error))?;
        let key = start..self.compiler.text.len() - "\":".len();
        self.names.add(&self.compiler.text, key.clone());
        Ok(key)
    }

    #[inline(always)]
    fn write_value<T: Serialize + ?Sized>(
        &mut self,
        key: Range<usize>,
        value: &T,
    ) -> Result<(), BodyError> {
        let written =
            value.serialize(&mut *self.compiler).and_then(|()| self.compiler.check_size(0));
        written.map_err(|error| {
            let error = error.below_key(String::from_utf8_lossy(&self.compiler.text[key]));
            self.compiler.failed(error)
        })
    }
}

impl ser::SerializeMap for Members<'_, '_> {
    type Ok = ();
    type Error = BodyError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), BodyError> {
        if self.key.is_some() {
            return Err(ser::Error::custom("a map wrote two keys without a value between them"));
        }
        self.key = Some(self.write_key(key)?);
        Ok(())
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BodyError> {
        let Some(key) = self.key.take() else {
            return Err(ser::Error::custom("a map wrote a value without its key"));
        };
        self.write_value(key, value)
    }

    /// Writes key and value at once, so the key is not stored.
    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), BodyError> {
        if self.key.is_some() {
            return Err(ser::Error::custom("a map wrote two keys without a value between them"));
        }
        let key = self.write_key(key)?;
        self.write_value(key, value)
    }

    #[inline]
    fn end(self) -> Result<(), BodyError> {
        if self.key.is_some() {
            return Err(ser::Error::custom("a map ended after a key without its value"));
        }
        let text = &self.compiler.text;
        if let Some(twice) = self.names.duplicate(text, text.len()) {
            return Err(self.compiler.failed(BodyError::duplicate_key(twice)));
        }
        self.compiler.text.push(b'}');
        self.compiler.ascend();
        Ok(())
    }
}
