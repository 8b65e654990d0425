//! The report as one page: it prints well, and loads and runs nothing.

use std::fmt::Write;

use serde_json::Value;

use crate::escape;
use crate::units::{Count, Size, counted};

const STYLE: &str = "\
@page{size:A4;margin:18mm 14mm}\
body{font:10.5pt/1.45 system-ui,sans-serif;color:#111;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:1.8rem 0 .4rem;break-after:avoid}\
table{border-collapse:collapse;width:100%;font-size:.92em}thead{display:table-header-group}\
tr{break-inside:avoid}th,td{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0;\
border-bottom:1px solid #ccc;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap;\
font-variant-numeric:tabular-nums}.bad{color:#a40000;font-weight:600}.good{color:#0a5c1f;font-weight:600}\
.doubtful{color:#7a5200;font-weight:600}code{font-size:.9em}\
@media(prefers-color-scheme:dark){@media screen{body{background:#161616;color:#e8e8e8}\
.bad{color:#ff8a80}.good{color:#7fd694}.doubtful{color:#e5b567}}}";

/// Escapes text for HTML. Control characters, changes of direction and invisible characters are
/// shown by their numbers.
fn text(text: &str) -> String {
    let mut safe = String::new();
    for character in escape::text(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Formats a value for people.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(string) => text(string),
        Value::Number(number) => {
            number.as_u64().map_or_else(|| number.to_string(), |n| Count(n).to_string())
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => text(&value.to_string()),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".to_owned(), |bytes| Size(bytes).to_string())
}

/// A column: its title, and whether it has numbers.
type Title = (&'static str, bool);

fn table(page: &mut String, titles: &[Title], rows: impl Iterator<Item = Vec<String>>) {
    page.push_str("<table><thead><tr>");
    let class = |is_number: bool| if is_number { " class=\"n\"" } else { "" };
    for (title, is_number) in titles {
        let _ = write!(page, "<th scope=\"col\"{}>{title}</th>", class(*is_number));
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (cell, (_, is_number)) in row.iter().zip(titles) {
            let _ = write!(page, "<td{}>{cell}</td>", class(*is_number));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table>\n");
}

fn verdict(page: &mut String, class: &str, what: &str) {
    let _ = writeln!(page, "<p class=\"{class}\">{}</p>", text(what));
}

/// Shows why a part is missing, if it is.
fn failed(page: &mut String, summary: &Value) -> bool {
    let Some(why) = summary.get("failed") else { return false };
    verdict(page, "bad", &format!("This could not be done: {}", why.as_str().unwrap_or("unknown")));
    true
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn render(report: &Value) -> String {
    let head = &report["report"];
    let title = format!("Audit log of {}", shown(&head["bucket"]));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n\
         <p>{} to {}. Made {} by {}.</p>\n",
        shown(&head["from"]),
        shown(&head["to"]),
        shown(&head["made"]),
        shown(&head["software"]),
    );
    population(&mut page, report);
    verification(&mut page, &report["verification"]);
    keys(&mut page, report);
    settings(&mut page, &report["settings"]);
    page.push_str("</main></body></html>\n");
    page
}

fn population(page: &mut String, report: &Value) {
    page.push_str("<h2>Population by day</h2>\n");
    let summary = &report["population"];
    if !failed(page, summary) {
        let titles = [
            ("Day", false),
            ("Objects", true),
            ("Records", true),
            ("Bytes", true),
            ("Metered", true),
            ("Stored", true),
        ];
        let row = |day: String, totals: &Value| {
            vec![
                day,
                shown(&totals["objects"]),
                shown(&totals["logs"]),
                size(&totals["bytes"]),
                size(&totals["metered_bytes"]),
                size(&totals["stored_bytes"]),
            ]
        };
        let days = list(summary, "days").map(|day| row(shown(&day["day"]), day));
        let all = std::iter::once(row("All".to_owned(), summary));
        table(page, &titles, days.chain(all));
        let streams = shown(&summary["streams"]);
        let _ = writeln!(page, "<p>Streams: {streams}. A day is that of the object, in UTC.</p>");
        if let Some(count) = summary["foreign"]["count"].as_u64() {
            let example = summary["foreign"]["example"].as_str().unwrap_or_default();
            let objects = counted(count, "object");
            let what = format!(
                "Among the records: {objects} that no host wrote, such as {example}. Query engines \
                 may read them as records."
            );
            verdict(page, "doubtful", &what);
        }
    }
    page.push_str("<h2>Gaps, duplicates and damage</h2>\n");
    let findings: Vec<&Value> = list(report, "findings").collect();
    if findings.is_empty() && summary.get("failed").is_none() {
        verdict(
            page,
            "good",
            "No record is missing between others, none is duplicated, and no object is damaged.",
        );
        return;
    }
    let titles = [("What", false), ("Where", false), ("Records", false)];
    let rows = findings.into_iter().map(|finding| {
        let place = ["stream", "key"].map(|name| &finding[name]);
        let place: Vec<String> = place.into_iter().filter(|v| !v.is_null()).map(shown).collect();
        let records = match (&finding["first_sequence"], &finding["last_sequence"]) {
            (Value::Null, _) => {
                shown(finding.get("what").or_else(|| finding.get("why")).unwrap_or(&Value::Null))
            }
            (first, last) => format!("{} to {}", shown(first), shown(last)),
        };
        vec![shown(&finding["finding"]), place.join(", "), records]
    });
    table(page, &titles, rows);
}

fn verification(page: &mut String, verification: &Value) {
    page.push_str("<h2>Verification</h2>\n");
    if verification.is_null() {
        return verdict(page, "doubtful", "Nothing was verified: no key was given.");
    }
    let summary = &verification["summary"];
    if failed(page, summary) {
        return;
    }
    let count = |name: &str| summary[name].as_u64().unwrap_or(0);
    let [tampered, unproven, late, expired] =
        ["tampered", "unproven", "late", "expired"].map(count);
    let (class, what) = match (tampered, unproven + late + expired) {
        (0, 0) => {
            ("good", "The bucket holds exactly what the hosts wrote, and nothing is missing.")
        }
        (0, _) => ("doubtful", "No tampering was found, but not everything is proven."),
        (_, _) => ("bad", "The log was tampered with."),
    };
    verdict(page, class, what);
    let _ = writeln!(
        page,
        "<p>Every object from the beginning of the period on was read, up to {}. Tampered: \
         {tampered}. Unproven: {unproven}. Late: {late}. Expired: {expired}.</p>",
        shown(&summary["verified"]),
    );
    let missing: Vec<Vec<String>> = summary["gaps"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(reason, records)| vec![text(reason), shown(records)])
        .collect();
    if !missing.is_empty() {
        table(page, &[("Why records are missing", false), ("Records", true)], missing.into_iter());
    }
    let mut findings = list(verification, "findings").peekable();
    if findings.peek().is_some() {
        let titles = [
            ("Kind", false),
            ("Where", false),
            ("From record", true),
            ("Records", true),
            ("What", false),
        ];
        let rows = findings.map(|finding| {
            let place = finding.get("object").filter(|object| !object.is_null());
            vec![
                shown(&finding["alarm"]),
                shown(place.unwrap_or(&finding["stream"])),
                shown(&finding["first"]),
                shown(&finding["count"]),
                shown(&finding["what"]),
            ]
        });
        table(page, &titles, rows);
    }
}

fn keys(page: &mut String, report: &Value) {
    page.push_str("<h2>Signing hosts</h2>\n");
    let hosts = report["verification"]["summary"]["hosts"].as_object();
    let titles = [
        ("Host", false),
        ("Streams", true),
        ("Objects", true),
        ("Records", true),
        ("From", false),
        ("To", false),
    ];
    let rows = hosts.into_iter().flatten().map(|(host, population)| {
        let of = |name: &str| shown(&population[name]);
        vec![text(host), of("streams"), of("objects"), of("records"), of("from"), of("to")]
    });
    table(page, &titles, rows);
    let keys = list(report, "keys")
        .map(|key| vec![shown(&key["name"]), format!("<code>{}</code>", shown(&key["key"]))]);
    table(page, &[("Trusted name", false), ("Verifier key", false)], keys);
}

fn settings(page: &mut String, settings: &Value) {
    page.push_str("<h2>Settings of the bucket</h2>\n");
    let summary = &settings["summary"];
    failed(page, summary);
    let titles =
        [("Check", false), ("Result", false), ("What was seen", false), ("What to change", false)];
    let rows = list(settings, "checks").map(|check| {
        let class = match check["verdict"].as_str() {
            Some("ok") => "good",
            Some("problem") => "bad",
            Some(_) | None => "doubtful",
        };
        let result = format!("<span class=\"{class}\">{}</span>", shown(&check["verdict"]));
        vec![shown(&check["check"]), result, shown(&check["said"]), shown(&check["advice"])]
    });
    table(page, &titles, rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped() {
        let hostile = "<script>alert(1)</script>\u{202e}\u{1b}[2J\"'&";
        let report = serde_json::json!({
            "report": { "bucket": hostile, "from": hostile, "to": null, "made": 1, "software": "x" },
            "population": { "foreign": { "count": 2, "example": hostile } },
            "findings": [{ "finding": "damaged", "key": hostile, "what": hostile }],
            "verification": { "summary": { "hosts": { hostile: { "from": hostile } }, "gaps": { hostile: 3 }, "tampered": 1 },
                "findings": [{ "alarm": hostile, "object": hostile, "what": hostile }] },
            "keys": [{ "name": hostile, "key": hostile }],
            "settings": { "summary": { "failed": hostile }, "checks": [{ "check": hostile, "verdict": hostile, "said": hostile }] },
        });
        let page = render(&report);
        assert!(!page.contains("<script") && !page.contains(['\u{202e}', '\u{1b}']), "{page}");
        assert!(
            page.contains(
                "&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}\\u{1b}[2J&quot;&#39;&amp;"
            )
        );
        assert!(page.contains("was tampered with"));
    }
}
