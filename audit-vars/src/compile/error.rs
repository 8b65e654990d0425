//! Why a body is invalid, and where.

use std::fmt;

use audit_core::LimitExceeded;

use crate::escape::escape_into;
use crate::var::Vars;

/// A body is invalid or too large. [`path`](Self::path) says where.
///
/// Its text may reach a client: it names keys of the body and limits, but no value, size or offset
/// from which a client could infer the size of data it may not see. Those are in
/// [`problem`](Self::problem), for the operator's log. A host whose bodies have secret keys must
/// not show the text.
#[derive(Clone)]
pub struct BodyError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    problem: BodyProblem,
    /// The path from the problem up to the body.
    upwards: Vec<Step>,
}

#[derive(Clone)]
enum Step {
    /// The key as in JSON, without the quotes.
    Key(String),
    Index(u64),
}

/// Why a body is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyProblem {
    /// It is JSON, but not an object.
    NotAnObject,
    /// A key begins with `$`. Such keys are reserved for variables and for what a host adds.
    ReservedKey {
        /// The key as in JSON, without the quotes.
        key: String,
    },
    /// Two members of one object have this name.
    DuplicateKey {
        /// The key as in JSON, without the quotes.
        key: String,
    },
    /// A variable that the runtime does not know.
    UnknownVariable {
        /// The name in the body.
        name: String,
    },
    /// A variable in the value of another variable.
    MisplacedVariable,
    /// Objects and arrays nest deeper than `max` levels.
    TooDeep {
        /// The most levels allowed.
        max: u32,
    },
    /// The log is too large, counting each variable at its largest.
    TooLarge(LimitExceeded),
    /// The value of a host's variable exceeds its declared size.
    ValueTooLarge {
        /// The size in bytes, or a lower bound if counting stopped early.
        at_least: u64,
        /// The declared size, in bytes.
        max: u32,
    },
    /// The key of a map is neither a string nor a value that JSON writers commonly convert to one.
    KeyNotAString,
    /// The text is not JSON that every reader accepts.
    Syntax {
        /// What was expected or is wrong.
        reason: &'static str,
        /// The byte offset in the text.
        offset: usize,
    },
    /// The `Serialize` implementation of the value failed.
    Serialize {
        /// The message of its error.
        message: String,
    },
    /// The host could not convert the body to JSON.
    Refused {
        /// The reason, and where in the body.
        reason: String,
    },
}

impl BodyError {
    pub(super) fn new(problem: BodyProblem) -> BodyError {
        BodyError(Box::new(Inner { problem, upwards: Vec::new() }))
    }

    /// A body that a host for another language cannot write as JSON. `reason` tells the function's
    /// author why, and where.
    pub fn refused(reason: impl Into<String>) -> BodyError {
        BodyError::new(BodyProblem::Refused { reason: reason.into() })
    }

    /// A key that begins with `$`. `escaped` is the key as in JSON, without the quotes.
    #[cold]
    pub(super) fn reserved_key(escaped: &str) -> BodyError {
        BodyError::new(BodyProblem::ReservedKey { key: escaped.to_owned() }).below_key(escaped)
    }

    /// A key that begins with `$` and is not escaped yet.
    #[cold]
    pub(super) fn reserved_name(name: &str) -> BodyError {
        let mut escaped = Vec::new();
        escape_into(&mut escaped, name);
        BodyError::reserved_key(&String::from_utf8_lossy(&escaped))
    }

    /// A name shared by two members of an object. `escaped` is the name as in JSON, without the
    /// quotes.
    #[cold]
    pub(super) fn duplicate_key(escaped: String) -> BodyError {
        BodyError::new(BodyProblem::DuplicateKey { key: escaped.clone() }).below_key(escaped)
    }

    /// The problem is at or below this key. `escaped` is the key as in JSON, without the quotes.
    #[cold]
    pub(super) fn below_key(mut self, escaped: impl Into<String>) -> BodyError {
        self.0.upwards.push(Step::Key(escaped.into()));
        self
    }

