//! The body of `log.audit` as JSON text.
//!
//! One walk over the JavaScript value, by the rules of `JSON.stringify`, with variables in place of
//! their symbols. It is done in Rust because it is faster there than a copy with sentinels and
//! `JSON.stringify` after it, and because nothing that a function does to `JSON` or to prototypes
//! reaches it.

use rquickjs::atom::PredefinedAtom;
use rquickjs::convert::Coerced;
use rquickjs::function::This;
use rquickjs::object::Filter;
use rquickjs::{Array, Atom, Ctx, Exception, Function, Object, String as Text, Type, Value};

/// How deep a body can nest. The runtime refuses what nests deeper than `audit_runtime::MAX_DEPTH`;
/// here it is what ends a walk.
const MAX_DEPTH: usize = 100;

/// Where a walk over a body ends that cannot be a log any more. Far above the largest log of the
/// contract, 1,000,000 bytes; a function whose memory is bounded can refer to one long string any
/// number of times.
const MAX_TEXT_BYTES: usize = 8 << 20;

/// What a walk needs to know, from the prelude. A function of Rust must not keep values of an
/// engine for itself: the engine would not see them.
pub(super) struct Rules<'a, 'js> {
    /// The symbols of `log.vars`.
    pub(super) symbols: Array<'js>,
    /// Their names.
    pub(super) names: &'a [String],
    /// What most objects have for a prototype.
    pub(super) plain: Value<'js>,
    /// `(value, key) => value`: for what is rare. Gives the primitive in a boxed one, what a
    /// `BigInt`'s `toJSON` gives, and an array's elements if it is behind a proxy.
    pub(super) simplify: Function<'js>,
}

/// Why a body is not one.
enum Refused {
    /// Something in it threw.
    Thrown(rquickjs::Error),
    /// It breaks a rule. The keys on the way to the place come innermost first.
    Because(String, Vec<String>),
    /// It is larger than any log.
    TooLarge,
}

impl From<rquickjs::Error> for Refused {
    fn from(error: rquickjs::Error) -> Refused {
        Refused::Thrown(error)
    }
}

/// `{"body":…}`.
///
/// # Errors
///
/// What is thrown into the function.
pub(super) fn operation<'js>(
    ctx: &Ctx<'js>,
    rules: &Rules<'_, 'js>,
    body: Value<'js>,
) -> rquickjs::Result<String> {
    let mut walk = Walk { ctx, rules, text: Vec::with_capacity(2048), around: Vec::new() };
    walk.text.extend_from_slice(b"{\"body\":");
    let start = walk.text.len();
    let what = body.type_name();
    let is_variable = body.is_symbol();
    match walk.value(body, "") {
        Ok(true) if walk.text[start..].starts_with(b"{") && !is_variable => {
            walk.text.push(b'}');
            Ok(String::from_utf8(walk.text)?)
        }
        Ok(_) => {
            let message = format!(
                "Audit log body must be an object of members as JSON, which this {what} is not"
            );
            Err(Exception::throw_type(ctx, &message))
        }
        Err(Refused::Thrown(error)) => Err(error),
        Err(Refused::Because(message, mut path)) => {
            path.reverse();
            let path = path.join(".").replace(".[", "[");
            let place = if path.is_empty() { path } else { format!(" (at {path})") };
            Err(Exception::throw_message(ctx, &format!("{message}{place}")))
        }
        // The host is the one that fails a function for a log that is too large, so that catching
        // the error does not help.
        Err(Refused::TooLarge) => {
            Ok(format!("{{\"body\":{{\"\":\"{}\"}}}}", " ".repeat(MAX_TEXT_BYTES)))
        }
    }
}

struct Walk<'a, 'js> {
    ctx: &'a Ctx<'js>,
    rules: &'a Rules<'a, 'js>,
    text: Vec<u8>,
    /// The objects that the walk is in.
    around: Vec<Value<'js>>,
}

