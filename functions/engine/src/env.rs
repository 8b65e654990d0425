//! [`Env`].

use std::collections::BTreeMap;
use std::sync::Arc;

/// The environment of functions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Env(Arc<Around>);

#[derive(Debug)]
struct Around {
    variables: BTreeMap<String, String>,
    variables_json: String,
    audit_vars: Vec<String>,
}

impl Env {
    /// An environment with these variables in `process.env`. `audit_vars` are the names of the
    /// audit variables that the host registered in addition to those of the contract (`ip`,
    /// `userAgent`, `requestId`, `now`).
    pub fn new(
        variables: BTreeMap<String, String>,
        audit_vars: impl IntoIterator<Item = String>,
    ) -> Env {
        let variables_json = json_of(&variables);
        let of_the_contract = ["requestId", "ip", "userAgent", "now"].map(str::to_owned);
        let audit_vars = of_the_contract.into_iter().chain(audit_vars).collect();
        Env(Arc::new(Around { variables, variables_json, audit_vars }))
    }

    /// Whether `other` is a clone of this one.
    pub(crate) fn is(&self, other: &Env) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// `process.env` as JSON.
    pub(crate) fn variables_json(&self) -> &str {
        &self.0.variables_json
    }

    pub(crate) fn audit_vars(&self) -> Vec<String> {
        self.0.audit_vars.clone()
    }

    /// The same environment with other variables in `process.env`.
    pub fn with_variables(&self, variables: BTreeMap<String, String>) -> Env {
        let variables_json = json_of(&variables);
        Env(Arc::new(Around { variables, variables_json, audit_vars: self.audit_vars() }))
    }

    /// The variables in `process.env`.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.0.variables
    }
}

/// `process.env` as JSON. Packages look for `NODE_ENV`, which is `production`, as on Convex.
fn json_of(variables: &BTreeMap<String, String>) -> String {
    let mut all = BTreeMap::from([("NODE_ENV", "production")]);
    all.extend(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    serde_json::to_string(&all).unwrap_or_else(|_| "{}".to_owned())
}

impl Default for Env {
    /// An environment without variables in `process.env`, with the contract's audit variables and
    /// `convexActor`.
    fn default() -> Env {
        Env::new(BTreeMap::new(), ["convexActor".to_owned()])
    }
}
