//! Variables for functions, in `process.env`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A variable for functions. Its value is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EnvVar {
    pub(super) name: String,
    pub(super) value: String,
}

impl EnvVar {
    pub(super) fn new(name: &str, value: &str) -> Result<EnvVar, String> {
        let mut letters = name.chars();
        let begins =
            letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            // Not quoted: the text may be a value given by mistake.
            return Err(
                "the name of a variable has letters, digits and `_`, and no digit first".to_owned()
            );
        }
        Ok(EnvVar { name: name.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for EnvVar {
    type Err = String;

    fn from_str(text: &str) -> Result<EnvVar, String> {
        let (name, value) = text.split_once('=').ok_or("a variable is NAME=VALUE")?;
        EnvVar::new(name, value)
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=..", self.name)
    }
}

/// Variables for functions. `Debug` shows their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct FunctionEnv(pub(crate) BTreeMap<String, String>);

impl fmt::Debug for FunctionEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