impl<'js> Walk<'_, 'js> {
    /// Writes a value; false if it is one that JSON leaves out. `key` is what `toJSON` is told.
    fn value(&mut self, value: Value<'js>, key: &str) -> Result<bool, Refused> {
        match value.type_of() {
            Type::Null => self.text.extend_from_slice(b"null"),
            Type::Bool if value.as_bool() == Some(true) => self.text.extend_from_slice(b"true"),
            Type::Bool => self.text.extend_from_slice(b"false"),
            Type::Int => self.integer(i64::from(value.as_int().unwrap_or_default())),
            Type::Float => self.float(&value)?,
            Type::String => self.string(&value)?,
            Type::Symbol => self.variable(&value)?,
            Type::Undefined | Type::Uninitialized => return Ok(false),
            Type::BigInt => {
                let simple = self.simplified(&value, key)?;
                if simple.is_big_int() {
                    return Err(Refused::Because(
                        "BigInt value can't be serialized in JSON".to_owned(),
                        Vec::new(),
                    ));
                }
                return self.value(simple, key);
            }
            Type::Object
            | Type::Array
            | Type::Function
            | Type::Constructor
            | Type::Exception
            | Type::Promise
            | Type::Proxy
            | Type::Module
            | Type::Unknown => return self.object(value, key),
        }
        if self.text.len() > MAX_TEXT_BYTES { Err(Refused::TooLarge) } else { Ok(true) }
    }

    fn integer(&mut self, value: i64) {
        use std::io::Write as _;
        // Writing to memory does not fail.
        let _ = write!(self.text, "{value}");
    }

    /// A number as JavaScript writes it.
    fn float(&mut self, value: &Value<'js>) -> Result<(), Refused> {
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

    fn string(&mut self, value: &Value<'js>) -> Result<(), Refused> {
        let Some(text) = value.as_string() else { return Ok(()) };
        match text.to_string() {
            Ok(text) => quote(&text, &mut self.text),
            // Half a surrogate pair has no UTF-8. JSON has an escape for it.
            Err(_) => {
                let quoted = self.ctx.json_stringify(value.clone())?;
                if let Some(quoted) = quoted {
                    self.text.extend_from_slice(quoted.to_string()?.as_bytes());
                }
            }
        }
        Ok(())
    }

    fn variable(&mut self, value: &Value<'js>) -> Result<(), Refused> {
        let known = self
            .rules
            .symbols
            .iter()
            .position(|symbol| symbol.is_ok_and(|symbol: Value<'js>| symbol == *value));
        match known.and_then(|known| self.rules.names.get(known)) {
            Some(name) => {
                self.text.extend_from_slice(b"{\"$var\":");
                quote(name, &mut self.text);
                self.text.push(b'}');
                Ok(())
            }
            None => {
                let description = value.as_symbol().and_then(|symbol| symbol.description().ok());
                let description =
                    description.and_then(|text| text.get::<Text<'js>>().ok()?.to_string().ok());
                let description = description.unwrap_or_default();
                Err(Refused::Because(
                    format!("Unknown audit var symbol: Symbol({description})."),
                    Vec::new(),
                ))
            }
        }
    }

    fn object(&mut self, value: Value<'js>, key: &str) -> Result<bool, Refused> {
        let Some(object) = value.as_object() else { return Ok(false) };
        let to_json: Value<'js> = object.get(PredefinedAtom::ToJSON)?;
        if let Some(to_json) = to_json.as_function() {
            let simple: Value<'js> = to_json.call((This(value.clone()), key))?;
            if simple.is_object() {
                return self.members(simple, key);
            }
            return self.value(simple, key);
        }
        self.members(value, key)
    }

    /// An object that is not asked for `toJSON` any more.
    fn members(&mut self, value: Value<'js>, key: &str) -> Result<bool, Refused> {
        let Some(object) = value.as_object() else { return Ok(false) };
        if value.is_function() {
            return Ok(false);
        }
        if self.around.contains(&value) {
            return Err(Refused::Because(
                "Converting circular structure to JSON".to_owned(),
                Vec::new(),
            ));
        }
        if self.around.len() == MAX_DEPTH {
            return Err(Refused::Because(
                format!("Audit log body nests deeper than {MAX_DEPTH} levels"),
                Vec::new(),
            ));
        }
        let array = value.as_array().cloned();
        if array.is_none() && (value.is_proxy() || !self.is_plain(object)) {
            let simple = self.simplified(&value, key)?;
            if !simple.is_object() {
                return self.value(simple, key);
            }
            if let Some(array) = simple.as_array() {
                self.around.push(value);
                self.elements(array)?;
                self.around.pop();
                return Ok(true);
            }
        }
        self.around.push(value.clone());
        match array {
            Some(array) => self.elements(&array)?,
            None => self.properties(object)?,
        }
        self.around.pop();
        Ok(true)
    }

    fn is_plain(&self, object: &Object<'js>) -> bool {
        object.get_prototype().is_none_or(|prototype| *prototype.as_value() == self.rules.plain)
    }

    fn simplified(&self, value: &Value<'js>, key: &str) -> Result<Value<'js>, Refused> {
        Ok(self.rules.simplify.call((value.clone(), key))?)
    }

    fn elements(&mut self, array: &Array<'js>) -> Result<(), Refused> {
        self.text.push(b'[');
        // A length that does not fit into 31 bits is more than `Array::len` can say.
        let length: f64 = array.as_object().get(PredefinedAtom::Length)?;
        for index in 0..length as usize {
            if index > 0 {
                self.text.push(b',');
            }
            let written = array.get(index).map_err(Refused::from).and_then(|element| {
                // Only `toJSON` is told the index, and seldom is there one.
                self.value(element, "")
            });
            if !inside(written, || format!("[{index}]"))? {
                self.text.extend_from_slice(b"null");
            }
            if self.text.len() > MAX_TEXT_BYTES {
                return Err(Refused::TooLarge);
            }
        }
        self.text.push(b']');
        Ok(())
    }

    fn properties(&mut self, object: &Object<'js>) -> Result<(), Refused> {
        self.text.push(b'{');
        let mut is_first = true;
        for atom in object.own_keys::<Atom<'js>>(Filter::new().string().enum_only()) {
            let atom = atom?;
            let Ok(key) = atom.to_string() else {
                return Err(Refused::Because(
                    "a key of the audit log body is not valid Unicode".to_owned(),
                    Vec::new(),
                ));
            };
            if key.starts_with('$') {
                let message = format!("Audit log body keys must not start with \"$\": {key:?}");
                return Err(Refused::Because(message, Vec::new()));
            }
            let before = self.text.len();
            if !is_first {
                self.text.push(b',');
            }
            quote(&key, &mut self.text);
            self.text.push(b':');
            let written =
                object.get(atom).map_err(Refused::from).and_then(|value| self.value(value, &key));
            if inside(written, || key)? {
                is_first = false;
            } else {
                self.text.truncate(before);
            }
        }
        self.text.push(b'}');
        Ok(())
    }
}

/// Adds a key to the way to what was refused.
fn inside<T>(written: Result<T, Refused>, key: impl FnOnce() -> String) -> Result<T, Refused> {
    written.map_err(|refused| match refused {
        Refused::Because(message, mut path) => {
            path.push(key());
            Refused::Because(message, path)
        }
        refused @ (Refused::Thrown(_) | Refused::TooLarge) => refused,
    })
}

/// Appends `text` as a JSON string, with the escapes of `JSON.stringify`.
fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
