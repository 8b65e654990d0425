//! The Google Cloud Storage operations of the store: the part of the XML API that deals with
//! objects.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::request::Parts;
use http::response::Builder;
use http::{Method, Response, StatusCode, header};
use s3s::Body;
use s3s::dto::{ETag, Timestamp, TimestampFormat};

use super::listing::{Page, PageAsked};
use super::{Entry, Store, StoredObject};
use crate::ErrorAnswer;
use crate::requests::decode;

/// The token that requests must carry.
pub(crate) const TOKEN: &str = "audit-test-token";

const METADATA: &str = "x-goog-meta-";

/// Refuses a request.
type Answer = Result<Response<Body>, ErrorAnswer>;

const NO_SUCH_KEY: ErrorAnswer = ErrorAnswer::new(404, "NoSuchKey");
const NOT_IMPLEMENTED: ErrorAnswer = ErrorAnswer::new(501, "NotImplemented");
const INVALID_ARGUMENT: ErrorAnswer = ErrorAnswer::new(400, "InvalidArgument");

impl Store {
    /// Answers a request of the XML API.
    pub(crate) fn answer_as_gcs(&self, parts: &Parts, body: Bytes) -> Response<Body> {
        self.carry_out(parts, body).unwrap_or_else(ErrorAnswer::response)
    }

