//! A tower layer that creates the [`RequestContext`] of each HTTP request. Behind the feature
//! `http`.
//!
//! It finds the client's address, trusting forwarded headers only from [`TrustedProxies`], reads
//! the `User-Agent`, and takes the request id of a trusted proxy or generates one. The context goes
//! into the request's extensions, and the id into the response's headers. The extensions also get
//! the [`Origin`], which says whether a header about the client's identity can be trusted. Hosts
//! without tower call [`Origin::of`].
//!
//! ```
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//!
//! use audit_core::testing::MemorySink;
//! use audit_runtime::http::{RequestContextLayer, TrustedProxies};
//! use audit_runtime::{AuditRuntime, RequestContext};
//! use axum::{Extension, Router, extract::ConnectInfo, routing::get};
//!
//! async fn whoami(Extension(request): Extension<RequestContext>) -> String {
//!     format!("{:?}", request.ip())
//! }
//!
//! # fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let runtime = AuditRuntime::new(Arc::new(MemorySink::new()));
//! // With axum the peer's address is in the extensions if the server was started with
//! // `into_make_service_with_connect_info::<SocketAddr>()`.
//! let layer = RequestContextLayer::new(runtime, |extensions| {
//!     extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
//! });
//! let layer = layer.with_trusted_proxies("10.0.0.0/8, 2001:db8::/32".parse::<TrustedProxies>()?);
//! let app = Router::new().route("/whoami", get(whoami)).layer(layer);
//! # Ok(app)
//! # }
//! # app().unwrap();
//! ```

mod client_address;
mod origin;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use audit_vars::UserAgent;
use http::header::USER_AGENT;
use http::{Extensions, HeaderName, HeaderValue, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use client_address::{ClientAddressHeader, InvalidProxies, TrustedProxies};
pub use origin::Origin;

use crate::{AuditRuntime, RequestContext};

/// Returns the peer's address.
type PeerOf = dyn Fn(&Extensions) -> Option<IpAddr> + Send + Sync;

/// Puts a [`RequestContext`] and an [`Origin`] into the extensions of each request, and the id into
/// the headers of the response.
#[derive(Clone)]
pub struct RequestContextLayer {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    runtime: AuditRuntime,
    peer_of: Arc<PeerOf>,
    proxies: TrustedProxies,
    request_id_header: HeaderName,
}

impl RequestContextLayer {
    /// A layer that trusts no proxy and echoes the id as `x-request-id`.
    ///
    /// `peer_of` returns the peer's address, which the server leaves in a request's extensions, or
    /// `None` if it has none, as on a Unix socket. The context then has no address.
    pub fn new(
        runtime: AuditRuntime,
        peer_of: impl Fn(&Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> RequestContextLayer {
        let request_id_header = HeaderName::from_static("x-request-id");
        let proxies = TrustedProxies::none();
        let settings = Settings { runtime, peer_of: Arc::new(peer_of), proxies, request_id_header };
        RequestContextLayer { settings: Arc::new(settings) }
    }

    /// The proxies that are trusted to name the client and the request's id.
    pub fn with_trusted_proxies(mut self, proxies: TrustedProxies) -> RequestContextLayer {
        Arc::make_mut(&mut self.settings).proxies = proxies;
        self
    }

    /// The header of the request's id, in requests from trusted proxies and in responses.
    pub fn with_request_id_header(mut self, header: HeaderName) -> RequestContextLayer {
        Arc::make_mut(&mut self.settings).request_id_header = header;
        self
    }
}

impl fmt::Debug for RequestContextLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContextLayer")
            .field("proxies", &self.settings.proxies)
            .field("request_id_header", &self.settings.request_id_header)
            .finish_non_exhaustive()
    }
}

impl Settings {
    fn context<B>(&self, request: &Request<B>) -> (RequestContext, Origin) {
        let headers = request.headers();
        let lines = |name: &str| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let id_header = self.request_id_header.as_str();
        let origin =
            Origin::of((self.peer_of)(request.extensions()), &self.proxies, id_header, lines);
        let mut context = match origin.request_id() {
            Some(id) => RequestContext::new(id.clone()),
            None => self.runtime.new_request(),
        };
        if let Some(ip) = origin.client() {
            context = context.with_ip(ip);
        }
        if let Some(user_agent) = headers.get(USER_AGENT) {
            context = context.with_user_agent(UserAgent::from_bytes(user_agent.as_bytes()));
        }
        (context, origin)
    }
}

impl<S> Layer<S> for RequestContextLayer {
    type Service = RequestContextService<S>;

    fn layer(&self, inner: S) -> RequestContextService<S> {
        RequestContextService { inner, settings: Arc::clone(&self.settings) }
    }
}

/// The service of a [`RequestContextLayer`].
#[derive(Clone)]
pub struct RequestContextService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: fmt::Debug> fmt::Debug for RequestContextService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContextService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for RequestContextService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture<S::Future> {
        let (context, origin) = self.settings.context(&request);
        let id = HeaderValue::from_str(context.request_id().as_str())
            .expect("a request id is plain ASCII");
        request.extensions_mut().insert(context);
        request.extensions_mut().insert(origin);
        let header = Some((self.settings.request_id_header.clone(), id));
        ResponseFuture { inner: self.inner.call(request), header }
    }
}

pin_project_lite::pin_project! {
    /// The future of a [`RequestContextService`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        header: Option<(HeaderName, HeaderValue)>,
    }
}

impl<F: Future<Output = Result<Response<R>, E>>, R, E> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(context))?;
        if let Some((name, value)) = this.header.take() {
            response.headers_mut().insert(name, value);
        }
        Poll::Ready(Ok(response))
    }
}
