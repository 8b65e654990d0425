//! Compares the public API of each crate with its listing in `docs-tests/surface`, or regenerates
//! the listings. Called by `.ci/surface`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use public_api::{Builder, PublicApi};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, documentation, crates @ ..] = &arguments[..] else {
        return Err("surface compare|renew DOCUMENTATION CRATE…".into());
    };
    let mut differs = false;
    for name in crates {
        let json = Path::new(documentation).join(name.replace('-', "_")).with_extension("json");
        let listing = format!("{}/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let found = listed(&json).map_err(|error| format!("{name}: {error}"))?;
        if mode == "renew" {
            fs::write(&listing, &found)?;
        } else {
            differs |= differ(name, &fs::read_to_string(&listing).unwrap_or_default(), &found);
        }
    }
    if differs {
        eprintln!("if that is meant: .ci/surface renew, and say why in the commit");
    }
    Ok(ExitCode::from(u8::from(differs)))
}

/// One item per line, without those from derives, blanket implementations, auto traits, and
/// implementations of `Debug` and `Display`.
fn listed(json: &Path) -> public_api::Result<String> {
    let api: PublicApi = Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    let mut listed = BTreeSet::new();
    let lines = api.items().map(|item| format!("{item}\n"));
    let lines = lines.filter(|line| !line.contains("&mut core::fmt::Formatter"));
    Ok(lines.filter(|line| listed.insert(line.clone())).collect())
}

/// Prints the lines that are in only one of the two listings. Returns whether there are any.
fn differ(name: &str, committed: &str, found: &str) -> bool {
    let only = |sign: char, text: &str, other: &str| {
        let other: Vec<&str> = other.lines().collect();
        let lines = text.lines().filter(|line| !other.contains(line));
        lines.map(|line| eprintln!("{name}: {sign} {line}")).count() > 0
    };
    let removed = only('-', committed, found);
    only('+', found, committed) || removed
}
