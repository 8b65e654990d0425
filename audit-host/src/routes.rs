//! Routes: customers with buckets of their own, which share a host's journal.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use audit_core::{AuditSink, with_sources};
use audit_journal::check_route_name;
use audit_runtime::Tee;
use audit_sink_http::{HttpSink, LogStream, follower_of_route};
use audit_sink_s3::{Bucket, OpenError, OpenErrorKind, S3Sink, Settings};
use serde::Deserialize;

use crate::apart::OwnedBucket;
use crate::required::RequiredStreams;
use crate::settings::read_tables;
use crate::{BucketEnv, apart, without_secrets};

/// A settings file of routes, with a `[[route]]` table for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutesFile {
    /// The routes.
    pub route: Vec<RouteSettings>,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Its name in the journal, and the name of the tenant whose requests belong to it: 1 to 64
    /// lower-case letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The URL of its bucket, with the bucket's own settings in its query. Further settings come
    /// from `env`. Without a bucket, its records go to its log streams alone.
    #[serde(default)]
    pub bucket: Option<String>,
    /// The variables that its bucket is opened with. If there are any, nothing of the host's own
    /// environment counts for it.
    #[serde(default)]
    pub env: BucketEnv,
    /// The log streams that get the records of this route, and no others. Beside a bucket, its
    /// functions wait for those that are [`required`](audit_sink_http::Settings::required). Without
    /// one, they wait for all, which must say so; only the first may have a journal instead.
    #[serde(default)]
    pub log_stream: Vec<audit_sink_http::Settings>,
}

impl RouteSettings {
    /// The log streams that follow the route's records in the journal, so that nothing waits for
    /// them.
    pub fn followers(&self) -> impl Iterator<Item = &audit_sink_http::Settings> {
        self.log_stream.iter().filter(|stream| !self.waits_for(stream))
    }

    /// Whether the route's functions wait for this log stream of it.
    pub(crate) fn waits_for(&self, stream: &audit_sink_http::Settings) -> bool {
        self.bucket.is_none() || stream.required
    }

    /// The bucket, without secrets, and the names of the log streams, as listed in a sentence.
    pub fn shown(&self) -> String {
        let bucket = self.bucket.as_deref().map(without_secrets);
        let streams = self.log_stream.iter().map(|stream| stream.name.clone());
        bucket.into_iter().chain(streams).collect::<Vec<_>>().join(" and ")
    }

    /// Checks that it has a destination, and that each of its log streams can be one.
    fn check(&self) -> Result<(), String> {
        let RouteSettings { name, bucket, env, log_stream } = self;
        if bucket.is_none() && log_stream.is_empty() {
            return Err(format!(
                "the route {name:?} has no destination: set its `bucket`, or give it a \
                 [[route.log_stream]] with `required = true`"
            ));
        }
        if bucket.is_none() && *env != BucketEnv::default() {
            return Err(format!("the route {name:?} has no bucket that its `env` could be for"));
        }
        for (n, stream) in log_stream.iter().enumerate() {
            let named = format!("the log stream {:?} of the route {name:?}", stream.name);
            if log_stream.iter().take(n).any(|before| before.name == stream.name) {
                return Err(format!("{named} is there twice"));
            }
            if stream.journal.is_some() && !(bucket.is_none() && n == 0) {
                return Err(format!(
                    "{named} is not the route's first destination, so it can have no journal of \
                     its own"
                ));
            }
            if bucket.is_none() && !stream.required && stream.journal.is_none() {
                return Err(format!(
                    "{named} would follow a bucket, and the route has none: set the route's \
                     `bucket`, or here `required = true`"
                ));
            }
        }
        Ok(())
    }

