//! Checks what a start needs, without starting.

mod destinations;
mod journal;

use std::error::Error;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use audit_core::{
    SystemClock, SystemRandom, UniqueId, descriptors_advice, followed_by, with_sources,
};
use tokio::net::TcpListener;

use crate::{Output, shortened};

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
    /// Listeners on the checked addresses. They stay open until the end, so that an address that is
    /// set twice is a problem.
    listening: Vec<TcpListener>,
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

    /// Checks that a file that does not exist can be created.
    pub fn new_file(&mut self, name: &str, file: &Path) {
        let directory = parent(file);
        let found = writable(directory).map(|_| format!("{} will be created", file.display()));
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

    fn show(&mut self, name: &str, found: Found) {
        match found {
            Ok(found) => self.ok(name, found),
            Err(Problem { what, remedy }) => {
                self.problems += 1;
                self.line("problem", name, &followed_by(&what, remedy));
            }
        }
    }

    fn line(&self, verdict: &str, name: &str, text: &str) {
        // The text of a store or a library may have several lines.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.output.line(&format!("{verdict:<8} {name:<14} {}", shortened(&text)));
    }
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
    if !exists && directory.is_symlink() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it is a link that leads nowhere"));
    }
    if !exists {
        // The parent of a relative path with one part is "".
        return writable(parent(directory)).map(|_| false);
    }
    // Processes in containers may share the directory, and a process number.
    let id = UniqueId::generate(&SystemClock, &SystemRandom);
    let file = directory.join(format!(".audit-check-{id}"));
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_created_is_told_from_what_is_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (link, to) in [("link", "directory"), ("dangling", "nowhere"), ("loop", "loop")] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        for (path, exists) in [
            ("directory", Some(true)),
            ("link", Some(true)),
            ("new", Some(false)),
            ("new/below", Some(false)),
            ("link/new/below", Some(false)),
            ("file", None),
            ("file/below", None),
            ("dangling", None),
            ("dangling/below", None),
            ("loop", None),
        ] {
            let found = writable(&at(path));
            assert_eq!(found.as_ref().ok(), exists.as_ref(), "{path}: {found:?}");
        }
        let error = writable(&at("dangling/below")).unwrap_err();
        assert_eq!(error.to_string(), "it is a link that leads nowhere");
    }

    #[test]
    fn hosts_check_one_directory_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| assert!(writable(root.path()).unwrap())));
            }
        });
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }
}
