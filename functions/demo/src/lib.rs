//! `functions-host demo`: clients call a host, and its audit logs prove that each promise holds.
//!
//! The host is a process of its own, this executable with `serve`, so that it can be killed.
//! Clients know only its address. They use HTTP and WebSocket, each from an address of its own
//! behind a proxy that the host trusts. The proof is read from the bucket. `scene` contains the
//! calls to the main host and the logs that they must produce; `faults.rs` and `modes.rs` those of
//! other hosts.

mod bucket;
mod clients;
mod faults;
mod modes;
mod page;
mod process;
mod promises;
mod receiver;
mod scene;
mod stage;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use audit_core::{SystemClock, SystemRandom, UniqueId};

use self::page::Page;
use self::stage::Stage;

/// The functions of the demonstration: the files of `convex/`.
const FUNCTIONS: &[(&str, &str)] = &[
    ("bodies.ts", include_str!("../convex/bodies.ts")),
    ("convex.config.ts", include_str!("../convex/convex.config.ts")),
    ("counters.ts", include_str!("../convex/counters.ts")),
    ("crons.ts", include_str!("../convex/crons.ts")),
    ("documents.ts", include_str!("../convex/documents.ts")),
    ("limits.ts", include_str!("../convex/limits.ts")),
    ("maintenance.ts", include_str!("../convex/maintenance.ts")),
    ("nested.ts", include_str!("../convex/nested.ts")),
    ("reports.ts", include_str!("../convex/reports.ts")),
    ("schema.ts", include_str!("../convex/schema.ts")),
    ("shares/convex.config.ts", include_str!("../convex/shares/convex.config.ts")),
    ("shares/lib.ts", include_str!("../convex/shares/lib.ts")),
    ("shares/schema.ts", include_str!("../convex/shares/schema.ts")),
];

/// Plays all scenes and prints the proofs. Returns whether every promise holds.
///
/// The host is the current executable, started with `serve`. `variables` are the environment
/// variables that it would read as settings; they are removed from its environment.
///
/// # Errors
///
/// If a scene cannot be played, for example for lack of a port or disk space.
pub async fn run(variables: &[OsString]) -> Result<bool, Box<dyn Error>> {
    let directory = PathBuf::from("audit-data")
        .join(format!("demo-{}", UniqueId::generate(&SystemClock, &SystemRandom)));
    fs::create_dir_all(&directory)
        .map_err(|error| format!("{} cannot be made: {error}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let functions = directory.join("convex");
    write_functions(&functions)?;
    let mut page = Page::new();
    page.begin(&directory);
    let stage = Stage::new(directory.clone(), functions, variables);
    let holds = promises::play(&stage, &mut page).await?;
    page.end(&directory, holds);
    match page.failure() {
        Some(error) => Err(format!("the output cannot be written: {error}").into()),
        None => Ok(holds),
    }
}

fn write_functions(directory: &Path) -> Result<(), Box<dyn Error>> {
    for (name, text) in FUNCTIONS {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}
