//! Bodies and requests that the benchmarks share, so that their numbers can be compared.
//!
//! Run one suite with `cargo bench -p audit-benches --bench templates`; `-- --warm-up-time 0.5 --measurement-time 1` is
//! enough to see a ratio. What a function logs as a rule is a [`View`] of one of three sizes; what could hurt is [`Nasty`].

use std::collections::BTreeMap;

use audit_vars::Var;
use serde::Serialize;

/// The `User-Agent` of a common browser, 117 bytes.
pub const USER_AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
                              Chrome/142.0.0.0 Safari/537.36";

/// A request's identifier as this engine makes them.
pub const REQUEST_ID: &str = "01KAXQ2Z4N8W6T3V5R7Y9B1C0D";

/// The time of all renderings, in milliseconds since the Unix epoch.
pub const NOW_MS: i64 = 1_764_000_000_000;

/// Who looked at which document: four variables, two of them deep inside.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    action: &'static str,
    actor: Actor,
    document: Document,
    metadata: BTreeMap<String, Metadata>,
    at: Var,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Actor {
    ip: Var,
    user_agent: Var,
    request_id: Var,
    subject: String,
    token_identifier: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    id: String,
    table: &'static str,
    title: String,
    owner: Option<String>,
    revision: u64,
    tags: Vec<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Metadata {
    Text(String),
    Number(f64),
    Flag(bool),
    List(Vec<u32>),
}

impl View {
    /// About 0.5 KB once it is rendered, of which a third comes from variables.
    pub fn of_half_a_kilobyte() -> View {
        View::with_metadata(0)
    }

    /// About 1.2 KB.
    pub fn of_one_kilobyte() -> View {
        View::with_metadata(16)
    }

    /// About 10 KB.
    pub fn of_ten_kilobytes() -> View {
        View::with_metadata(236)
    }

    /// `count` more members, of about 45 bytes on average.
    fn with_metadata(count: u32) -> View {
        let metadata = (0..count).map(|n| {
            let value = match n % 4 {
                0 => Metadata::Text(format!(
                    "The {n}th property of the document, \"quoted\" as \u{201c}text\u{201d}"
                )),
                1 => Metadata::Number(f64::from(n) * 1.37),
                2 => Metadata::Flag(n % 8 == 2),
                _ => Metadata::List((n..n + 5).collect()),
            };
            (format!("property_{n:03}"), value)
        });
        View {
            action: "documents.view",
            actor: Actor {
                ip: Var::IP,
                user_agent: Var::USER_AGENT,
                request_id: Var::REQUEST_ID,
                subject: "k57d2x9q4m8w1z3v".to_owned(),
                token_identifier: "https://auth.example.com|k57d2x9q4m8w1z3v".to_owned(),
            },
            document: Document {
                id: "jd7c0y3p5r9t1b6n".to_owned(),
                table: "documents",
                title: "Quarterly report, third draft".to_owned(),
                owner: None,
                revision: 1_764_000_000_000_123,
                tags: vec!["draft", "finance"],
            },
            metadata: metadata.collect(),
            at: Var::NOW,
        }
    }
}

/// What could hurt: hundreds of variables a few bytes apart, text of which every other byte needs an escape, and
/// objects in arrays down to a depth of 61. About 35 KB once it is rendered.
#[derive(Debug, Clone, Serialize)]
pub struct Nasty {
    variables: Vec<[Var; 4]>,
    escapes: Vec<String>,
    deep: Deep,
}

#[derive(Debug, Clone, Serialize)]
struct Deep {
    at: Var,
    below: Vec<Deep>,
}

impl Nasty {
    /// The only one there is.
    pub fn new() -> Nasty {
        let leaf = Deep { at: Var::NOW, below: Vec::new() };
        Nasty {
            variables: vec![[Var::IP, Var::USER_AGENT, Var::REQUEST_ID, Var::NOW]; 100],
            escapes: vec!["\"a\\b\nc\u{1}d".repeat(20); 40],
            deep: (0..29).fold(leaf, |below, _| Deep { at: Var::NOW, below: vec![below] }),
        }
    }
}

impl Default for Nasty {
    fn default() -> Nasty {
        Nasty::new()
    }
}