    /// The route's bucket, with its owner as named in a sentence.
    pub(crate) fn owned(&self) -> Option<OwnedBucket<'_>> {
        let whose = format!("the route {:?}", self.name);
        Some(OwnedBucket { whose, url: self.bucket.as_deref()?, place: self.env.place() })
    }

    /// Opens the route's bucket, if it has one.
    ///
    /// # Errors
    ///
    /// Those of [`BucketEnv::open`].
    pub fn open_bucket(&self) -> Result<Option<Bucket>, OpenError> {
        let bucket = self.bucket.as_deref().map(|url| self.env.open(url)).transpose()?;
        Ok(bucket.map(|bucket| bucket.for_route(&self.name)))
    }

    /// Opens the route on the journal of `sink`, with all its destinations. Its log streams that
    /// functions wait for are added to `required`.
    ///
    /// # Errors
    ///
    /// If its settings are invalid, or [`S3Sink::open_followed_route`] fails. The error names the
    /// route. A bucket that refuses or is away is no error: the records wait in the journal.
    pub(crate) async fn open(
        &self,
        sink: &S3Sink,
        required: &RequiredStreams,
    ) -> Result<Arc<dyn AuditSink>, String> {
        self.check()?;
        self.open_all(sink, required).await.map_err(|error| self.cannot_open(&error))
    }

    async fn open_all(
        &self,
        sink: &S3Sink,
        required: &RequiredStreams,
    ) -> Result<Arc<dyn AuditSink>, OpenError> {
        let mut streams = Vec::new();
        for settings in self.log_stream.iter().filter(|stream| self.waits_for(stream)) {
            let stream = HttpSink::open_for_route(&self.name, settings.clone()).await?;
            streams.push(Arc::new(stream));
        }
        let mut mirrors = streams.iter().cloned();
        // The first destination assigns the ids of records.
        let first: Arc<dyn AuditSink> = match self.open_bucket()? {
            Some(bucket) => {
                let followers = self.followers().cloned();
                let followers = followers.map(|stream| follower_of_route(&self.name, stream));
                let followers = followers.collect::<Result<_, _>>()?;
                Arc::new(sink.open_followed_route(&self.name, bucket, followers).await?)
            }
            None => mirrors.next().expect("a route without a bucket was checked to have one"),
        };
        streams.iter().for_each(|stream| required.add(stream));
        if mirrors.len() == 0 {
            return Ok(first);
        }
        let tee = mirrors.fold(Tee::new(first), |tee, mirror| tee.with_mirror(mirror));
        Ok(Arc::new(tee))
    }

    /// Checks what can be checked of the route's destinations without a request. Returns its
    /// bucket.
    ///
    /// # Errors
    ///
    /// If its settings are invalid, or a secret cannot be read. The error names the route.
    pub(crate) fn check_destinations(&self) -> Result<Option<Bucket>, String> {
        let checked = || {
            for stream in &self.log_stream {
                if self.waits_for(stream) {
                    LogStream::open(stream.clone())?;
                } else {
                    follower_of_route(&self.name, stream.clone())?;
                }
            }
            self.open_bucket()
        };
        checked().map_err(|error| self.cannot_open(&error))
    }

    /// Probes the route's bucket as [`open`](Self::open) does.
    ///
    /// # Errors
    ///
    /// If the route could not be opened. The error names the route.
    pub(crate) async fn probe(&self, bucket: Bucket, settings: &Settings) -> Result<(), String> {
        match bucket.probe(settings).await {
            Ok(_) => Ok(()),
            Err(error) if is_tenants_trouble(&error) => Ok(()),
            Err(error) => Err(self.cannot_open(&error)),
        }
    }

    /// The directory of the route's own journal, if its first log stream has one.
    pub(crate) fn own_journal(&self) -> Option<&Path> {
        let journal = self.log_stream.first()?.journal.as_ref()?;
        Some(&journal.directory)
    }

    fn cannot_open(&self, error: &OpenError) -> String {
        format!("the route {:?} cannot be opened: {}", self.name, with_sources(error))
    }
}

/// Whether a route is opened in spite of this error of its bucket. Its records then wait in the
/// journal.
pub(crate) fn is_tenants_trouble(error: &OpenError) -> bool {
    matches!(error.kind(), OpenErrorKind::Unavailable | OpenErrorKind::Blocked)
}

/// How many buckets are probed at once. One that does not answer takes five seconds.
pub(crate) const PROBES: usize = 64;

