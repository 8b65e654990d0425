//! Who issues the credentials of a bucket, and what its failures mean.
//!
//! A request to a bucket may fail before it is sent, since the service that issues credentials
//! failed. `object_store` reports both alike. So that an operator hears who it was, what is
//! obtained from an issuer passes through here, and so do its errors.
#![cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores have issuers")
)]

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who issues credentials that expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    /// As an operator knows it.
    pub(crate) name: Cow<'static, str>,
    /// The variables that say how it is asked.
    pub(crate) variables: &'static str,
    /// The variable that says where it is.
    pub(crate) endpoint: &'static str,
    /// What it is asked with.
    pub(crate) files: Vec<CredentialFile>,
    /// Whether it is asked because no setting names another.
    pub(crate) is_default: bool,
    /// Where it is asked for a role: what to do when it refuses the role.
    pub(crate) role: Option<&'static str>,
}

/// A file that is read whenever credentials are renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CredentialFile {
    /// The variable that names it.
    pub(crate) variable: String,
    pub(crate) path: PathBuf,
    /// Whether its whole content is sent as a header, in which no line may end.
    pub(crate) is_header: bool,
}

impl CredentialFile {
    /// Why credentials cannot be obtained with it. Says nothing of what is in it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds nothing that can be sent.
    pub(crate) fn check(&self) -> Result<(), String> {
        let CredentialFile { variable, path, is_header } = self;
        let refused = |why: &str| Err(format!("the file {} of {variable} {why}", path.display()));
        match read(path) {
            Err(error) => refused(&format!("cannot be read: {error}")),
            Ok(text) if text.trim().is_empty() => refused("is empty"),
            Ok(text) if *is_header && text.contains(char::is_control) => {
                refused("holds more than one line, or ends with a line feed")
            }
            Ok(_) => Ok(()),
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

impl Issuer {
    /// The first of its files that cannot be used.
    ///
    /// # Errors
    ///
    /// As [`CredentialFile::check`].
    pub(crate) fn check(&self) -> Result<(), String> {
        self.files.iter().try_for_each(CredentialFile::check)
    }
}

/// No credentials could be obtained.
#[derive(Debug)]
pub(crate) struct CredentialFailure {
    pub(crate) issuer: Arc<Issuer>,
    /// Whether it has issued credentials before, so that it is known to exist.
    pub(crate) has_issued: bool,
    /// A file that it is asked with and that cannot be used.
    pub(crate) file: Option<String>,
    /// `None` if the client panicked.
    pub(crate) cause: Option<object_store::Error>,
}

impl fmt::Display for CredentialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no credentials from the {}", self.issuer.name)
    }
}

impl Error for CredentialFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// Whether an issuer's failure is this error already.
fn is_failure(error: &object_store::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<CredentialFailure>())
}

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
pub(crate) use issued::Issued;

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod issued {
    use std::panic::AssertUnwindSafe;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use audit_core::async_trait;
    use futures::FutureExt;
    use object_store::CredentialProvider;

    use super::{CredentialFailure, Issuer};

    /// The credentials of an issuer, whose failures say so.
    #[derive(Debug)]
    pub(crate) struct Issued<C> {
        issuer: Arc<Issuer>,
        inner: Arc<dyn CredentialProvider<Credential = C>>,
        has_issued: AtomicBool,
    }

    impl<C> Issued<C> {
        pub(crate) fn new(
            issuer: Issuer,
            inner: Arc<dyn CredentialProvider<Credential = C>>,
        ) -> Issued<C> {
            Issued { issuer: Arc::new(issuer), inner, has_issued: AtomicBool::new(false) }
        }

        fn failure(&self, cause: Option<object_store::Error>) -> object_store::Error {
            let failure = CredentialFailure {
                issuer: Arc::clone(&self.issuer),
                has_issued: self.has_issued.load(Ordering::Relaxed),
                // Small files, and only after a failure.
                file: self.issuer.check().err(),
                cause,
            };
            object_store::Error::Generic { store: "credentials", source: Box::new(failure) }
        }
    }

    #[async_trait]
    impl<C: std::fmt::Debug + Send + Sync + 'static> CredentialProvider for Issued<C> {
        type Credential = C;

        async fn get_credential(&self) -> object_store::Result<Arc<C>> {
            // The client panics on what it cannot write as a header: a token with a line feed.
            match AssertUnwindSafe(self.inner.get_credential()).catch_unwind().await {
                Ok(Ok(credential)) => {
                    self.has_issued.store(true, Ordering::Relaxed);
                    Ok(credential)
                }
                // It is asked with credentials of another issuer, which has failed.
                Ok(Err(error)) if super::is_failure(&error) => Err(error),
                Ok(Err(error)) => Err(self.failure(Some(error))),
                Err(_panic) => Err(self.failure(None)),
            }
        }
    }
}
