//! The checks of buckets, routes, keys and log streams.

use audit_core::{followed_by, with_sources};
use audit_sink_http::LogStream;
use audit_sink_s3::{Bucket, EvidenceSettings, OpenError, OpenErrorKind, WitnessSettings};
use futures::{StreamExt, stream};

use super::{Checks, Found, Problem};
use crate::Destinations;
use crate::routes::{PROBES, is_tenants_trouble};

/// The owner of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Host,
    /// A host starts even if a tenant's bucket is unreachable or refuses.
    Tenant,
}

impl Checks {
    /// Checks the buckets, the journal, the evidence key and the log streams.
    pub async fn destinations(&mut self, destinations: &Destinations) {
        if let Some((url, settings)) = &destinations.bucket {
            let probed = probed(Bucket::open(url), settings).await;
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
        let probes = routes.map(async |route| {
            let bucket = route.open_bucket().transpose()?;
            Some((route, probed(bucket, settings).await))
        });
        let probed: Vec<_> = stream::iter(probes).buffered(PROBES).collect().await;
        for (route, probed) in probed.into_iter().flatten() {
            self.bucket(&format!("route {}", route.name), probed, settings, Whose::Tenant);
        }
        let streams = destinations.routes.iter().flat_map(|route| {
            let named = move |settings| (route, settings);
            route.log_stream.iter().map(named)
        });
        let reached = streams.map(async |(route, settings)| {
            let name = format!("log stream {} of route {}", settings.name, route.name);
            let waits = match &settings.journal {
                Some(_) => "it gets the route's records from a journal of its own",
                None if route.waits_for(settings) => "the route's functions wait for it",
                None => "it follows the route's records in the journal",
            };
            (name, reached(settings, waits).await)
        });
        let reached: Vec<_> = stream::iter(reached).buffered(PROBES).collect().await;
        reached.into_iter().for_each(|(name, reached)| self.show(&name, reached));
        let streams = destinations.routes.iter().flat_map(|route| &route.log_stream);
        streams.filter_map(|stream| stream.journal.as_ref()).for_each(|own| self.journal(own));
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
            Err(error) if whose == Whose::Tenant && is_tenants_trouble(&error) => {
                let waits =
                    "the host starts nevertheless, and the tenant's logs wait in the journal";
                self.warning(name, followed_by(&with_sources(&error), waits));
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
            (Ok(None), Some(file)) if file.is_symlink() => {
                let what = format!("{} is a link that leads nowhere", file.display());
                let remedy = "create the file that it leads to, or remove the link";
                self.show("evidence key", Err(Problem { what, remedy }));
            }
            (Ok(None), Some(file)) => self.new_file("evidence key", file),
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
                    self.warning("witness", followed_by(&with_sources(&error), waits));
                }
                Err(error) => self.problem("witness", &error, "correct its URL or its key"),
            }
        }
    }
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

/// Probes a bucket. Returns whether it prevents overwriting.
async fn probed(
    bucket: Result<Bucket, OpenError>,
    settings: &audit_sink_s3::Settings,
) -> Result<(Bucket, bool), OpenError> {
    let bucket = bucket?;
    let is_create_only = bucket.probe(settings).await?;
    Ok((bucket, is_create_only))
}