    /// The problem is at or below this field or variant.
    #[cold]
    pub(super) fn below_name(self, name: &str) -> BodyError {
        let mut escaped = Vec::new();
        escape_into(&mut escaped, name);
        self.below_key(String::from_utf8_lossy(&escaped))
    }

    /// The problem is at or below this element.
    #[cold]
    pub(super) fn below_index(mut self, index: u64) -> BodyError {
        self.0.upwards.push(Step::Index(index));
        self
    }

    /// What is wrong.
    pub fn problem(&self) -> &BodyProblem {
        &self.0.problem
    }

    /// The limit that was exceeded, if that is the problem.
    pub fn limit_exceeded(&self) -> Option<LimitExceeded> {
        if let BodyProblem::TooLarge(exceeded) = self.0.problem { Some(exceeded) } else { None }
    }

    /// The location as a JSON Pointer (RFC 6901), empty for the body itself. Long paths and keys
    /// are shortened with `…`; keys keep their JSON escapes.
    pub fn path(&self) -> String {
        const MAX_KEY_CHARS: usize = 64;
        const MAX_STEPS: usize = 16;
        let mut path = String::new();
        let steps = &self.0.upwards;
        for (n, step) in steps.iter().rev().enumerate() {
            if n >= MAX_STEPS && n + MAX_STEPS < steps.len() {
                if n == MAX_STEPS {
                    path.push_str("/…");
                }
                continue;
            }
            path.push('/');
            match step {
                Step::Index(index) => path.push_str(&index.to_string()),
                Step::Key(key) => {
                    let mut chars = key.chars();
                    for char in chars.by_ref().take(MAX_KEY_CHARS) {
                        match char {
                            '~' => path.push_str("~0"),
                            '/' => path.push_str("~1"),
                            other => path.push(other),
                        }
                    }
                    if chars.next().is_some() {
                        path.push('…');
                    }
                }
            }
        }
        path
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.problem {
            BodyProblem::NotAnObject => f.write_str("an audit log body must be a JSON object")?,
            BodyProblem::ReservedKey { key } => {
                let shown: String = key.chars().take(64).collect();
                write!(f, "audit log body keys must not start with \"$\": {shown:?}")?;
            }
            BodyProblem::DuplicateKey { key } => {
                let shown: String = key.chars().take(64).collect();
                write!(f, "audit log body keys must be unique: {shown:?}")?;
            }
            BodyProblem::UnknownVariable { name } => {
                let shown: String = name.chars().take(Vars::MAX_NAME_BYTES).collect();
                write!(f, "unknown audit variable {shown:?}")?;
            }
            BodyProblem::MisplacedVariable => {
                f.write_str("the value of a variable cannot contain a variable")?
            }
            BodyProblem::TooDeep { max } => {
                write!(f, "objects and arrays nest deeper than limit of {max} levels")?;
            }
            BodyProblem::TooLarge(exceeded) => fmt::Display::fmt(exceeded, f)?,
            BodyProblem::ValueTooLarge { at_least: _, max } => {
                write!(f, "value exceeds limit of {max} bytes of the variable")?;
            }
            BodyProblem::KeyNotAString => f.write_str("audit log body keys must be strings")?,
            BodyProblem::Syntax { reason, offset: _ } => write!(f, "invalid JSON: {reason}")?,
            BodyProblem::Serialize { message } => {
                write!(f, "the audit log body cannot be serialized: {message}")?;
            }
            BodyProblem::Refused { reason } => f.write_str(reason)?,
        }
        // The path at which a limit was exceeded would reveal a size too.
        if let BodyProblem::TooLarge(_) | BodyProblem::ValueTooLarge { .. } = self.0.problem {
            return Ok(());
        }
        match self.path().as_str() {
            "" => Ok(()),
            path => write!(f, " at {path}"),
        }
    }
}

impl fmt::Debug for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyError")
            .field("problem", &self.0.problem)
            .field("path", &self.path())
            .finish()
    }
}

impl std::error::Error for BodyError {}

impl serde::ser::Error for BodyError {
    fn custom<T: fmt::Display>(message: T) -> BodyError {
        BodyError::new(BodyProblem::Serialize { message: message.to_string() })
    }
}
