//! The destinations of a host's audit logs: a bucket, log streams, or both.

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit_core::AuditSink;
use audit_runtime::Tee;
use audit_sink_http::{HttpSink, follower};
use audit_sink_s3::{Bucket, JournalSettings, S3Sink};
use serde::Deserialize;

use crate::apart;
use crate::apart::OwnedBucket;
use crate::open_routes::{CheckRoutes, Parts, observed};
use crate::required::RequiredStreams;
use crate::settings::read_tables;
use crate::shown::Shown;
use crate::{BucketEnv, OpenRoutes, Output, RouteSettings};

/// How long records of the journal wait before they are sent to a log stream, in milliseconds. It
/// is short, since its readers want current events, and a request costs less than an object in a
/// bucket.
const CUT_AFTER_MS: u64 = 200;

/// A settings file of log streams, with a `[[log_stream]]` table for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogStreamsFile {
    /// The log streams.
    pub log_stream: Vec<audit_sink_http::Settings>,
}

impl LogStreamsFile {
    /// Reads a settings file of log streams.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a setting is unknown or invalid. The error names the line,
    /// but neither the file nor a value, which may be a misplaced secret.
    pub fn read(path: &Path) -> Result<LogStreamsFile, String> {
        read_tables(path, "the file of log streams")
    }
}

/// The destinations of audit logs. Without a bucket or a log stream, logs are discarded.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    /// The bucket's URL and the sink's settings.
    pub bucket: Option<(String, Box<audit_sink_s3::Settings>)>,
    /// The log streams.
    pub log_streams: Vec<audit_sink_http::Settings>,
    /// Tenants with buckets of their own, which share the journal of the bucket.
    pub routes: Vec<RouteSettings>,
}

/// Open destinations.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Where the host's own logs go. `None` if there is no destination.
    pub sink: Option<Arc<dyn AuditSink>>,
    /// The routes. They are closed with `sink`.
    pub routes: OpenRoutes,
}

impl Destinations {
    /// Adds log streams. If there is no bucket, the first one uses `journal`, and its records are
    /// sent after at most `cut_after_ms` milliseconds (200 by default). Records that a log stream
    /// rejects are kept below `dead-letters` in the data directory, unless its own settings name
    /// another directory.
    #[must_use]
    pub fn with_log_streams(
        mut self,
        log_streams: Vec<audit_sink_http::Settings>,
        journal: Option<PathBuf>,
        cut_after_ms: Option<u64>,
        persist_timeout_ms: u64,
        data_dir: &Path,
    ) -> Destinations {
        let is_alone = self.bucket.is_none();
        for (n, settings) in log_streams.into_iter().enumerate() {
            let aside = data_dir.join("dead-letters").join(&settings.name);
            let journal = journal.clone().filter(|_| is_alone && n == 0).map(|directory| {
                let cut_after_ms = cut_after_ms.unwrap_or(CUT_AFTER_MS);
                JournalSettings { cut_after_ms, ..JournalSettings::new(directory) }
            });
            self.log_streams.push(audit_sink_http::Settings {
                journal: settings.journal.or(journal),
                dead_letters: settings.dead_letters.or(Some(aside)),
                persist_timeout_ms,
                ..settings
            });
        }
        self
    }

    /// Adds routes. Records that their log streams reject are kept below `dead-letters` in the data
    /// directory, unless the settings of a log stream name another directory.
    #[must_use]
    pub fn with_routes(
        mut self,
        routes: Vec<RouteSettings>,
        persist_timeout_ms: u64,
        data_dir: &Path,
    ) -> Destinations {
        for mut route in routes {
            for stream in &mut route.log_stream {
                stream.persist_timeout_ms = persist_timeout_ms;
                // Not the directory of any stream of the host, nor of another route.
                let aside = format!("{}@{}", stream.name, route.name);
                let aside = data_dir.join("dead-letters").join(aside);
                stream.dead_letters = stream.dead_letters.take().or(Some(aside));
            }
            self.routes.push(route);
        }
        self
    }

    /// Whether a log stream follows the bucket's journal, so that nothing waits for it.
    pub(crate) fn follows(&self, settings: &audit_sink_http::Settings) -> bool {
        let has_journal = self.bucket.as_ref().is_some_and(|(_, bucket)| bucket.journal.is_some());
        has_journal && !settings.required
    }

