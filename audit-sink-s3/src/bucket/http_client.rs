//! The HTTP client for stores and for the issuers of their credentials. It follows no redirect.
//!
//! `object_store`'s own client follows up to ten redirects, to any address. A server at a store's
//! address, or a proxy in front of it, could have records (the body of a PUT after a 307), session
//! tokens and the keys in a URL's query sent elsewhere, and could make the host send requests to
//! addresses of its own network. No store needs redirects: a signature is valid for one host.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use audit_core::{Random, Shared, SystemRandom, async_trait};
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
use object_store::{ClientConfigKey as Key, ClientOptions, Error};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, NoProxy, Proxy};
use tokio::runtime::{self, Handle};

/// The clients in use. Buckets with the same options share one, since each client reads the
/// machine's certificates, some 150 files, and keeps them in memory, and so that a host with a
/// thousand buckets at one address needs as many connections as it has requests at once.
///
/// A client holds nothing of a bucket: keys, tokens and default headers belong to requests, and
/// there are no cookies. A connection belongs to the runtime in which it was made, whose tasks
/// drive it.
static CLIENTS: LazyLock<Shared<(runtime::Id, Given), Client>> = LazyLock::new(Shared::default);

/// Returns a client with the options that the environment can set and the default headers.
///
/// # Errors
///
/// If a value is invalid.
pub(crate) fn connect(options: &ClientOptions) -> object_store::Result<HttpClient> {
    let headers = options.get_default_headers().cloned().unwrap_or_default();
    Ok(HttpClient::new(Connected { client: client(Given::of(options))?, headers }))
}

fn client(given: Given) -> object_store::Result<Arc<Client>> {
    match Handle::try_current() {
        Ok(handle) if given.is_shareable()? => {
            CLIENTS.get_or_make((handle.id(), given), |(_, given)| given.client())
        }
        _ => Ok(Arc::new(given.client()?)),
    }
}

/// A client for the requests of one bucket.
#[derive(Debug)]
struct Connected {
    client: Arc<Client>,
    /// For requests that have no header of the same name.
    headers: HeaderMap,
}

#[async_trait]
impl HttpService for Connected {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        for (name, value) in &self.headers {
            request.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        self.client.call(request).await
    }
}

const USER_AGENT: &str = concat!("audit-sink-s3/", env!("CARGO_PKG_VERSION"));

/// The options that make a client. No other has an effect.
const KEYS: [Key; 19] = [
    Key::AllowHttp,
    Key::AllowInvalidCertificates,
    Key::ConnectTimeout,
    Key::Http1Only,
    Key::Http2KeepAliveInterval,
    Key::Http2KeepAliveTimeout,
    Key::Http2KeepAliveWhileIdle,
    Key::Http2MaxFrameSize,
    Key::Http2Only,
    Key::NoSystemCertificates,
    Key::PoolIdleTimeout,
    Key::PoolMaxIdlePerHost,
    Key::ProxyCaCertificate,
    Key::ProxyExcludes,
    Key::ProxyUrl,
    Key::RandomizeAddresses,
    Key::ReadTimeout,
    Key::Timeout,
    Key::UserAgent,
];

/// The values of options. Their errors have the same text as those of `object_store`, by which
/// `Configuration::blame` finds the setting.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Given(Vec<(Key, String)>);

impl Given {
    fn of(options: &ClientOptions) -> Given {
        let value = |key| Some((key, options.get_config_value(&key)?));
        Given(KEYS.into_iter().filter_map(value).collect())
    }

    /// Whether buckets can share the client. With HTTP/2 all requests to an address share one
    /// connection, and those to a bucket that hangs would hold up those to others.
    fn is_shareable(&self) -> object_store::Result<bool> {
        Ok(self.is_on(Key::Http1Only)? && !self.is_on(Key::Http2Only)?)
    }

