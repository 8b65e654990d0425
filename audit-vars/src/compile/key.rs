//! Serializers that accept one kind of value: the key of a member, or a string.

use std::fmt::Display;

use serde::ser::{Impossible, Serialize, Serializer};

use super::{BodyError, BodyProblem, Compiler};

/// Methods of a serializer that refuses these kinds of value.
macro_rules! refuse {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<(), BodyError> { Err(Self::refusal()) })*
    };
}

/// The kinds that both serializers refuse: everything with parts.
macro_rules! refuse_compounds {
    () => {
        type Ok = ();
        type Error = BodyError;
        type SerializeSeq = Impossible<(), BodyError>;
        type SerializeTuple = Impossible<(), BodyError>;
        type SerializeTupleStruct = Impossible<(), BodyError>;
        type SerializeTupleVariant = Impossible<(), BodyError>;
        type SerializeMap = Impossible<(), BodyError>;
        type SerializeStruct = Impossible<(), BodyError>;
        type SerializeStructVariant = Impossible<(), BodyError>;

        refuse! {
            serialize_bytes(&[u8]);
            serialize_none();
            serialize_unit();
            serialize_unit_struct(&'static str);
        }

        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), BodyError> {
            value.serialize(self)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), BodyError> {
            Err(Self::refusal())
        }

        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStruct, BodyError> {
            Err(Self::refusal())
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, BodyError> {
            Err(Self::refusal())
        }
    };
}

/// Appends the key of a member in quotes, with the comma before it and the colon after it. Accepts
/// what `serde_json` does: strings, and numbers, booleans and unit variants as strings.
pub(super) struct KeySerializer<'c, 'v> {
    pub(super) compiler: &'c mut Compiler<'v>,
    pub(super) is_first: bool,
}

impl KeySerializer<'_, '_> {
    fn refusal() -> BodyError {
        BodyError::new(BodyProblem::KeyNotAString)
    }
}

macro_rules! integer_keys {
    ($($method:ident($type:ty);)*) => {
        $(fn $method(self, value: $type) -> Result<(), BodyError> {
            self.serialize_str(itoa::Buffer::new().format(value))
        })*
    };
}

macro_rules! float_keys {
    ($($method:ident($type:ty);)*) => {
        $(fn $method(self, value: $type) -> Result<(), BodyError> {
            if !value.is_finite() {
                return Err(Self::refusal());
            }
            self.serialize_str(zmij::Buffer::new().format_finite(value))
        })*
    };
}

impl Serializer for KeySerializer<'_, '_> {
    refuse_compounds!();

    fn serialize_str(self, key: &str) -> Result<(), BodyError> {
        self.compiler.key(key, self.is_first)
    }

    fn serialize_char(self, key: char) -> Result<(), BodyError> {
        self.serialize_str(key.encode_utf8(&mut [0; 4]))
    }

    fn serialize_bool(self, key: bool) -> Result<(), BodyError> {
        self.serialize_str(if key { "true" } else { "false" })
    }

    integer_keys! {
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

    float_keys! {
        serialize_f32(f32);
        serialize_f64(f64);
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

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), BodyError> {
        let KeySerializer { compiler, is_first } = self;
        if !is_first {
            compiler.text.push(b',');
        }
        let start = compiler.text.len() + 1;
        (&mut *compiler).collect_str(value)?;
        let text = &mut compiler.text;
        if text.get(start) == Some(&b'$') {
            let escaped = String::from_utf8_lossy(&text[start..text.len() - 1]);
            return Err(BodyError::reserved_key(&escaped));
        }
        text.push(b':');
        Ok(())
    }
}

/// Accepts one string, and passes it on.
pub(super) struct StringTaker<F>(pub(super) F);

impl<F> StringTaker<F> {
    fn refusal() -> BodyError {
        serde::ser::Error::custom("expected a string")
    }
}

impl<F: FnOnce(&str) -> Result<(), BodyError>> Serializer for StringTaker<F> {
    refuse_compounds!();

    refuse! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_str(self, value: &str) -> Result<(), BodyError> {
        (self.0)(value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<(), BodyError> {
        Err(Self::refusal())
    }
}
