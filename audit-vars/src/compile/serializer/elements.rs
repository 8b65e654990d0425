//! Arrays.

use serde::ser::{self, Serialize};

use super::below_variant;
use crate::compile::{BodyError, Compiler};

/// An array being written.
pub(in crate::compile) struct Elements<'c, 'v> {
    pub(super) compiler: &'c mut Compiler<'v>,
    pub(super) count: u64,
    pub(super) variant: Option<&'static str>,
}

impl Elements<'_, '_> {
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BodyError> {
        if self.count > 0 {
            self.compiler.text.push(b',');
        }
        let written =
            value.serialize(&mut *self.compiler).and_then(|()| self.compiler.check_size(0));
        if let Err(error) = written {
            return Err(self
                .compiler
                .failed(below_variant(error.below_index(self.count), self.variant)));
        }
        self.count += 1;
        Ok(())
    }

    #[inline]
    fn finish(self) -> Result<(), BodyError> {
        self.compiler.text.push(b']');
        self.compiler.ascend();
        if self.variant.is_some() {
            self.compiler.leave_variant();
        }
        Ok(())
    }
}

/// The traits of serde for things written element by element.
macro_rules! elements {
    ($($part:ident::$method:ident;)*) => {
        $(impl ser::$part for Elements<'_, '_> {
            type Ok = ();
            type Error = BodyError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), BodyError> {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Result<(), BodyError> {
                self.finish()
            }
        })*
    };
}

elements! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}
