//! `audit report`: an auditor's report for a period: population, gaps, verification, keys and
//! settings. It is one page that prints well, and JSON; with a key, both are signed.
//!
//! Its content is the output of `stats`, `verify` and `doctor`.

mod page;
mod seal;

use std::path::{Path, PathBuf};

use audit_core::durable;
use audit_evidence::TrustedKey;
use serde_json::{Value, json};

pub(crate) use seal::{check, is_seal};

use crate::arguments::{
    Common, Doctor, Filter, Grouping, Report, Role, Selection, Stats, TrustedKeys, Verify,
};
use crate::bucket::Reader;
use crate::failure::{Failure, Outcome};
use crate::lock::lock;
use crate::output::Output;
use crate::units::{now_ms, shown};
use crate::{doctor, key, keys, stats, verify};

struct Part {
    lines: Vec<Value>,
    /// The reason why the part is missing.
    failed: Option<String>,
    outcome: Outcome,
}

impl Part {
    /// Runs a command and captures its output.
    async fn of(command: impl AsyncFnOnce(&Output) -> Result<Outcome, Failure>) -> Part {
        let output = Output::captured();
        let ended = Box::pin(command(&output)).await;
        let lines = output.captured_lines();
        match ended {
            Ok(outcome) => Part { lines, failed: None, outcome },
            Err(failure) => {
                let failed = Some(audit_core::with_sources(&failure));
                Part { lines, failed, outcome: Outcome::Wrong }
            }
        }
    }

    /// The last line is the summary; the lines before it are details.
    fn summary_and_details(&self) -> (Value, Vec<Value>) {
        match (self.lines.split_last(), &self.failed) {
            (Some((summary, details)), None) => (summary.clone(), details.to_vec()),
            (_, failed) => (json!({ "failed": failed }), self.lines.clone()),
        }
    }
}

pub(crate) async fn run(
    arguments: &Report,
    common: &Common,
    output: &Output,
) -> Result<Outcome, Failure> {
    let signer = arguments.sign.as_deref().map(key::read).transpose()?;
    let (keys, _) = verify::trusted(&trusted(arguments))?;
    let reader = Reader::open(&arguments.source, common)?;
    let quiet = Common { quiet: true, ..common.clone() };
    let (from, to) = (arguments.from, arguments.to);
    let stats = Stats {
        source: arguments.source.clone(),
        selection: Selection { since: Some(from), until: Some(to), stream: None },
        heads: false,
        by: Vec::new(),
        grouping: Grouping::default(),
        filter: Filter::default(),
    };
    let population = Part::of(async |output| stats::run(&stats, &quiet, output).await).await;
    let verification = match verification(arguments) {
        None => None,
        Some(verify) => {
            Some(Part::of(async |output| verify::run(&verify, &quiet, output).await).await)
        }
    };
    let doctor = Doctor {
        source: arguments.source.clone(),
        role: Role::Reader,
        profile: arguments.profile,
        strict: false,
    };
    let settings = Part::of(async |output| doctor::run(&doctor, &quiet, output).await).await;

    let made = reader.store_time_ms().unwrap_or_else(now_ms);
    let head = json!({
        "bucket": reader.name(),
        "from": shown(from.0),
        "to": shown(to.0),
        "made": shown(made - made.rem_euclid(1_000)),
        "software": format!("audit {}", env!("CARGO_PKG_VERSION")),
    });
    let content = content(head, &keys, &population, verification.as_ref(), &settings);
    let json = format!("{:#}\n", content);
    let html = page::render(&content);
    let mut files = vec![("html", html.into_bytes()), ("json", json.into_bytes())];
    if let Some(signer) = &signer {
        let sealed = seal::seal(&files, signer)?;
        files.push(("note", sealed.into_bytes()));
    }
    write(&files, &arguments.output, output).await?;
    let parts = [Some(&population), verification.as_ref(), Some(&settings)];
    if let Some(failed) = parts.iter().flatten().find_map(|part| part.failed.clone()) {
        return Err(Failure::new("the report is incomplete").because(failed));
    }
    // The most serious outcome decides: a problem, then something unproven.
    let outcomes = parts.iter().flatten().map(|part| part.outcome);
    Ok(outcomes
        .filter(|outcome| *outcome != Outcome::Well)
        .min_by_key(|o| o.code())
        .unwrap_or(Outcome::Well))
}

fn trusted(Report { keys, policy, .. }: &Report) -> TrustedKeys {
    TrustedKeys { keys: keys.clone(), policy: policy.clone() }
}

/// The verification, if there are keys to verify with.
fn verification(arguments: &Report) -> Option<Verify> {
    let Report { source, from, keys, policy, written_to, .. } = arguments;
    (!keys.is_empty() || policy.is_some()).then(|| Verify {
        source: source.clone(),
        trusted: trusted(arguments),
        heads: false,
        state: None,
        incremental: false,
        since: Some(*from),
        written_to: written_to.clone(),
        parquet: None,
        receipts: None,
    })
}

/// Writes the files of a report, with these suffixes, and prints their names. Only one process at a
/// time writes them, so that all files are of one report.
async fn write(files: &[(&str, Vec<u8>)], place: &Path, output: &Output) -> Result<(), Failure> {
    let _lock = lock("the report", place, output).await?;
    for (suffix, content) in files {
        let mut file = place.as_os_str().to_owned();
        file.push(format!(".{suffix}"));
        let file = PathBuf::from(file);
        durable::replace(&file, content).map_err(|error| {
            Failure::new(format!("{} cannot be written", file.display())).because(error)
        })?;
        match output.is_json() {
            true => output.json(&json!({ "file": file.display().to_string() }))?,
            false => output.line(&file.display().to_string())?,
        }
    }
    Ok(())
}

fn content(
    head: Value,
    keys: &[TrustedKey],
    population: &Part,
    verification: Option<&Part>,
    settings: &Part,
) -> Value {
    let (population, findings) = population.summary_and_details();
    let (settings, checks) = settings.summary_and_details();
    let verification = verification.map(|part| {
        let (summary, details) = part.summary_and_details();
        let (findings, streams): (Vec<Value>, Vec<Value>) =
            details.into_iter().partition(|line| line.get("finding").is_some());
        json!({ "summary": summary, "findings": findings, "streams": streams })
    });
    let names: Vec<Value> =
        keys.iter().map(|key| json!({ "name": key.key.name(), "key": keys::text(key) })).collect();
    json!({
        "report": head,
        "population": population,
        "findings": findings,
        "verification": verification,
        "keys": names,
        "settings": { "summary": settings, "checks": checks },
    })
}
