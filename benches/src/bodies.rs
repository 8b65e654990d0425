//! Bodies and requests that all measurements share, so that their numbers can be compared.
//!
//! What a function logs as a rule is a [`View`] of one of three sizes; what could hurt is
//! [`Nasty`].

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

/// A view of a document: four variables, two of them nested.
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

    /// About 1.2 KB, of another user about another document than those of other numbers.
    pub fn numbered(n: u64) -> View {
        let id = scattered(n);
        let mut view = View::of_one_kilobyte();
        view.actor.subject = format!("{id:016x}");
        view.actor.token_identifier = format!("https://auth.example.com|{id:016x}");
        view.document.id = format!("{:016x}", scattered(id));
        view.document.title = format!("Report {} of {}, draft {}", id % 977, id % 53, id % 7);
        view.document.revision = id >> 12;
        for (n, value) in view.metadata.values_mut().enumerate() {
            let id = scattered(id.wrapping_add(n as u64));
            match value {
                Metadata::Text(text) => {
                    *text = format!(
                        "The property \"{:x}\" of the document, number {}",
                        id >> 24,
                        id % 1_000
                    )
                }
                Metadata::Number(number) => *number = (id >> 40) as f64 / 128.0,
                Metadata::Flag(flag) => *flag = id.is_multiple_of(2),
                Metadata::List(list) => list
                    .iter_mut()
                    .enumerate()
                    .for_each(|(n, value)| *value = (id >> (8 * n)) as u32 % 256),
            }
        }
        view
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

/// A number that looks random (SplitMix64).
pub fn scattered(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// What could hurt: hundreds of variables a few bytes apart, text of which every other byte needs
/// an escape, and objects in arrays down to a depth of 61. About 35 KB once it is rendered.
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
