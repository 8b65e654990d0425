//! The serializer that writes a template's text.
//!
//! It writes what `serde_json` does, except that a [`Var`](crate::Var) leaves a cut, keys may not
//! begin with `$`, depth and size are bounded, and errors have a path.

mod elements;
mod fields;
mod members;

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use self::elements::Elements;
use self::fields::{Fields, Form};
use self::members::Members;
use super::key::StringTaker;
use super::names::Names;
use super::{BodyError, Compiler};
use crate::escape::{escape_into, string_between, string_into};
use crate::var::VAR_TYPE;

/// The names of the structs by which `serde_json` passes finished JSON text (`RawValue`) and
/// numbers as text (its feature `arbitrary_precision`).
const RAW_VALUE: &str = "$serde_json::private::RawValue";
const NUMBER: &str = "$serde_json::private::Number";

impl Compiler<'_> {
    #[inline]
    fn plain(&mut self, text: &str) -> Result<(), BodyError> {
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// `{"key":`, for the variants of enums that hold something.
    fn enter_variant(&mut self, variant: &'static str) -> Result<(), BodyError> {
        self.descend()?;
        self.text.push(b'{');
        self.key(variant, true)
    }

    /// `"key":`, of a member, field or variant.
    #[inline]
    pub(super) fn key(&mut self, key: &str, is_first: bool) -> Result<(), BodyError> {
        self.check_size(key.len())?;
        if key.starts_with('$') {
            return Err(BodyError::reserved_name(key));
        }
        let text = &mut self.text;
        if is_first {
            string_between(text, b"\"", key, b"\":");
        } else {
            string_between(text, b",\"", key, b"\":");
        }
        Ok(())
    }

    fn leave_variant(&mut self) {
        self.text.push(b'}');
        self.ascend();
    }
}

macro_rules! integers {
    ($($method:ident($type:ty);)*) => {
        $(#[inline] fn $method(self, value: $type) -> Result<(), BodyError> {
            self.plain(itoa::Buffer::new().format(value))
        })*
    };
}

macro_rules! floats {
    ($($method:ident($type:ty);)*) => {
        /// Numbers that are not finite become `null`, as in `serde_json` and `JSON.stringify`.
        $(#[inline] fn $method(self, value: $type) -> Result<(), BodyError> {
            if value.is_finite() { self.plain(zmij::Buffer::new().format_finite(value)) } else { self.plain("null") }
        })*
    };
}

impl<'c, 'v> Serializer for &'c mut Compiler<'v> {
    type Ok = ();
    type Error = BodyError;
    type SerializeSeq = Elements<'c, 'v>;
    type SerializeTuple = Elements<'c, 'v>;
    type SerializeTupleStruct = Elements<'c, 'v>;
    type SerializeTupleVariant = Elements<'c, 'v>;
    type SerializeMap = Members<'c, 'v>;
    type SerializeStruct = Fields<'c, 'v>;
    type SerializeStructVariant = Fields<'c, 'v>;

    integers! {
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
    }

    floats! {
        serialize_f32(f32);
        serialize_f64(f64);
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), BodyError> {
        // Two calls, so that the compiler knows each length.
        if value { self.plain("true") } else { self.plain("false") }
    }

    fn serialize_char(self, value: char) -> Result<(), BodyError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), BodyError> {
        // The size is checked before the copy, so that a huge string is not held twice.
        self.check_size(value.len())?;
        string_into(&mut self.text, value);
        Ok(())
    }

    /// An array of numbers, as in `serde_json`.
    fn serialize_bytes(self, value: &[u8]) -> Result<(), BodyError> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<(), BodyError> {
        self.plain("null")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), BodyError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), BodyError> {
        self.plain("null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), BodyError> {
        self.plain("null")
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), BodyError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), BodyError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), BodyError> {
        if name == VAR_TYPE {
            return value.serialize(StringTaker(|name: &str| self.variable(name)));
        }
        self.enter_variant(variant)?;
        value.serialize(&mut *self).map_err(|error| error.below_name(variant))?;
        self.leave_variant();
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'c, 'v>, BodyError> {
        self.descend()?;
        self.text.push(b'[');
        Ok(Elements { compiler: self, count: 0, variant: None })
    }

    fn serialize_tuple(self, _: usize) -> Result<Elements<'c, 'v>, BodyError> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Elements<'c, 'v>, BodyError> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements<'c, 'v>, BodyError> {
        self.enter_variant(variant)?;
        let elements = self.serialize_seq(None).map_err(|error| error.below_name(variant))?;
        Ok(Elements { variant: Some(variant), ..elements })
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Members<'c, 'v>, BodyError> {
        self.descend()?;
        let names = Names::at(self.text.len());
        self.text.push(b'{');
        Ok(Members { compiler: self, first: true, key: None, names })
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'c, 'v>, BodyError> {
        let form = match name {
            RAW_VALUE | NUMBER => Form::Json { written: false },
            _ => {
                self.descend()?;
                let names = Names::unordered_at(self.text.len());
                self.text.push(b'{');
                Form::Object { first: true, variant: None, names }
            }
        };
        Ok(Fields { compiler: self, form })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'c, 'v>, BodyError> {
        self.enter_variant(variant)?;
        self.descend().map_err(|error| error.below_name(variant))?;
        let names = Names::unordered_at(self.text.len());
        self.text.push(b'{');
        let form = Form::Object { first: true, variant: Some(variant), names };
        Ok(Fields { compiler: self, form })
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), BodyError> {
        /// Escapes what is written to it, and fails once the log is too large.
        struct Escaping<'c, 'v> {
            compiler: &'c mut Compiler<'v>,
            too_large: Option<BodyError>,
        }

        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                if let Err(error) = self.compiler.check_size(part.len()) {
                    self.too_large = Some(error);
                    return Err(fmt::Error);
                }
                escape_into(&mut self.compiler.text, part);
                Ok(())
            }
        }

        self.text.push(b'"');
        let mut escaping = Escaping { compiler: self, too_large: None };
        let written = fmt::write(&mut escaping, format_args!("{value}"));
        let Escaping { compiler, too_large } = escaping;
        compiler.text.push(b'"');
        match (written, too_large) {
            (_, Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
            (Err(fmt::Error), None) => Err(ser::Error::custom("its Display implementation failed")),
        }
    }
}

#[cold]
fn below_variant(error: BodyError, variant: Option<&'static str>) -> BodyError {
    match variant {
        Some(variant) => error.below_name(variant),
        None => error,
    }
}
