//! The HTTP client of readers. Objects that others put into the bucket cannot stop it.
//!
//! `object_store` fails a whole listing because of one key that is not a valid path (an empty
//! segment, `..`, a control character), and an object because of one header that is not ASCII.
//! Anyone who may put an object could hide all others in this way. This client rewrites such keys
//! before a listing is parsed, and drops such headers.
//!
//! `object_store` also accepts any text as a listing, and a truncated listing as a complete one. A
//! response that is not a listing, or that does not say where it continues, is therefore an error
//! here: otherwise readers would conclude that nothing is missing. An endless page or level is an
//! error too, since it would take all memory, and so is a listing that goes in a circle, since it
//! would never end. A listing with new objects on each page is read as long as it continues, in
//! bounded memory, since nothing distinguishes it from that of a large bucket. An error response
//! counts by its status, whatever its body is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::{async_trait, sources};
use bytes::Bytes;
use chrono::DateTime;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::path::Path;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::http_client;
use super::purpose::OnRetry;
use super::response_body::{MAX_ERROR_BYTES, readable, start_of};

/// The most that is read of a page of a listing, in bytes. Pages have at most 5,000 keys of 1,024
/// characters.
const MAX_LISTING_BYTES: usize = 64 << 20;

/// The most that is read of all pages of a level, in bytes, as it is kept in memory: more than a
/// million entries.
const MAX_LEVEL_BYTES: usize = 512 << 20;

/// Creates clients that report failures.
pub(crate) struct ReadConnector {
    pub(crate) on_retry: Option<OnRetry>,
    /// Receives the time of the last response, in milliseconds since the Unix epoch.
    pub(crate) time_ms: Arc<AtomicI64>,
}

impl HttpConnector for ReadConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = http_client::connect(options)?;
        let (on_retry, time_ms) = (self.on_retry.clone(), Arc::clone(&self.time_ms));
        let (empty_pages, places) = (AtomicU32::new(0), Places::default());
        Ok(HttpClient::new(ReadService { inner, on_retry, time_ms, empty_pages, places }))
    }
}

impl fmt::Debug for ReadConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadConnector")
    }
}

struct ReadService {
    inner: HttpClient,
    on_retry: Option<OnRetry>,
    time_ms: Arc<AtomicI64>,
    /// The number of consecutive pages that list nothing and say where the listing continues.
    empty_pages: AtomicU32,
    places: Places,
}

/// A store may return empty pages, for example where many objects were deleted, but not without
/// end.
const MAX_EMPTY_PAGES: u32 = 10_000;

impl fmt::Debug for ReadService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadService")
    }
}

impl ReadService {
    fn tell(&self, why: impl FnOnce() -> String) {
        if let Some(on_retry) = &self.on_retry {
            on_retry(&why());
        }
    }
}

#[async_trait]
impl HttpService for ReadService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let listed = request.uri().query().filter(|query| {
            query.split('&').any(|part| part == "list-type=2" || part == "comp=list")
        });
        let listed = listed.map(str::to_owned);
        let answered = self.inner.execute(request).await;
        let (mut parts, mut body) = answered
            .inspect_err(|error| self.tell(|| crate::one_line::scrub(&innermost(error))))?
            .into_parts();
        if parts.status.is_server_error() || parts.status.as_u16() == 429 {
            self.tell(|| format!("status {}", parts.status));
        }
        let date = parts.headers.get("date").and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) {
            self.time_ms.store(date.timestamp_millis(), Ordering::Relaxed);
        }
        let illegible: Vec<_> = parts
            .headers
            .iter()
            .filter(|(_, value)| value.to_str().is_err())
            .map(|(name, _)| name.clone())
            .collect();
        for name in illegible {
            parts.headers.remove(name);
        }
        if !parts.status.is_success() {
            // An error counts by its status, even if its body is cut off.
            let (text, _) = start_of(body, MAX_ERROR_BYTES).await;
            parts.headers.remove("content-length");
            body = HttpResponseBody::from(readable(text));
        } else if let Some(query) = listed {
            let (listing, end) = start_of(body, MAX_LISTING_BYTES).await;
            end?;
            check_listing(&listing)
                .and_then(|next| {
                    self.places.note(&query, next.as_deref(), listing.len())?;
                    Ok(next.is_some())
                })
                .and_then(|goes_on| count_empty(&self.empty_pages, &query, &listing, goes_on))
                .map_err(|(kind, why)| HttpError::new(kind, NoListing(why)))?;
            let listing = match with_valid_keys(&listing) {
                Cow::Borrowed(_) => listing,
                Cow::Owned(rewritten) => Bytes::from(rewritten),
            };
            parts.headers.remove("content-length");
            body = HttpResponseBody::from(listing);
        }
        Ok(HttpResponse::from_parts(parts, body))
    }
}