    fn client(&self) -> object_store::Result<Client> {
        let mut client = Client::builder()
            .redirect(Policy::none())
            .user_agent(self.text(Key::UserAgent).unwrap_or(USER_AGENT))
            .https_only(!self.is_on(Key::AllowHttp)?)
            .http2_keep_alive_while_idle(self.is_on(Key::Http2KeepAliveWhileIdle)?)
            .http2_max_frame_size(self.parsed(Key::Http2MaxFrameSize, "u32")?)
            .http2_keep_alive_interval(self.duration(Key::Http2KeepAliveInterval)?)
            .pool_idle_timeout(self.duration(Key::PoolIdleTimeout)?)
            // The `Content-Length` of an object must be that of its bytes.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate();
        if let Some(url) = self.text(Key::ProxyUrl) {
            let excluded = self.text(Key::ProxyExcludes).and_then(NoProxy::from_string);
            client = client.proxy(Proxy::all(url).map_err(cannot)?.no_proxy(excluded));
            if let Some(pem) = self.text(Key::ProxyCaCertificate) {
                let certificate = Certificate::from_pem(pem.as_bytes()).map_err(cannot)?;
                client = client.tls_certs_merge([certificate]);
            }
        }
        if self.is_on(Key::NoSystemCertificates)? {
            client = client.tls_certs_only([]);
        }
        if self.is_on(Key::AllowInvalidCertificates)? {
            client = client.danger_accept_invalid_certs(true);
        }
        if let Some(limit) = self.duration(Key::Timeout)? {
            client = client.timeout(limit);
        }
        if let Some(limit) = self.duration(Key::ConnectTimeout)? {
            client = client.connect_timeout(limit);
        }
        if let Some(limit) = self.duration(Key::ReadTimeout)? {
            client = client.read_timeout(limit);
        }
        if let Some(limit) = self.duration(Key::Http2KeepAliveTimeout)? {
            client = client.http2_keep_alive_timeout(limit);
        }
        if let Some(most) = self.parsed(Key::PoolMaxIdlePerHost, "usize")? {
            client = client.pool_max_idle_per_host(most);
        }
        if self.is_on(Key::Http1Only)? {
            client = client.http1_only();
        }
        if self.is_on(Key::Http2Only)? {
            client = client.http2_prior_knowledge();
        }
        if self.is_on(Key::RandomizeAddresses)? {
            client = client.dns_resolver(AnyAddress);
        }
        client.build().map_err(cannot)
    }

    fn text(&self, key: Key) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| &**value)
    }

    fn read<T>(
        &self,
        key: Key,
        kind: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> object_store::Result<Option<T>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let invalid = || Error::Generic {
            store: "Config",
            source: format!("failed to parse {text:?} as {kind}").into(),
        };
        read(text).map(Some).ok_or_else(invalid)
    }

    fn parsed<T: FromStr>(&self, key: Key, kind: &str) -> object_store::Result<Option<T>> {
        self.read(key, kind, |text| text.parse().ok())
    }

    fn duration(&self, key: Key) -> object_store::Result<Option<Duration>> {
        self.read(key, "Duration", |text| humantime::parse_duration(text).ok())
    }

    fn is_on(&self, key: Key) -> object_store::Result<bool> {
        let read = |text: &str| match &*text.to_ascii_lowercase() {
            "1" | "true" | "on" | "yes" | "y" => Some(true),
            "0" | "false" | "off" | "no" | "n" => Some(false),
            _ => None,
        };
        Ok(self.read(key, "boolean", read)?.unwrap_or_default())
    }
}

fn cannot(error: reqwest::Error) -> Error {
    Error::Generic { store: "HTTP client", source: Box::new(error) }
}

/// Rotates the addresses of a name at random, so that connections spread over a store's servers.
#[derive(Debug)]
struct AnyAddress;

