//! The settings of a store, each under the name that the operator used, and checks that need no
//! request.

use std::collections::BTreeMap;

use url::Url;

#[cfg(any(feature = "aws", feature = "azure"))]
use super::credentials::CredentialFile;
use super::credentials::Issuer;
use super::purpose::Given;
use super::unknown_option;
use crate::OpenError;
use crate::one_line::scrub;

/// The settings of one store, by the client's name for each. Not `Debug`, since some are secrets.
pub(crate) struct Configuration {
    prefix: &'static str,
    /// The names of settings that the client does not know.
    own: &'static [&'static str],
    settings: BTreeMap<String, Setting>,
}

pub(crate) struct Setting {
    /// The name of the variable or option, as the operator wrote it.
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Builds a store with some of the settings. Returns the error, if any.
type TryBuild<'a> = &'a dyn Fn(&mut dyn Iterator<Item = (&str, &str)>) -> Option<String>;

impl Configuration {
    /// Reads the environment variables with this prefix if they count, then the options, which take
    /// precedence.
    /// `canonical` maps a name to the client's name of the setting; `own` lists settings that the
    /// client does not know.
    ///
    /// # Errors
    ///
    /// If an option is unknown. Unknown variables are ignored.
    pub(crate) fn read(
        prefix: &'static str,
        own: &'static [&'static str],
        given: &Given,
        canonical: &dyn Fn(&str) -> Option<String>,
        store: &str,
    ) -> Result<Configuration, OpenError> {
        let canonical = |name: &str| match own.contains(&name) {
            true => Some(name.to_owned()),
            false => canonical(name),
        };
        let environment = given.has_environment.then(std::env::vars_os);
        let mut variables: Vec<(String, String)> = environment
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect();
        variables.sort_unstable();
        let mut settings = BTreeMap::new();
        for (name, value) in variables {
            if let Some(known) = canonical(&name.to_ascii_lowercase()) {
                settings.insert(known, Setting { name, value });
            }
        }
        for (name, value) in &given.options {
            let known = canonical(name).ok_or_else(|| unknown_option(name, store))?;
            settings.insert(known, Setting { name: name.clone(), value: value.clone() });
        }
        Ok(Configuration { prefix, own, settings })
    }

