//! Validation of arguments and results against a function's validators.

use std::collections::HashMap;
use std::fmt;

use functions_program::Program;
use functions_value::{ComponentPath, Validator, Value, check_encoded};
use serde_json::Value as Json;

use super::call::Failed;
use super::reference::Target;

/// The maximum size of arguments, and of a result, in bytes: as on Convex.
const MAX_BYTES: usize = 16 << 20;

fn check_size(what: &str, bytes: usize) -> Result<(), String> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(format!("{what} of {bytes} bytes exceeds limit of {MAX_BYTES} bytes"))
}

/// The parsed validators of all functions of a program.
#[derive(Debug)]
pub(super) struct Validators(HashMap<ComponentPath, HashMap<String, Declared>>);

#[derive(Debug)]
struct Declared {
    args: Validator,
    returns: Option<Validator>,
}

impl Validators {
    /// Parses the validators of all functions.
    ///
    /// # Errors
    ///
    /// A validator is invalid. The message names its function.
    pub(super) fn of(program: &Program) -> Result<Validators, String> {
        let mut all = HashMap::new();
        for (path, component) in program.components() {
            let mut functions = HashMap::new();
            for function in component.functions() {
                let parse = |json: &Json| {
                    Validator::from_json(json)
                        .map_err(|error| format!("{}: {error}", function.name))
                };
                let returns =
                    Some(&function.returns).filter(|returns| !returns.is_null()).map(parse);
                let declared =
                    Declared { args: parse(&function.args)?, returns: returns.transpose()? };
                functions.insert(function.name.clone(), declared);
            }
            all.insert(path.clone(), functions);
        }
        Ok(Validators(all))
    }

    fn of_function(&self, target: &Target<'_>) -> Option<&Declared> {
        self.0.get(&target.component)?.get(&target.function.name)
    }

    /// Checks the arguments of a function. `is_nested` means that they come from another function
    /// of the same transaction. `is_id(table, text)` returns whether a text is an id of a table.
    ///
    /// # Errors
    ///
    /// The arguments are invalid. The message is for the caller.
    pub(super) fn check_arguments(
        &self,
        target: &Target<'_>,
        args: &Json,
        is_nested: bool,
        is_id: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), String> {
        let read = if is_nested { Value::from_json_of_mutation } else { Value::from_json };
        let args = read(args.clone())
            .map_err(|error| format!("the arguments are not a Convex value: {error}"))?;
        if !matches!(args, Value::Object(_)) {
            return Err("the arguments must be an object".to_owned());
        }
        check_size("an object of arguments", args.size())?;
        let Some(declared) = self.of_function(target) else { return Ok(()) };
        declared
            .args
            .check(&args, is_id)
            .map_err(|message| format!("ArgumentValidationError: {message}"))
    }

    /// Checks the result of a function, given as JSON text. With `is_of_mutation`, the result can
    /// contain the commit time, which the commit fills in. Results that pass are sent to clients
    /// and caches without any other change.
    ///
    /// # Errors
    ///
    /// The result is invalid. The message is for the caller.
    pub(super) fn check_returned(
        &self,
        target: &Target<'_>,
        value: &str,
        is_of_mutation: bool,
        is_id: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), String> {
        let invalid = |error: &dyn fmt::Display| format!("the result is not a value: {error}");
        let Some(returns) = self.of_function(target).and_then(|declared| declared.returns.as_ref())
        else {
            let size = check_encoded(value, is_of_mutation).map_err(|error| invalid(&error))?;
            return check_size("a result", size);
        };
        let json: Json = serde_json::from_str(value).map_err(|error| invalid(&error))?;
        let read = if is_of_mutation { Value::from_json_of_mutation } else { Value::from_json };
        let value = read(json).map_err(|error| invalid(&error))?;
        check_size("a result", value.size())?;
        returns.check(&value, is_id).map_err(|message| format!("ReturnsValidationError: {message}"))
    }
}

/// A failure of a function, with its data if that is a value.
pub(super) fn failed(message: String, data: Option<String>, is_nested: bool) -> Failed {
    match data.as_deref().map(|data| check_encoded(data, is_nested)).transpose() {
        Ok(_) => Failed { message, data },
        Err(error) => {
            let message = format!("{message} (its data is not a value: {error})");
            Failed { message, data: None }
        }
    }
}
