//! Builds the providers' stores from the environment and options.

use std::sync::Arc;

use object_store::ObjectStore;
use url::Url;

use super::kept::Kept;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
use super::own_settings;
use super::session::RoleSession;

use super::purpose::{Given, Purpose};
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
use super::{configuration::Configuration, credentials::Issued};
use crate::OpenError;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
use std::time::Duration;

/// A provider's store, and what belongs to its requests.
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) kept: Kept,
    pub(crate) has_expected_owner: bool,
    pub(crate) session: Option<Arc<dyn RoleSession>>,
    #[cfg(feature = "aws")]
    pub(crate) s3: Option<object_store::aws::AmazonS3>,
}

impl Remote {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Remote {
        Remote {
            store,
            kept: Kept::default(),
            has_expected_owner: false,
            session: None,
            #[cfg(feature = "aws")]
            s3: None,
        }
    }
}

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
impl Purpose {
    fn retry(&self) -> object_store::RetryConfig {
        use object_store::{BackoffConfig, RetryConfig};
        match self {
            // The sink itself retries: it refreshes credentials and knows what an ambiguous
            // response means.
            Purpose::Write(_) => RetryConfig { max_retries: 0, ..RetryConfig::default() },
            // The backoff is short compared with the whole time, so that the time limit is kept.
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

/// Builds the store of one provider from our defaults, the environment, then the options. Settings
/// that can never work are rejected here, naming the variable.
///
/// `$configure` applies configuration that no setting covers; `$credentials` may replace the
/// credentials that the store would use.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
macro_rules! build {
    ($store:literal, $own:expr, $builder:ty, $key:ty, $url:expr, $purpose:expr, $given:expr,
     $issuer:path, $configure:expr, $credentials:expr) => {{
        let canonical = |name: &str| name.parse().ok().map(|key: $key| key.as_ref().to_owned());
        let configuration =
            Configuration::read($own.prefix, $own.names, $given, &canonical, $store)?;
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
        let kept = $own.kept(&configuration).map_err(cannot)?;
        let mut builder = $configure(builder, &configuration).map_err(cannot)?;
        builder = match &$purpose {
            Purpose::Read { on_retry, store_time_ms, .. } => {
                let (on_retry, time_ms) = (on_retry.clone(), Arc::clone(store_time_ms));
                builder.with_http_connector(super::read_client::ReadConnector { on_retry, time_ms })
            }
            Purpose::Write(clock) => {
                let clock = clock.clone();
                builder.with_http_connector(super::write_client::WriteConnector { clock })
            }
        };
        let failed = |error: object_store::Error| {
            let try_build = |settings: &mut dyn Iterator<Item = (&str, &str)>| {
                let builder =
                    settings.fold(new(), |builder, (name, value)| with(builder, name, value));
                builder.build().err().map(|error| error.to_string())
            };
            cannot(configuration.blame(&error.to_string(), &try_build))
        };
        let store = builder.clone().build().map_err(failed)?;
        let issued = issuer
            .map(|issuer| Arc::new(Issued::new(issuer, Arc::clone(store.credentials()))) as Arc<_>);
        let base = issued.as_ref().unwrap_or(store.credentials());
        let (own, session) = match $credentials(&configuration, base).map_err(cannot)? {
            Some((own, session)) => (Some(own), Some(session)),
            None => (issued, None),
        };
        let store = match own {
            None => store,
            Some(own) => builder.with_credentials(own).build().map_err(failed)?,
        };
        let has_expected_owner = configuration.get("aws_expected_bucket_owner").is_some();
        let remote =
            Remote { kept, has_expected_owner, session, ..Remote::new(Arc::new(store.clone())) };
        (store, remote)
    }};
}

/// Replacement credentials, and the session of the role that they are of.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
type Replaced<C> =
    Option<(Arc<dyn object_store::CredentialProvider<Credential = C>>, Arc<dyn RoleSession>)>;

/// Keeps the credentials.
#[cfg(any(feature = "gcp", feature = "azure"))]
fn unchanged<C>(
    _: &Configuration,
    _: &Arc<dyn object_store::CredentialProvider<Credential = C>>,
) -> Result<Replaced<C>, String> {
    Ok(None)
}

/// The credentials of the role to assume, if there is one.
#[cfg(feature = "aws")]
fn assumed_role(
    configuration: &Configuration,
    base: &object_store::aws::AwsCredentialProvider,
) -> Result<Replaced<object_store::aws::AwsCredential>, String> {
    use super::assumed_role::AssumedRole;
    let Some((role, issuer)) = own_settings::role(configuration)? else { return Ok(None) };
    let client = super::http_client::connect(&client_options(configuration))
        .map_err(|error| error.to_string())?;
    let role = Arc::new(AssumedRole::new(role, client, Arc::clone(base)));
    let issued = Issued::new(issuer, Arc::clone(&role) as Arc<_>);
    Ok(Some((Arc::new(issued), role)))
}

#[cfg(feature = "aws")]
fn client_options(configuration: &Configuration) -> object_store::ClientOptions {
    use object_store::aws::AmazonS3ConfigKey;
    let settings = configuration.settings().map(|(name, setting)| (name, setting.value.as_str()));
    let all = CLIENT_DEFAULTS.into_iter().chain(settings);
    all.fold(object_store::ClientOptions::new(), |options, (name, value)| {
        if let Ok(AmazonS3ConfigKey::Client(key)) = name.parse() {
            options.with_config(key, value)
        } else {
            options
        }
    })
}

#[cfg(feature = "aws")]
pub(crate) fn s3(url: &Url, purpose: Purpose, given: &Given) -> Result<Remote, OpenError> {
    use super::configuration::issuer_of_s3;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
    let (store, remote) = build!(
        "s3",
        own_settings::S3,
        AmazonS3Builder,
        AmazonS3ConfigKey,
        url,
        purpose,
        given,
        issuer_of_s3,
        |builder: AmazonS3Builder, configuration: &Configuration| {
            // The store verifies the upload with it. Buckets with Object Lock require it.
            let mut builder = match builder.get_config_value(&AmazonS3ConfigKey::Checksum) {
                Some(_) => builder,
                None => builder.with_checksum_algorithm(Checksum::SHA256),
            };
            if let Some(owner) = own_settings::owner(configuration)? {
                // A header of every request, covered by its signature.
                let (name, value) = ("x-amz-expected-bucket-owner", owner.parse());
                let value = value.map_err(|_| "the owner is not a valid header".to_owned())?;
                let headers = [(name.parse().expect("a header's name"), value)];
                let options = client_options(configuration);
                let options = options.with_default_headers(headers.into_iter().collect());
                builder = builder.with_client_options(options);
            }
            Ok(builder.with_conditional_put(S3ConditionalPut::ETagMatch))
        },
        assumed_role
    );
    Ok(Remote { s3: Some(store), ..remote })
}

#[cfg(not(feature = "aws"))]
pub(crate) fn s3(url: &Url, _: Purpose, _: &Given) -> Result<Remote, OpenError> {
    Err(not_compiled_in(url, "aws"))
}

#[cfg(feature = "gcp")]
pub(crate) fn gs(url: &Url, purpose: Purpose, given: &Given) -> Result<Remote, OpenError> {
    use super::configuration::issuer_of_gcs;
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let (_, remote) = build!(
        "gs",
        own_settings::GCS,
        GoogleCloudStorageBuilder,
        GoogleConfigKey,
        url,
        purpose,
        given,
        issuer_of_gcs,
        |builder, _: &_| Ok(builder),
        unchanged
    );
    Ok(remote)
}

#[cfg(not(feature = "gcp"))]
pub(crate) fn gs(url: &Url, _: Purpose, _: &Given) -> Result<Remote, OpenError> {
    Err(not_compiled_in(url, "gcp"))
}

#[cfg(feature = "azure")]
pub(crate) fn az(url: &Url, purpose: Purpose, given: &Given) -> Result<Remote, OpenError> {
    use super::configuration::issuer_of_azure;
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let (_, remote) = build!(
        "az",
        own_settings::AZURE,
        MicrosoftAzureBuilder,
        AzureConfigKey,
        url,
        purpose,
        given,
        issuer_of_azure,
        |builder, _: &_| Ok(builder),
        unchanged
    );
    Ok(remote)
}

#[cfg(not(feature = "azure"))]
pub(crate) fn az(url: &Url, _: Purpose, _: &Given) -> Result<Remote, OpenError> {
    Err(not_compiled_in(url, "azure"))
}

/// Defaults of the client, which the environment and the options override.
///
/// `timeout`: the sink gives each attempt its own, growing limit; the client's must not be shorter.
/// `pool_idle_timeout`: a request stalls on a connection that the server dropped long ago; S3 drops
/// idle connections after about 20 seconds.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
const CLIENT_DEFAULTS: [(&str, &str); 2] = [("timeout", "300s"), ("pool_idle_timeout", "15s")];
