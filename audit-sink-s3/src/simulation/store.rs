//! A store in memory with every response of the crate's table. The simulated bucket decides the
//! outcome of a request from a seed; this translates it to the result of a store's client.

use std::collections::BTreeMap;

use audit_core::async_trait;
use audit_journal::simulation::bucket::{Refused, Refuses, SimulatedBucket, Stored};
use bytes::Bytes;
use chrono::DateTime;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, Extensions, GetOptions, GetResult, GetResultPayload, ObjectMeta,
    PutMode, PutOptions, PutPayload, PutResult, Result,
};

use crate::store_double::StoreDouble;

#[derive(Debug, Clone)]
pub(crate) struct SimulatedStore(pub(crate) SimulatedBucket);

/// The name under which the content type is stored with the metadata.
const CONTENT_TYPE: &str = "content-type";

fn from_attributes(attributes: &Attributes) -> BTreeMap<String, String> {
    let named = attributes.iter().map(|(attribute, value)| {
        let name = if let Attribute::Metadata(name) = attribute {
            name.to_string()
        } else {
            assert_eq!(*attribute, Attribute::ContentType, "an object has no other");
            CONTENT_TYPE.to_owned()
        };
        (name, value.to_string())
    });
    named.collect()
}

fn to_attributes(attributes: &BTreeMap<String, String>) -> Attributes {
    let named = attributes.iter().map(|(name, value)| {
        let attribute = match name.as_str() {
            CONTENT_TYPE => Attribute::ContentType,
            _ => Attribute::Metadata(name.clone().into()),
        };
        (attribute, value.clone())
    });
    named.collect()
}

fn error(refused: Refused, key: &str) -> Error {
    let path = key.to_owned();
    let exists = |status, code| Error::AlreadyExists {
        path: key.to_owned(),
        source: text(status, code).into(),
    };
    match refused {
        Refused::SlowDown => generic("503 Service Unavailable", "SlowDown"),
        Refused::InternalError => generic("500 Internal Server Error", "InternalError"),
        Refused::Reset => {
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            Error::Generic { store: "S3", source: reset.into() }
        }
        Refused::Exists => exists("412 Precondition Failed", "PreconditionFailed"),
        Refused::Contention => exists("409 Conflict", "ConditionalRequestConflict"),
        Refused::NotFound => {
            Error::NotFound { path, source: text("404 Not Found", "NoSuchKey").into() }
        }
        Refused::NoAttributes => {
            let (operation, implementer) = ("attributes".to_owned(), "SimulatedStore".to_owned());
            Error::NotImplemented { operation, implementer }
        }
        Refused::All(Refuses::Permission) => {
            let source = text("403 Forbidden", "AccessDenied").into();
            Error::PermissionDenied { path, source }
        }
        Refused::All(Refuses::ExpiredCredentials) => generic("400 Bad Request", "ExpiredToken"),
        Refused::All(Refuses::NoBucket) => {
            Error::NotFound { path, source: text("404 Not Found", "NoSuchBucket").into() }
        }
        Refused::All(Refuses::OutOfReach) => {
            Error::Generic { store: "S3", source: "connection refused".into() }
        }
    }
}

fn text(status: &str, code: &str) -> String {
    format!("Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>")
}

fn generic(status: &str, code: &str) -> Error {
    Error::Generic { store: "S3", source: text(status, code).into() }
}

#[async_trait]
impl StoreDouble for SimulatedStore {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        assert_eq!(options.mode, PutMode::Create, "an object is created, and nothing else");
        let (key, attributes) = (location.to_string(), from_attributes(&options.attributes));
        let stored = Stored { bytes: payload.into(), attributes, foreign: false };
        self.0.put(&key, stored).await.map_err(|refused| error(refused, &key))?;
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        let found = self.0.get(&key).await.map_err(|refused| error(refused, &key))?;
        let Stored { bytes, attributes, foreign: _ } = found;
        let size = bytes.len() as u64;
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: DateTime::UNIX_EPOCH,
            size,
            e_tag: None,
            version: None,
        };
        let bytes = if options.head { Bytes::new() } else { bytes };
        let payload = GetResultPayload::Stream(async move { Ok(bytes) }.into_stream().boxed());
        Ok(GetResult {
            payload,
            meta,
            range: 0..size,
            attributes: to_attributes(&attributes),
            extensions: Extensions::default(),
        })
    }
}
