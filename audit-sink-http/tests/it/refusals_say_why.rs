//! Errors name the receiver that cannot be delivered to, and the remedy, but nothing secret.

use std::sync::Arc;

use audit_core::{AuditSink, Commits, HealthState, Outcome, SinkErrorKind};
use audit_sink_http::{Format, HttpSink, LogStream, OpenErrorKind, Settings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::receiver::{Fault, Receiver, batch, read};

/// Waits until the sink's state is like this.
async fn state(sink: &HttpSink, is_like: fn(&HealthState) -> bool) {
    while !is_like(&sink.health().state) {
        tokio::task::yield_now().await;
    }
}

/// The error of a sink whose receiver refuses for good, or until an operator acts.
async fn refused(settings: Settings) -> String {
    let sink = HttpSink::open(Settings { persist_timeout_ms: 100, ..settings }).await.unwrap();
    let content = || batch(1, &["{\"n\":\"content\"}"]);
    sink.persist(content()).await.unwrap_err();
    state(&sink, |state| matches!(state, HealthState::Blocked { .. })).await;
    let error = sink.persist(content()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SinkErrorKind::Blocked, Outcome::Indeterminate));
    let health = sink.health();
    let HealthState::Blocked { reason } = health.state else { panic!("{health:?}") };
    assert!(matches!(health.commits, Commits::Refused { .. }));
    let all = format!("{error} {error:?} {sink} {sink:?} {health:?}", health = sink.health());
    assert!(!all.contains("hunter2") && !all.contains("content"), "{all}");
    assert!(error.to_string().contains(&reason), "{error}: {reason}");
    reason
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let location: &'static str =
        Box::leak(format!("location: http://{}/?key=hunter2\r\n", elsewhere.address).into());
    receiver.script(std::iter::repeat_n(Fault::Answer(307, location), 100_000));
    let reason = refused(receiver.settings(Format::Webhook)).await;
    assert!(reason.contains("redirects are not followed"), "{reason}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn refused_credentials_are_named() {
    let receiver = Receiver::start().await;
    receiver.script(std::iter::repeat_n(Fault::Answer(401, "\r\n"), 100_000));
    let reason = refused(receiver.settings(Format::Webhook)).await;
    assert!(reason.contains("401") && reason.contains("token or secret"), "{reason}");
}

/// Nothing is sent to a receiver with an untrusted certificate, unless the settings trust it.
#[tokio::test]
async fn certificates_are_verified() {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (receiver, listener) = Receiver::bind().await;
    let serving = receiver.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, receiver) = (acceptor.clone(), serving.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    receiver.serve(stream).await;
                }
            });
        }
    });
    let settings = Settings {
        url: format!("https://localhost:{}/hook?key=hunter2", receiver.address.port()),
        ..receiver.settings(Format::Webhook)
    };
    let reason = refused(settings.clone()).await;
    assert!(reason.contains("certificate") && reason.contains("ca_file"), "{reason}");
    assert!(receiver.requests().is_empty());

    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let stream = LogStream::open(Settings { ca_file: Some(ca_file), ..settings }).unwrap();
    stream.send_test().await.unwrap();
    assert!(receiver.told()[0].2.contains("audit.test"));
}

#[tokio::test]
async fn retry_after_is_respected() {
    let receiver = Receiver::start().await;
    let settings = Settings { persist_timeout_ms: 200, ..receiver.settings(Format::Webhook) };
    let sink = HttpSink::open(settings).await.unwrap();
    receiver.script([Fault::Answer(429, "retry-after: 3600\r\n")]);
    for _ in 0..2 {
        let error = sink.persist(batch(1, &["{}"])).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (SinkErrorKind::Unavailable, Outcome::Indeterminate)
        );
        state(&sink, |state| matches!(state, HealthState::Retrying { .. })).await;
    }
    assert_eq!(receiver.requests().len(), 1, "no other request is sent in that hour");
}

