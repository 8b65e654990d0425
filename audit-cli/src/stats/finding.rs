//! The findings of `audit stats`.

use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub(super) enum Finding {
    Gap {
        stream: String,
        first_sequence: u64,
        last_sequence: u64,
    },
    /// Records that are in two objects.
    Duplicate {
        stream: String,
        first_sequence: u64,
        last_sequence: u64,
        key: String,
        also: Option<String>,
    },
    /// An object with the same lines as one of another stream. Two hosts may have logged the same.
    SameLines {
        key: String,
        also: String,
    },
    Damaged {
        key: String,
        what: String,
    },
    /// There were no objects to check.
    NoStreams {
        why: String,
    },
}

impl Finding {
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Finding::Gap { .. }
            | Finding::Duplicate { .. }
            | Finding::Damaged { .. }
            | Finding::NoStreams { .. } => true,
            Finding::SameLines { .. } => false,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Finding::Gap { stream, first_sequence, last_sequence } => {
                format!("gap: stream {stream} lacks records {first_sequence} to {last_sequence}")
            }
            Finding::Duplicate { stream, first_sequence, last_sequence, key, also } => {
                let also = also.as_ref().map(|also| format!(" and in {also}")).unwrap_or_default();
                format!(
                    "duplicate: records {first_sequence} to {last_sequence} of stream {stream} are in {key}{also}"
                )
            }
            Finding::SameLines { key, also } => {
                format!("possible copy: {key} has the lines of {also}")
            }
            Finding::Damaged { key, what } => format!("damaged: {key}: {what}"),
            Finding::NoStreams { why } => format!("no streams: {why}"),
        }
    }
}

pub(super) fn print(finding: &Finding, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(finding);
    }
    let style = output.style();
    let text = finding.text();
    output.line(&if finding.is_certain() { style.bad(&text) } else { style.doubtful(&text) })
}
