//! `--check`: checks what a start needs.

use std::error::Error;
use std::path::PathBuf;

use audit_host::{Checks, Output};

use crate::database::Database;
use crate::settings::Settings;

/// Checks the addresses, the destinations and the database. An error means that a start would fail.
pub(crate) async fn check(settings: &Settings, out: &Output) -> Result<(), Box<dyn Error>> {
    let destinations = settings.destinations()?;
    let operators = settings.operators_listen()?;
    let url = settings.database_url()?;
    let mut checks = Checks::shown_on(out.clone());
    checks.address("clients", settings.listen).await;
    if let Some(address) = operators {
        checks.address("operators", address).await;
    }
    checks.directory("data directory", &settings.data_dir);
    checks.destinations(&destinations).await;
    // SQLite creates a file, if it may, but no directory. The host creates its data directory.
    let is_new = |file: &PathBuf| {
        let directory = file.parent();
        !file.exists() && directory.is_some_and(|it| it.exists() || *it == *settings.data_dir)
    };
    match settings.database_file().filter(is_new) {
        Some(file) => checks.new_file("database", &file),
        None => match Database::open(&url, settings.turns()).await {
            Ok(_) => checks.ok("database", "reachable, and has its tables"),
            Err(error) => {
                let remedy = "correct the URL, or check the database and its permissions";
                checks.problem("database", &error, remedy);
            }
        },
    }
    checks.finish()
}
