//! Keys that the issuers of an app publish, fetched when a token needs them.
//!
//! The senders of tokens determine when a set is fetched, so they must not determine how often. A
//! set is fetched by one call at a time, and not again until [`FETCH_INTERVAL`] has passed,
//! whichever keys are requested.

use std::sync::Arc;
use std::time::Duration;

use audit_core::with_sources;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use functions_fetch::Fetcher;
use functions_program::{AuthKeys, AuthProvider};
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::sync::Mutex as Turns;
use tokio::time::Instant;
use url::{Host, Url};

use super::keys::{Key, key_set};

/// How long keys are used without fetching newer ones, and so how long a key may be accepted after
/// its issuer has withdrawn it.
const FRESH_FOR: Duration = Duration::from_secs(600);

/// How long keys are used while their issuer cannot be reached. Tokens issued before have expired
/// by then, and the issuer creates no new ones.
const USABLE_FOR: Duration = Duration::from_secs(3_600);

/// The shortest time between two fetches. Issuers publish a key some time before they sign with it.
const FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The shortest time until the next fetch after one that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long a fetch may take, including discovery, while calls wait for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest key set or document of OpenID Connect Discovery, in bytes. Real ones have a few
/// kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// The most keys of a set. A token without a key id is tried with each of them.
const MAX_KEYS: usize = 50;

#[derive(Default)]
pub(super) struct KeySets(Mutex<Vec<Arc<KeySet>>>);

pub(super) struct KeySet {
    pub(super) provider: AuthProvider,
    held: Mutex<Held>,
    /// Held by the call that fetches.
    fetching: Arc<Turns<()>>,
}

#[derive(Clone, Default)]
struct Held {
    keys: Arc<[Key]>,
    fetched: Option<Instant>,
    /// When the last fetch began.
    attempted: Option<Instant>,
}

impl KeySets {
    /// The key sets of these providers. Keys of providers that existed before are kept.
    pub(super) fn of(&self, providers: &[AuthProvider]) -> Vec<Arc<KeySet>> {
        let mut sets = self.0.lock();
        if !sets.iter().map(|set| &set.provider).eq(providers) {
            let new = providers.iter().map(|provider| {
                let known = sets.iter().find(|set| set.provider == *provider);
                known.cloned().unwrap_or_else(|| Arc::new(KeySet::new(provider.clone())))
            });
            *sets = new.collect();
        }
        sets.clone()
    }
}

impl Held {
    fn is_fresh(&self, now: Instant) -> bool {
        self.fetched.is_some_and(|at| now.duration_since(at) < FRESH_FOR)
    }

    fn may_be_fetched(&self, now: Instant) -> bool {
        let interval = if self.fetched < self.attempted { RETRY_INTERVAL } else { FETCH_INTERVAL };
        self.attempted.is_none_or(|at| now.duration_since(at) >= interval)
    }

    fn usable(self, now: Instant) -> Option<Arc<[Key]>> {
        let is_usable = self.fetched.is_some_and(|at| now.duration_since(at) < USABLE_FOR);
        is_usable.then_some(self.keys)
    }
}

impl KeySet {
    pub(super) fn new(provider: AuthProvider) -> KeySet {
        KeySet { provider, held: Mutex::default(), fetching: Arc::default() }
    }

    fn held(&self) -> Held {
        self.held.lock().clone()
    }

    /// The keys. If they are not fresh, or none of them `is_wanted`, they are fetched first, unless
    /// the last fetch was too recent. `None` if no keys are usable.
    ///
    /// # Cancellation
    ///
    /// A fetch that has started continues.
    pub(super) async fn keys(
        self: &Arc<KeySet>,
        is_wanted: impl Fn(&Key) -> bool,
        fetcher: &Fetcher,
        now: Instant,
    ) -> Option<Arc<[Key]>> {
        let before = self.held();
        let is_there = before.keys.iter().any(is_wanted);
        if (is_there && before.is_fresh(now)) || !before.may_be_fetched(now) {
            // Another call may be fetching the key.
            if !is_there {
                drop(self.fetching.lock().await);
            }
            return self.held().usable(now);
        }
        let attempted = before.attempted;
        let turn = match (Arc::clone(&self.fetching).try_lock_owned(), before.usable(now)) {
            (Ok(turn), _) => turn,
            // A call whose key is present does not wait for newer ones.
            (Err(_), Some(keys)) if is_there => return Some(keys),
            (Err(_), _) => Arc::clone(&self.fetching).lock_owned().await,
        };
        if self.held().attempted == attempted {
            let (set, fetcher) = (Arc::clone(self), fetcher.clone());
            let fetch = tokio::spawn(async move {
                set.fetch(&fetcher, now).await;
                drop(turn);
            });
            // The task does not panic. If it did, the previous keys would remain.
            let _ = fetch.await;
        }
        self.held().usable(now)
    }

