//! From a body to the text of a template, in one pass that copies and checks.

mod error;
mod json;
mod key;
mod names;
mod serializer;

pub use error::{BodyError, BodyProblem};

use std::cell::Cell;

use audit_core::{LimitExceeded, Limits};
use serde::ser::{self, Serialize};

use crate::host_value::HostValue;
use crate::template::{Cut, Template};
use crate::var::{Var, Vars};

/// How deep objects and arrays of a body may nest, the body itself included. Readers of JSON
/// commonly stop at 128 levels (`serde_json` does); a host's variable may add its own few.
pub const MAX_DEPTH: u32 = 64;

const _: () = assert!(MAX_DEPTH + HostValue::MAX_DEPTH < 128);

/// The text so far, and the limits it is checked against.
struct Compiler<'v> {
    text: Vec<u8>,
    cuts: Vec<Cut>,
    /// The total of the largest sizes of the variables so far.
    variable_bytes: u64,
    /// How many bytes the text may have, with these variables at their largest.
    room: usize,
    depth: u32,
    /// Whether an error left the text incomplete. Kept because a `Serialize` implementation may
    /// ignore the error.
    is_broken: bool,
    rules: Rules<'v>,
}

/// The rules for the compiled value.
#[derive(Clone, Copy)]
enum Rules<'v> {
    /// A body, with these variables and limits.
    Body(&'v Vars, &'v Limits),
    /// The value of a host's variable.
    HostValue(Var),
}

