//! Leftovers of dead writers in a directory.

use audit_sink_s3::layout::{Listed, Partition};
use futures::TryStreamExt;

use super::examination::Examination;
use crate::units::counted;

/// Files of writers that died before they finished an object.
#[derive(Debug, Default)]
struct Leftovers {
    count: u64,
    example: String,
}

impl Examination {
    /// Only directories have them: a store accepts an object completely or not at all.
    ///
    /// When a sink opens a directory, it removes its own dead writers' files, since a free lock
    /// proves that a writer is dead. Files named `<key>#<digits>`, of other programs and earlier
    /// versions, have no lock: only their age tells whether their writers are dead.
    pub(super) async fn leftovers(&mut self) {
        if !self.is_directory {
            return;
        }
        match self.find_leftovers().await {
            Ok(Leftovers { count: 0, .. }) => {
                self.ok("leftovers", "no writer that died left a file");
            }
            Ok(Leftovers { count, example }) => {
                let said =
                    format!("dead writers left {}, such as {example}", counted(count, "file"));
                let advice = "they hold nothing that was acknowledged and is not in an object too, and engines that read whole directories fail on them: remove those that are older than any write takes: find DIRECTORY -name '*.ndjson*#[0-9]*' -mmin +60 -delete";
                self.warning("leftovers", said, advice);
            }
            Err(error) => {
                self.unknown("leftovers", self.describe(&error));
            }
        }
    }

    async fn find_leftovers(&self) -> object_store::Result<Leftovers> {
        let mut found = Leftovers::default();
        let days = self.bucket.level(None).await?.partitions;
        for day in days.iter().filter(|partition| Partition::is_day(partition)) {
            for hour in self.bucket.level(Some(day)).await?.partitions {
                let mut listed = std::pin::pin!(self.bucket.list(&hour));
                while let Some(listed) = listed.try_next().await? {
                    if let Listed::Other { name, is_leftover: true } = listed {
                        found.count += 1;
                        found.example = name;
                    }
                }
            }
        }
        Ok(found)
    }
}
