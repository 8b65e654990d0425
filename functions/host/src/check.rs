//! `serve --check`: checks everything that a start depends on.

use std::error::Error;
use std::sync::Arc;

use audit_core::{Commits, SystemClock};
use audit_host::{Checks, Output};
use functions_calls::Functions;
use functions_program::Program;
use functions_server::auth::Authenticator;
use functions_store::Store;

use crate::serve::env;
use crate::settings::Settings;

/// Checks the functions, addresses, destinations, store and issuers' keys.
///
/// # Errors
///
/// If any check found a problem, with which a start would fail.
pub(crate) async fn check(settings: &Settings, output: &Output) -> Result<(), Box<dyn Error>> {
    let mut checks = Checks::shown_on(output.clone());
    let documents = settings.data_dir.join("documents");
    let store = documents.exists().then(|| Store::open(&documents));
    let app_issuers = check_functions(
        settings,
        store.as_ref().and_then(|store| store.as_ref().ok()),
        &mut checks,
    );
    checks.address("clients", settings.listen).await;
    for (name, address) in
        [("HTTP actions", settings.site_listen), ("operators", settings.operators_listen)]
    {
        if let Some(address) = address {
            checks.address(name, address).await;
        }
    }
    checks.directory("data directory", &settings.data_dir);
    checks.destinations(&settings.destinations).await;
    match store {
        Some(Ok(store)) => {
            store.set_reserve(settings.store_reserve_bytes);
            let mut found = format!("{} can be opened", documents.display());
            if let Commits::Refused { reason } | Commits::Stopped { reason } = store.commits() {
                found.push_str(&format!(", and takes no changes: {reason}"));
            }
            checks.ok("store", found);
        }
        Some(Err(error)) => {
            let remedy = "stop the process that has it open, or restore it from a copy";
            checks.problem("store", &error, remedy);
        }
        None => checks.directory("store", &documents),
    }
    match Authenticator::open(&settings.auth, Arc::new(SystemClock)) {
        Ok(_) => {
            let known = settings.auth.len();
            let found = format!("{known} whose keys can be used, {app_issuers} of auth.config");
            checks.ok("issuers", found);
        }
        Err(error) => checks.problem("issuers", &error, "correct the file that it names"),
    }
    checks.finish()
}

/// Checks the functions and their schemas, also for the documents in the store. Returns how many
/// issuers they name.
fn check_functions(settings: &Settings, store: Option<&Store>, checks: &mut Checks) -> usize {
    let env = env(settings, settings.listen, settings.site_listen);
    let program = match Program::load(&settings.directory, &env) {
        Ok(program) => program,
        Err(error) => {
            checks.problem("functions", &error, "correct them");
            return 0;
        }
    };
    let functions: usize =
        program.components().map(|(_, component)| component.functions().count()).sum();
    let app_issuers = program.auth_providers().len();
    program.warnings().iter().for_each(|warning| checks.warning("functions", warning));
    match Functions::check(program, store) {
        Ok(()) => {
            checks.ok("functions", format!("{functions} in {}", settings.directory.display()))
        }
        Err(error) => checks.problem("functions", &error, "correct them"),
    }
    app_issuers
}
