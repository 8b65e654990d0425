//! Plays all scenes, and prints whether each promise holds.

use super::faults::{effects_wait_for_logs, killed_under_load};
use super::modes::{with_a_log_stream, with_provenance, without_a_bucket};
use super::page::Page;
use super::scene::Scene;
use super::stage::{Played, Proof, Stage};

/// Plays all scenes, then prints the promises. Returns whether all hold.
pub(super) async fn play(stage: &Stage, page: &mut Page) -> Played<bool> {
    page.playing("clients read, follow, change, fail, and conflict with each other");
    let host = stage.host("data", &[]).await?;
    let scene = Scene::play(&host).await?;
    host.stop().await?;
    let logs = stage.logs("data")?;

    page.playing("a host is killed again and again under load");
    let killed = killed_under_load(stage).await?;
    page.playing("the bucket goes away");
    let withheld = effects_wait_for_logs(stage).await?;
    page.playing(
        "a host without a bucket; one with a log stream in its place; one with provenance",
    );
    let without = both(without_a_bucket(stage).await?, with_a_log_stream(stage).await?);
    let provenance = with_provenance(stage).await?;

    page.playing(&format!("{} logs in {} objects are read back\n", logs.all.len(), logs.objects));
    let rows: [(&str, &str, Proof); 14] = [
        (
            "C1",
            "What reaches the bucket is the body as JSON, variables replaced",
            scene.bodies(&logs),
        ),
        ("C2", "Variables stand at any depth and are each request's own", scene.variables(&logs)),
        (
            "C3",
            "Data that looks like a variable is refused, and so is an unknown one",
            scene.forgeries(&logs),
        ),
        (
            "C4",
            "Every hand-out of a query is logged, cache hits and subscribers too",
            scene.hand_outs(&logs),
        ),
        (
            "C5",
            "Every attempt at a mutation is logged, failures and conflicts too",
            scene.attempts(&logs),
        ),
        ("C6", "Nothing leaves and nothing commits before its logs are durable", withheld),
        (
            "C7",
            "What an action calls is logged call by call; an action has no log",
            scene.actions(&logs),
        ),
        ("C8", "Limits hold, and nobody silences the log by overflowing it", scene.limits(&logs)),
        ("C9", "A nested mutation that is undone keeps its logs", scene.nested(&logs)),
        (
            "C10",
            "Crons and scheduled functions have no client, but can be passed one",
            scene.scheduled(&logs),
        ),
        ("C11", "What was acknowledged is in the bucket, once, whatever is killed", killed),
        (
            "C12",
            "Without a bucket logs go to a log stream, without both nowhere, and limits hold",
            without,
        ),
        (
            "C13",
            "Each log is metered at its bytes rounded up to the next 5,000",
            scene.usage(&logs),
        ),
        ("C14", "Nothing is added to a body unless provenance is enabled", provenance),
    ];
    for (name, promise, proof) in &rows {
        page.row(name, promise, proof);
    }
    Ok(rows.iter().all(|(_, _, proof)| proof.is_ok()))
}

/// Both proofs of one promise.
fn both(first: Proof, second: Proof) -> Proof {
    let mut lines = first?;
    lines.extend(second?);
    Ok(lines)
}
