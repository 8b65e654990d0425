//! The messages of failed functions.

use std::time::Duration;

use rquickjs::{Ctx, Error, Function, Type, Value};
use serde::Deserialize;

use super::stopwatch::Stopwatch;
use super::{Failure, FailureKind, Limits};

/// The error that the engine's bindings throw when there is no memory to copy a string argument for
/// a native function.
const NO_COPY: &str = "InternalError: QuickJS library created a unknown error";

const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// The result of the prelude's `explain`.
#[derive(Deserialize)]
struct Explained {
    text: String,
    stack: String,
    data: Option<String>,
}

impl Failure {
    /// A failure without a thrown value.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { message: message.into(), data: None, kind }
    }

    /// The failure of a call whose stopwatch is over.
    pub(super) fn over(stopwatch: &Stopwatch, limits: &Limits) -> Failure {
        if stopwatch.is_out_of_memory() {
            Failure::memory_limit(limits)
        } else {
            Failure::time_limit(limits.time)
        }
    }

    pub(crate) fn time_limit(limit: Duration) -> Failure {
        let message =
            format!("Function execution timed out (maximum duration: {limit:?} of JavaScript)");
        Failure::new(FailureKind::TimeLimit, message)
    }

    pub(crate) fn wall_limit(limit: Duration) -> Failure {
        let message = format!(
            "Function execution timed out (maximum duration: {limit:?} with what it waited for)"
        );
        Failure::new(FailureKind::TimeLimit, message)
    }

    pub(crate) fn memory_limit(limits: &Limits) -> Failure {
        let mib = limits.memory_bytes >> 20;
        let message =
            format!("JavaScript execution ran out of memory (maximum memory usage: {mib} MiB)");
        Failure::new(FailureKind::MemoryLimit, message)
    }

    /// The failure of a call that threw `value`. `explain` is the prelude's function.
    pub(crate) fn thrown<'js>(
        ctx: &Ctx<'js>,
        explain: &Function<'js>,
        value: Value<'js>,
        limits: &Limits,
    ) -> Failure {
        if matches!(value.type_of(), Type::Null | Type::Uninitialized) {
            // An engine without memory for an error throws null. A function can do so too.
            let mib = limits.memory_bytes >> 20;
            let message = format!(
                "Uncaught null: the function threw it, or ran out of memory (maximum memory usage: {mib} MiB)"
            );
            return Failure::new(FailureKind::MemoryLimit, message);
        }
        let explained = match explain.call::<_, String>((value,)) {
            Ok(text) => serde_json::from_str::<Explained>(&text),
            Err(_) => {
                ctx.catch();
                return Failure::memory_limit(limits);
            }
        };
        let Ok(Explained { text, stack, data }) = explained else {
            return Failure::new(FailureKind::Thrown, "Uncaught value that cannot be shown");
        };
        let kind = match text.as_str() {
            "InternalError: out of memory" | NO_COPY => return Failure::memory_limit(limits),
            "RangeError: Maximum call stack size exceeded" => FailureKind::StackOverflow,
            _ => FailureKind::Thrown,
        };
        let mut message = format!("Uncaught {text}");
        for frame in stack.lines().map(str::trim).filter(|frame| is_of_user(frame)) {
            message.push_str("\n    ");
            message.push_str(frame);
        }
        Failure { message: bounded(message), data, kind }
    }
}

/// The message of an engine error, or of the exception behind it.
pub(crate) fn text_of(ctx: &Ctx<'_>, error: &Error) -> String {
    if !error.is_exception() {
        return error.to_string();
    }
    let thrown = ctx.catch();
    match thrown.as_exception() {
        Some(exception) => {
            let stack = exception.stack().unwrap_or_default();
            format!("{}\n{stack}", exception.message().unwrap_or_default()).trim_end().to_owned()
        }
        None => "an exception that is not an error".to_owned(),
    }
}

/// Whether a stack frame is the author's. Frames of the engine, of the npm package and of the
/// built-in modules, which are compiled without names, would not help the author.
fn is_of_user(frame: &str) -> bool {
    frame.starts_with("at ")
        && !frame.ends_with("(native)")
        && !frame.contains("<null>")
        && !frame.contains("node_modules/convex/dist/")
        && !frame.starts_with("at $commonJs ")
}

/// The text, truncated to [`MAX_MESSAGE_BYTES`] at a character boundary.
fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
        text.push('…');
    }
    text
}