type NotListed = (HttpErrorKind, &'static str);

/// Checks that a response is a listing that is complete or says where it continues. Returns the
/// token of the next page, if there is one.
fn check_listing(listing: &[u8]) -> Result<Option<Cow<'_, [u8]>>, NotListed> {
    if listing.len() == MAX_LISTING_BYTES {
        return Err((HttpErrorKind::Unknown, "a page of 64 MiB, which no listing has"));
    }
    let begin = &listing[..listing.len().min(1024)];
    let is_listing =
        ["<ListBucketResult", "<EnumerationResults"].iter().any(|root| within(begin, root));
    if !is_listing {
        // Retried: a proxy may return a page of its own for a moment.
        return Err((HttpErrorKind::Interrupted, "something other than a listing"));
    }
    let next = ["NextContinuationToken", "NextMarker"]
        .iter()
        .find_map(|name| element(listing, name).filter(|token| !token.is_empty()));
    match next {
        None if element(listing, "IsTruncated").as_deref() == Some(b"true") => {
            Err((HttpErrorKind::Unknown, "a part of a listing, and not where it goes on"))
        }
        next => Ok(next),
    }
}

/// How often a store may return the same token before the listing counts as circular. Concurrent
/// listings whose queries differ only in the token, as for several visitors of a page, share the
/// count. It restarts when one of them begins or ends.
const MAX_SAME_PLACE: u32 = 256;

/// The tokens with which listings continue, kept to find listings that go in a circle.
#[derive(Default)]
struct Places {
    /// The tokens that the store returned since such a listing last began, by the hash of the query
    /// without its token.
    told: Mutex<HashMap<u64, Told>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Told {
    /// How often the store returned each token, by the token's hash.
    places: HashMap<u64, u32>,
    /// The total size of the pages with these tokens, in bytes.
    bytes: usize,
}

/// Whether the query lists a level, all pages of which the client keeps in memory.
fn is_level(query: &str) -> bool {
    query.split('&').any(|part| part.starts_with("delimiter="))
}

impl Places {
    /// Notes the token with which a listing continues after a page of `bytes` bytes. `next` is
    /// `None` if the listing ends.
    fn note(&self, query: &str, next: Option<&[u8]>, bytes: usize) -> Result<(), NotListed> {
        let (places, listing): (Vec<&str>, Vec<&str>) = query.split('&').partition(|part| {
            ["continuation-token=", "marker="].iter().any(|name| part.starts_with(name))
        });
        let circle = (HttpErrorKind::Unknown, "a listing that goes in a circle, without end");
        let asked = places.first().and_then(|place| place.split_once('='));
        let asked = asked.map(|(_, place)| Cow::from(percent_decode_str(place)));
        if asked.is_some() && asked.as_deref() == next {
            return Err(circle);
        }
        let listing = self.hasher.hash_one(listing);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none() || next.is_none() {
            told.remove(&listing);
        }
        let Some(next) = next else { return Ok(()) };
        let told = told.entry(listing).or_default();
        let times = told.places.entry(self.hasher.hash_one(next)).or_default();
        *times += 1;
        if *times == 1 {
            told.bytes += bytes;
        }
        match *times {
            _ if is_level(query) && told.bytes > MAX_LEVEL_BYTES => {
                Err((HttpErrorKind::Unknown, "a level that exceeds limit of 512 MiB"))
            }
            ..=MAX_SAME_PLACE => Ok(()),
            _ => Err(circle),
        }
    }
}

/// Counts a page if it lists nothing and goes on.
fn count_empty(
    pages: &AtomicU32,
    query: &str,
    listing: &[u8],
    goes_on: bool,
) -> Result<(), NotListed> {
    let objects = ["<Contents", "<Blob>"];
    let prefixes = ["<CommonPrefixes", "<BlobPrefix"].into_iter().filter(|_| is_level(query));
    if !goes_on || objects.into_iter().chain(prefixes).any(|entry| within(listing, entry)) {
        pages.store(0, Ordering::Relaxed);
        return Ok(());
    }
    match pages.fetch_add(1, Ordering::Relaxed) {
        before if before < MAX_EMPTY_PAGES => Ok(()),
        _ => Err((HttpErrorKind::Unknown, "pages that list nothing, without end")),
    }
}

fn within(text: &[u8], part: &str) -> bool {
    memchr::memmem::find(text, part.as_bytes()).is_some()
}

/// The text of the first element of this name that has no attributes.
fn element<'t>(xml: &'t [u8], name: &str) -> Option<Cow<'t, [u8]>> {
    let opening = format!("<{name}>");
    let begin = memchr::memmem::find(xml, opening.as_bytes())? + opening.len();
    let end = begin + memchr::memchr(b'<', &xml[begin..])?;
    unescape(&xml[begin..end])
}

