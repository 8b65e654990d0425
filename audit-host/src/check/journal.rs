//! The check of a journal.

use std::path::Path;

use audit_core::free_bytes;
use audit_journal::{FollowerState, JournalFollower, JournalReader, JournalRoute, JournalState};
use audit_sink_s3::JournalSettings;

use super::{Checks, Found, Problem, not_writable, writable};

/// Whether the free space of a disk is enough for a journal.
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
    pub(super) fn journal(&mut self, settings: &JournalSettings) {
        let directory = &settings.directory;
        let shown = directory.display();
        // Not every file is a journal's: `lost+found`, or that of a check by another host.
        let is_new = !JournalReader::finds(directory).unwrap_or(false);
        let waiting = match is_new {
            true => Ok("will be created".to_owned()),
            false => waiting(directory),
        };
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(problem) => return self.show("journal", Err(problem)),
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
}

/// Describes the records that wait in an existing journal.
fn waiting(directory: &Path) -> Found {
    let shown = directory.display();
    let reader = JournalReader::open(directory).map_err(|error| {
        let remedy = "keep the directory as it is: OPERATIONS.md, \"The journal is damaged\"";
        Problem::new(&error, remedy)
    })?;
    let JournalState { in_use, followers, routes, .. } = reader.state();
    if *in_use {
        let what = format!("another process has the journal in {shown} open");
        let remedy = "stop it first, or check with another journal";
        return Err(Problem { what, remedy });
    }
    let misses = |known: &&JournalFollower| {
        known.state != FollowerState::Retired && !known.missing.is_empty()
    };
    let missing = followers.iter().filter(misses).map(|known| {
        let route = routes.iter().find(|route| route.number == known.route);
        let (of_route, with) = route
            .map_or_else(Default::default, |JournalRoute { name, .. }| {
                (format!(" of route {name}"), format!(" --route {name}"))
            });
        format!(
            "; {}{of_route} is missing records, which `audit replay --missing {shown}{with}` sends",
            known.name
        )
    });
    let undelivered = reader.state().undelivered();
    Ok(format!("{undelivered} undelivered records{}", missing.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_make_no_journal() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        std::fs::write(root.path().join(".audit-check-7"), "").unwrap();
        let output = crate::Output::stderr();
        let mut settings = JournalSettings::new(root.path());
        settings.max_bytes = 1;
        settings.segment_bytes = 0;
        let mut checks = Checks::shown_on(output.clone());
        checks.journal(&settings);
        assert_eq!((checks.problems, checks.warnings), (0, 0));
        // A file of a journal does.
        std::fs::write(root.path().join("00000001.journal"), "damaged").unwrap();
        checks.journal(&settings);
        assert_eq!((checks.problems, checks.warnings), (1, 0));
    }

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
