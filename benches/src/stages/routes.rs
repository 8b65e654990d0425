//! One journal for many customers: what their number costs a commit, and how much memory deliveries
//! take while some buckets are dead.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_journal::Follower;
use audit_sink_http::Format;
use audit_sink_s3::{Bucket, S3Route, S3Sink};
use futures::{StreamExt, stream};
use tokio::time::{Instant, interval};

use super::backlog::{memory, peak_memory};
use super::commit::{CALLERS, batch};
use super::drain::Served;
use super::release::{tokio_runtime, undelivered};
use crate::contest::{Contest, Side, Target};
use crate::store::FarStore;

/// The number of commits of each caller per round.
const EACH: usize = 16;

async fn open(
    sink: &S3Sink,
    name: String,
    bucket: Bucket,
    follower: Option<Follower>,
) -> Arc<S3Route> {
    let followers = follower.into_iter().collect();
    Arc::new(sink.open_followed_route(&name, bucket, followers).await.expect("a route"))
}

/// The contest, with files below this directory, which should be on the disk to measure.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let runtime = Rc::new(tokio_runtime(2));
    let (routes, one) = runtime.block_on(async {
        let bucket = || FarStore::bucket(Duration::ZERO);
        let settings = undelivered(&directory.join("routes"));
        let opening = S3Sink::builder(bucket()).with_settings(settings);
        let sink = opening.open().await.expect("a journal");
        let routes =
            stream::iter(0..CALLERS).map(|n| open(&sink, format!("of-{n}"), bucket(), None));
        let routes: Vec<_> = routes.buffered(CALLERS).collect().await;
        let one = open(&sink, "one".to_owned(), bucket(), None).await;
        // The sink must live as long as its routes are used.
        std::mem::forget(sink);
        (routes, vec![one; CALLERS])
    });
    let side = |name: &str, routes: Vec<Arc<S3Route>>| {
        let runtime = Rc::clone(&runtime);
        Side::timed(name, move || {
            let began = Instant::now();
            runtime.block_on(all_commit(&routes));
            began.elapsed() / (CALLERS * EACH) as u32
        })
    };
    let stage = format!("durable commits, {CALLERS} callers on {CALLERS} routes");
    let contest = Contest::new(stage, side("journal", routes)).against(side("on one route", one));
    // At 0.9 of the rate, a commit takes 1.11 times as long.
    vec![contest.as_rate().target(Target::AtMostTimes(1.11)).repeat(4)]
}

async fn all_commit(routes: &[Arc<S3Route>]) {
    let batch = batch();
    let callers = routes.iter().map(|route| {
        let (route, batch) = (Arc::clone(route), batch.clone());
        tokio::spawn(async move {
            for _ in 0..EACH {
                route.persist(batch.clone()).await.expect("a journal");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller");
    }
}

/// How many routes there are, and which.
#[derive(Debug, Clone, Copy)]
pub struct Customers {
    /// All routes.
    pub routes: u32,
    /// The routes whose bucket is dead, and whose log stream is.
    pub dead: u32,
    /// Whether each has a log stream that follows it.
    pub followed: bool,
}

impl Customers {
    /// The arguments of a process that [`parse`](Self::parse) takes.
    pub fn arguments(self) -> [String; 3] {
        [self.routes.to_string(), self.dead.to_string(), self.followed.to_string()]
    }

    /// What [`arguments`](Self::arguments) returned.
    pub fn parse([routes, dead, followed]: [&str; 3]) -> Customers {
        let number = |text: &str| text.parse().expect("a number");
        let followed = followed.parse().expect("true or false");
        Customers { routes: number(routes), dead: number(dead), followed }
    }
}

/// Commits to the routes that are not dead for a while. Returns the median time of a commit in
/// seconds, the memory of this process while it was idle, and its peak, both in MiB.
///
/// Every 10 ms, 64 records are also committed to a dead route or, if none is dead, to any route.
pub fn commits(
    served: &Served,
    directory: &Path,
    customers: Customers,
    lasts: Duration,
) -> [f64; 3] {
    tokio_runtime(2).block_on(run(served, directory, customers, lasts))
}

/// A log stream to the receiver.
fn log_stream(served: &Served, directory: &Path, route: &str, is_dead: bool) -> Follower {
    let settings = audit_sink_http::Settings {
        allow_http: true,
        allow_private_addresses: true,
        dead_letters: Some(directory.join("dead-letters").join(route)),
        ..audit_sink_http::Settings::new(served.receiver(is_dead), Format::WebhookLines)
    };
    audit_sink_http::follower_of_route(route, settings).expect("a log stream")
}

async fn run(
    served: &Served,
    directory: &Path,
    Customers { routes, dead, followed }: Customers,
    lasts: Duration,
) -> [f64; 3] {
    let journal = directory.join("journal");
    let opening = S3Sink::builder(served.bucket("own")).with_settings(undelivered(&journal));
    let sink = opening.open().await.expect("a journal");
    let routes = stream::iter(0..routes).map(|n| {
        let (name, is_dead) = (format!("customer-{n}"), n < dead);
        let bucket = if is_dead { FarStore::silent_bucket() } else { served.bucket(&name) };
        let follower = followed.then(|| log_stream(served, directory, &name, is_dead));
        open(&sink, name, bucket, follower)
    });
    let routes: Vec<_> = routes.buffered(64).collect().await;
    let (dead, healthy) = match dead {
        0 => (routes.clone(), routes),
        dead => (routes[..dead as usize].to_vec(), routes[dead as usize..].to_vec()),
    };
    // A measurement of memory at rest: no event says that the tasks of all routes have started.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = memory("VmRSS:");
    let records = Batch::from_lines(0, super::lines(64).into()).expect("lines");
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(10));
        for route in dead.iter().cycle() {
            ticks.tick().await;
            route.persist(records.clone()).await.expect("room in its share");
        }
    });
    let (mut times, one, began) = (Vec::new(), batch(), Instant::now());
    let mut ticks = interval(Duration::from_millis(2));
    for route in healthy.iter().cycle() {
        if began.elapsed() >= lasts {
            break;
        }
        ticks.tick().await;
        let began = Instant::now();
        route.persist(one.clone()).await.expect("a journal");
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], idle, peak_memory()]
}
