//! The members of objects and arrays in a body.

use std::borrow::Cow;

use rquickjs::atom::PredefinedAtom;
use rquickjs::convert::Coerced;
use rquickjs::object::Filter;
use rquickjs::{Atom, Object, Value};

use super::walk::{End, Key, Walk, quote, utf8};

impl<'js> Walk<'_, 'js> {
    /// Writes the elements of an array, which may be behind a proxy.
    pub(super) fn elements(&mut self, object: &Object<'js>) -> Result<(), End> {
        self.text.push(b'[');
        let length: Coerced<f64> = object.get(PredefinedAtom::Length)?;
        for index in 0..length.0 as u64 {
            if index > 0 {
                self.text.push(b',');
            }
            // The size limit ends the walk long before 2^32 elements.
            let key = Atom::from_u32(self.ctx.clone(), index as u32)?;
            let element = if self.has(object.as_value(), &key)? {
                object.get(key).map_err(End::from)
            } else {
                Ok(Value::new_undefined(self.ctx.clone()))
            };
            let hollow = self.hollow.len();
            let written = element.and_then(|element| self.value(element, Key::Index(index)));
            if !self.inside(written, hollow, || format!("[{index}]"))? {
                self.text.extend_from_slice(b"null");
            }
            self.check_size()?;
        }
        self.text.push(b']');
        Ok(())
    }

    /// Whether a member can be read: the object has it itself, or no prototype does. Otherwise the
    /// engine would read from a prototype that the function may have changed. The prototypes are
    /// looked at for each member, since a getter may have deleted the member or replaced one.
    fn has(&self, value: &Value<'js>, key: &Atom<'js>) -> Result<bool, End> {
        let mut holder = value.clone();
        while let Some(proxy) = holder.as_proxy() {
            if self.rare(("isAnswering", proxy.handler()?))? {
                return Ok(true);
            }
            holder = proxy.target()?.into_value();
        }
        let Some(object) = holder.as_object() else { return Ok(false) };
        // No other prototype is searched, since it may be a proxy.
        let is_inherited = match object.get_prototype() {
            None => false,
            Some(parent) if *parent.as_value() == self.rules.plain => {
                parent.contains_key(key.clone())?
            }
            Some(parent) if parent == self.rules.arrays => {
                let above = parent.get_prototype();
                above.is_none_or(|above| *above.as_value() != self.rules.plain)
                    || parent.contains_key(key.clone())?
            }
            Some(_) => true,
        };
        Ok(!is_inherited || self.rare(("hasOwn", holder, key.to_value()?))?)
    }

    /// Writes the members of an object, which may be behind a proxy.
    pub(super) fn properties(&mut self, object: &Object<'js>) -> Result<(), End> {
        self.text.push(b'{');
        let mut is_first = true;
        for atom in object.own_keys::<Atom<'js>>(Filter::new().string().enum_only()) {
            let atom = atom?;
            let before = self.text.len();
            if !is_first {
                self.text.push(b',');
            }
            // `Atom::to_string` does not check for UTF-8, and stops at U+0000.
            let text = atom.to_js_string()?.to_cstring()?;
            let key = match utf8(&text) {
                Some(key) => {
                    if key.starts_with('$') {
                        let message =
                            format!("Audit log body keys must not start with \"$\": {key:?}");
                        return Err(End::because(message));
                    }
                    self.steps += key.len() / 64;
                    quote(key, &mut self.text);
                    Cow::Borrowed(key)
                }
                None => {
                    let key = self.escaped(atom.to_value()?)?;
                    self.text.extend_from_slice(key.as_bytes());
                    Cow::Owned(key)
                }
            };
            self.text.push(b':');
            let hollow = self.hollow.len();
            let written = if self.has(object.as_value(), &atom)? {
                object
                    .get(atom)
                    .map_err(End::from)
                    .and_then(|value| self.value(value, Key::Name(&key)))
            } else {
                Ok(false)
            };
            if self.inside(written, hollow, || key.into_owned())? {
                is_first = false;
            } else {
                self.text.truncate(before);
            }
        }
        self.text.push(b'}');
        Ok(())
    }

    /// Adds a key to the path of an error, and to the paths of the hollow members after the first
    /// `hollow`.
    fn inside<T>(
        &mut self,
        written: Result<T, End>,
        hollow: usize,
        key: impl FnOnce() -> String,
    ) -> Result<T, End> {
        match written {
            Ok(written) => {
                if self.hollow.len() > hollow {
                    let key = key();
                    for (_, path) in &mut self.hollow[hollow..] {
                        path.push(key.clone());
                    }
                }
                Ok(written)
            }
            Err(End(ended, mut path)) => {
                path.push(key());
                Err(End(ended, path))
            }
        }
    }
}
