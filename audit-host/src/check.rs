//! Checks what a start needs, without starting.

use std::error::Error;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use audit_core::{descriptors_advice, free_bytes, with_sources};
use audit_journal::{FollowerState, JournalFollower, JournalReader, JournalState};
use audit_sink_http::LogStream;
use audit_sink_s3::{
    Bucket, EvidenceSettings, JournalSettings, OpenError, OpenErrorKind, WitnessSettings,
};
use futures::{StreamExt, stream};
use tokio::net::TcpListener;

use crate::routes::PROBES;
use crate::{Destinations, Output};

/// The checks before a start. Prints a line for each, and whether a start would succeed.
///
/// They do at most what a start does: the bucket is probed with the object `_audit/probe`, and
/// files that test whether a directory is writable are removed again. No record is written or
/// delivered.
#[derive(Debug)]
pub struct Checks {
    output: Output,
    warnings: usize,
    problems: usize,
    /// The addresses that were checked. They are taken until the end, so that two of them cannot be
    /// the same.
    listening: Vec<TcpListener>,
}

/// Asks a log stream whether it can be reached. `waits` says who waits for it.
async fn reached(settings: &audit_sink_http::Settings, waits: &str) -> Found {
    let reached = match LogStream::open(settings.clone()) {
        Ok(stream) => stream.reach().await.map(|status| {
            format!(
                "{stream} is reachable ({status} for HEAD; `audit log-stream test` sends an event): \
                 {waits}"
            )
        }),
        Err(error) => Err(with_sources(&error)),
    };
    let remedy = "correct its settings, its secrets or the network";
    reached.map_err(|what| Problem { what, remedy })
}

/// The owner of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Host,
    /// A host starts although it is away or refuses.
    Tenant,
}

/// The result of a check: the finding, and for a problem also the remedy.
type Found = Result<String, Problem>;

struct Problem {
    what: String,
    remedy: &'static str,
}

impl Problem {
    fn new(error: &(dyn Error + 'static), remedy: &'static str) -> Problem {
        Problem { what: with_sources(error), remedy: descriptors_advice(error).unwrap_or(remedy) }
    }
}

/// What the free space of its disk means for a journal.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Enough as long as the bucket answers.
    UntilAnOutage,
    TooLittle,
}

impl Room {
    fn of(free: u64, settings: &JournalSettings, is_new: bool) -> Room {
        if free < 2 * settings.segment_bytes {
            Room::TooLittle
        } else if free < settings.max_bytes && is_new {
            // A journal in use has part of its bytes already.
            Room::UntilAnOutage
        } else {
            Room::Enough
        }
    }
}

impl Checks {
    /// Creates checks that are printed to this output.
    pub fn shown_on(output: Output) -> Checks {
        Checks { output, warnings: 0, problems: 0, listening: Vec::new() }
    }

    /// Reports a passed check.
    pub fn ok(&mut self, name: &str, found: impl Display) {
        self.line("ok", name, &found.to_string());
    }

    /// Reports something that does not prevent a start but that an operator should know.
    pub fn warning(&mut self, name: &str, found: impl Display) {
        self.warnings += 1;
        self.line("warning", name, &found.to_string());
    }

