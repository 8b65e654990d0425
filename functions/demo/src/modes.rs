//! A host without a bucket, one with a log stream in its place, and one with provenance.

use serde_json::{Value as Json, json};

use super::bucket::Log;
use super::clients::Client;
use super::receiver::Receiver;
use super::stage::{Played, Proof, Stage, expect, first_line};

pub(super) async fn without_a_bucket(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "without";
    let host = stage.host(DATA, &["--bucket", "none"]).await?;
    let client = Client::new(&host, "192.0.2.1", "nobody's");
    let new = json!({ "title": "Unseen", "text": "", "orgId": "none" });
    let created = client.mutation("documents:create", new).await?;
    let silenced = client.mutation("limits:silence", json!({ "tag": "none" })).await?;
    let metered = client.metric("audit_usage_logs_total").await?;
    host.stop().await?;
    let data = stage.directory.join(DATA);
    let check = || -> Proof {
        created.value().map_err(|error| error.to_string())?;
        expect(!silenced.is_success(), || "600 logs passed".to_owned())?;
        expect(metered == 0.0, || format!("{metered} logs were metered"))?;
        expect(!data.join("bucket").exists() && !data.join("journal").exists(), || {
            "something was written".to_owned()
        })?;
        let error = first_line(silenced.error());
        Ok(vec![format!("without any destination: no journal, no bucket, 0 logs metered; {error}")])
    };
    Ok(check())
}

/// A host with a log stream in the place of the bucket.
pub(super) async fn with_a_log_stream(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "streamed";
    let receiver = Receiver::start().await?;
    let host = stage.host(DATA, &["--dev-log-stream", receiver.url()]).await?;
    let client = Client::new(&host, "192.0.2.1", "somebody's");
    let new = json!({ "title": "Seen", "text": "", "orgId": "streamed" });
    let created = client.mutation("documents:create", new).await?;
    let args = json!({ "documentId": created.value()? });
    for _ in 0..2 {
        client.query("documents:view", args.clone()).await?.value()?;
    }
    let silenced = client.mutation("limits:silence", json!({ "tag": "streamed" })).await?;
    host.stop().await?;
    let data = stage.directory.join(DATA);
    let events = receiver.events();
    let check = || -> Proof {
        for (action, expected) in [
            ("document.created", 1),
            ("document.viewed", 2),
            ("limits.deed", 1),
            ("limits.noise", 499),
        ] {
            let of_action = |event: &&Json| event["body"]["action"] == action;
            let found = events.iter().filter(of_action).count();
            expect(found == expected, || {
                format!("the log stream has {found} of {action}, not {expected}")
            })?;
        }
        expect(!silenced.is_success(), || "600 logs passed".to_owned())?;
        expect(!data.join("bucket").exists(), || "there is a bucket".to_owned())?;
        let viewed = events.iter().find(|event| event["body"]["action"] == "document.viewed");
        let viewed = viewed.ok_or("no view was received")?;
        let error = first_line(silenced.error());
        Ok(vec![
            format!("with a log stream alone: {} logs received, no bucket; {error}", events.len()),
            format!("received: {viewed}"),
        ])
    };
    Ok(check())
}

/// A host that adds provenance to its logs.
pub(super) async fn with_provenance(stage: &Stage) -> Played<Proof> {
    const DATA: &str = "provenance";
    let host = stage.host(DATA, &["--provenance=true"]).await?;
    let client = Client::new(&host, "192.0.2.1", "curious");
    let new = json!({ "title": "Whence", "text": "", "orgId": "provenance" });
    let created = client.mutation("documents:create", new).await?;
    let args = json!({ "documentId": created.value()? });
    for _ in 0..2 {
        client.query("documents:view", args.clone()).await?.value()?;
    }
    let forged = client
        .mutation("bodies:forged", json!({ "sent": r#"{"$audit":{"function":"innocent"}}"# }))
        .await?;
    host.stop().await?;
    let logs = stage.logs(DATA)?;
    let plain = stage.logs("data")?;
    let check = || -> Proof {
        let is_added_to = |log: &&Log| log.text.contains("$audit") && !log.is_of_host();
        let added = plain.all.iter().filter(is_added_to).count();
        expect(added == 0, || format!("{added} bodies were added to unasked"))?;
        let views = logs.find("document.viewed", &[]);
        let replays: Vec<_> = views.iter().map(|log| &log.json["$audit"]["replay"]).collect();
        expect(replays == [&json!(false), &json!(true)], || format!("replays: {replays:?}"))?;
        expect(views[0].json["$audit"]["function"] == "documents:view", || views[0].text.clone())?;
        expect(forged.error().contains("$audit"), || format!("{}", forged.body))?;
        Ok(vec![views[1].text.clone(), first_line(forged.error())])
    };
    Ok(check())
}
