//! Options of `audit report`.

use std::path::PathBuf;

use audit_evidence::TrustedKey;
use clap::Args;

use super::{Profile, Source};
use crate::keys;
use crate::units::Moment;

#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) source: Source,

    /// The beginning of the period: 2026-11-01, or an age such as 30d
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Moment,

    /// The end of the period, exclusive, in the same form as --from. Whole hours are counted
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Moment,

    /// The files to write, without their suffixes: .html, .json, and .note if it is signed
    #[arg(long, short, value_name = "FILE", default_value = "audit-report")]
    #[arg(value_parser = beginning)]
    pub(crate) output: PathBuf,

    /// The verifier key of a host, as `audit key` prints it, or a file that holds it: what was
    /// written from the beginning of the period on is verified. May be given several times
    #[arg(
        long = "key",
        value_name = "KEY",
        env = "AUDIT_VERIFIER_KEY",
        value_parser = keys::trusted
    )]
    pub(crate) keys: Vec<TrustedKey>,

    /// The bucket's name as its hosts write it, as for `verify`
    #[arg(long, value_name = "URL")]
    pub(crate) written_to: Vec<String>,

    /// The keys to trust: a tlog-policy file, as for `verify`
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Sign the report with the key in this file: see `audit key FILE --make NAME`. `audit check
    /// REPORT.note REPORT.html --key KEY` checks it
    #[arg(long, value_name = "FILE")]
    pub(crate) sign: Option<PathBuf>,

    /// Also compare the bucket's settings with the requirements of a rule, as `doctor` does
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
}

/// Parses the path of the report's files without their suffixes. A directory is refused: its files
/// would be named only by their suffixes, such as `.html`, and be hidden.
fn beginning(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.file_name().is_none() || text.ends_with('/') {
        return Err("name the files, without their suffixes: reports/2026-11".to_owned());
    }
    Ok(path)
}