impl Resolve for AnyAddress {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let mut found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = SystemRandom.next_u64().checked_rem(found.len() as u64).unwrap_or(0);
            found.rotate_left(usize::try_from(first).unwrap_or(0));
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that sends a response to each request, and counts them.
    async fn server(response: impl Into<String>) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, response) = (listener.local_addr().unwrap(), response.into());
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4 << 10]).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        (address, requests)
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (elsewhere, requests) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        for status in [301, 302, 303, 307, 308] {
            for to in [format!("http://{elsewhere}/"), format!("//{elsewhere}/"), "/x".to_owned()] {
                let head = format!("HTTP/1.1 {status} x\r\nlocation: {to}\r\n");
                let (address, asked) = server(head + "content-length: 0\r\n\r\n").await;
                for (n, method) in ["GET", "HEAD", "PUT", "POST", "DELETE"].into_iter().enumerate()
                {
                    let client = connect(&ClientOptions::new().with_allow_http(true)).unwrap();
                    let mut request = HttpRequest::new("a record".to_owned().into());
                    *request.method_mut() = method.parse().unwrap();
                    *request.uri_mut() = format!("http://{address}/").parse().unwrap();
                    let response = client.execute(request).await.unwrap();
                    assert_eq!(response.status().as_u16(), status);
                    assert_eq!(asked.load(Ordering::SeqCst), n + 1, "{method} {status} {to}");
                }
            }
        }
        assert_eq!(requests.load(Ordering::SeqCst), 0);
    }

    /// A server that always sends something keeps no request longer than its time limit. Without
    /// the limit, these requests would not end.
    #[tokio::test]
    async fn requests_end_whatever_a_server_sends() {
        let begin = "HTTP/1.1 200 OK\r\n";
        let chunked = format!("{begin}transfer-encoding: chunked\r\n\r\n1\r\nx\r\n");
        for (start, again) in [
            (String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
            (String::new(), "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
            (String::new(), "\r\n"),
            (begin.to_owned(), "x: y\r\n"),
            (format!("{begin}x: "), "y"),
            (format!("{begin}content-length: 1000000\r\n\r\n"), "x"),
            (format!("{begin}\r\n"), "x"),
            (chunked.clone(), "1\r\nx\r\n"),
            (format!("{chunked}0\r\n"), "x: y\r\n"),
            (format!("{chunked}1;"), "x"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let sends = start.clone();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let _ = stream.read(&mut [0; 4 << 10]).await;
                let mut sent = stream.write_all(sends.as_bytes()).await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    sent = stream.write_all(again.as_bytes()).await;
                }
            });
            let options = ClientOptions::new().with_allow_http(true);
            let options = options.with_timeout(Duration::from_millis(200));
            let mut request = HttpRequest::new(String::new().into());
            *request.uri_mut() = format!("http://{address}/").parse().unwrap();
            let read = async {
                let response = connect(&options).unwrap().execute(request).await?;
                response.into_body().bytes().await
            };
            assert!(read.await.is_err(), "{start:?} {again:?}");
        }
    }

    /// `object_store` refuses the same values with the same text, by which `Configuration::blame`
    /// finds the setting.
    #[tokio::test]
    async fn options_are_those_of_the_store_client() {
        use object_store::client::HttpConnector;
        #[allow(clippy::disallowed_types, reason = "what it is compared with")]
        let theirs = |options: &ClientOptions| {
            object_store::client::ReqwestConnector::default().connect(options)
        };
        let said = |client: object_store::Result<HttpClient>| match client {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        let values =
            ["", "x", "1", "0", "-1", "true", "NO", "y", "30", "30s", "1m 5s", "4294967296"];
        let texts = [Key::ProxyCaCertificate, Key::ProxyExcludes, Key::UserAgent];
        for key in KEYS.into_iter().filter(|key| !texts.contains(key)) {
            for value in values {
                let options = ClientOptions::new().with_config(key, value);
                assert_eq!(said(connect(&options)), said(theirs(&options)), "{key:?} {value}");
            }
        }
    }

    #[tokio::test]
    async fn clients_are_shared_if_all_options_are_equal() {
        let given = |key, value: &str| Given::of(&ClientOptions::new().with_config(key, value));
        let others = [
            (Key::AllowHttp, "true"),
            (Key::AllowInvalidCertificates, "true"),
            (Key::ConnectTimeout, "77s"),
            (Key::Http2KeepAliveInterval, "77s"),
            (Key::Http2KeepAliveTimeout, "77s"),
            (Key::Http2KeepAliveWhileIdle, "true"),
            (Key::Http2MaxFrameSize, "20000"),
            (Key::NoSystemCertificates, "true"),
            (Key::PoolIdleTimeout, "77s"),
            (Key::PoolMaxIdlePerHost, "77"),
            (Key::ProxyCaCertificate, "not used without a proxy"),
            (Key::ProxyExcludes, "localhost"),
            (Key::ProxyUrl, "http://proxy:3128"),
            (Key::RandomizeAddresses, "false"),
            (Key::ReadTimeout, "77s"),
            (Key::Timeout, "77s"),
            (Key::UserAgent, "other"),
        ];
        let mut clients = vec![client(Given::of(&ClientOptions::new())).unwrap()];
        for (key, value) in others {
            let made = client(given(key, value)).unwrap();
            assert!(Arc::ptr_eq(&made, &client(given(key, value)).unwrap()), "{key:?}");
            assert!(clients.iter().all(|other| !Arc::ptr_eq(&made, other)), "{key:?}");
            clients.push(made);
        }
        assert_eq!(clients.len() + 1, KEYS.len());
        // With HTTP/2, a bucket that hangs would hold up others on the same connection.
        for (key, value) in [(Key::Http1Only, "false"), (Key::Http2Only, "true")] {
            let [one, other] = [(); 2].map(|()| client(given(key, value)).unwrap());
            assert!(!Arc::ptr_eq(&one, &other), "{key:?}");
        }
    }

    #[test]
    fn a_client_belongs_to_one_runtime_and_goes_with_its_last_user() {
        let make = || client(Given::of(&ClientOptions::new())).unwrap();
        let runtimes = [(); 2]
            .map(|()| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let [one, other] = runtimes.each_ref().map(|runtime| runtime.block_on(async { make() }));
        assert!(!Arc::ptr_eq(&one, &other));
        let again = runtimes[0].block_on(async { make() });
        assert!(Arc::ptr_eq(&one, &again));
        let left = Arc::downgrade(&one);
        drop(one);
        assert!(left.upgrade().is_some());
        drop(again);
        assert!(left.upgrade().is_none());
        // Nobody knows in which runtime it will be used.
        assert!(!Arc::ptr_eq(&make(), &make()));
    }
}
