//! The body of `log.audit` as JSON text.
//!
//! One walk over the JavaScript value, by the rules of `JSON.stringify`, with variables in place of
//! their symbols. In Rust it is faster than copying the value with sentinels and calling
//! `JSON.stringify`, and beyond the reach of functions that change `JSON` or prototypes.

use std::borrow::Cow;

use rquickjs::atom::PredefinedAtom;
use rquickjs::convert::Coerced;
use rquickjs::function::{IntoArgs, This};
use rquickjs::object::Filter;
use rquickjs::{
    Array, Atom, CString, Ctx, Exception, FromJs, Function, Object, String as Text, Type, Value,
};

use super::stopwatch::Stopwatch;

/// The deepest nesting that a walk follows. The runtime refuses bodies deeper than
/// `audit_runtime::MAX_DEPTH`.
const MAX_DEPTH: usize = 100;

/// The size at which a walk stops, in bytes. It is far above the contract's largest log of
/// 1,000,000 bytes. A bound is needed because a function within its memory limit can refer to one
/// long string any number of times.
const MAX_TEXT_BYTES: usize = 8 << 20;

/// The steps between two checks of the clock. A value is one step, an object many, since it can
/// have any number of members that are not enumerable, and a key one more for each 64 bytes.
const STEPS_BETWEEN_LOOKS: usize = 1024;
const STEPS_OF_AN_OBJECT: usize = 32;

/// Values that a walk needs, from the prelude. Rust closures must not keep values of an engine,
/// since its garbage collector would not see them.
pub(super) struct Rules<'a, 'js> {
    /// The symbols of `log.vars`.
    pub(super) symbols: Array<'js>,
    /// Their names.
    pub(super) names: &'a [String],
    /// The usual prototype of objects.
    pub(super) plain: Value<'js>,
    /// The usual prototype of arrays.
    pub(super) arrays: Object<'js>,
    /// `(name, value, key) => …`: functions for rare cases, see `js/audit.js`.
    pub(super) rare: Function<'js>,
    pub(super) stopwatch: &'a Stopwatch,
}

/// The arguments of the operation, with the body in them.
pub(super) struct Written {
    /// `{"body":…}`.
    pub(super) args: String,
    /// Members whose content JSON does not show: their paths, and the classes of their values.
    pub(super) hollow: Vec<(String, String)>,
}

/// A body that was refused.
pub(super) enum Refused<'js> {
    /// It breaks a rule: which, and where.
    Because(String),
    /// Something in it threw, and where.
    Thrown(Value<'js>, String),
    /// The function's time is over, or the engine failed.
    Stopped(rquickjs::Error),
}

/// Why a walk ends.
enum Ended {
    Because(String),
    /// Something threw, or the engine failed.
    Failed(rquickjs::Error),
    /// The body is larger than any log.
    TooLarge,
    OutOfTime,
}

/// Where a walk ended: the keys on the way to the place come innermost first.
struct End(Ended, Vec<String>);

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

/// Writes a body.
pub(super) fn write<'js>(
    ctx: &Ctx<'js>,
    rules: &Rules<'_, 'js>,
    body: Value<'js>,
) -> Result<Written, Refused<'js>> {
    let mut walk = Walk {
        ctx,
        rules,
        text: Vec::with_capacity(2048),
        around: Vec::new(),
        hollow: Vec::new(),
        steps: 0,
        symbols: Vec::new(),
    };
    walk.text.extend_from_slice(b"{\"body\":");
    let start = walk.text.len();
    let what = body.type_name();
    let is_variable = body.is_symbol();
    match walk.value(body, "") {
        Ok(true) if walk.text[start..].starts_with(b"{") && !is_variable => {
            walk.text.push(b'}');
            let hollow = walk.hollow.into_iter().map(|(class, path)| (place(path), class));
            let hollow = hollow.filter(|(path, _)| !path.is_empty()).collect();
            match String::from_utf8(walk.text) {
                Ok(args) => Ok(Written { args, hollow }),
                Err(error) => Err(Refused::Because(format!("the body is not UTF-8: {error}"))),
            }
        }
        Ok(_) => Err(Refused::Because(format!(
            "Audit log body must be an object of members as JSON, which this {what} is not"
        ))),
        Err(End(Ended::Because(message), path)) => {
            let place = place(path);
            let at = if place.is_empty() { place } else { format!(" (at {place})") };
            Err(Refused::Because(format!("{message}{at}")))
        }
        Err(End(Ended::Failed(error), path)) if error.is_exception() => {
            let thrown = ctx.catch();
            if rules.stopwatch.is_over() {
                return Err(Refused::Stopped(ctx.throw(thrown)));
            }
            Err(Refused::Thrown(thrown, place(path)))
        }
        Err(End(Ended::Failed(error), _)) => Err(Refused::Stopped(error)),
        Err(End(Ended::OutOfTime, _)) => {
            let message = "the function's time is over";
            Err(Refused::Stopped(Exception::throw_message(ctx, message)))
        }
        // The host fails a function for a log that is too large, so that catching the error does
        // not help.
        Err(End(Ended::TooLarge, _)) => {
            let args = format!("{{\"body\":{{\"\":\"{}\"}}}}", " ".repeat(MAX_TEXT_BYTES));
            Ok(Written { args, hollow: Vec::new() })
        }
    }
}

/// A path as people write it: `a.b[1].c`.
fn place(mut upwards: Vec<String>) -> String {
    upwards.reverse();
    upwards.join(".").replace(".[", "[")
}

struct Walk<'a, 'js> {
    ctx: &'a Ctx<'js>,
    rules: &'a Rules<'a, 'js>,
    text: Vec<u8>,
    /// The objects around the current value.
    around: Vec<Value<'js>>,
    /// Classes of objects whose content is not shown, and the keys on the way to them, innermost
    /// first.
    hollow: Vec<(String, Vec<String>)>,
    /// Steps since the last check of the clock.
    steps: usize,
    /// The symbols of `log.vars`, from the first of them in the body on.
    symbols: Vec<Value<'js>>,
}

impl<'js> Walk<'_, 'js> {
    /// Writes a value. False if JSON omits it. `key` is the argument of `toJSON`.
    fn value(&mut self, value: Value<'js>, key: &str) -> Result<bool, End> {
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

    fn object(&mut self, value: Value<'js>, kind: Type, key: &str) -> Result<bool, End> {
        let (value, kind) = self.revealed(value, kind)?;
        let Some(object) = value.as_object() else { return Ok(false) };
        if let Some(to_json) = self.to_json(object, kind)? {
            let simple: Value<'js> = to_json.call((This(value.clone()), key))?;
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
    fn members(&mut self, object: &Object<'js>, kind: Type, key: &str) -> Result<bool, End> {
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
            // Only `toJSON` needs the index, and few elements have one.
            let written = element.and_then(|element| self.value(element, ""));
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
                object.get(atom).map_err(End::from).and_then(|value| self.value(value, &key))
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
