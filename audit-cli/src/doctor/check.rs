//! A check and its result.

use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// It works, but could be safer.
    Warning,
    /// Something that must work does not, or something that must not work does.
    Problem,
    /// It could not be checked or does not apply.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// What was observed.
    pub(super) said: String,
    /// What to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

pub(super) fn print(check: &Check, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(check);
    }
    let style = output.style();
    let Check { check, verdict, said, advice } = check;
    let mark = match verdict {
        Verdict::Ok => style.good("ok     "),
        Verdict::Warning => style.doubtful("warning"),
        Verdict::Problem => style.bad("PROBLEM"),
        Verdict::Unknown => style.faint("unknown"),
    };
    output.line(&format!("{mark}  {check:14}  {said}"))?;
    match advice {
        Some(advice) => output.line(&format!("{:25}→ {advice}", "")),
        None => Ok(()),
    }
}
