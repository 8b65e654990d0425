//! The walk over a body.

use std::borrow::Cow;

use rquickjs::atom::PredefinedAtom;
use rquickjs::convert::Coerced;
use rquickjs::function::{IntoArgs, This};
use rquickjs::object::Filter;
use rquickjs::{Atom, CString, Ctx, FromJs, Function, Object, String as Text, Type, Value};

use super::Rules;

/// The deepest nesting of a body: the runtime's limit, refused here with a path that people read.
const MAX_DEPTH: usize = 64;

/// The size at which a walk stops, in bytes. It is far above the contract's largest log of
/// 1,000,000 bytes. A bound is needed because a function within its memory limit can refer to one
/// long string any number of times.
pub(super) const MAX_TEXT_BYTES: usize = 8 << 20;

/// The steps between two checks of the clock. A value is one step, an object many, since it can
/// have any number of members that are not enumerable, and a key one more for each 64 bytes.
const STEPS_BETWEEN_LOOKS: usize = 1024;
const STEPS_OF_AN_OBJECT: usize = 32;

/// Where a value stands, which is the argument of `toJSON`.
#[derive(Clone, Copy)]
pub(super) enum Key<'k> {
    Name(&'k str),
    Index(u64),
}

impl Key<'_> {
    fn text(self) -> String {
        match self {
            Key::Name(name) => name.to_owned(),
            Key::Index(index) => index.to_string(),
        }
    }
}

/// Why a walk ends.
pub(super) enum Ended {
    Because(String),
    /// Something threw, or the engine failed.
    Failed(rquickjs::Error),
    /// The body is larger than any log.
    TooLarge,
    OutOfTime,
}

/// Where a walk ended: the keys on the way to the place come innermost first.
pub(super) struct End(pub(super) Ended, pub(super) Vec<String>);

impl End {
    fn because(message: impl Into<String>) -> End {
        End(Ended::Because(message.into()), Vec::new())
    }
}

impl From<rquickjs::Error> for End {
    fn from(error: rquickjs::Error) -> End {
        End(Ended::Failed(error), Vec::new())
    }
}

pub(super) struct Walk<'a, 'js> {
    pub(super) ctx: &'a Ctx<'js>,
    pub(super) rules: &'a Rules<'a, 'js>,
    pub(super) text: Vec<u8>,
    /// The objects around the current value.
    pub(super) around: Vec<Value<'js>>,
    /// Classes of objects whose content is not shown, and the keys on the way to them, innermost
    /// first.
    pub(super) hollow: Vec<(String, Vec<String>)>,
    /// Steps since the last check of the clock.
    pub(super) steps: usize,
    /// The symbols of `log.vars`, from the first of them in the body on.
    pub(super) symbols: Vec<Value<'js>>,
}

