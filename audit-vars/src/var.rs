//! Variables, and the table of the variables that a runtime knows.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};

use crate::client_ip::ClientIp;
use crate::now::Now;
use crate::request_id::RequestId;
use crate::user_agent::UserAgent;

/// A variable in a body: a value that is filled in when the log is released to one request.
///
/// It can be used wherever a value can, any number of times. The four that every runtime knows are
/// constants; a host adds its own with [`Vars::register`]. Being typed, it cannot be confused with
/// data: a string or an object that a user sent never becomes a variable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Var {
    name: &'static str,
    slot: u8,
    max_bytes: u32,
}

impl Var {
    /// `ip`: the client's address as a string, or `null`.
    pub const IP: Var = Var { name: "ip", slot: 0, max_bytes: ClientIp::MAX_JSON_BYTES };
    /// `userAgent`: the `User-Agent` header as a string of at most 512 bytes, or `null`.
    pub const USER_AGENT: Var =
        Var { name: "userAgent", slot: 1, max_bytes: UserAgent::MAX_JSON_BYTES };
    /// `requestId`: the request's identifier, a string.
    pub const REQUEST_ID: Var =
        Var { name: "requestId", slot: 2, max_bytes: RequestId::MAX_JSON_BYTES };
    /// `now`: an integer, milliseconds since the Unix epoch, when the function ran or its result
    /// was replayed. One value for all logs of one execution.
    pub const NOW: Var = Var { name: "now", slot: 3, max_bytes: Now::MAX_JSON_BYTES };

    pub(crate) const BUILT_IN: [Var; 4] = [Var::IP, Var::USER_AGENT, Var::REQUEST_ID, Var::NOW];

    /// Its name on the wire and in error messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The largest size of its value as JSON in bytes, quotes and escapes included.
    pub fn max_bytes(&self) -> u32 {
        self.max_bytes
    }

    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({})", self.name)
    }
}

/// The enum name by which the serializer recognizes a variable. It belongs to a type, so data
/// cannot forge it.
pub(crate) const VAR_TYPE: &str = "$audit_vars::Var";
/// In JSON text, the only key of an object that stands for a variable.
pub(crate) const SENTINEL_KEY: &str = "$var";

impl Serialize for Var {
    /// The serializer for bodies writes a variable. Any other serializer gets the wire form,
    /// `{"$var":"<name>"}`, which is refused in a body.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_variant(VAR_TYPE, 0, SENTINEL_KEY, self.name)
    }
}

/// The variables that a runtime knows: the four of [`Var`] and those of its host.
#[derive(Debug, Clone)]
pub struct Vars {
    known: Vec<Var>,
}

impl Vars {
    /// The most variables in a table, the four built-in ones included.
    pub const MAX_VARS: usize = 32;

    /// The longest name, in bytes.
    pub const MAX_NAME_BYTES: usize = 64;

    /// The highest `max_bytes`: 65,536 bytes. Each use of the variable in a log is charged at its
    /// `max_bytes`.
    pub const MAX_VAR_BYTES: u32 = 65_536;

    /// The table of the four built-in variables.
    pub fn new() -> Vars {
        Vars { known: Var::BUILT_IN.to_vec() }
    }

    /// Adds a variable of the host, such as a user or a trace id. Its value as JSON may have up to
    /// `max_bytes` bytes, and each use of it in a log is charged at that size. Without a value in a
    /// request it is `null`.
    ///
    /// The name may come from settings. Each name is leaked once, however many tables have it.
    ///
    /// # Errors
    ///
    /// If the name is taken, empty, longer than [`MAX_NAME_BYTES`](Self::MAX_NAME_BYTES), or not of
    /// ASCII letters, digits and `_`; if `max_bytes` is less than the 4 of `null` or more than
    /// [`MAX_VAR_BYTES`](Self::MAX_VAR_BYTES); if there are [`MAX_VARS`](Self::MAX_VARS) already.
    pub fn register(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        max_bytes: u32,
    ) -> Result<Var, InvalidVar> {
        let name = name.into();
        let refuse = |problem| Err(InvalidVar { name: name.clone(), problem });
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.len() > Self::MAX_NAME_BYTES || !name.bytes().all(well_formed) {
            return refuse(VarProblem::Name);
        }
        if !(4..=Self::MAX_VAR_BYTES).contains(&max_bytes) {
            return refuse(VarProblem::MaxBytes(max_bytes));
        }
        if self.get(&name).is_some() {
            return refuse(VarProblem::Taken);
        }
        let slot = match u8::try_from(self.known.len()) {
            Ok(slot) if usize::from(slot) < Self::MAX_VARS => slot,
            Ok(_) | Err(_) => return refuse(VarProblem::TooMany),
        };
        let var = Var { name: interned(name), slot, max_bytes };
        self.known.push(var);
        Ok(var)
    }

