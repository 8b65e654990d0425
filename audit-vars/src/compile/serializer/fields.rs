//! Objects that are written from structs.

use std::mem;

use serde::ser::{self, Serialize};

use super::below_variant;
use crate::compile::key::StringTaker;
use crate::compile::names::{NamePlace, Names};
use crate::compile::{BodyError, Compiler, json};

/// The error for a struct that has one of `serde_json`'s private names but other content.
const NOT_ONE_FIELD: &str = "expected one field of JSON text";

/// An object being written from a struct.
pub(in crate::compile) struct Fields<'c, 'v> {
    pub(super) compiler: &'c mut Compiler<'v>,
    pub(super) form: Form,
}

/// The JSON form of a struct.
pub(super) enum Form {
    Object {
        first: bool,
        variant: Option<&'static str>,
        names: Names,
    },
    /// The one field holds JSON text.
    Json {
        written: bool,
    },
}

impl Fields<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        place: NamePlace,
        value: &T,
    ) -> Result<(), BodyError> {
        match &mut self.form {
            Form::Object { first, variant, names } => {
                names.add_place(place);
                let (is_first, variant) = (mem::take(first), *variant);
                let written = self.compiler.key(key, is_first);
                written.map_err(|error| self.compiler.failed(below_variant(error, variant)))?;
                let written = value.serialize(&mut *self.compiler);
                let written = written.and_then(|()| self.compiler.check_size(0));
                written.map_err(|error| {
                    self.compiler.failed(below_variant(error.below_name(key), variant))
                })
            }
            Form::Json { written: true } => {
                Err(self.compiler.failed(ser::Error::custom(NOT_ONE_FIELD)))
            }
            Form::Json { written } => {
                *written = true;
                let compiler = &mut *self.compiler;
                let taker =
                    StringTaker(|text: &str| json::compile(compiler, text, json::Sentinels::Data));
                value.serialize(taker).map_err(|error| self.compiler.failed(error))
            }
        }
    }

    #[inline]
    fn finish(self) -> Result<(), BodyError> {
        match self.form {
            Form::Object { first: _, variant, names } => {
                let text = &self.compiler.text;
                if let Some(twice) = names.duplicate(text, text.len()) {
                    let error = below_variant(BodyError::duplicate_key(twice), variant);
                    return Err(self.compiler.failed(error));
                }
                self.compiler.text.push(b'}');
                self.compiler.ascend();
                if variant.is_some() {
                    self.compiler.leave_variant();
                }
                Ok(())
            }
            Form::Json { written: true } => Ok(()),
            Form::Json { written: false } => Err(ser::Error::custom(NOT_ONE_FIELD)),
        }
    }
}

/// The traits of serde for things written field by field.
macro_rules! fields {
    ($($part:ident;)*) => {
        $(impl ser::$part for Fields<'_, '_> {
            type Ok = ();
            type Error = BodyError;

            /// Inlined, since derived implementations give constants.
            #[inline(always)]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), BodyError> {
                self.field(key, NamePlace::of(key.as_bytes()), value)
            }

            #[inline]
            fn end(self) -> Result<(), BodyError> {
                self.finish()
            }
        })*
    };
}

fields! {
    SerializeStruct;
    SerializeStructVariant;
}
