//! The audit logs, read back from the bucket's directory.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use audit_sink_s3::layout::{Compression, LineDecoder, ObjectKey, is_leftover};
use serde_json::Value as Json;

#[derive(Debug, Clone)]
pub(super) struct Log {
    /// The record's line as stored.
    pub(super) text: String,
    pub(super) json: Json,
}

impl Log {
    /// Whether the host wrote this record for a function that was refused before it had logged
    /// anything. The record's only member is one that functions cannot write.
    pub(super) fn is_of_host(&self) -> bool {
        let members = self.json.as_object().map_or(0, serde_json::Map::len);
        members == 1 && self.json.pointer("/$audit/event") == Some(&Json::from("refused"))
    }
}

/// All logs, ordered by stream and number.
#[derive(Debug, Default)]
pub(super) struct Logs {
    pub(super) all: Vec<Log>,
    pub(super) objects: usize,
}

impl Logs {
    /// Reads everything below the directory.
    ///
    /// # Errors
    ///
    /// If a file is not an object of a sink, or two objects hold the same record.
    pub(super) fn read(directory: &Path) -> Result<Logs, Box<dyn Error>> {
        let mut objects = Vec::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(next) = directories.pop() {
            if !next.exists() {
                continue;
            }
            for entry in fs::read_dir(&next)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let name = path
                    .strip_prefix(directory)?
                    .to_str()
                    .ok_or("a name that is no text")?
                    .to_owned();
                // A killed host may leave a partial object under a temporary name.
                if name.starts_with("dt=") && !is_leftover(&name) {
                    let key: ObjectKey =
                        name.parse().map_err(|error| format!("{name}: {error}"))?;
                    objects.push((key, path));
                }
            }
        }
        let mut logs = Logs { all: Vec::new(), objects: objects.len() };
        let mut numbers = BTreeSet::new();
        objects.sort_by_key(|(key, _)| (key.stream(), key.first_sequence()));
        for (key, path) in objects {
            let mut decoder = LineDecoder::new(Compression::Zstd);
            let mut lines = Vec::new();
            decoder.push(&fs::read(&path)?, |line| lines.push(line.to_vec()))?;
            decoder.finish()?;
            for (sequence, line) in (key.first_sequence()..).zip(lines) {
                if !numbers.insert((key.stream(), sequence)) {
                    return Err(format!(
                        "record {sequence} of stream {} is there twice",
                        key.stream()
                    )
                    .into());
                }
                let text = String::from_utf8(line)?;
                let json = serde_json::from_str(&text)?;
                logs.all.push(Log { text, json });
            }
        }
        Ok(logs)
    }

    pub(super) fn find(&self, action: &str, members: &[(&str, Json)]) -> Vec<&Log> {
        let matches = |log: &&Log| {
            log.json["action"] == action
                && members.iter().all(|(pointer, value)| log.json.pointer(pointer) == Some(value))
        };
        self.all.iter().filter(matches).collect()
    }
}