/// A response with a success status to the request for a listing that cannot be used as one.
#[derive(Debug, thiserror::Error)]
#[error("asked for a listing, the store answered with {0}")]
struct NoListing(&'static str);

fn innermost(error: &HttpError) -> String {
    sources(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The prefix of rewritten keys. All other listed keys begin with the requested prefix.
const REWRITTEN: &str = "%invalid/";

/// The original key of a rewritten path. `None` for any other path.
pub(crate) fn original(path: &Path) -> Option<String> {
    let encoded = path.as_ref().strip_prefix(REWRITTEN)?;
    Some(percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

/// The elements that hold a key or a prefix in the listings of S3, GCS and Azure.
const OPENING: [&[u8]; 4] = [b"<Key>", b"<Prefix>", b"<Name>", b"<Name Encoded=\"true\">"];

/// Rewrites a listing so that [`Path::parse`] accepts every key and leaves it unchanged.
fn with_valid_keys(listing: &[u8]) -> Cow<'_, [u8]> {
    let mut rewritten = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'<', &listing[at..]) {
        let opening = at + found;
        at = opening + 1;
        let rest = &listing[opening..];
        let Some(tag) = OPENING.into_iter().find(|tag| rest.starts_with(tag)) else { continue };
        let begin = opening + tag.len();
        let Some(len) = memchr::memchr(b'<', &listing[begin..]) else { break };
        let content = &listing[begin..begin + len];
        at = begin + len;
        if !listing[at..].starts_with(b"</") {
            continue;
        }
        let is_prefix =
            tag == b"<Prefix>" || listing[..opening].trim_ascii_end().ends_with(b"<BlobPrefix>");
        let key = unescape(content);
        let valid = tag != b"<Name Encoded=\"true\">"
            && key.as_ref().is_some_and(|key| is_valid(key, is_prefix));
        if !valid {
            rewritten.extend_from_slice(&listing[copied..begin]);
            rewritten.extend_from_slice(REWRITTEN.as_bytes());
            let key = key.as_deref().unwrap_or(content);
            rewritten.extend(percent_encode(key, NON_ALPHANUMERIC).flat_map(str::bytes));
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(listing);
    }
    rewritten.extend_from_slice(&listing[copied..]);
    Cow::Owned(rewritten)
}

/// Whether parsing leaves a key unchanged. A key with a trailing slash or space would turn into a
/// different one, possibly one of ours.
fn is_valid(key: &[u8], is_prefix: bool) -> bool {
    let Ok(key) = std::str::from_utf8(key) else { return false };
    let key = if is_prefix { key.strip_suffix('/').unwrap_or(key) } else { key };
    key.trim() == key && Path::parse(key).is_ok_and(|path| path.as_ref() == key)
}

/// The text of an element. `None` if it is not valid XML.
fn unescape(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr(b'&', text).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut unescaped = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = memchr::memchr(b'&', rest) {
        unescaped.extend_from_slice(&rest[..begin]);
        let end = begin + memchr::memchr(b';', &rest[begin..])?;
        let entity = std::str::from_utf8(&rest[begin + 1..end]).ok()?;
        let char = match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = entity.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        };
        unescaped.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[end + 1..];
    }
    unescaped.extend_from_slice(rest);
    Some(Cow::Owned(unescaped))
}

#[cfg(test)]
mod tests {
    use super::super::response_body::testing::Server;
    use super::*;

    fn key_of(listing: &[u8], tag: &str) -> String {
        let text = String::from_utf8(listing.to_vec()).unwrap();
        let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap();
        rest.split('<').next().unwrap().to_owned()
    }

    #[test]
    fn a_listing_is_complete_or_says_where_it_continues() {
        let first = "list-type=2&prefix=a%2F";
        let second = "list-type=2&continuation-token=a%2Bb%3D&prefix=a%2F";
        let third = "restype=container&comp=list&marker=a%2Bb%3D";
        let s3 = |inner: &str| {
            format!("<?xml?>\n<ListBucketResult xmlns=\"x\">{inner}</ListBucketResult>")
        };
        let azure = |inner: &str| format!("<EnumerationResults>{inner}</EnumerationResults>");
        let next = |token: &str| {
            format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
            )
        };
        let check = |query: &str, listing: &str| {
            let next = check_listing(listing.as_bytes())?;
            Places::default().note(query, next.as_deref(), 1).map(|()| next.is_some())
        };
        for (query, listing) in [
            (first, s3("")),
            (first, s3("<IsTruncated>false</IsTruncated>")),
            (first, s3(&next("a+b="))),
            (second, s3(&next("a+b"))),
            (second, s3("<IsTruncated>false</IsTruncated><NextContinuationToken/>")),
            (third, azure("<NextMarker>b</NextMarker>")),
            (third, azure("<NextMarker></NextMarker>")),
            (third, azure("<NextMarker />")),
        ] {
            let goes_on = listing.contains(">b</Next") || listing.contains("<IsTruncated>true");
            let said = check(query, &listing);
            assert_eq!(said, Ok(goes_on), "{listing}");
        }
        for (query, listing) in [
            (first, "<html>sign in</html>".to_owned()),
            (first, String::new()),
            (first, "<Error><Code>InternalError</Code></Error>".to_owned()),
            (first, s3("<IsTruncated>true</IsTruncated>")),
            (
                second,
                s3(
                    "<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>",
                ),
            ),
            (second, s3(&next("a+b="))),
            (second, s3(&next("a&#43;b="))),
            (third, azure("<NextMarker>a+b=</NextMarker>")),
        ] {
            assert!(check(query, &listing).is_err(), "{listing}");
        }
    }

    /// The query and the page of a listing that continues from `asked`.
    fn page(asked: Option<&str>, next: Option<&str>) -> (String, String) {
        let asked = asked.map(|place| format!("continuation-token={place}&")).unwrap_or_default();
        let next = next.map(|place| format!("<NextContinuationToken>{place}<")).unwrap_or_default();
        let page = format!("<ListBucketResult><Contents/>{next}</ListBucketResult>");
        (format!("list-type=2&{asked}prefix=logs%2F&delimiter=%2F"), page)
    }

    #[test]
    fn listings_in_a_circle_end() {
        let names: Vec<String> = (0..5).map(|n| format!("place{n}")).collect();
        for (before, circle) in [(0, 1), (1, 1), (0, 2), (3, 2), (0, 5), (2, 3)] {
            let places = Places::default();
            let (mut asked, mut requests, mut at) = (None, 0, 0);
            let failure = loop {
                let (query, page) = page(asked, Some(&names[at]));
                requests += 1;
                assert!(requests < 10_000, "{before} places before a circle of {circle}");
                let next = check_listing(page.as_bytes()).unwrap();
                if let Err(failure) = places.note(&query, next.as_deref(), 1) {
                    break failure;
                }
                asked = Some(&names[at]);
                at = if at + 1 == before + circle { before } else { at + 1 };
            };
            assert_eq!(failure.1, "a listing that goes in a circle, without end");
        }
    }

    #[test]
    fn listings_of_one_part_at_once_do_not_stop_each_other() {
        let names: Vec<String> = (0..7).map(|n| format!("place{n}")).collect();
        let places = Places::default();
        for again in 0..3 {
            for at in 0..=names.len() {
                for listing in 0..MAX_SAME_PLACE {
                    let asked = at.checked_sub(1).map(|before| &*names[before]);
                    let (query, page) = page(asked, names.get(at).map(|name| &**name));
                    let next = check_listing(page.as_bytes()).unwrap();
                    let noted = places.note(&query, next.as_deref(), 1);
                    assert_eq!(noted, Ok(()), "{again}: page {at} of listing {listing}");
                }
            }
            assert!(places.told.lock().unwrap().is_empty(), "{again}");
        }
    }

    #[tokio::test]
    async fn a_response_takes_bounded_memory_and_an_error_keeps_its_status() {
        const PIECE: &[u8] = &[b' '; 1 << 20];
        let begin = Some(&b"<ListBucketResult>"[..]);
        let response = async |status: u16, body: Vec<Option<&'static [u8]>>| {
            let inner = HttpClient::new(Server(status, body));
            let (time_ms, empty_pages) = (Arc::default(), AtomicU32::new(0));
            let places = Places::default();
            let service = ReadService { inner, on_retry: None, time_ms, empty_pages, places };
            let request = http::Request::builder().uri("http://store/bucket?list-type=2");
            let response = service.call(request.body(Vec::new().into()).unwrap()).await;
            let response = response.map_err(|error| innermost(&error))?;
            let (parts, body) = response.into_parts();
            let body = body.bytes().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((parts.status.as_u16(), body))
        };
        let page = [vec![begin], vec![Some(PIECE); 60]].concat();
        assert_eq!(response(200, page).await.unwrap().1.len(), 18 + (60 << 20));
        let endless = [vec![begin], vec![Some(PIECE); 70]].concat();
        let failure = response(200, endless).await.unwrap_err();
        assert!(failure.contains("a page of 64 MiB"), "{failure}");
        for (body, text) in [
            (vec![Some(&b"<Error/>"[..])], "<Error/>"),
            // Compressed, although the request did not accept that; cut off.
            (vec![Some(b"\x1f\x8b")], "\x1f\u{fffd}"),
            (vec![Some(b"<Err"), None], "<Err"),
            (vec![Some(PIECE); 3], std::str::from_utf8(&PIECE[..MAX_ERROR_BYTES]).unwrap()),
        ] {
            assert_eq!(response(403, body).await, Ok((403, Bytes::from_static(text.as_bytes()))));
        }
    }

    #[test]
    fn empty_pages_end() {
        let pages = AtomicU32::new(0);
        let endless = |query: &str, page: &[u8], goes_on| {
            (0..=MAX_EMPTY_PAGES).any(|_| count_empty(&pages, query, page, goes_on).is_err())
        };
        let (all, level) = ("list-type=2", "delimiter=%2F&list-type=2");
        for query in [all, level] {
            assert!(!endless(query, b"<ListBucketResult><Contents>", true));
            assert!(!endless(query, b"<EnumerationResults><Blobs><Blob>", true));
            assert!(!endless(query, b"<ListBucketResult>", false));
            assert!(endless(query, b"<ListBucketResult><Prefix>logs/</Prefix>", true));
        }
        // Directories count as entries only in the listing of a level.
        for page in [&b"<EnumerationResults><Blobs><BlobPrefix>"[..], b"<CommonPrefixes>"] {
            assert!(!endless(level, page, true));
            assert!(endless(all, page, true));
        }
    }

    /// Every page says that another page follows.
    #[test]
    fn a_level_without_end_ends() {
        for (query, ends) in [("list-type=2", false), ("delimiter=%2F&list-type=2", true)] {
            let places = Places::default();
            let mut next = None::<String>;
            let failed = (0..20).find_map(|n| {
                let asked =
                    next.replace(format!("place{n}")).map(|place| format!("&marker={place}"));
                let query = format!("{query}{}", asked.unwrap_or_default());
                let place = next.as_deref().map(str::as_bytes);
                // As if nine visitors of a page listed the level concurrently.
                (0..9).find_map(|_| places.note(&query, place, MAX_LISTING_BYTES / 2).err())
            });
            assert_eq!(failed.is_some(), ends, "{query}: {failed:?}");
        }
    }

    #[test]
    fn only_keys_that_are_no_paths_are_rewritten() {
        let good =
            b"<ListBucketResult><Prefix>logs/</Prefix><Contents><Key>logs/a&amp;b/%2F c</Key>\
            </Contents><CommonPrefixes><Prefix>logs/dt=2023-11-14/</Prefix></CommonPrefixes>\
            <Key><![CDATA[x]]></Key></ListBucketResult>";
        assert!(matches!(with_valid_keys(good), Cow::Borrowed(_)));
        for (escaped, key) in [
            ("a//b", "a//b"),
            ("/a", "/a"),
            ("a/", "a/"),
            ("a/..", "a/.."),
            ("./a", "./a"),
            (" a", " a"),
            ("a&#32;", "a "),
            ("a&#x1;&lt;&gt;&quot;&apos;", "a\u{1}<>\"'"),
            ("a&#x1b;[31m", "a\u{1b}[31m"),
            ("a\u{7f}", "a\u{7f}"),
            ("a&#0;", "a\0"),
            ("a//&nbsp;", "a//&nbsp;"),
            ("a/&#xD800;", "a/&#xD800;"),
        ] {
            let listing = format!("<Contents><Key>{escaped}</Key><Size>1</Size></Contents>");
            let rewritten = with_valid_keys(listing.as_bytes());
            let path = Path::parse(key_of(&rewritten, "Key")).unwrap();
            assert_eq!(original(&path).as_deref(), Some(key), "{escaped}");
            assert!(rewritten.ends_with(b"</Key><Size>1</Size></Contents>"));
        }
        let not_utf8 = with_valid_keys(b"<Key>a\xff</Key>").into_owned();
        let path = Path::parse(key_of(&not_utf8, "Key")).unwrap();
        assert_eq!(original(&path).as_deref(), Some("a\u{fffd}"));
    }

    #[test]
    fn only_prefixes_may_end_with_a_slash() {
        let azure =
            b"<Blobs><BlobPrefix> <Name>a/</Name></BlobPrefix><Blob><Name>b/</Name></Blob></Blobs>";
        let rewritten = String::from_utf8(with_valid_keys(azure).into_owned()).unwrap();
        assert!(rewritten.contains("<Name>a/</Name>"), "{rewritten}");
        assert!(rewritten.contains("<Blob><Name>%invalid/b%2F</Name></Blob>"), "{rewritten}");
        let s3 = b"<CommonPrefixes><Prefix>a//</Prefix></CommonPrefixes>";
        assert!(matches!(with_valid_keys(s3), Cow::Owned(_)));
    }

    #[test]
    fn truncated_listings_do_not_panic() {
        for text in
            ["", "<", "<Key>", "<Key>a", "<Key>a<", "<Key></Key>", "<Name><Name>//<", "<Key>&"]
        {
            let _ = with_valid_keys(text.as_bytes());
        }
    }
}