    /// The settings that the client knows.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, &Setting)> {
        let settings = self.settings.iter().map(|(name, setting)| (name.as_str(), setting));
        settings.filter(|(name, _)| !self.own.contains(name))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    fn has(&self, name: &str) -> bool {
        self.settings.contains_key(name)
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|setting| {
            let value = setting.value.to_ascii_lowercase();
            matches!(value.as_str(), "1" | "true" | "on" | "yes" | "y")
        })
    }

    /// The reason why a store cannot be built, with the name of the setting to blame: the one
    /// without which the store can be built, or which causes the same error by itself.
    pub(crate) fn blame(&self, error: &str, try_build: TryBuild<'_>) -> String {
        let unwrapped = error.strip_prefix("Generic ").and_then(|text| text.split_once(" error: "));
        let reason = self.redact(scrub(unwrapped.map_or(error, |(_store, reason)| reason)));
        let build = |wanted: &dyn Fn(&str) -> bool| {
            let some = self.settings().filter(|(name, _)| wanted(name));
            try_build(&mut some.map(|(name, setting)| (name, setting.value.as_str())))
        };
        let is_needless = |name: &str| build(&|other| other != name).is_none();
        let fails_alone = |name: &str| build(&|other| other == name).as_deref() == Some(error);
        let fails_anyway = build(&|_| false).as_deref() == Some(error);
        let culprit = self
            .settings()
            .find(|(name, _)| is_needless(name))
            .or_else(|| self.settings().find(|(name, _)| !fails_anyway && fails_alone(name)));
        let Some((name, setting)) = culprit else { return reason };
        let has_unit = name.ends_with("timeout") || name.ends_with("interval");
        let hint = if has_unit { " (a duration needs a unit, as in 30s)" } else { "" };
        format!("{}: {reason}{hint}", setting.name)
    }

    /// Replaces the values of settings that could be secrets in `text`. A builder's error may quote
    /// a value that it could not parse.
    fn redact(&self, text: String) -> String {
        const MIN_BYTES: usize = 6;
        let harmless =
            ["region", "endpoint", "bucket", "allow_http", "account_name", "url", "timeout"];
        let is_secret = |(name, setting): &(&str, &Setting)| {
            setting.value.len() >= MIN_BYTES && !harmless.iter().any(|part| name.contains(part))
        };
        self.settings().filter(is_secret).fold(text, |text, (_, setting)| {
            text.replace(&setting.value, &format!("<{}>", setting.name))
        })
    }

    /// Checks that requests can be sent to this endpoint.
    pub(super) fn check_endpoint(&self, setting: &Setting) -> Result<Url, String> {
        let Setting { name, value } = setting;
        let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url.filter(Url::has_host) else {
            return Err(format!("{name} is not a URL such as https://host:9000"));
        };
        if url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err(format!("{name} has more than a scheme, a host, a port and a path"));
        }
        if url.scheme() == "http" && !self.is_true("allow_http") {
            return Err(format!(
                "{name} is an http URL: use https, or set {}ALLOW_HTTP=true",
                self.prefix
            ));
        }
        Ok(url)
    }

    #[cfg(any(feature = "aws", feature = "azure"))]
    /// Checks that a setting comes with the others that it needs. Otherwise the client would ignore
    /// it and use other credentials.
    pub(super) fn needs(&self, name: &str, others: &[(&str, &str)]) -> Result<(), String> {
        let Some(setting) = self.get(name) else { return Ok(()) };
        let missing = others.iter().find(|(other, _)| !self.has(other));
        match missing {
            Some((_, variable)) => Err(format!("{} is set, but {variable} is not", setting.name)),
            None => Ok(()),
        }
    }

    #[cfg(any(feature = "aws", feature = "azure"))]
    fn file(&self, name: &str, is_header: bool) -> Vec<CredentialFile> {
        let file = self.get(name).map(|Setting { name, value }| CredentialFile {
            variable: name.clone(),
            path: value.into(),
            is_header,
        });
        file.into_iter().collect()
    }
}

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
const INSTANCE_METADATA: &str = "instance metadata service";

