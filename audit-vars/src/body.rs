//! `body!`: bodies in the syntax of JSON.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A body in the syntax of JSON, with Rust expressions as values, [`Var`](crate::Var)s among them.
///
/// Values are borrowed. Keys are literals, names (of constants, say), or expressions in
/// parentheses. The result implements `Serialize`: nothing is copied before
/// [`Template::compile`](crate::Template::compile) or `audit`. An object of more than a hundred
/// members needs a higher `recursion_limit`.
///
/// ```
/// use audit_vars::{Template, Values, Var, Vars, body};
/// use audit_core::Limits;
///
/// let (id, tags) = ("d1", vec!["draft"]);
/// let body = body!({
///     "action": "documents.view",
///     "document": { "id": id, "tags": tags, "owner": null },
///     "actor": { "ip": Var::IP, "userAgent": Var::USER_AGENT },
///     "trail": [1, Var::NOW, format!("{id}-{}", tags.len())],
/// });
/// let template = Template::compile(&Vars::new(), &Limits::default(), &body)?;
///
/// let mut line = Vec::new();
/// template.render(&Values::none(), &mut line);
/// assert_eq!(
///     String::from_utf8(line)?,
///     r#"{"action":"documents.view","document":{"id":"d1","tags":["draft"],"owner":null},"#.to_owned()
///         + r#""actor":{"ip":null,"userAgent":null},"trail":[1,null,"d1-1"]}"#,
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[macro_export]
macro_rules! body {
    ({ $($members:tt)* }) => { $crate::Object { members: $crate::body!(@members $($members)*) } };

    (@members) => { () };
    (@members $key:tt : null $(, $($rest:tt)*)?) => { ((&$key, &()), $crate::body!(@members $($($rest)*)?)) };
    (@members $key:tt : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        ((&$key, &$crate::body!({ $($inner)* })), $crate::body!(@members $($($rest)*)?))
    };
    (@members $key:tt : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        ((&$key, &$crate::Array { elements: $crate::body!(@elements $($inner)*) }), $crate::body!(@members $($($rest)*)?))
    };
    (@members $key:tt : $value:expr $(, $($rest:tt)*)?) => {
        ((&$key, &$value), $crate::body!(@members $($($rest)*)?))
    };

    (@elements) => { () };
    (@elements null $(, $($rest:tt)*)?) => { (&(), $crate::body!(@elements $($($rest)*)?)) };
    (@elements { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        (&$crate::body!({ $($inner)* }), $crate::body!(@elements $($($rest)*)?))
    };
    (@elements [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        (&$crate::Array { elements: $crate::body!(@elements $($inner)*) }, $crate::body!(@elements $($($rest)*)?))
    };
    (@elements $value:expr $(, $($rest:tt)*)?) => { (&$value, $crate::body!(@elements $($($rest)*)?)) };
}

/// The expansion of `{ … }` in [`body!`](crate::body): a list of key-value pairs.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Object<M> {
    /// `((key, value), rest)` or `()`.
    pub members: M,
}

/// The expansion of `[ … ]` in [`body!`](crate::body).
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Array<E> {
    /// `(value, rest)` or `()`.
    pub elements: E,
}

/// A list of the members of an object.
#[doc(hidden)]
pub trait Members {
    const COUNT: usize;

    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

impl Members for () {
    const COUNT: usize = 0;

    fn write<M: SerializeMap>(&self, _: &mut M) -> Result<(), M::Error> {
        Ok(())
    }
}

impl<K: AsRef<str> + ?Sized, V: Serialize + ?Sized, R: Members> Members for ((&K, &V), R) {
    const COUNT: usize = 1 + R::COUNT;

    #[inline]
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let ((key, value), rest) = self;
        map.serialize_entry(key.as_ref(), value)?;
        rest.write(map)
    }
}

impl<M: Members> Serialize for Object<M> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(M::COUNT))?;
        self.members.write(&mut map)?;
        map.end()
    }
}

/// A list of the elements of an array.
#[doc(hidden)]
pub trait Elements {
    const COUNT: usize;

    fn write<S: SerializeSeq>(&self, sequence: &mut S) -> Result<(), S::Error>;
}

impl Elements for () {
    const COUNT: usize = 0;

    fn write<S: SerializeSeq>(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<V: Serialize + ?Sized, R: Elements> Elements for (&V, R) {
    const COUNT: usize = 1 + R::COUNT;

    #[inline]
    fn write<S: SerializeSeq>(&self, sequence: &mut S) -> Result<(), S::Error> {
        let (value, rest) = self;
        sequence.serialize_element(value)?;
        rest.write(sequence)
    }
}

impl<E: Elements> Serialize for Array<E> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(E::COUNT))?;
        self.elements.write(&mut sequence)?;
        sequence.end()
    }
}