/// Otherwise the same records would be sent again for as long as the receiver sends such bodies.
#[tokio::test]
async fn a_success_counts_although_its_body_never_ends() {
    let (receiver, listener) = Receiver::bind().await;
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
            stream.write_all(answer).await.unwrap();
            held.push(stream);
        }
    });
    let settings = Settings { request_timeout_ms: 100, ..receiver.settings(Format::Webhook) };
    let sink = HttpSink::open(settings).await.unwrap();
    sink.persist(batch(1, &["{}"])).await.unwrap();
    sink.close().await.unwrap();
    serving.abort();
}

/// What a receiver does after it has answered a request whose end it has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    ReadsOn,
    ReadsNothing,
    HangsUp,
}

/// Otherwise records that were never sent would count as delivered.
#[tokio::test]
async fn a_success_counts_once_the_whole_request_was_sent() {
    let line = format!("{{\"n\":\"{}\"}}", "x".repeat(24 << 20));
    for then in [Then::ReadsOn, Then::ReadsNothing, Then::HangsUp] {
        let (receiver, listener) = Receiver::bind().await;
        let (kept, is_kept) = oneshot::channel();
        let serving = receiver.clone();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = Vec::new();
            while !buffer.windows(4).any(|window| window == b"\r\n\r\n") {
                stream.read_buf(&mut buffer).await.unwrap();
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            let mut held = Some(stream);
            match then {
                Then::ReadsOn => {
                    let stream = held.as_mut().unwrap();
                    serving.keep(&read(stream, &mut buffer).await.unwrap().unwrap());
                    kept.send(()).unwrap();
                }
                Then::ReadsNothing => {}
                Then::HangsUp => drop(held.take()),
            }
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.serve(stream).await;
            }
        });
        let settings = Settings {
            max_request_bytes: Some(64 << 20),
            max_record_bytes: Some(64 << 20),
            persist_timeout_ms: 120_000,
            request_timeout_ms: if then == Then::ReadsNothing { 1_000 } else { 60_000 },
            ..receiver.settings(Format::Ndjson)
        };
        let sink = HttpSink::open(settings).await.unwrap();
        sink.persist(batch(1, &[&line])).await.unwrap();
        if then == Then::ReadsOn {
            // Bytes in the socket's buffer count as sent, although the receiver may not have read
            // them.
            is_kept.await.unwrap();
        }
        let arrived = receiver.stored();
        assert_eq!((arrived.len(), arrived[0].line.len()), (1, line.len()), "{then:?}");
        let again = receiver.requests().len();
        assert_eq!(again == 0, then == Then::ReadsOn, "{then:?}: {again} more requests");
        sink.close().await.unwrap();
        serving.abort();
    }
}

#[tokio::test]
async fn refused_connections_are_named() {
    // A port that is in use, but on which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let settings = Settings {
        allow_private_addresses: true,
        ..Settings::new(format!("http://{address}/hook?key=hunter2"), Format::Webhook)
    };
    let error = LogStream::open(settings).unwrap().send_test().await.unwrap_err();
    assert!(error.starts_with(&format!("no connection to http://{address}/hook: ")), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn impossible_settings_are_rejected() {
    let ok = || Settings::new("https://example.com", Format::Webhook);
    let directory = tempfile::tempdir().unwrap();
    let journal = Some(audit_sink_http::JournalSettings::new(directory.path()));
    for (settings, expected) in [
        (Settings { url: "http://example.com".to_owned(), ..ok() }, "allow_http"),
        (Settings { url: "https://10.0.0.1".to_owned(), ..ok() }, "allow_private_addresses"),
        (Settings { name: "../up".to_owned(), ..ok() }, "name"),
        (Settings { max_in_flight: 0, ..ok() }, "settings"),
        (Settings { journal, ..ok() }, "dead_letters"),
        (
            Settings { secrets: vec!["env:AUDIT_NO_SUCH_VARIABLE".parse().unwrap()], ..ok() },
            "AUDIT_NO_SUCH_VARIABLE",
        ),
    ] {
        let error = HttpSink::open(settings).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Configuration);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