impl<'js> Walk<'_, 'js> {
    /// Writes a value. False if JSON omits it.
    pub(super) fn value(&mut self, value: Value<'js>, key: Key<'_>) -> Result<bool, End> {
        self.steps += 1;
        if self.steps > STEPS_BETWEEN_LOOKS {
            self.steps = 0;
            if self.rules.stopwatch.is_over() {
                return Err(End(Ended::OutOfTime, Vec::new()));
            }
        }
        // Finding the type of an object is slow in the engine.
        let kind = value.type_of();
        match kind {
            Type::Null => self.text.extend_from_slice(b"null"),
            Type::Bool if value.as_bool() == Some(true) => self.text.extend_from_slice(b"true"),
            Type::Bool => self.text.extend_from_slice(b"false"),
            Type::Int => self.integer(i64::from(value.as_int().unwrap_or_default())),
            Type::Float => self.float(&value)?,
            Type::String => self.string(&value)?,
            Type::Symbol => self.variable(&value)?,
            Type::Undefined | Type::Uninitialized => return Ok(false),
            // Its prototype is the language's, on which no `toJSON` counts.
            Type::BigInt => return Err(End::because("BigInt value can't be serialized in JSON")),
            Type::Object
            | Type::Array
            | Type::Function
            | Type::Constructor
            | Type::Exception
            | Type::Promise
            | Type::Proxy
            | Type::Module
            | Type::Unknown => return self.object(value, kind, key),
        }
        self.check_size().map(|()| true)
    }

    fn check_size(&self) -> Result<(), End> {
        if self.text.len() > MAX_TEXT_BYTES {
            return Err(End(Ended::TooLarge, Vec::new()));
        }
        Ok(())
    }

    fn integer(&mut self, value: i64) {
        use std::io::Write as _;
        // Writing to memory does not fail.
        let _ = write!(self.text, "{value}");
    }

    /// A number as JavaScript writes it.
    fn float(&mut self, value: &Value<'js>) -> Result<(), End> {
        const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
        let number = value.as_float().unwrap_or_default();
        if !number.is_finite() {
            self.text.extend_from_slice(b"null");
        } else if number.fract() == 0.0 && number.abs() < MAX_EXACT {
            self.integer(number as i64);
        } else {
            let text: Coerced<String> = value.get()?;
            self.text.extend_from_slice(text.0.as_bytes());
        }
        Ok(())
    }

    fn string(&mut self, value: &Value<'js>) -> Result<(), End> {
        let Some(text) = value.as_string() else { return Ok(()) };
        let text = text.clone().to_cstring()?;
        match utf8(&text) {
            Some(text) => quote(text, &mut self.text),
            None => {
                let quoted = self.escaped(value.clone())?;
                self.text.extend_from_slice(quoted.as_bytes());
            }
        }
        Ok(())
    }

    /// A string as JSON. A lone surrogate has no UTF-8, but JSON has an escape for it. The runtime
    /// refuses it, with its path.
    fn escaped(&self, text: Value<'js>) -> Result<String, End> {
        self.ctx.catch();
        let quoted = self.ctx.json_stringify(text)?;
        Ok(quoted.map(|quoted| quoted.to_string()).transpose()?.unwrap_or_default())
    }

    fn variable(&mut self, value: &Value<'js>) -> Result<(), End> {
        if self.symbols.is_empty() {
            self.symbols = self.rules.symbols.iter().collect::<rquickjs::Result<_>>()?;
        }
        let known = self.symbols.iter().position(|symbol| symbol == value);
        match known.and_then(|known| self.rules.names.get(known)) {
            Some(name) => {
                self.text.extend_from_slice(b"{\"$var\":");
                quote(name, &mut self.text);
                self.text.push(b'}');
                Ok(())
            }
            None => {
                let description: Text<'js> = self.rare(("description", value.clone()))?;
                let description = description.to_string().unwrap_or_default();
                let message = format!("Unknown audit var symbol: Symbol({description}).");
                Err(End::because(message))
            }
        }
    }

    /// Calls the prelude's function for a rare case.
    fn rare<R: FromJs<'js>>(&self, args: impl IntoArgs<'js>) -> Result<R, End> {
        Ok(self.rules.rare.call(args)?)
    }

    /// The `toJSON` of an object: its own or its class's. One on a prototype of the language does
    /// not count.
    fn to_json(&self, object: &Object<'js>, kind: Type) -> Result<Option<Function<'js>>, End> {
        if kind == Type::Proxy {
            let found: Value<'js> = object.get(PredefinedAtom::ToJSON)?;
            let Some(found) = found.as_function() else { return Ok(None) };
            let is_foreign: bool = self.rare(("isForeign", found.clone()))?;
            return Ok((!is_foreign).then(|| found.clone()));
        }
        if object.contains_key(PredefinedAtom::ToJSON)? {
            let found: Value<'js> = self.rare(("toJson", object.clone()))?;
            return Ok(found.into_function());
        }
        Ok(None)
    }

    /// The target of a proxy without traps. Everything else is itself.
    fn revealed(&self, mut value: Value<'js>, mut kind: Type) -> Result<(Value<'js>, Type), End> {
        while kind == Type::Proxy {
            let Some(proxy) = value.as_proxy() else { break };
            if self.rare(("isTrapped", proxy.handler()?))? {
                break;
            }
            value = proxy.target()?.into_value();
            kind = value.type_of();
        }
        Ok((value, kind))
    }

    fn object(&mut self, value: Value<'js>, kind: Type, key: Key<'_>) -> Result<bool, End> {
        let (value, kind) = self.revealed(value, kind)?;
        let Some(object) = value.as_object() else { return Ok(false) };
        if let Some(to_json) = self.to_json(object, kind)? {
            let simple: Value<'js> = to_json.call((This(value.clone()), key.text()))?;
            let kind = simple.type_of();
            let (simple, kind) = self.revealed(simple, kind)?;
            return match simple.as_object() {
                Some(object) => self.members(object, kind, key),
                None => self.value(simple, key),
            };
        }
        self.members(object, kind, key)
    }

    /// An object, after `toJSON`.
    fn members(&mut self, object: &Object<'js>, kind: Type, key: Key<'_>) -> Result<bool, End> {
        let value = object.as_value();
        if !matches!(kind, Type::Object | Type::Array) && value.is_function() {
            return Ok(false);
        }
        if self.around.contains(value) {
            return Err(End::because("Converting circular structure to JSON"));
        }
        if self.around.len() == MAX_DEPTH {
            return Err(End::because(format!(
                "Audit log body nests deeper than {MAX_DEPTH} levels"
            )));
        }
        let is_array = kind == Type::Array || kind == Type::Proxy && is_array(value)?;
        // A proxy is not asked, since it has traps.
        let may_inherit = !is_array && kind != Type::Proxy;
        let prototype = if may_inherit { object.get_prototype() } else { None };
        let is_plain = is_array || kind == Type::Object && self.is_plain(prototype.as_ref());
        if !is_plain {
            let simple: Value<'js> = self.rare(("unboxed", value.clone()))?;
            if !simple.is_object() {
                return self.value(simple, key);
            }
        }
        self.around.push(value.clone());
        self.steps += STEPS_OF_AN_OBJECT;
        let start = self.text.len();
        if is_array {
            self.elements(object)?;
        } else {
            self.properties(object, prototype.as_ref())?;
        }
        self.around.pop();
        if !is_plain && &self.text[start..] == b"{}" {
            let class: String = self.rare(("className", value))?;
            if !class.is_empty() {
                self.hollow.push((class, Vec::new()));
            }
        }
        Ok(true)
    }

    fn is_plain(&self, prototype: Option<&Object<'js>>) -> bool {
        prototype.is_none_or(|prototype| *prototype.as_value() == self.rules.plain)
    }

    /// The elements of an array, which may be behind a proxy.
    fn elements(&mut self, object: &Object<'js>) -> Result<(), End> {
        self.text.push(b'[');
        let length: Coerced<f64> = object.get(PredefinedAtom::Length)?;
        let is_trapped = object.as_value().is_proxy();
        let above = self.rules.arrays.get_prototype();
        let is_usual = above.is_some_and(|above| *above.as_value() == self.rules.plain);
        let prototype = is_usual.then_some(&self.rules.arrays);
        for index in 0..length.0 as u64 {
            if index > 0 {
                self.text.push(b',');
            }
            // The walk ends for size long before 2^32 elements.
            let key = Atom::from_u32(self.ctx.clone(), index as u32)?;
            let element = if is_trapped || self.may_have(object, prototype, &key)? {
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

    /// Whether the object itself has the member, or none of its prototypes has. Otherwise the
    /// engine would read a prototype that a function may have changed. `prototype` is none unless
    /// all prototypes are the language's, since one of them may be a proxy.
    fn may_have(
        &self,
        object: &Object<'js>,
        prototype: Option<&Object<'js>>,
        key: &Atom<'js>,
    ) -> Result<bool, End> {
        let is_inherited = match prototype {
            Some(prototype) => prototype.contains_key(key.clone())?,
            None => true,
        };
        Ok(!is_inherited || self.rare(("hasOwn", object.clone(), key.to_value()?))?)
    }

    /// `prototype` is none for an object without a prototype, and for a proxy.
    fn properties(
        &mut self,
        object: &Object<'js>,
        prototype: Option<&Object<'js>>,
    ) -> Result<(), End> {
        self.text.push(b'{');
        let usual = prototype.filter(|prototype| *prototype.as_value() == self.rules.plain);
        let mut is_first = true;
        for atom in object.own_keys::<Atom<'js>>(Filter::new().string().enum_only()) {
            let atom = atom?;
            let before = self.text.len();
            if !is_first {
                self.text.push(b',');
            }
            // An atom's own `to_string` does not check that it is UTF-8, and ends at U+0000.
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
            // A getter may have deleted a later member.
            let is_there = prototype.is_none() || self.may_have(object, usual, &atom)?;
            let written = if is_there {
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

    /// Adds a key to the path of a refusal, and to the paths of the hollow members found since
    /// there were `hollow` of them.
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

/// A string of the engine, if it has no lone surrogate.
fn utf8<'t>(text: &'t CString<'_>) -> Option<&'t str> {
    std::str::from_utf8(text.as_ref()).ok()
}

/// Whether a value is an array or a proxy of one.
fn is_array(value: &Value<'_>) -> rquickjs::Result<bool> {
    let mut value = value.clone();
    while let Some(proxy) = value.as_proxy() {
        value = proxy.target()?.into_value();
    }
    Ok(value.is_array())
}

/// Appends `text` as a JSON string, with the escapes of `JSON.stringify`.
fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
