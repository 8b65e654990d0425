//! The walk over a body.

use rquickjs::atom::PredefinedAtom;
use rquickjs::convert::Coerced;
use rquickjs::function::{IntoArgs, This};
use rquickjs::{CString, Ctx, FromJs, Function, Object, String as Text, Type, Value};

use super::Rules;

/// The maximum nesting of a body, in levels. It is the runtime's limit, checked here so that the
/// error names the path.
const MAX_DEPTH: usize = 64;

/// The size at which a walk stops, in bytes: far above the largest log, which is 1,000,000 bytes.
/// Without it, a function within its memory limit could refer to one long string any number of
/// times.
pub(super) const MAX_TEXT_BYTES: usize = 8 << 20;

/// The number of steps between two checks of the clock. A value is one step. An object is many,
/// since it may have any number of non-enumerable members. Every 64 bytes of a key are one step.
const STEPS_BETWEEN_LOOKS: usize = 1024;
const STEPS_OF_AN_OBJECT: usize = 32;

/// The key of a value in its object or array, which is the argument of `toJSON`.
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

pub(super) enum Ended {
    Because(String),
    /// Something threw, or the engine failed.
    Failed(rquickjs::Error),
    /// The body is larger than any log.
    TooLarge,
    OutOfTime,
}

/// Why a walk ended, and the path to the value, innermost key first.
pub(super) struct End(pub(super) Ended, pub(super) Vec<String>);

impl End {
    pub(super) fn because(message: impl Into<String>) -> End {
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
    /// The objects that enclose the current value.
    pub(super) around: Vec<Value<'js>>,
    /// The classes of objects whose content JSON cannot represent, and the paths to them, innermost
    /// key first.
    pub(super) hollow: Vec<(String, Vec<String>)>,
    /// Steps since the last check of the clock.
    pub(super) steps: usize,
    /// The symbols of `log.vars`. Empty until the body's first symbol.
    pub(super) symbols: Vec<Value<'js>>,
}

impl<'js> Walk<'_, 'js> {
    /// Writes a value. Returns false if JSON omits it.
    pub(super) fn value(&mut self, value: Value<'js>, key: Key<'_>) -> Result<bool, End> {
        self.steps += 1;
        if self.steps > STEPS_BETWEEN_LOOKS {
            self.steps = 0;
            if self.rules.stopwatch.is_over() {
                return Err(End(Ended::OutOfTime, Vec::new()));
            }
        }
        // Determined only once, since this is slow for objects.
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
            // A `toJSON` on the prototype is ignored, since it is a built-in one.
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

    pub(super) fn check_size(&self) -> Result<(), End> {
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

    /// Writes a number as JavaScript does.
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

    /// The JSON of a string with a lone surrogate, which UTF-8 cannot encode but JSON can escape.
    /// The runtime refuses it, naming the path.
    pub(super) fn escaped(&self, text: Value<'js>) -> Result<String, End> {
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
    pub(super) fn rare<R: FromJs<'js>>(&self, args: impl IntoArgs<'js>) -> Result<R, End> {
        Ok(self.rules.rare.call(args)?)
    }

    /// The `toJSON` of an object: its own or its class's. Those on built-in prototypes are ignored.
    fn to_json(&self, object: &Object<'js>, kind: Type) -> Result<Option<Function<'js>>, End> {
        if kind == Type::Proxy {
            return Ok(self.to_json_behind(object)?.into_function());
        }
        if object.contains_key(PredefinedAtom::ToJSON)? {
            let found: Value<'js> = self.rare(("toJson", object.clone()))?;
            return Ok(found.into_function());
        }
        Ok(None)
    }

    /// The `toJSON` of a proxy: that of its target, unless a trap answers.
    fn to_json_behind(&self, object: &Object<'js>) -> Result<Value<'js>, End> {
        let mut holder = object.as_value().clone();
        while let Some(proxy) = holder.as_proxy() {
            if self.rare(("isAnswering", proxy.handler()?))? {
                return self.rare(("answeredToJson", object.clone()));
            }
            holder = proxy.target()?.into_value();
        }
        self.rare(("toJson", holder))
    }

    /// The target of a proxy without traps, or else the value itself.
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

    /// Writes an object after `toJSON`.
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
        // A proxy has traps, so its prototype is not read.
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
            self.properties(object)?;
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
}

/// The engine's string as UTF-8, unless it has a lone surrogate.
pub(super) fn utf8<'t>(text: &'t CString<'_>) -> Option<&'t str> {
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

/// Appends `text` as a JSON string, escaped as by `JSON.stringify`.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
