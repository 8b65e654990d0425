//! The body of `log.audit` as JSON text.
//!
//! One walk over the JavaScript value writes the JSON by the rules of `JSON.stringify`, replacing
//! symbols with the variables that they stand for. This is faster than copying the value with
//! sentinels for `JSON.stringify`, and functions that change `JSON` or prototypes cannot affect it.

mod members;
mod walk;

use rquickjs::{Array, Ctx, Exception, Function, Object, Value};

use super::stopwatch::Stopwatch;
use walk::{End, Ended, Key, MAX_TEXT_BYTES, Walk};

/// Values that a walk needs, passed by the prelude. Rust closures cannot hold them, since the
/// engine's garbage collector would not see that.
pub(super) struct Rules<'a, 'js> {
    /// The symbols of `log.vars`.
    pub(super) symbols: Array<'js>,
    /// Their names.
    pub(super) names: &'a [String],
    /// The original `Object.prototype`.
    pub(super) plain: Value<'js>,
    /// The original `Array.prototype`.
    pub(super) arrays: Object<'js>,
    /// `(name, value, key) => …`: functions for rare cases, in `js/audit.js`.
    pub(super) rare: Function<'js>,
    pub(super) stopwatch: &'a Stopwatch,
}

pub(super) struct Written {
    /// The arguments of the operation: `{"body":…}`.
    pub(super) args: String,
    /// The path and class of each member whose content JSON cannot represent.
    pub(super) hollow: Vec<(String, String)>,
}

pub(super) enum Refused<'js> {
    /// The body breaks a rule. The message names the rule and the path.
    Because(String),
    /// A getter or `toJSON` threw this value at this path.
    Thrown(Value<'js>, String),
    /// The function's time is up, or the engine failed.
    Stopped(rquickjs::Error),
}

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
    let is_variable = body.is_symbol();
    match walk.value(body, Key::Name("")) {
        Ok(true) if walk.text[start..].starts_with(b"{") && !is_variable => {
            walk.text.push(b'}');
            let hollow = walk.hollow.into_iter().map(|(class, path)| (place(path), class));
            let hollow = hollow.filter(|(path, _)| !path.is_empty()).collect();
            match String::from_utf8(walk.text) {
                Ok(args) => Ok(Written { args, hollow }),
                Err(error) => Err(Refused::Because(format!("the body is not UTF-8: {error}"))),
            }
        }
        Ok(_) => {
            let what = match walk.text.get(start) {
                _ if is_variable => "a variable",
                None => "nothing",
                Some(b'"') => "a string",
                Some(b'[') => "an array",
                Some(b'n') => "null",
                Some(b't' | b'f') => "a boolean",
                Some(_) => "a number",
            };
            let message = format!("Audit log body must be an object; as JSON, this one is {what}");
            Err(Refused::Because(message))
        }
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
        // The host rejects this body as too large and fails the function, even if the function
        // catches the error.
        Err(End(Ended::TooLarge, _)) => {
            let args = format!("{{\"body\":{{\"\":\"{}\"}}}}", " ".repeat(MAX_TEXT_BYTES));
            Ok(Written { args, hollow: Vec::new() })
        }
    }
}

/// The path in JavaScript's notation, such as `a.b[1].c`.
fn place(mut upwards: Vec<String>) -> String {
    upwards.reverse();
    upwards.join(".").replace(".[", "[")
}
