//! The issuers of a bucket's credentials, and their failures.
//!
//! A request to a bucket may fail before it is sent, because the service that issues credentials
//! failed. `object_store` does not distinguish the two. Credentials and their errors pass through
//! here so that an operator learns which of the two failed.
#![cfg_attr(
    not(any(feature = "aws", feature = "gcp", feature = "azure")),
    allow(dead_code, reason = "only the providers' stores have issuers")
)]

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// An issuer of credentials that expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    /// The name by which an operator knows it.
    pub(crate) name: Cow<'static, str>,
    /// The variables that configure requests to it.
    pub(crate) variables: &'static str,
    /// The variable that holds its URL.
    pub(crate) endpoint: &'static str,
    /// The files needed for requests to it.
    pub(crate) files: Vec<CredentialFile>,
    /// Whether it is only used because no setting names another issuer.
    pub(crate) is_default: bool,
    /// For an issuer that is asked for a role: what to do when it refuses the role.
    pub(crate) role: Option<&'static str>,
}

/// A file that is read every time credentials are renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CredentialFile {
    /// The variable that names it.
    pub(crate) variable: String,
    pub(crate) path: PathBuf,
    /// Whether its whole content is sent as a header, which cannot contain a line feed.
    pub(crate) is_header: bool,
}

impl CredentialFile {
    /// Checks that credentials can be obtained with this file. Errors never quote its content.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or its content cannot be sent.
    pub(crate) fn check(&self) -> Result<(), String> {
        let CredentialFile { variable, path, is_header } = self;
        let refused = |why: &str| Err(format!("the file {} of {variable} {why}", path.display()));
        // It is read again for each renewal: a pipe has an end, and a device may have none.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return refused("is not a regular file");
        }
        match std::fs::read_to_string(path) {
            Err(error) => refused(&format!("cannot be read: {error}")),
            Ok(text) if text.trim().is_empty() => refused("is empty"),
            Ok(text) if *is_header && text.contains(char::is_control) => {
                refused("holds more than one line, or ends with a line feed")
            }
            Ok(_) => Ok(()),
        }
    }
}

impl Issuer {
    /// An issuer that a setting names.
    pub(crate) fn new(
        name: impl Into<Cow<'static, str>>,
        variables: &'static str,
        endpoint: &'static str,
        files: Vec<CredentialFile>,
    ) -> Issuer {
        Issuer { name: name.into(), variables, endpoint, files, is_default: false, role: None }
    }

    /// Checks all files of the issuer.
    ///
    /// # Errors
    ///
    /// Those of [`CredentialFile::check`].
    pub(crate) fn check(&self) -> Result<(), String> {
        self.files.iter().try_for_each(CredentialFile::check)
    }
}

/// No credentials could be obtained.
#[derive(Debug, thiserror::Error)]
#[error("no credentials from the {}", issuer.name)]
pub(crate) struct CredentialFailure {
    pub(crate) issuer: Arc<Issuer>,
    /// Whether the issuer has issued credentials before and therefore exists.
    pub(crate) has_issued: bool,
    /// A file of the issuer that cannot be used.
    pub(crate) file: Option<String>,
    /// `None` if the client panicked.
    pub(crate) cause: Option<object_store::Error>,
}

/// Whether this error already is the failure of an issuer.
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

    /// The credentials of an issuer. Its errors are reported as [`CredentialFailure`].
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
                // Blocking, but the files are small and only read after a failure.
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
            // The client panics on a value that cannot be a header, such as a token with a line
            // feed.
            match AssertUnwindSafe(self.inner.get_credential()).catch_unwind().await {
                Ok(Ok(credential)) => {
                    self.has_issued.store(true, Ordering::Relaxed);
                    Ok(credential)
                }
                // The request to this issuer needs credentials of another issuer, which failed.
                Ok(Err(error)) if super::is_failure(&error) => Err(error),
                Ok(Err(error)) => Err(self.failure(Some(error))),
                Err(_panic) => Err(self.failure(None)),
            }
        }
    }
}