    /// The directory of the journal that makes logs durable, if there is one.
    pub fn journal(&self) -> Option<&Path> {
        self.journal_settings().map(|journal| journal.directory.as_path())
    }

    pub(crate) fn journal_settings(&self) -> Option<&JournalSettings> {
        match &self.bucket {
            Some((_, settings)) => settings.journal.as_ref(),
            None => self.log_streams.first().and_then(|settings| settings.journal.as_ref()),
        }
    }

    /// As [`open`](Self::open), but each sink also prints each record on `output` once it is
    /// durable, if `show` says so. By default only a terminal shows records, since bodies may be
    /// personal data.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_and_show(
        &self,
        show: Option<bool>,
        output: &Output,
    ) -> Result<Opened, Box<dyn Error>> {
        self.open_with(Shown::is_wanted(show, output).then(|| output.clone())).await
    }

    /// Prints where audit logs go, whether they are shown, and the key that verifies them. `opened`
    /// and `show` are those of [`open_and_show`](Self::open_and_show).
    pub fn announce(&self, opened: &Opened, show: Option<bool>, output: &Output) {
        let Some(sink) = &opened.sink else {
            return output.line("no bucket: audit logs are checked and discarded");
        };
        let by_way_of = self.journal().map(|journal| format!(" by way of {}", journal.display()));
        let shown = match Shown::is_wanted(show, output) {
            true => ", and are shown here once they are durable",
            false => "",
        };
        output.line(&format!("audit logs go to {sink}{}{shown}", by_way_of.unwrap_or_default()));
        opened.routes.announce(output);
        if let Some(key) = sink.health().verifier_key {
            output.line(&format!("what is logged can be verified with the key {key}"));
        }
    }

    /// Checks that these destinations can have routes, if they have any, and that all are apart.
    ///
    /// # Errors
    ///
    /// If there are routes, and no bucket with a journal. If buckets or private files are not
    /// apart.
    pub(crate) fn check_routes(&self) -> Result<(), String> {
        self.check_apart()?;
        if self.routes.is_empty() {
            return Ok(());
        }
        if self.bucket.as_ref().is_some_and(|(_, settings)| settings.journal.is_some()) {
            return Ok(());
        }
        Err("routes share the journal of the host's own bucket: set a bucket and a journal"
            .to_owned())
    }

    /// Checks that no bucket contains or is contained in another one or a journal, that no journal
    /// contains another, and that private files are in no bucket.
    ///
    /// # Errors
    ///
    /// If they are not apart, or a path cannot be resolved. The error names the setting.
    pub(crate) fn check_apart(&self) -> Result<(), String> {
        let bucket = self.bucket.as_ref().map(|(url, _)| url.as_str());
        let (whose, place) = ("the host".to_owned(), BucketEnv::default().place());
        let own = bucket.map(|url| OwnedBucket { whose, url, place });
        let of_routes = self.routes.iter().filter_map(RouteSettings::owned);
        apart::check_buckets(own.into_iter().chain(of_routes))?;
        let evidence = self.bucket.as_ref().and_then(|(_, settings)| settings.evidence.as_ref());
        let key = evidence.and_then(|evidence| evidence.key_file.as_deref());
        let own = [("evidence_key".to_owned(), key)];
        let of_streams = self.log_streams.iter().map(|stream| {
            (format!("dead_letters of {:?}", stream.name), stream.dead_letters.as_deref())
        });
        let of_routes = self.routes.iter().flat_map(|route| {
            route.log_stream.iter().map(|stream| {
                let named = format!("{:?} of the route {:?}", stream.name, route.name);
                (format!("dead_letters of {named}"), stream.dead_letters.as_deref())
            })
        });
        let private = own.into_iter().chain(of_streams).chain(of_routes);
        let private: Vec<_> = private.filter_map(|(name, path)| Some((name, path?))).collect();
        let own = self.journal().map(|journal| ("the journal".to_owned(), journal));
        let of_routes = self.routes.iter().flat_map(|route| {
            route.log_stream.iter().filter_map(|stream| {
                let named = format!("{:?} of the route {:?}", stream.name, route.name);
                let journal = stream.journal.as_ref()?;
                Some((format!("the journal of {named}"), &*journal.directory))
            })
        });
        let journals: Vec<_> = own.into_iter().chain(of_routes).collect();
        let of_routes = self.routes.iter().filter_map(|route| route.bucket.as_deref());
        apart::check_directories(bucket.into_iter().chain(of_routes), &private, &journals)
    }

    /// Opens the sink and the routes.
    ///
    /// With several destinations, the first one assigns the records' ids: the bucket, or else the
    /// first log stream. If the bucket has a journal, log streams are followers, which nothing
    /// waits for, unless their settings require them. All others are mirrors, and a record is
    /// durable once all mirrors have it.
    ///
    /// # Errors
    ///
    /// If a destination cannot be opened, two log streams have the same name, a log stream has a
    /// journal of its own although it is not the first destination, or there are routes without a
    /// journal. A route whose bucket cannot be reached or refuses is opened nevertheless: its
    /// records wait in the journal. Log streams get the host's own records, and those of a route
    /// the route's.
    ///
    /// A route's bucket assigns the ids of its records. Its log streams follow the journal, or are
    /// mirrors if its settings require them. Without a bucket its first log stream assigns the ids,
    /// and the others are mirrors.
    pub async fn open(&self) -> Result<Opened, Box<dyn Error>> {
        self.open_with(None).await
    }

    /// As [`open`](Self::open), but prints durable records on this output.
    async fn open_with(&self, output: Option<Output>) -> Result<Opened, Box<dyn Error>> {
        self.check_routes()?;
        let names = self.log_streams.iter().map(|settings| &settings.name);
        for (n, name) in names.clone().enumerate() {
            if names.clone().take(n).any(|before| before == name) {
                return Err(format!("two log streams have the name {name:?}").into());
            }
        }
        let mut streams: VecDeque<_> = self.log_streams.clone().into();
        let mut routes = OpenRoutes::default();
        let first: Arc<dyn AuditSink> = match &self.bucket {
            Some((url, settings)) => {
                check_secondary(&streams)?;
                let mut sink =
                    S3Sink::builder(Bucket::open(url)?).with_settings((**settings).clone());
                let (followers, mirrors): (Vec<_>, _) =
                    streams.into_iter().partition(|stream| self.follows(stream));
                for settings in followers {
                    sink = sink.with_follower(follower(settings)?);
                }
                streams = mirrors.into();
                let sink = Arc::new(sink.open().await?);
                let host = Destinations { routes: Vec::new(), ..self.clone() };
                let check: CheckRoutes = Arc::new(move |routes| {
                    Destinations { routes: routes.to_vec(), ..host.clone() }.check_routes()
                });
                let required = RequiredStreams::default();
                let parts = Parts {
                    sink: Arc::clone(&sink),
                    required: required.clone(),
                    settings: (**settings).clone(),
                    check,
                    output: output.clone(),
                };
                routes = OpenRoutes::open(parts, self.routes.clone()).await?;
                required.closed_with(sink)
            }
            None => match streams.pop_front() {
                Some(settings) => Arc::new(HttpSink::open(settings).await?),
                None => return Ok(Opened::default()),
            },
        };
        let mut sink = first;
        if !streams.is_empty() {
            check_secondary(&streams)?;
            let mut tee = Tee::new(sink);
            for settings in streams {
                tee = tee.with_mirror(Arc::new(HttpSink::open(settings).await?));
            }
            sink = Arc::new(tee);
        }
        let sink = match output {
            Some(output) => observed(sink, output),
            None => sink,
        };
        Ok(Opened { sink: Some(sink), routes })
    }
}

