//! Tries what a start needs, before a start.

use std::error::Error;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use audit_journal::{FollowerState, JournalFollower, JournalReader, JournalState};
use audit_sink_http::LogStream;
use audit_sink_s3::{Bucket, EvidenceSettings, JournalSettings, OpenErrorKind};
use tokio::net::TcpListener;

use crate::{Destinations, Output};

/// The checks before a start: one line for each, and whether a start would succeed.
///
/// They do what a start does at most: the bucket is asked for the object `_audit/probe`, files that
/// prove that a directory can be written to are removed again. No record is written and nothing is
/// delivered.
#[derive(Debug)]
pub struct Checks {
    output: Output,
    warnings: usize,
    problems: usize,
}

/// The result of a check: what was found, and for a problem also what to do.
type Found = Result<String, Problem>;

struct Problem {
    what: String,
    remedy: &'static str,
}

impl Problem {
    fn new(error: &(dyn Error + 'static), remedy: &'static str) -> Problem {
        Problem { what: chain(error), remedy }
    }
}

impl Checks {
    /// Checks that are shown on this output.
    pub fn shown_on(output: Output) -> Checks {
        Checks { output, warnings: 0, problems: 0 }
    }

    /// Something is as it should be.
    pub fn ok(&mut self, name: &str, found: impl Display) {
        self.line("ok", name, &found.to_string());
    }

    /// A start would succeed, but an operator should know.
    pub fn warning(&mut self, name: &str, found: impl Display) {
        self.warnings += 1;
        self.line("warning", name, &found.to_string());
    }

