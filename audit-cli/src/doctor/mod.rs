//! `audit doctor`: checks, with the credentials of a host or a reader, what must work and what must
//! not.

mod check;
mod examination;
mod leftovers;
mod permissions;
mod policy;
mod profile;
mod reading;
mod refusal;
mod wire;
mod writing;

use serde::Serialize;

use check::{Verdict, print};
use examination::Examination;
pub(crate) use policy::print as print_policy;

use crate::arguments::{Common, Doctor};
use crate::bucket::to_url;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::units::counted;

#[derive(Serialize)]
struct Summary {
    bucket: String,
    role: &'static str,
    problems: usize,
    warnings: usize,
    unknown: usize,
}

pub(crate) async fn run(
    arguments: &Doctor,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let url = to_url(&arguments.source.bucket)?;
    let mut examination = Examination::new(&url, arguments.role, common)?;
    examination.run(arguments.profile).await;
    let Examination { checks, bucket, progress, .. } = examination;
    drop(progress);
    for check in &checks {
        print(check, output)?;
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (problems, warnings, unknown) =
        (count(Verdict::Problem), count(Verdict::Warning), count(Verdict::Unknown));
    let role = arguments.role.name();
    if output.is_json() {
        output.json(&Summary { bucket: bucket.to_string(), role, problems, warnings, unknown })?;
    } else {
        let style = output.style();
        let text = format!(
            "{}, {}, {unknown} unknown: {bucket} as a {role}",
            counted(problems as u64, "problem"),
            counted(warnings as u64, "warning")
        );
        output.line(&if problems > 0 { style.bad(&text) } else { style.good(&text) })?;
        if problems > 0 && url.starts_with("s3:") {
            output.line("")?;
            output.line(&format!(
                "The policy that a {role} needs, and no other (audit policy {role} {bucket}):"
            ))?;
            output.text(&policy::filled(arguments.role.policy(), &url)?)?;
        }
    }
    Ok(Outcome::wrong_if(problems > 0 || (arguments.strict && warnings > 0)))
}
