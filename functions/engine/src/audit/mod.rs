//! The body of `log.audit` as JSON text.
//!
//! One walk over the JavaScript value, by the rules of `JSON.stringify`, with variables in place of
//! their symbols. In Rust it is faster than copying the value with sentinels and calling
//! `JSON.stringify`, and beyond the reach of functions that change `JSON` or prototypes.

mod walk;

use rquickjs::{Array, Ctx, Exception, Function, Object, Value};

use super::stopwatch::Stopwatch;
use walk::{End, Ended, Key, MAX_TEXT_BYTES, Walk};

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