/// The issuer of credentials for an S3 bucket. `None` if the settings hold the credentials.
///
/// # Errors
///
/// If the settings can never work.
#[cfg(feature = "aws")]
pub(crate) fn issuer_of_s3(
    configuration: &Configuration,
    url: &Url,
) -> Result<Option<Issuer>, String> {
    check_endpoint_of_s3(configuration, url)?;
    let is_static = ["aws_access_key_id", "aws_secret_access_key"];
    if is_static.iter().any(|name| configuration.has(name))
        || configuration.is_true("aws_skip_signature")
    {
        return Ok(None);
    }
    configuration.needs("aws_web_identity_token_file", &[("aws_role_arn", "AWS_ROLE_ARN")])?;
    let web_identity = configuration.file("aws_web_identity_token_file", false);
    if !web_identity.is_empty() {
        if let Some(Setting { name, value }) = configuration.get("aws_endpoint_url_sts")
            && !value.starts_with("https://")
        {
            return Err(format!("{name} is not an https URL, but STS requires https"));
        }
        let variables = "AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN and AWS_ENDPOINT_URL_STS";
        return Ok(Some(Issuer::new("STS", variables, "AWS_ENDPOINT_URL_STS", web_identity)));
    }
    let container = "container's credentials endpoint";
    if configuration.has("aws_container_credentials_relative_uri") {
        let variable = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        return Ok(Some(Issuer::new(container, variable, variable, Vec::new())));
    }
    configuration.needs(
        "aws_container_credentials_full_uri",
        &[("aws_container_authorization_token_file", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")],
    )?;
    if configuration.has("aws_container_credentials_full_uri") {
        return Ok(Some(Issuer::new(
            container,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            configuration.file("aws_container_authorization_token_file", true),
        )));
    }
    configuration
        .needs("aws_role_arn", &[("aws_web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE")])?;
    let variables = "the instance's role, AWS_METADATA_ENDPOINT";
    let metadata = Issuer::new(INSTANCE_METADATA, variables, "AWS_METADATA_ENDPOINT", Vec::new());
    Ok(Some(Issuer { is_default: true, ..metadata }))
}

#[cfg(feature = "aws")]
fn check_endpoint_of_s3(configuration: &Configuration, url: &Url) -> Result<(), String> {
    let endpoint = configuration.get("aws_endpoint_url_s3").or(configuration.get("aws_endpoint"));
    let Some(setting) = endpoint else { return Ok(()) };
    let endpoint = configuration.check_endpoint(setting)?;
    let last = endpoint.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_repeated = !last.is_empty() && Some(last) == url.host_str();
    if is_repeated && !configuration.is_true("aws_virtual_hosted_style_request") {
        return Err(format!(
            "{} ends with the bucket's name, which belongs only in the bucket URL: objects would \
             be stored under {last}/{last}",
            setting.name
        ));
    }
    Ok(())
}

/// The issuer of credentials for a GCS bucket. `None` if the settings hold the credentials.
///
/// # Errors
///
/// If the settings can never work.
#[cfg(feature = "gcp")]
pub(crate) fn issuer_of_gcs(
    configuration: &Configuration,
    _: &Url,
) -> Result<Option<Issuer>, String> {
    if let Some(setting) = configuration.get("google_base_url") {
        configuration.check_endpoint(setting)?;
    }
    if configuration.has("google_bearer_token") {
        return Ok(None);
    }
    let names =
        ["google_service_account", "google_service_account_key", "google_application_credentials"];
    let well_known = std::env::home_dir().is_some_and(|home| {
        home.join(".config/gcloud/application_default_credentials.json").exists()
    });
    let is_default = !well_known && !names.iter().any(|name| configuration.has(name));
    let google = Issuer::new(
        if is_default { INSTANCE_METADATA } else { "token endpoint of Google" },
        "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS",
        "the token URL in the file of the credentials",
        Vec::new(),
    );
    Ok(Some(Issuer { is_default, ..google }))
}

/// The issuer of credentials for an Azure container. `None` if the settings hold the credentials.
///
/// # Errors
///
/// If the settings can never work.
#[cfg(feature = "azure")]
pub(crate) fn issuer_of_azure(
    configuration: &Configuration,
    _: &Url,
) -> Result<Option<Issuer>, String> {
    let is_emulator = configuration.is_true("azure_storage_use_emulator");
    if !is_emulator && !configuration.has("azure_storage_account_name") {
        return Err("AZURE_STORAGE_ACCOUNT_NAME is not set".to_owned());
    }
    if let Some(setting) = configuration.get("azure_storage_endpoint")
        && !is_emulator
    {
        configuration.check_endpoint(setting)?;
    }
    let in_settings = ["azure_storage_token", "azure_storage_account_key", "azure_storage_sas_key"];
    if is_emulator
        || in_settings.iter().any(|name| configuration.has(name))
        || configuration.is_true("azure_skip_signature")
    {
        return Ok(None);
    }
    let id = ("azure_storage_client_id", "AZURE_CLIENT_ID");
    let tenant = ("azure_storage_tenant_id", "AZURE_TENANT_ID");
    configuration.needs("azure_storage_client_secret", &[id, tenant])?;
    configuration.needs("azure_federated_token_file", &[id, tenant])?;
    let entra = |variables, files| {
        let name = "token endpoint of Microsoft Entra ID";
        Issuer::new(name, variables, "AZURE_AUTHORITY_HOST", files)
    };
    let federated = configuration.file("azure_federated_token_file", false);
    Ok(Some(if !federated.is_empty() {
        entra("AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE", federated)
    } else if configuration.has("azure_storage_client_secret") {
        entra("AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET", Vec::new())
    } else {
        let is_cli = configuration.is_true("azure_use_azure_cli");
        let name = if is_cli { "Azure CLI" } else { INSTANCE_METADATA };
        let variables = "the managed identity, or AZURE_CLIENT_ID";
        let managed = Issuer::new(name, variables, "AZURE_MSI_ENDPOINT", Vec::new());
        Issuer { is_default: !is_cli, ..managed }
    }))
}