    /// The variable of this name.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.known.iter().find(|var| var.name == name).copied()
    }

    /// All variables, the built-in ones first.
    pub fn iter(&self) -> impl Iterator<Item = Var> + '_ {
        self.known.iter().copied()
    }

    /// Whether the table contains this variable, not merely another one in its slot.
    pub(crate) fn knows(&self, var: Var) -> bool {
        self.known.get(usize::from(var.slot)) == Some(&var)
    }
}

/// Leaks a name, so that a [`Var`] can be copied.
fn interned(name: Cow<'static, str>) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    match name {
        Cow::Borrowed(name) => name,
        Cow::Owned(name) => {
            let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
            match names.get(&*name) {
                Some(name) => name,
                None => {
                    let name = Box::leak(name.into_boxed_str());
                    names.insert(name);
                    name
                }
            }
        }
    }
}

impl Default for Vars {
    fn default() -> Vars {
        Vars::new()
    }
}

/// A variable that cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit variable {name:?} {problem}")]
pub struct InvalidVar {
    name: Cow<'static, str>,
    problem: VarProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum VarProblem {
    #[error("must have a name of 1 to {} ASCII letters, digits or _", Vars::MAX_NAME_BYTES)]
    Name,
    #[error("has a maximum size of {0} bytes, which must be 4 to {max}", max = Vars::MAX_VAR_BYTES)]
    MaxBytes(u32),
    #[error("is already registered")]
    Taken,
    #[error("exceeds limit of {} variables", Vars::MAX_VARS)]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_indices_into_the_table() {
        let mut vars = Vars::new();
        let actor = vars.register("convexActor", 256).unwrap();
        for (slot, var) in vars.iter().enumerate() {
            assert_eq!(usize::from(var.slot()), slot);
            assert_eq!(vars.get(var.name()), Some(var));
            assert!(vars.knows(var));
        }
        assert!(!Vars::new().knows(actor));
        let mut others = Vars::new();
        others.register("other", 256).unwrap();
        assert!(!others.knows(actor), "the same slot in another table is another variable");
    }

    #[test]
    fn invalid_variables_are_rejected_with_a_reason() {
        let mut vars = Vars::new();
        let mut message = |name, bytes| vars.register(name, bytes).unwrap_err().to_string();
        assert_eq!(message("ip", 10), "audit variable \"ip\" is already registered");
        assert!(message("", 10).contains("1 to 64 ASCII letters"));
        assert!(message("a-b", 10).contains("1 to 64 ASCII letters"));
        assert!(message("a", 3).contains("3 bytes, which must be 4 to 65536"));
        for n in 4..Vars::MAX_VARS {
            vars.register(format!("v{n}"), 10).unwrap();
        }
        assert!(vars.register("more", 10).unwrap_err().to_string().contains("exceeds limit of 32"));
    }

    #[test]
    fn names_from_settings_are_interned() {
        let register = |name: String| Vars::new().register(name, 10).unwrap();
        let (one, other) = (register("tenant".to_owned()), register("tenant".to_owned()));
        assert_eq!(one, other);
        assert!(std::ptr::eq(one.name(), other.name()));
    }

    #[test]
    fn other_serializers_write_the_wire_form() {
        assert_eq!(serde_json::to_string(&Var::USER_AGENT).unwrap(), r#"{"$var":"userAgent"}"#);
    }
}