impl<'v> Compiler<'v> {
    fn new(rules: Rules<'v>, text: Vec<u8>, cuts: Vec<Cut>) -> Compiler<'v> {
        let max_bytes = match rules {
            Rules::Body(_, limits) => limits.max_log_bytes(),
            Rules::HostValue(var) => var.max_bytes(),
        };
        let room = max_bytes as usize;
        Compiler { text, cuts, variable_bytes: 0, depth: 0, is_broken: false, rules, room }
    }

    /// The largest size that the text so far could have, in bytes.
    fn bound(&self) -> u64 {
        self.text.len() as u64 + self.variable_bytes
    }

    /// Fails if the text so far, with `more` bytes, is too large.
    #[inline]
    fn check_size(&self, more: usize) -> Result<(), BodyError> {
        if self.text.len() + more > self.room { Err(self.too_large(more)) } else { Ok(()) }
    }

    #[cold]
    fn too_large(&self, more: usize) -> BodyError {
        let at_least = self.bound() + more as u64;
        BodyError::new(match self.rules {
            Rules::Body(_, limits) => {
                BodyProblem::TooLarge(LimitExceeded::log_bytes_at_least(at_least, limits))
            }
            Rules::HostValue(var) => BodyProblem::ValueTooLarge { at_least, max: var.max_bytes() },
        })
    }

    /// Notes that a part of the value was rejected.
    #[cold]
    fn failed(&mut self, error: BodyError) -> BodyError {
        self.is_broken = true;
        error
    }

    /// Fails if the `Serialize` implementation succeeded after an error in a part of the value.
    fn check_whole(&self) -> Result<(), BodyError> {
        if self.is_broken {
            return Err(ser::Error::custom(
                "its Serialize implementation continued after an error",
            ));
        }
        Ok(())
    }

    /// Enters an object or array.
    #[inline]
    fn descend(&mut self) -> Result<(), BodyError> {
        let max = match self.rules {
            Rules::Body(..) => MAX_DEPTH,
            Rules::HostValue(_) => HostValue::MAX_DEPTH,
        };
        if self.depth == max {
            return Err(BodyError::new(BodyProblem::TooDeep { max }));
        }
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn ascend(&mut self) {
        self.depth -= 1;
    }

    fn variable(&mut self, name: &str) -> Result<(), BodyError> {
        let Rules::Body(vars, _) = self.rules else {
            return Err(BodyError::new(BodyProblem::MisplacedVariable));
        };
        let Some(var) = vars.get(name) else {
            return Err(BodyError::new(BodyProblem::UnknownVariable { name: name.to_owned() }));
        };
        let at =
            u32::try_from(self.text.len()).expect("checked against max_log_bytes, which is a u32");
        self.cuts.push(Cut { at, slot: var.slot() });
        self.variable_bytes += u64::from(var.max_bytes());
        self.room = self.room.saturating_sub(var.max_bytes() as usize);
        self.check_size(0)
    }

    fn finish_body(&mut self, limits: &Limits) -> Result<Template, BodyError> {
        self.check_whole()?;
        // If the body is itself a variable, the text does not begin with a brace, or a cut comes
        // before it.
        if self.text.first() != Some(&b'{') || self.cuts.first().is_some_and(|cut| cut.at == 0) {
            return Err(BodyError::new(BodyProblem::NotAnObject));
        }
        let bound = self.bound();
        match u32::try_from(bound) {
            Ok(bytes) if bytes <= limits.max_log_bytes() => {
                Ok(Template::new(&self.text, &self.cuts, bytes))
            }
            Ok(_) | Err(_) => {
                Err(BodyError::new(BodyProblem::TooLarge(LimitExceeded::log_bytes(bound, limits))))
            }
        }
    }
}

/// The memory that a thread keeps for compiling bodies, in bytes: most bodies are much smaller.
const MAX_KEPT_BYTES: usize = 64 << 10;

thread_local! {
    /// Bodies are compiled in this buffer, so that a template is allocated once, with its exact
    /// size.
    static MEMORY: Cell<(Vec<u8>, Vec<Cut>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

fn template(
    vars: &Vars,
    limits: &Limits,
    compile: impl FnOnce(&mut Compiler<'_>) -> Result<(), BodyError>,
) -> Result<Template, BodyError> {
    // A `Serialize` implementation that itself compiles a body finds the buffer taken, and
    // allocates its own.
    let (mut text, mut cuts) = MEMORY.take();
    text.clear();
    cuts.clear();
    let mut compiler = Compiler::new(Rules::Body(vars, limits), text, cuts);
    let compiled = compile(&mut compiler).and_then(|()| compiler.finish_body(limits));
    if compiler.text.capacity() + compiler.cuts.capacity() * size_of::<Cut>() <= MAX_KEPT_BYTES {
        MEMORY.set((compiler.text, compiler.cuts));
    }
    compiled
}

impl Template {
    /// Compiles a value that implements `Serialize`: a [`body!`](crate::body), or a struct or map
    /// with [`Var`](crate::Var)s in it.
    ///
    /// The text is that of `serde_json`, written in one pass that also makes all checks. Data is
    /// never a variable, whatever it looks like: an object with a member `$var` is refused, as is
    /// any key that begins with `$`.
    ///
    /// # Errors
    ///
    /// [`BodyError`] says what is wrong and where: not an object, a reserved key, a key that occurs
    /// twice in an object (in any spelling), an unknown variable, nesting beyond
    /// [`MAX_DEPTH`](crate::MAX_DEPTH), larger than [`Limits::max_log_bytes`] once variables are at
    /// their largest.
    pub fn compile<T: Serialize + ?Sized>(
        vars: &Vars,
        limits: &Limits,
        body: &T,
    ) -> Result<Template, BodyError> {
        template(vars, limits, |compiler| body.serialize(compiler))
    }

    /// Compiles JSON text in which an object of exactly one member, `{"$var":"<name>"}`, stands for
    /// a variable.
    ///
    /// For hosts whose functions are written in another language: the producer of the text must
    /// have distinguished variables from data, as Convex's `log.audit` does with Symbols. White
    /// space between values is left out, and characters that end a line for some readers (U+0085,
    /// U+2028, U+2029) are escaped, which leaves the string's value unchanged. Everything else
    /// keeps its spelling: numbers, escapes, the order of members. A sentinel's key and name are
    /// taken literally: written with escapes (`\u0024var`) the key is a reserved one.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile), and for text that is not JSON (RFC 8259) or that readers
    /// disagree about (RFC 7493): unpaired surrogates, numbers beyond the range of a 64-bit float.
    pub fn from_json(vars: &Vars, limits: &Limits, text: &str) -> Result<Template, BodyError> {
        template(vars, limits, |compiler| {
            compiler.text.reserve(text.len().min(limits.max_log_bytes() as usize));
            json::compile(compiler, text, json::Sentinels::Variables)
        })
    }
}

impl HostValue {
    /// A value for `var`: anything that serializes to JSON, under the same rules as a body (no key
    /// begins with `$`), but without variables.
    ///
    /// # Errors
    ///
    /// If its JSON is longer than [`Var::max_bytes`], nests deeper than
    /// [`MAX_DEPTH`](Self::MAX_DEPTH), or breaks a rule for bodies.
    pub fn new<T: Serialize + ?Sized>(var: Var, value: &T) -> Result<HostValue, BodyError> {
        let mut compiler = Compiler::new(Rules::HostValue(var), Vec::with_capacity(64), Vec::new());
        value.serialize(&mut compiler)?;
        compiler.check_whole()?;
        compiler.check_size(0)?;
        Ok(HostValue::compiled(var, compiler.text))
    }
}