/// Checks that none of them has a journal of its own.
fn check_secondary(streams: &VecDeque<audit_sink_http::Settings>) -> Result<(), String> {
    match streams.iter().find(|settings| settings.journal.is_some()) {
        None => Ok(()),
        Some(audit_sink_http::Settings { name, .. }) => Err(format!(
            "the log stream {name:?} is not the first destination, so it can have no journal \
             of its own"
        )),
    }
}

#[cfg(test)]
mod tests {
    use audit_sink_http::Format;

    use super::*;

    fn stream(name: &str) -> audit_sink_http::Settings {
        let settings = audit_sink_http::Settings::new("https://example.com/hook", Format::Webhook);
        audit_sink_http::Settings { name: name.to_owned(), ..settings }
    }

    fn bucket() -> Option<(String, Box<audit_sink_s3::Settings>)> {
        Some(("memory:///".to_owned(), Box::default()))
    }

    #[test]
    fn errors_of_settings_files_show_no_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("streams.toml");
        std::fs::write(
            &path,
            "[[log_stream]]\nname = \"siem\"\nurl = \"https://example.com\"\n\
             secrets = [\"env:SECRET\"]\n[[log_stream]]\nurl = \"https://example.org\"\n\
             format = \"splunk\"\n",
        )
        .unwrap();
        let LogStreamsFile { log_stream } = LogStreamsFile::read(&path).unwrap();
        assert_eq!((log_stream[0].name.as_str(), log_stream[1].format), ("siem", Format::Splunk));
        for (line, says) in [
            ("secrets = [\"hunter2\"]", "a secret is given"),
            ("secrets = \"hunter2\"", "a value is invalid, expected a sequence"),
            ("token = hunter2", "it is invalid"),
            ("format = \"hunter2\"", "a value is invalid, expected one of `webhook`"),
            ("format = 7", "a value is invalid, expected a string"),
            ("required = \"hunter2\"", "a value is invalid, expected a boolean"),
            ("cut_after_ms = \"hunter2\"", "a value is invalid, expected a whole number from 0 on"),
            ("cut_after_ms = -1", "a value is invalid, expected a whole number from 0 on"),
            ("url = \"hunter2\"", "duplicate key"),
        ] {
            let text = format!("[[log_stream]]\nurl = \"https://example.com\"\n{line}");
            std::fs::write(&path, text).unwrap();
            let error = LogStreamsFile::read(&path).unwrap_err();
            let says = format!("line 3: {says}");
            assert!(error.contains(&says) && !error.contains("hunter2"), "{line}: {error}");
        }
        std::fs::write(&path, "[[log_stream]]\nurls = \"x\"").unwrap();
        let error = LogStreamsFile::read(&path).unwrap_err();
        assert!(error.contains("line 2: unknown field `urls`"), "{error}");
    }

    #[tokio::test]
    async fn destinations_are_opened_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let with = |bucket, names: &[&str], journal: Option<&str>| {
            let streams = names.iter().map(|name| stream(name)).collect();
            let journal = journal.map(|name| data.join(name));
            Destinations { bucket, ..Destinations::default() }
                .with_log_streams(streams, journal, None, 5_000, data)
        };
        let nowhere = with(None, &[], Some("a"));
        assert!(nowhere.open().await.unwrap().sink.is_none() && nowhere.journal().is_none());

        let alone = with(None, &["one", "two"], Some("journal"));
        assert_eq!(alone.journal(), Some(&*data.join("journal")));
        assert_eq!(alone.log_streams[0].journal.as_ref().unwrap().cut_after_ms, 200);
        let sink = alone.open().await.unwrap().sink.unwrap();
        assert_eq!(
            sink.to_string(),
            "Tee(HttpSink(one: https://example.com/hook), then HttpSink(two: \
             https://example.com/hook))"
        );
        assert!(data.join("dead-letters/one").is_dir() && data.join("journal").is_dir());
        sink.close().await.unwrap();

        let mut followed = with(bucket(), &["siem", "other"], Some("unused"));
        let (_, settings) = followed.bucket.as_mut().unwrap();
        settings.journal = Some(JournalSettings::new(data.join("followed")));
        followed.log_streams[1].required = true;
        let sink = followed.open().await.unwrap().sink.unwrap();
        let shown = sink.to_string();
        assert!(shown.starts_with("Tee(S3Sink(memory://), then HttpSink(other"), "{shown}");
        let followers = sink.health().followers;
        assert_eq!(followers.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["siem"]);
        assert!(data.join("followed/00000001.follower").is_file() && !data.join("unused").exists());
        sink.close().await.unwrap();

        let both = with(bucket(), &["siem"], Some("unused"));
        let sink = both.open().await.unwrap().sink.unwrap();
        let shown = sink.to_string();
        assert!(shown.starts_with("Tee(S3Sink(memory://), then HttpSink(siem"), "{shown}");
        assert!(!data.join("unused").exists());
        sink.close().await.unwrap();

        let error = with(bucket(), &["a", "a"], None).open().await.unwrap_err();
        assert_eq!(error.to_string(), "two log streams have the name \"a\"");
        let mut mirror = with(bucket(), &["a"], None);
        mirror.log_streams[0].journal = Some(JournalSettings::new(data.join("own")));
        let error = mirror.open().await.unwrap_err().to_string();
        assert!(error.contains("no journal of its own"), "{error}");
    }
}
