//! The stores of the providers, made from the environment and from options.

use std::sync::Arc;

use object_store::ObjectStore;
use url::Url;

use super::purpose::Purpose;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
use super::{configuration::Configuration, credentials::Issued};
use crate::OpenError;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
use std::time::Duration;

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
impl Purpose {
    fn retry(&self) -> object_store::RetryConfig {
        use object_store::{BackoffConfig, RetryConfig};
        match self {
            // Retries are the sink's: they refresh credentials, and they know what an ambiguous
            // answer means.
            Purpose::Write => RetryConfig { max_retries: 0, ..RetryConfig::default() },
            // The backoff is short beside the whole time, so that the time is kept.
            &Purpose::Read { retry_for, .. } => RetryConfig {
                max_retries: if retry_for.is_zero() { 0 } else { usize::MAX },
                retry_timeout: retry_for,
                backoff: BackoffConfig {
                    max_backoff: Duration::from_secs(2).min(retry_for),
                    ..BackoffConfig::default()
                },
            },
        }
    }
}

#[cfg(not(all(feature = "aws", feature = "gcp", feature = "azure")))]
fn not_compiled_in(url: &Url, feature: &str) -> OpenError {
    let message = format!(
        "{}:// needs the feature `{feature}` of audit-sink-s3, which is not compiled in",
        url.scheme()
    );
    OpenError::configuration(message)
}

/// Builds the store of one provider: our defaults, the environment, then the options. What can
/// never work is refused here, naming the variable.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
macro_rules! build {
    ($store:literal, $prefix:literal, $builder:ty, $key:ty, $url:expr, $purpose:expr, $options:expr,
     $issuer:path, $configure:expr) => {{
        let canonical = |name: &str| name.parse().ok().map(|key: $key| key.as_ref().to_owned());
        let configuration = Configuration::read($prefix, $options, &canonical, $store)?;
        let with = |builder: $builder, name: &str, value: &str| {
            builder.with_config(name.parse().expect("a name that was read"), value)
        };
        let cannot = |reason: String| {
            OpenError::configuration(format!("{} cannot be opened: {reason}", $url))
        };
        let new = || <$builder>::new().with_url($url.as_str()).with_retry($purpose.retry());
        let mut builder = new();
        for (name, value) in CLIENT_DEFAULTS {
            builder = with(builder, name, value);
        }
        for (name, setting) in configuration.settings() {
            builder = with(builder, name, &setting.value);
        }
        let issuer = $issuer(&configuration, $url).map_err(cannot)?;
        if let Some(issuer) = &issuer {
            issuer.check().map_err(cannot)?;
        }
        let configure: fn($builder) -> $builder = $configure;
        let mut builder = configure(builder);
        if let Purpose::Read { on_retry, store_time_ms, .. } = &$purpose {
            let (on_retry, time_ms) = (on_retry.clone(), Arc::clone(store_time_ms));
            let connector = super::read_client::ReadConnector { on_retry, time_ms };
            builder = builder.with_http_connector(connector);
        }
        let failed = |error: object_store::Error| {
            let try_build = |settings: &mut dyn Iterator<Item = (&str, &str)>| {
                let builder =
                    settings.fold(new(), |builder, (name, value)| with(builder, name, value));
                builder.build().err().map(|error| error.to_string())
            };
            cannot(configuration.blame(&error.to_string(), &try_build))
        };
        let store = builder.clone().build().map_err(failed)?;
        let store = match issuer {
            None => store,
            Some(issuer) => {
                let issued = Issued::new(issuer, Arc::clone(store.credentials()));
                builder.with_credentials(Arc::new(issued)).build().map_err(failed)?
            }
        };
        Ok(Arc::new(store))
    }};
}

#[cfg(feature = "aws")]
pub(crate) fn s3(
    url: &Url,
    purpose: Purpose,
    options: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    use super::configuration::issuer_of_s3;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
    build!(
        "s3",
        "AWS_",
        AmazonS3Builder,
        AmazonS3ConfigKey,
        url,
        purpose,
        options,
        issuer_of_s3,
        |builder| {
            // The store compares what arrived with what was sent; a bucket with Object Lock demands
            // it.
            let builder = match builder.get_config_value(&AmazonS3ConfigKey::Checksum) {
                Some(_) => builder,
                None => builder.with_checksum_algorithm(Checksum::SHA256),
            };
            builder.with_conditional_put(S3ConditionalPut::ETagMatch)
        }
    )
}

#[cfg(not(feature = "aws"))]
pub(crate) fn s3(
    url: &Url,
    _: Purpose,
    _: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    Err(not_compiled_in(url, "aws"))
}

#[cfg(feature = "gcp")]
pub(crate) fn gs(
    url: &Url,
    purpose: Purpose,
    options: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    use super::configuration::issuer_of_gcs;
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    build!(
        "gs",
        "GOOGLE_",
        GoogleCloudStorageBuilder,
        GoogleConfigKey,
        url,
        purpose,
        options,
        issuer_of_gcs,
        |builder| builder
    )
}

#[cfg(not(feature = "gcp"))]
pub(crate) fn gs(
    url: &Url,
    _: Purpose,
    _: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    Err(not_compiled_in(url, "gcp"))
}

#[cfg(feature = "azure")]
pub(crate) fn az(
    url: &Url,
    purpose: Purpose,
    options: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    use super::configuration::issuer_of_azure;
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    build!(
        "az",
        "AZURE_",
        MicrosoftAzureBuilder,
        AzureConfigKey,
        url,
        purpose,
        options,
        issuer_of_azure,
        |builder| builder
    )
}

#[cfg(not(feature = "azure"))]
pub(crate) fn az(
    url: &Url,
    _: Purpose,
    _: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    Err(not_compiled_in(url, "azure"))
}

/// What the client does unless the environment or the options say otherwise.
///
/// `timeout`: each attempt has the sink's own, which grows; the client's must not be shorter.
/// `pool_idle_timeout`: a request on a connection that the other side has dropped long ago stalls;
/// S3 drops them after about 20 seconds.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
const CLIENT_DEFAULTS: [(&str, &str); 2] = [("timeout", "300s"), ("pool_idle_timeout", "15s")];