    /// Reports a problem: a start would fail, or the started host would not work.
    pub fn problem(&mut self, name: &str, error: &(dyn Error + 'static), remedy: &'static str) {
        self.show(name, Err(Problem::new(error, remedy)));
    }

    /// Checks that a data directory is writable or can be created.
    pub fn directory(&mut self, name: &str, directory: &Path) {
        let found = writable(directory).map(|exists| {
            let made = if exists { "can be written to" } else { "will be created" };
            format!("{} {made}", directory.display())
        });
        self.show(name, found.map_err(|error| not_writable(directory, &error)));
    }

    /// Checks that an address is free to listen on, also beside those that were checked before.
    pub async fn address(&mut self, name: &str, address: SocketAddr) {
        let found = match TcpListener::bind(address).await {
            Ok(listening) => {
                self.listening.push(listening);
                Ok(format!("{address} is free"))
            }
            Err(error) => {
                let ports = self.listening.iter().filter_map(|other| other.local_addr().ok());
                let is_own = ports.map(|other| other.port()).any(|port| port == address.port());
                let remedy = match is_own {
                    true => "give each of this host's listeners a port of its own",
                    false => {
                        "stop the program that listens there (perhaps this host), or choose \
                         another address"
                    }
                };
                Err(Problem { what: format!("cannot listen on {address}: {error}"), remedy })
            }
        };
        self.show(name, found);
    }

    /// Checks the buckets, the journal, the evidence key and the log streams.
    pub async fn destinations(&mut self, destinations: &Destinations) {
        if let Some((url, settings)) = &destinations.bucket {
            let probed = probed(url, settings).await;
            self.bucket("bucket", probed, settings, Whose::Host);
            self.routes(destinations, settings).await;
            if let Some(evidence) = &settings.evidence {
                self.key(evidence);
                self.witnesses(&evidence.witnesses).await;
            }
        } else {
            if destinations.log_streams.is_empty() {
                self.warning("bucket", "none: audit logs are checked and discarded");
            }
            self.may_have_routes(destinations);
        }
        if let Some(journal) = destinations.journal_settings() {
            self.journal(journal);
        }
        for settings in &destinations.log_streams {
            let waits = match &settings.journal {
                _ if destinations.follows(settings) => {
                    "it follows the bucket's journal, and no function waits for it"
                }
                Some(_) => "it gets records from the journal",
                None => "functions wait for it",
            };
            self.show(&format!("log stream {}", settings.name), reached(settings, waits).await);
        }
    }

    /// Reports whether the host can be started.
    ///
    /// # Errors
    ///
    /// If it cannot, with the number of problems.
    pub fn finish(self) -> Result<(), Box<dyn Error>> {
        let Checks { output, warnings, problems, listening: _ } = self;
        if problems > 0 {
            return Err(format!("the host cannot be started; problems: {problems}").into());
        }
        output.line(&match warnings {
            0 => "all checks passed: the host can be started".to_owned(),
            _ => format!("the host can be started; warnings: {warnings}"),
        });
        Ok(())
    }

    fn may_have_routes(&mut self, destinations: &Destinations) -> bool {
        let checked = destinations.check_routes();
        let remedy = "correct the settings, or start without routes";
        let is_fine = checked.is_ok();
        if let Err(what) = checked {
            self.show("routes", Err(Problem { what, remedy }));
        }
        is_fine
    }

    async fn routes(&mut self, destinations: &Destinations, settings: &audit_sink_s3::Settings) {
        if !self.may_have_routes(destinations) {
            return;
        }
        let routes = destinations.routes.iter();
        let probes = routes.map(async |route| (route, probed(&route.bucket, settings).await));
        let probed: Vec<_> = stream::iter(probes).buffered(PROBES).collect().await;
        for (route, probed) in probed {
            self.bucket(&format!("route {}", route.name), probed, settings, Whose::Tenant);
        }
        let streams = destinations.routes.iter().flat_map(|route| {
            let named = move |settings| (route, settings);
            route.log_stream.iter().map(named)
        });
        let reached = streams.map(async |(route, settings)| {
            let name = format!("log stream {} of route {}", settings.name, route.name);
            (name, reached(settings, "it follows the route's records in the journal").await)
        });
        let reached: Vec<_> = stream::iter(reached).buffered(PROBES).collect().await;
        reached.into_iter().for_each(|(name, reached)| self.show(&name, reached));
    }

    fn bucket(
        &mut self,
        name: &str,
        probed: Result<(Bucket, bool), OpenError>,
        settings: &audit_sink_s3::Settings,
        whose: Whose,
    ) {
        match probed {
            Ok((bucket, true)) => {
                self.ok(name, format!("{bucket} accepts objects and prevents overwriting"));
            }
            Ok((bucket, false)) if settings.require_create_only => self.show(
                name,
                Err(Problem {
                    what: format!("{bucket} allows overwriting objects"),
                    remedy: "use a store that honours If-None-Match",
                }),
            ),
            Ok((bucket, false)) => {
                self.warning(name, format!("{bucket} accepts objects, but allows overwriting them"))
            }
            Err(error)
                if whose == Whose::Tenant
                    && matches!(
                        error.kind(),
                        OpenErrorKind::Unavailable | OpenErrorKind::Blocked
                    ) =>
            {
                let waits =
                    "the host starts nevertheless, and the tenant's logs wait in the journal";
                self.warning(name, format!("{}: {waits}", with_sources(&error)));
            }
            Err(error) => {
                let remedy = match error.kind() {
                    OpenErrorKind::Configuration => "correct the URL, the environment or the keys",
                    OpenErrorKind::Unavailable => {
                        "check the network and the endpoint; a host with a journal starts \
                         nevertheless, and delivers later"
                    }
                    OpenErrorKind::Blocked
                    | OpenErrorKind::NotCreateOnly
                    | OpenErrorKind::Damaged => {
                        "run `audit doctor` with the same credentials for details"
                    }
                };
                self.problem(name, &error, remedy);
            }
        }
    }

    fn key(&mut self, evidence: &EvidenceSettings) {
        match (evidence.verifier_key(), &evidence.key_file) {
            (Ok(Some(key)), _) => self.ok("evidence key", format!("the public key is {key}")),
            (Ok(None), Some(file)) => {
                let directory = parent(file);
                let found =
                    writable(directory).map(|_| format!("{} will be created", file.display()));
                self.show("evidence key", found.map_err(|error| not_writable(directory, &error)));
            }
            // Without a key file, a missing key is an error.
            (Ok(None), None) => {}
            (Err(error), _) => self.problem("evidence key", &error, "correct the key or its name"),
        }
    }

    async fn witnesses(&mut self, witnesses: &[WitnessSettings]) {
        let tried = witnesses.iter().map(async |witness| (witness, witness.try_out().await));
        let tried: Vec<_> = stream::iter(tried).buffered(PROBES).collect().await;
        for (witness, tried) in tried {
            match tried {
                Ok(()) => self.ok("witness", format!("{} answers", witness.url)),
                Err(error) if error.kind() == OpenErrorKind::Unavailable => {
                    let waits = "the host starts nevertheless, and submits to it later";
                    self.warning("witness", format!("{}: {waits}", with_sources(&error)));
                }
                Err(error) => self.problem("witness", &error, "correct its URL or its key"),
            }
        }
    }

    fn journal(&mut self, settings: &JournalSettings) {
        let directory = &settings.directory;
        let shown = directory.display();
        let is_new = std::fs::read_dir(directory).map_or(true, |mut names| names.next().is_none());
        let waiting = if is_new {
            "will be created".to_owned()
        } else {
            match JournalReader::open(directory) {
                Ok(reader) if reader.state().in_use => {
                    let what = format!("another process has the journal in {shown} open");
                    let remedy = "stop it first, or check with another journal";
                    return self.show("journal", Err(Problem { what, remedy }));
                }
                Ok(reader) => {
                    let JournalState { followers, .. } = reader.state();
                    let misses = |known: &&JournalFollower| {
                        known.state != FollowerState::Retired && !known.missing.is_empty()
                    };
                    let missing = followers.iter().filter(misses);
                    let missing = missing.map(|known| {
                        let routes = &reader.state().routes;
                        let route = routes.iter().find(|route| route.number == known.route);
                        let (of_route, with) = route.map_or_else(Default::default, |route| {
                            let name = &route.name;
                            (format!(" of route {name}"), format!(" --route {name}"))
                        });
                        format!(
                            "; {}{of_route} is missing records, which `audit replay --missing \
                             {shown}{with}` sends",
                            known.name
                        )
                    });
                    let undelivered = reader.state().undelivered();
                    format!("{undelivered} undelivered records{}", missing.collect::<String>())
                }
                Err(error) => {
                    let remedy = "keep the directory as it is: OPERATIONS.md, \"The journal is \
                                  damaged\"";
                    return self.problem("journal", &error, remedy);
                }
            }
        };
        if let Err(error) = writable(directory) {
            return self.show("journal", Err(not_writable(directory, &error)));
        }
        let found = format!("{shown}: {waiting}");
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        let Ok(free) = free_bytes(existing) else { return self.ok("journal", found) };
        let found = format!("{found}; its disk has {} MiB free", free >> 20);
        match Room::of(free, settings, is_new) {
            Room::Enough => self.ok("journal", found),
            Room::UntilAnOutage => {
                let most = settings.max_bytes >> 20;
                let found = format!("{found}, but in an outage the journal may take {most} MiB");
                self.warning("journal", found);
            }
            Room::TooLittle => {
                let remedy = "free the size of two segments, 128 MiB by default";
                self.show("journal", Err(Problem { what: found, remedy }));
            }
        }
    }

    fn show(&mut self, name: &str, found: Found) {
        match found {
            Ok(found) => self.ok(name, found),
            Err(Problem { what, remedy }) => {
                self.problems += 1;
                self.line("problem", name, &format!("{what}: {remedy}"));
            }
        }
    }

    fn line(&self, verdict: &str, name: &str, text: &str) {
        // The text of a store or a library may have several lines.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.output.line(&format!("{verdict:<8} {name:<14} {text}"));
    }
}

/// Probes a bucket. Returns whether it prevents overwriting.
async fn probed(
    url: &str,
    settings: &audit_sink_s3::Settings,
) -> Result<(Bucket, bool), OpenError> {
    let bucket = Bucket::open(url)?;
    let is_create_only = bucket.probe(settings).await?;
    Ok((bucket, is_create_only))
}

fn not_writable(directory: &Path, error: &io::Error) -> Problem {
    Problem {
        what: format!("{} cannot be written to: {error}", directory.display()),
        remedy: descriptors_advice(error)
            .unwrap_or("check its owner and permissions, and the mount"),
    }
}

/// Writes, syncs and removes a file in a directory, or in its nearest existing parent. Returns
/// whether the directory exists.
fn writable(directory: &Path) -> io::Result<bool> {
    let exists = directory.try_exists()?;
    if !exists {
        // The parent of a relative path with one part is "".
        return writable(parent(directory)).map(|_| false);
    }
    let file = directory.join(format!(".audit-check-{}", std::process::id()));
    let written =
        OpenOptions::new().write(true).create_new(true).open(&file).and_then(|mut new| {
            new.write_all(b"audit --check\n")?;
            new.sync_all()
        });
    let removed = std::fs::remove_file(&file);
    written.and(removed).map(|()| true)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_space_of_a_disk_is_judged_for_a_journal() {
        let mut settings = JournalSettings::new("journal");
        settings.segment_bytes = 64;
        settings.max_bytes = 1000;
        for (free, is_new, expected) in [
            (0, true, Room::TooLittle),
            (127, false, Room::TooLittle),
            (128, true, Room::UntilAnOutage),
            (128, false, Room::Enough),
            (999, true, Room::UntilAnOutage),
            (1000, true, Room::Enough),
        ] {
            assert_eq!(Room::of(free, &settings, is_new), expected, "{free} {is_new}");
        }
    }
}
