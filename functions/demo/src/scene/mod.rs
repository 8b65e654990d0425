//! The clients' calls to one host, and the proofs that its logs give.

mod proofs;

use std::error::Error;

use futures::future::try_join_all;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use super::clients::{Answer, Client, PATIENCE};
use super::process::Host;
use super::stage::{LOOK_INTERVAL, Played};

pub(super) struct Scene {
    /// The call that logs a body with all kinds of values, and its client.
    body: Answer,
    body_client: Client,
    forged: Answer,
    unknown: Answer,
    document: String,
    /// The viewers, and their responses.
    views: Vec<(String, Answer)>,
    cache_hits: f64,
    /// The subscribers of the document.
    followers: Vec<String>,
    update: Answer,
    update_client: Client,
    /// Each client's call of a contended mutation.
    adds: Vec<Answer>,
    total: Json,
    refused: Answer,
    refused_titles: Json,
    report: Answer,
    confession: Answer,
    silenced: Answer,
    silenced_rows: Json,
    too_large: Answer,
    together: Answer,
    nested: Answer,
    shared: Answer,
    metered: Metered,
}

/// The host's own count of its logs.
struct Metered {
    logs: f64,
    bytes: f64,
    metered_bytes: f64,
}

/// The numbers of subscribers and of conflicting clients.
const FOLLOWERS: usize = 25;
const CONTENDERS: usize = 16;

impl Scene {
    pub(super) async fn play(host: &Host) -> Played<Scene> {
        let client = |ip: &str, user_agent: &str| Client::new(host, ip, user_agent);
        let ada = client("192.0.2.10", "ada's browser");

        let long = "é".repeat(400);
        let body_client = client("2001:db8::7", &long);
        let body = body_client.mutation("bodies:everything", json!({ "tag": "body" })).await?;
        let sent = json!({ "sent": r#"{"comment":{"$var":"ip"}}"# });
        let forged = ada.mutation("bodies:forged", sent).await?;
        let unknown = ada.mutation("bodies:unknownVariable", json!({})).await?;

        let new = json!({ "title": "Plan", "text": "Start small.", "orgId": "acme" });
        let document = ada.mutation("documents:create", new).await?;
        let document = document.value()?.as_str().unwrap_or_default().to_owned();
        let hits_before = ada.metric("functions_query_cache_hits_total").await?;
        let mut views = Vec::new();
        for viewer in 1..=5 {
            let viewer = client(&format!("198.51.100.{viewer}"), &format!("browser {viewer}"));
            let answer = viewer.query("documents:view", json!({ "documentId": document })).await?;
            views.push((viewer.ip().to_owned(), answer));
        }
        let cache_hits = ada.metric("functions_query_cache_hits_total").await? - hits_before;

        let followers: Vec<_> =
            (1..=FOLLOWERS).map(|n| client(&format!("203.0.113.{n}"), "follower")).collect();
        let update_client = client("192.0.2.20", "bob's browser");
        let update = update_followed(&document, &followers, &update_client).await?;

        let contenders =
            (0..CONTENDERS).map(|n| client(&format!("192.0.2.{}", 100 + n), "contender"));
        let contenders: Vec<_> = contenders.collect();
        let adds = contenders
            .iter()
            .map(|client| client.mutation("counters:add", json!({ "name": "contended" })));
        let adds = try_join_all(adds).await?;
        let total =
            ada.query("counters:get", json!({ "name": "contended" })).await?.value()?.clone();
        let refused = ada.mutation("documents:refuse", json!({ "title": "never" })).await?;
        let refused_titles =
            ada.query("documents:list", json!({ "orgId": "refused" })).await?.value()?.clone();

        let reader = client("192.0.2.30", "report maker");
        let report = reader
            .action("reports:make", json!({ "documentId": document, "name": "reports" }))
            .await?;
        let confession = reader.action("reports:confess", json!({})).await?;

        let silenced = ada.mutation("limits:silence", json!({ "tag": "silence" })).await?;
        let silenced_rows =
            ada.query("counters:get", json!({ "name": "silence" })).await?.value()?.clone();
        let too_large =
            ada.mutation("limits:tooLarge", json!({ "tag": "large", "bytes": 1_000_000 })).await?;
        let together = ada.mutation("limits:together", json!({ "tag": "together" })).await?;
        let nested = ada.mutation("nested:outer", json!({ "tag": "nested" })).await?;
        let shared =
            ada.mutation("nested:share", json!({ "document": document, "with": "eve" })).await?;

        wait_for_jobs(&ada, &document).await?;
        let metered = Metered {
            logs: ada.metric("audit_usage_logs_total").await?,
            bytes: ada.metric("audit_usage_bytes_total").await?,
            metered_bytes: ada.metric("audit_usage_metered_bytes_total").await?,
        };
        Ok(Scene {
            body,
            body_client,
            forged,
            unknown,
            document,
            views,
            cache_hits,
            followers: followers.iter().map(|client| client.ip().to_owned()).collect(),
            update,
            update_client,
            adds,
            total,
            refused,
            refused_titles,
            report,
            confession,
            silenced,
            silenced_rows,
            too_large,
            together,
            nested,
            shared,
            metered,
        })
    }
}

/// Changes a document while clients follow it. Returns the response once each of them has received
/// the change.
async fn update_followed(document: &str, followers: &[Client], by: &Client) -> Played<Answer> {
    let follow = |client: &Client| {
        let (client, args) = (client.clone(), json!({ "documentId": document }));
        async move {
            let mut follower = client.follow("documents:view", args).await?;
            let first = follower.next().await?;
            Ok::<_, Box<dyn Error>>((follower, first))
        }
    };
    let mut following = try_join_all(followers.iter().map(follow)).await?;
    let change = json!({ "documentId": document, "text": "Start smaller.", "userId": "bob" });
    let update = by.mutation("documents:update", change).await?;
    for (follower, first) in &mut following {
        let next = follower.next().await?;
        if next["revision"] != 2.0 || first["revision"] != 1.0 {
            return Err(format!("a follower saw {first}, then {next}").into());
        }
    }
    Ok(update)
}

/// Waits until the function that the update scheduled has run, and the cron, which first runs
/// immediately.
async fn wait_for_jobs(client: &Client, document: &str) -> Played<()> {
    let waiting = Instant::now();
    loop {
        let done = client.query("maintenance:notices", json!({ "about": document })).await?;
        let done = done.value()?;
        if done["notices"] == 1.0 && done["sweeps"] != 0.0 {
            return Ok(());
        }
        if waiting.elapsed() > PATIENCE {
            return Err(format!("a scheduled function or the cron did not run: {done}").into());
        }
        sleep(LOOK_INTERVAL).await;
    }
}