    fn carry_out(&self, parts: &Parts, body: Bytes) -> Answer {
        let authorization = parts.headers.get(header::AUTHORIZATION);
        if authorization.is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
            return Err(ErrorAnswer::new(401, "AuthenticationRequired"));
        }
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if decode(bucket) != self.0.bucket {
            return Err(ErrorAnswer::NO_SUCH_BUCKET);
        }
        let key = decode(key);
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(&value.replace('+', " "))))
            .collect();
        match (&parts.method, key.is_empty()) {
            (&Method::GET, true) => self.list(&query),
            (&Method::PUT, false) if query.is_empty() => self.put_as_gcs(key, parts, body),
            (&Method::GET | &Method::HEAD, false) if query.is_empty() => self.read(&key, parts),
            (&Method::DELETE, false) if query.is_empty() => match self.delete(&key) {
                Some(_) => Ok(response(StatusCode::NO_CONTENT, Bytes::new())),
                None => Err(NO_SUCH_KEY),
            },
            _ => Err(NOT_IMPLEMENTED),
        }
    }

    fn put_as_gcs(&self, key: String, parts: &Parts, bytes: Bytes) -> Answer {
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let known = ["x-goog-if-generation-match", "x-goog-storage-class"];
        let mut metadata = BTreeMap::new();
        for (name, value) in &parts.headers {
            let name = name.as_str();
            if let Some(name) = name.strip_prefix(METADATA) {
                let value = value.to_str().map_err(|_| INVALID_ARGUMENT)?;
                metadata.insert(name.to_owned(), value.to_owned());
            } else if name.starts_with("x-goog-") && !known.contains(&name) {
                // Ignoring it would let a test pass that fails with the real store.
                return Err(NOT_IMPLEMENTED);
            }
        }
        let wanted = text("x-goog-if-generation-match").map(str::parse::<u64>);
        let wanted = wanted.transpose().map_err(|_| INVALID_ARGUMENT)?;
        let wanted = wanted.filter(|_| !self.0.ignore_if_none_match.load(Ordering::Relaxed));
        let owned = |name| text(name).map(ToOwned::to_owned);
        let entry = Entry::new(StoredObject {
            bytes,
            metadata,
            content_type: owned("content-type"),
            content_encoding: owned("content-encoding"),
        });
        let e_tag = shown(&entry.e_tag);
        let holds = |existing: Option<&Entry>| {
            // An object that does not exist has generation zero.
            let found = existing.map_or(0, |entry| entry.generation);
            wanted.is_none_or(|wanted| wanted == found)
        };
        let generation = self.write(key, entry, holds).ok_or(ErrorAnswer::PRECONDITION_FAILED)?;
        let head = head(StatusCode::OK).header(header::ETAG, e_tag);
        Ok(whole(head.header("x-goog-generation", generation), Bytes::new()))
    }

    fn read(&self, key: &str, parts: &Parts) -> Answer {
        let conditions = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];
        if conditions.iter().any(|name| parts.headers.contains_key(name)) {
            return Err(NOT_IMPLEMENTED);
        }
        let entries = self.entries();
        let entry = entries.get(key).ok_or(NO_SUCH_KEY)?;
        let all = &entry.object.bytes;
        let (status, bytes, content_range) = match parts.headers.get(header::RANGE) {
            None => (StatusCode::OK, all.clone(), None),
            Some(range) => {
                let (begin, end) = range
                    .to_str()
                    .ok()
                    .and_then(|range| range_of(range, all.len()))
                    .ok_or(ErrorAnswer::new(416, "InvalidRange"))?;
                let shown = format!("bytes {begin}-{}/{}", end - 1, all.len());
                (StatusCode::PARTIAL_CONTENT, all.slice(begin..end), Some(shown))
            }
        };
        let mut head = head(status)
            .header(header::ETAG, shown(&entry.e_tag))
            .header(header::LAST_MODIFIED, time(&entry.last_modified, TimestampFormat::HttpDate))
            .header("x-goog-generation", entry.generation)
            .header(header::CONTENT_LENGTH, bytes.len());
        let described = [
            (header::CONTENT_TYPE, &entry.object.content_type),
            (header::CONTENT_ENCODING, &entry.object.content_encoding),
            (header::CONTENT_RANGE, &content_range),
        ];
        for (name, value) in described {
            if let Some(value) = value {
                head = head.header(name, value);
            }
        }
        for (name, value) in &entry.object.metadata {
            head = head.header(format!("{METADATA}{name}"), value);
        }
        Ok(whole(head, if parts.method == Method::HEAD { Bytes::new() } else { bytes }))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let text = |name: &str| query.get(name).map(String::as_str);
        if text("list-type") != Some("2") {
            return Err(NOT_IMPLEMENTED);
        }
        let max_keys = text("max-keys").map(str::parse).transpose();
        let Page { keys, folders, max_keys, next } = self.page(&PageAsked {
            prefix: text("prefix").unwrap_or_default(),
            delimiter: text("delimiter"),
            token: text("continuation-token"),
            start_after: text("start-after"),
            max_keys: max_keys.map_err(|_| INVALID_ARGUMENT)?,
        });
        let mut xml = format!(
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult \
             xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{}</Name>\
             <MaxKeys>{max_keys}</MaxKeys><IsTruncated>{}</IsTruncated>",
            self.0.bucket,
            next.is_some()
        );
        let mut add = |text: String| xml.write_str(&text).expect("a string takes everything");
        if let Some(next) = next {
            add(format!("<NextContinuationToken>{next}</NextContinuationToken>"));
        }
        for listed in keys {
            add(format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag>\
                 <Size>{}</Size></Contents>",
                escaped(&listed.key),
                time(&listed.last_modified, TimestampFormat::DateTime),
                escaped(&shown(&listed.e_tag)),
                listed.size
            ));
        }
        for folder in folders {
            let folder = escaped(&folder);
            add(format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"));
        }
        add("</ListBucketResult>".to_owned());
        Ok(response(StatusCode::OK, xml.into()))
    }
}

fn head(status: StatusCode) -> Builder {
    Response::builder().status(status)
}

fn whole(head: Builder, bytes: Bytes) -> Response<Body> {
    head.body(Body::from(bytes)).expect("the headers are valid")
}

fn response(status: StatusCode, bytes: Bytes) -> Response<Body> {
    whole(head(status), bytes)
}

/// The first byte and the one after the last of `bytes=1-2`, `bytes=1-` or `bytes=-2`.
fn range_of(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (begin, end) = match (first, last) {
        ("", last) => (len.saturating_sub(last.parse().ok()?), len),
        (first, "") => (first.parse().ok()?, len),
        (first, last) => (first.parse().ok()?, (last.parse::<usize>().ok()? + 1).min(len)),
    };
    (begin < end).then_some((begin, end))
}

fn shown(e_tag: &ETag) -> String {
    let (ETag::Strong(text) | ETag::Weak(text)) = e_tag;
    format!("\"{text}\"")
}

fn time(time: &Timestamp, format: TimestampFormat) -> String {
    let mut text = Vec::new();
    time.format(format, &mut text).expect("memory takes everything");
    String::from_utf8(text).expect("a time is ASCII")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