    async fn fetch(&self, fetcher: &Fetcher, now: Instant) {
        let change = |change: &dyn Fn(&mut Held)| {
            change(&mut self.held.lock());
        };
        change(&|held| held.attempted = Some(now));
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, published(&self.provider, fetcher)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(format!("they were not there within {} seconds", FETCH_TIMEOUT.as_secs()))
        });
        match fetched {
            Ok(keys) => change(&|held| {
                *held =
                    Held { keys: keys.clone().into(), fetched: Some(now), attempted: Some(now) };
            }),
            Err(error) => {
                let issuer = &self.provider.issuer;
                tracing::warn!(issuer, error, "the keys of an issuer cannot be fetched");
            }
        }
    }
}

/// Fetches the keys that an issuer publishes.
async fn published(provider: &AuthProvider, fetcher: &Fetcher) -> Result<Vec<Key>, String> {
    let (document, algorithm) = match &provider.keys {
        AuthKeys::At { jwks, algorithm } => {
            let document = match jwks.strip_prefix("data:") {
                Some(data) => data_of(data).ok_or("its data: URL is invalid")?,
                None => get(jwks, fetcher).await?,
            };
            (document, algorithm.parse::<Algorithm>().ok())
        }
        AuthKeys::Discovered => {
            #[derive(Deserialize)]
            struct Discovered {
                issuer: String,
                jwks_uri: String,
            }
            let url = format!("{}/.well-known/openid-configuration", provider.issuer);
            let document = get(&url, fetcher).await?;
            let Discovered { issuer, jwks_uri } = serde_json::from_slice(&document)
                .map_err(|_| format!("{url} has no JSON object with issuer and jwks_uri"))?;
            // OpenID Connect Discovery 1.0, section 4.3.
            if issuer.trim_end_matches('/') != provider.issuer {
                return Err(format!("{url} is of another issuer, {issuer:?}"));
            }
            (get(&jwks_uri, fetcher).await?, None)
        }
    };
    let keys = key_set(&document)?;
    if keys.len() > MAX_KEYS {
        return Err(format!("the set has {} keys, and may have {MAX_KEYS}", keys.len()));
    }
    Ok(keys.into_iter().filter(|key| algorithm.is_none_or(|it| it == key.algorithm)).collect())
}

async fn get(text: &str, fetcher: &Fetcher) -> Result<Vec<u8>, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if !is_safe(&url) {
        return Err(format!(
            "{text:?} is not https:, so anybody on the way could replace the keys"
        ));
    }
    let body = fetcher.get(url, MAX_DOCUMENT_BYTES).await;
    Ok(body.map_err(|error| format!("{text}: {}", with_sources(&error)))?.into())
}

/// Whether responses from a URL cannot be replaced in transit. Without TLS, they must come from
/// this machine or its network, such as from the app's own HTTP actions; the settings of `fetch`
/// decide whether that is allowed.
fn is_safe(url: &Url) -> bool {
    match (url.scheme(), url.host()) {
        ("https", _) => true,
        ("http", Some(Host::Domain(name))) => !name.trim_end_matches('.').contains('.'),
        ("http", Some(Host::Ipv4(address))) => {
            address.is_loopback() || address.is_private() || address.is_unspecified()
        }
        ("http", Some(Host::Ipv6(address))) => {
            address.is_loopback() || address.is_unique_local() || address.is_unspecified()
        }
        _ => false,
    }
}

/// The content of a `data:` URL, after the scheme.
fn data_of(text: &str) -> Option<Vec<u8>> {
    let (kind, data) = text.split_once(',')?;
    let bytes: Vec<u8> = percent_decode_str(data).collect();
    if kind.to_ascii_lowercase().ends_with(";base64") {
        BASE64_STANDARD.decode(bytes).ok()
    } else {
        Some(bytes)
    }
}
