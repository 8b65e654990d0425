//! The values of variables that a host registered.

use std::fmt;
use std::sync::Arc;

use crate::var::Var;

/// The value of a host's variable in one request.
#[derive(Clone, PartialEq, Eq)]
pub struct HostValue {
    var: Var,
    json: Arc<[u8]>,
}

impl HostValue {
    /// The maximum nesting of objects and arrays, in levels.
    pub const MAX_DEPTH: u32 = 16;

    /// `json` must have been compiled under the rules for `var`.
    pub(crate) fn compiled(var: Var, json: Vec<u8>) -> HostValue {
        HostValue { var, json: json.into() }
    }

    /// The variable.
    pub fn var(&self) -> Var {
        self.var
    }

    /// The value as JSON.
    pub fn as_json(&self) -> &[u8] {
        &self.json
    }
}

impl fmt::Debug for HostValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.var.name(), String::from_utf8_lossy(&self.json))
    }
}