impl RoutesFile {
    /// Reads a settings file of routes.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has no route, a setting is unknown or invalid, a route may not
    /// have its name or has no destination, two routes have the same name or buckets of which one
    /// contains the other, two log streams of a route have the same name, or one cannot be what its
    /// settings say. The error names the line or the routes, but not the file, and no bucket's
    /// query.
    pub fn read(path: &Path) -> Result<RoutesFile, String> {
        let file: RoutesFile = read_tables(path, "the file of routes")?;
        if file.route.is_empty() {
            // A host without tenants takes every request for its own: it must not become one
            // because a file was emptied.
            return Err("the file of routes has no [[route]]".to_owned());
        }
        for (n, route) in file.route.iter().enumerate() {
            let name = &route.name;
            check_route_name(name).map_err(|why| format!("the file of routes: {why}"))?;
            if file.route.iter().take(n).any(|before| before.name == *name) {
                return Err(format!("the file of routes: two routes have the name {name:?}"));
            }
            route.check().map_err(|why| format!("the file of routes: {why}"))?;
        }
        let buckets = file.route.iter().filter_map(RouteSettings::owned);
        apart::check_buckets(buckets).map_err(|why| format!("the file of routes: {why}"))?;
        Ok(file)
    }
}

impl fmt::Debug for RouteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteSettings")
            .field("name", &self.name)
            .field("bucket", &self.bucket.as_deref().map(without_secrets))
            .field("env", &self.env)
            .field("log_stream", &self.log_stream)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use audit_core::Batch;
    use audit_sink_s3::JournalSettings;
    use s3_testserver::S3TestServer;

    use super::*;
    use crate::{Destinations, Opened};

    /// Two customers have stores of their own, with buckets of one name, and their own keys. The
    /// keys of a third one are wrong.
    #[tokio::test(flavor = "multi_thread")]
    async fn each_route_delivers_to_its_own_server_with_its_own_keys() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut text = String::new();
        let mut servers = Vec::new();
        for name in ["acme", "globex", "initech"] {
            let server = S3TestServer::start().await;
            let secret = format!("hunter2-{name}");
            server.set_secret_key(if name == "initech" { "another" } else { &secret });
            std::fs::write(at(name), format!("{secret}\n")).unwrap();
            let (bucket, key) = (server.bucket(), server.access_key());
            text += &format!(
                "[[route]]\nname = \"{name}\"\nbucket = \"s3://{bucket}/logs\"\n[route.env]\n\
                 AWS_ENDPOINT = \"{}\"\nAWS_ALLOW_HTTP = \"true\"\nAWS_REGION = \"eu-central-1\"\n\
                 AWS_ACCESS_KEY_ID = \"{key}\"\nAWS_SECRET_ACCESS_KEY = \"file:{}\"\n",
                server.endpoint(),
                at(name).display()
            );
            servers.push(server);
        }
        std::fs::write(at("routes.toml"), text).unwrap();
        let file = RoutesFile::read(&at("routes.toml")).unwrap();
        assert!(!format!("{file:?}").contains("hunter2"), "{file:?}");

        let journal = JournalSettings::new(at("journal"));
        let journal = Some(JournalSettings { cut_after_ms: 0, ..journal });
        let settings = Settings { journal, ..Settings::default() };
        let bucket = Some((format!("file://{}", at("own").display()), Box::new(settings.clone())));
        let destinations = Destinations { bucket, ..Destinations::default() };
        let destinations = destinations.with_routes(file.route, 5_000, directory.path());
        destinations.check_apart().unwrap();
        let wrong = destinations.routes[2].open_bucket().unwrap().unwrap();
        let error = with_sources(&wrong.probe(&settings).await.unwrap_err());
        assert!(error.contains("SignatureDoesNotMatch") && !error.contains("hunter2"), "{error}");

        let Opened { sink, routes } = destinations.open().await.unwrap();
        let routes = routes.sinks();
        for (name, route) in &routes {
            let line = format!("{{\"of\":\"{name}\"}}\n");
            route
                .persist(Batch::from_lines(1_700_000_000_000, line.into()).unwrap())
                .await
                .unwrap();
        }
        for (name, server) in ["acme", "globex"].into_iter().zip(&servers) {
            routes[name].flush().await.unwrap();
            let objects = server.objects();
            let records = objects.keys().filter(|key| key.starts_with("logs/dt=")).count();
            assert_eq!(records, 1, "{name}: {:?}", objects.keys());
        }
        let health = loop {
            let health = routes["initech"].health();
            if health.last_error.is_some() {
                break format!("{health:?}");
            }
            tokio::task::yield_now().await;
        };
        assert!(
            health.contains("SignatureDoesNotMatch") && !health.contains("hunter2"),
            "{health}"
        );
        assert!(servers[2].objects().is_empty());
        let sink = sink.unwrap();
        let closing = tokio::time::timeout(Duration::from_millis(100), sink.close());
        closing.await.unwrap_err();
    }

    #[test]
    fn files_of_routes_are_read_and_their_errors_show_no_bucket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RoutesFile::read(&path)
        };
        let acme = "[[route]]\nname = \"acme\"\nbucket = \"s3://acme/logs?region=eu-central-1\"\n";
        let globex = "[[route]]\nname = \"globex\"\nbucket = \"file:///globex\"\n";
        let stream = "[[route.log_stream]]\nname = \"siem\"\nurl = \"https://example.com\"\n";
        let alone = "[[route]]\nname = \"a\"\n";
        let second = stream.replace("siem", "other");
        let journal = "[route.log_stream.journal]\ndirectory = \"a\"\n";
        for (settings, followers, shown) in [
            (&*format!("{acme}{stream}required = true\n{second}"), 1, "s3://acme/logs?… and siem"),
            (&format!("{alone}{stream}required = true\n{second}required = true"), 0, "siem and"),
            (&format!("{alone}{stream}{journal}"), 0, "siem"),
        ] {
            let file = read(settings).unwrap();
            assert_eq!(file.route[0].followers().count(), followers, "{settings}");
            assert!(file.route[0].shown().starts_with(shown), "{file:?}");
        }
        let file = read(&format!("{acme}{stream}{globex}{stream}")).unwrap();
        let names: Vec<_> = file.route.iter().map(|route| route.name.as_str()).collect();
        assert_eq!(names, ["acme", "globex"]);
        assert!(file.route.iter().all(|route| route.log_stream[0].name == "siem"));
        for (text, expected) in [
            ("", "the file of routes has no [[route]]"),
            (&*format!("{acme}{acme}"), "the file of routes: two routes have the name \"acme\""),
            (&*format!("{acme}url = \"hunter2\""), "line 4: unknown field `url`"),
            (
                &*format!("{acme}{stream}{stream}"),
                "the file of routes: the log stream \"siem\" of the route \"acme\" is there twice",
            ),
            (
                &*format!("{acme}{stream}{journal}"),
                "the log stream \"siem\" of the route \"acme\" is not the route's first destination",
            ),
            (
                &*format!("{acme}{stream}required = true\n{journal}"),
                "the log stream \"siem\" of the route \"acme\" is not the route's first destination",
            ),
            (
                &*format!("{alone}{stream}required = true\n{second}required = true\n{journal}"),
                "the log stream \"other\" of the route \"a\" is not the route's first destination",
            ),
            (
                &*format!("{alone}{stream}"),
                "the log stream \"siem\" of the route \"a\" would follow a bucket, and the route has \
                 none: set the route's `bucket`, or here `required = true`",
            ),
            (
                &*format!("{alone}{stream}required = true\n{second}"),
                "the log stream \"other\" of the route \"a\" would follow a bucket",
            ),
            (
                &*format!("{alone}env = {{ AWS_REGION = \"x\" }}\n{stream}required = true"),
                "the route \"a\" has no bucket that its `env` could be for",
            ),
            (alone, "the file of routes: the route \"a\" has no destination: set its `bucket`"),
            (&*format!("{acme}{stream}secrets = [\"hunter2\"]"), "line 7: a secret is given"),
            (&*format!("{acme}{stream}urls = \"hunter2\""), "line 7: unknown field `urls`"),
            (
                &*format!("{acme}[[route.log_stream]]\nname = \"siem\""),
                "line 4: missing field `url`",
            ),
            (
                &*format!("{acme}env = {{ AWS_SECRET_ACCESS_KEY = \"hunter2\" }}"),
                "line 4: a secret is given as env:NAME or file:/path, not as it is: \
                 AWS_SECRET_ACCESS_KEY",
            ),
            ("[[route]]\nname = \"a\"\nbucket = [\"hunter2\"]", "line 3: a value is invalid"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        // A name is refused before anything is named after it, such as a directory for rejected
        // records.
        for name in ["", "../acme", "Acme", "a b", "a/b", "é", &"a".repeat(65)] {
            let error = read(&format!("[[route]]\nname = {name:?}\nbucket = \"file:///a\""));
            let says = format!("the file of routes: {name:?} is not a name of a route");
            assert!(error.unwrap_err().starts_with(&says), "{name}");
        }
        let (name, bucket) = ("a".into(), Some("s3://u:hunter2@a".into()));
        let secret =
            RouteSettings { name, bucket, env: BucketEnv::default(), log_stream: Vec::new() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