    /// A start would fail, or what it starts would not work.
    pub fn problem(&mut self, name: &str, error: &(dyn Error + 'static), remedy: &'static str) {
        self.show(name, Err(Problem::new(error, remedy)));
    }

    /// A directory for data: it exists and can be written to, or can be created.
    pub fn directory(&mut self, name: &str, directory: &Path) {
        let found = writable(directory).map(|exists| {
            let made = if exists { "can be written to" } else { "will be made" };
            format!("{} {made}", directory.display())
        });
        self.show(name, found.map_err(|error| not_writable(directory, &error)));
    }

    /// An address to listen on.
    pub async fn address(&mut self, name: &str, address: SocketAddr) {
        let found = TcpListener::bind(address).await.map(|_| format!("{address} is free"));
        let found = found.map_err(|error| Problem {
            what: format!("cannot listen on {address}: {error}"),
            remedy: "stop what listens there, perhaps this host, or choose another address",
        });
        self.show(name, found);
    }

    /// Bucket, journal, evidence key and log streams.
    pub async fn destinations(&mut self, destinations: &Destinations) {
        if let Some((url, settings)) = &destinations.bucket {
            self.bucket(url, settings).await;
            if let Some(evidence) = &settings.evidence {
                self.key(evidence);
            }
        } else if destinations.log_streams.is_empty() {
            self.warning("bucket", "none: audit logs are checked and thrown away");
        }
        if let Some(journal) = destinations.journal_settings() {
            self.journal(journal);
        }
        for settings in &destinations.log_streams {
            let reached = match LogStream::open(settings.clone()) {
                Ok(stream) => stream.reach().await.map(|status| {
                    let waits = match &settings.journal {
                        _ if destinations.follows(settings) => {
                            "it follows the bucket's journal, and no function waits for it"
                        }
                        Some(_) => "it gets records from the journal",
                        None => "functions wait for it",
                    };
                    format!(
                        "{stream} is there ({status} for HEAD; `audit log-stream test` sends an \
                         event): {waits}"
                    )
                }),
                Err(error) => Err(chain(&error)),
            };
            let remedy = "correct its settings or secrets, or the network between";
            let name = format!("log stream {}", settings.name);
            self.show(&name, reached.map_err(|what| Problem { what, remedy }));
        }
    }

    /// Shows that the host can be started.
    ///
    /// # Errors
    ///
    /// That it cannot, with the number of problems.
    pub fn finish(self) -> Result<(), Box<dyn Error>> {
        let Checks { output, warnings, problems } = self;
        if problems > 0 {
            return Err(format!("the host cannot be started as it is; problems: {problems}").into());
        }
        output.line(&match warnings {
            0 => "all is well: the host can be started".to_owned(),
            _ => format!("the host can be started; warnings: {warnings}"),
        });
        Ok(())
    }

    async fn bucket(&mut self, url: &str, settings: &audit_sink_s3::Settings) {
        let probed = async {
            let bucket = Bucket::open(url)?;
            let is_create_only = bucket.probe(settings).await?;
            Ok::<_, audit_sink_s3::OpenError>((bucket, is_create_only))
        };
        match probed.await {
            Ok((bucket, true)) => {
                self.ok("bucket", format!("{bucket} takes objects and lets none be overwritten"));
            }
            Ok((bucket, false)) if settings.require_create_only => self.show(
                "bucket",
                Err(Problem {
                    what: format!("{bucket} lets objects be overwritten"),
                    remedy: "use a store that honours If-None-Match",
                }),
            ),
            Ok((bucket, false)) => self.warning(
                "bucket",
                format!("{bucket} takes objects, but protects none from being overwritten"),
            ),
            Err(error) => {
                let remedy = match error.kind() {
                    OpenErrorKind::Configuration => "correct the URL, the environment or the keys",
                    OpenErrorKind::Unavailable => {
                        "see to the network and the endpoint; a host with a journal starts all the \
                         same, and delivers later"
                    }
                    OpenErrorKind::Blocked
                    | OpenErrorKind::NotCreateOnly
                    | OpenErrorKind::Damaged => {
                        "`audit doctor` with the same credentials says more"
                    }
                };
                self.problem("bucket", &error, remedy);
            }
        }
    }

    fn key(&mut self, evidence: &EvidenceSettings) {
        match (evidence.verifier_key(), &evidence.key_file) {
            (Ok(Some(key)), _) => self.ok("evidence key", format!("the public key is {key}")),
            (Ok(None), Some(file)) => {
                let directory = parent(file);
                let found = writable(directory).map(|_| format!("{} will be made", file.display()));
                self.show("evidence key", found.map_err(|error| not_writable(directory, &error)));
            }
            // Without a file a key is there or missing with an error.
            (Ok(None), None) => {}
            (Err(error), _) => self.problem("evidence key", &error, "correct the key or its name"),
        }
    }

    fn journal(&mut self, settings: &JournalSettings) {
        let directory = &settings.directory;
        let shown = directory.display();
        let is_new = std::fs::read_dir(directory).map_or(true, |mut names| names.next().is_none());
        let waiting = if is_new {
            "will be made".to_owned()
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
                        format!(
                            "; {} misses records, which `audit replay --missing {shown}` sends",
                            known.name
                        )
                    });
                    let undelivered = reader.state().undelivered();
                    format!(
                        "{undelivered} records wait for delivery{}",
                        missing.collect::<String>()
                    )
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
        match free_bytes(directory) {
            Some(free) if free < 2 * settings.segment_bytes => {
                let what = format!("{found}, and its disk has {} MiB free", free >> 20);
                let remedy = "free as much as two segments take, 128 MiB by default";
                self.show("journal", Err(Problem { what, remedy }));
            }
            Some(free) if free < settings.max_bytes && is_new => {
                let (free, most) = (free >> 20, settings.max_bytes >> 20);
                self.warning(
                    "journal",
                    format!(
                        "{found}; its disk has {free} MiB free, and in an outage it may take {most} MiB"
                    ),
                );
            }
            Some(free) => {
                self.ok("journal", format!("{found}; its disk has {} MiB free", free >> 20))
            }
            None => self.ok("journal", found),
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
        // One line each, whatever a store or a library says.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.output.line(&format!("{verdict:<8} {name:<14} {text}"));
    }
}

fn not_writable(directory: &Path, error: &io::Error) -> Problem {
    Problem {
        what: format!("{} cannot be written to: {error}", directory.display()),
        remedy: "see to its owner and permissions, and to the mount",
    }
}

/// Writes, syncs and removes a file in a directory, or, if it does not exist, in the nearest parent
/// that does. Returns whether it exists.
fn writable(directory: &Path) -> io::Result<bool> {
    let exists = directory.try_exists()?;
    if !exists {
        // A relative path of one part has the parent "".
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

/// What an unprivileged process may still write on the disk of a directory, or of its nearest
/// parent that exists.
#[cfg(unix)]
fn free_bytes(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(existing).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
