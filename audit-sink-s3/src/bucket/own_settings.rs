//! Settings that the client does not know, and settings that a bucket's URL may hold.

#[cfg(feature = "aws")]
use super::assumed_role::Role;
use super::configuration::{Configuration, Setting};
#[cfg(feature = "aws")]
use super::credentials::Issuer;
use super::kept::Kept;

/// Our own settings for one provider.
pub(crate) struct OwnSettings {
    pub(crate) prefix: &'static str,
    /// The settings that the client does not know.
    pub(crate) names: &'static [&'static str],
    /// The client's settings that a URL may hold as well. None is secret.
    in_url: &'static [&'static str],
    storage_class: &'static str,
    tags: &'static str,
}

pub(crate) const S3: OwnSettings = OwnSettings {
    prefix: "AWS_",
    names: &[
        "aws_assume_role_arn",
        "aws_assume_role_external_id",
        "aws_assume_role_session_name",
        "aws_expected_bucket_owner",
        "aws_object_tags",
        "aws_storage_class",
    ],
    in_url: &[
        "aws_region",
        "aws_server_side_encryption",
        "aws_sse_bucket_key_enabled",
        "aws_sse_kms_key_id",
    ],
    storage_class: "aws_storage_class",
    tags: "aws_object_tags",
};

pub(crate) const GCS: OwnSettings = OwnSettings {
    prefix: "GOOGLE_",
    names: &["google_storage_class"],
    in_url: &[],
    storage_class: "google_storage_class",
    // GCS has no tags.
    tags: "",
};

pub(crate) const AZURE: OwnSettings = OwnSettings {
    prefix: "AZURE_",
    names: &["azure_access_tier", "azure_blob_tags"],
    in_url: &[],
    storage_class: "azure_access_tier",
    tags: "azure_blob_tags",
};

impl OwnSettings {
    /// The settings of the scheme's provider, if URLs of that scheme may hold any.
    pub(crate) fn of_scheme(scheme: &str) -> Option<&'static OwnSettings> {
        match scheme {
            "s3" => Some(&S3),
            "gs" => Some(&GCS),
            "az" => Some(&AZURE),
            _ => None,
        }
    }

    /// The setting for a member of a URL's query, which is the variable without its prefix.
    pub(crate) fn in_url(&self, member: &str) -> Option<&'static str> {
        self.all_in_url().find(|(short, _)| *short == member).map(|(_, name)| name)
    }

    /// The members that a URL's query may have, each with its setting.
    pub(crate) fn all_in_url(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let prefix = self.prefix.len();
        self.names.iter().chain(self.in_url).map(move |name| (&name[prefix..], *name))
    }

    /// The storage class and the tags of objects.
    ///
    /// # Errors
    ///
    /// If a value is invalid.
    pub(crate) fn kept(&self, configuration: &Configuration) -> Result<Kept, String> {
        let mut kept = Kept::default();
        if let Some(Setting { name, value }) = configuration.get(self.storage_class) {
            kept = kept.storage_class(value).map_err(|why| format!("{name} {why}"))?;
        }
        if let Some(Setting { name, value }) = configuration.get(self.tags) {
            kept = kept.tags(value).map_err(|why| format!("{name} {why}"))?;
        }
        Ok(kept)
    }
}

/// The account that must own the bucket.
///
/// # Errors
///
/// If it is not an account number, or if the client would ignore a setting for encryption.
#[cfg(feature = "aws")]
pub(crate) fn owner(configuration: &Configuration) -> Result<Option<&str>, String> {
    let encryption = [("aws_server_side_encryption", "AWS_SERVER_SIDE_ENCRYPTION")];
    configuration.needs("aws_sse_kms_key_id", &encryption)?;
    configuration.needs("aws_sse_bucket_key_enabled", &encryption)?;
    let Some(Setting { name, value }) = configuration.get("aws_expected_bucket_owner") else {
        return Ok(None);
    };
    if value.len() != 12 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{name} is not an account number, which has 12 digits"));
    }
    Ok(Some(value))
}

/// The role to assume, and the issuer that its failures name.
///
/// # Errors
///
/// If the settings can never work.
#[cfg(feature = "aws")]
pub(crate) fn role(configuration: &Configuration) -> Result<Option<(Role, Issuer)>, String> {
    let arn_name = [("aws_assume_role_arn", "AWS_ASSUME_ROLE_ARN")];
    for name in ["aws_assume_role_external_id", "aws_assume_role_session_name"] {
        configuration.needs(name, &arn_name)?;
    }
    let Some(Setting { name, value: arn }) = configuration.get("aws_assume_role_arn") else {
        return Ok(None);
    };
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let is_arn = matches!(parts[..], ["arn", partition, "iam", "", account, resource]
        if !partition.is_empty() && account.len() == 12 && resource.starts_with("role/"));
    if !is_arn || !is_of(arn, 20, 2_048, ":/") {
        return Err(format!(
            "{name} is not the ARN of a role, as in arn:aws:iam::123456789012:role/audit"
        ));
    }
    if configuration.is_true("aws_skip_signature") {
        return Err(format!("{name} and AWS_SKIP_SIGNATURE are both set"));
    }
    let checked = |name: &str, min, max, others| match configuration.get(name) {
        Some(Setting { name, value }) if !is_of(value, min, max, others) => Err(format!(
            "{name} must have {min} to {max} letters, digits, or characters of _+=,.@-{others}"
        )),
        setting => Ok(setting.map(|setting| setting.value.clone())),
    };
    let external_id = checked("aws_assume_role_external_id", 2, 1_224, ":/")?;
    let session_name = checked("aws_assume_role_session_name", 2, 64, "")?;
    let region = configuration.get("aws_region").or(configuration.get("aws_default_region"));
    let region = region.map_or("us-east-1", |region| &region.value).to_owned();
    let endpoint = match configuration.get("aws_endpoint_url_sts") {
        Some(setting) => configuration.check_endpoint(setting)?.to_string(),
        None => {
            let china = if region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://sts.{region}.amazonaws.com{china}")
        }
    };
    let (with, remedy) = match external_id {
        Some(_) => (
            "with an external id",
            "let the role's trust policy allow the credentials with that external id, or correct \
             AWS_ASSUME_ROLE_ARN or AWS_ASSUME_ROLE_EXTERNAL_ID",
        ),
        None => (
            "without an external id",
            "let the role's trust policy allow the credentials, or correct AWS_ASSUME_ROLE_ARN; if \
             the policy asks for an external id, set AWS_ASSUME_ROLE_EXTERNAL_ID: none was given",
        ),
    };
    let issuer = Issuer::new(
        format!("STS, asked for the role {arn} {with}"),
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the identity that they \
         come from",
        "AWS_ENDPOINT_URL_STS",
        Vec::new(),
    );
    let issuer = Issuer { role: Some(remedy), ..issuer };
    let (arn, default_session_name) = (arn.clone(), default_session_name());
    let role = Role { arn, external_id, session_name, default_session_name, endpoint, region };
    Ok(Some((role, issuer)))
}

/// Whether a text has only characters that STS accepts, and a length within these bounds.
#[cfg(feature = "aws")]
fn is_of(text: &str, min: usize, max: usize, others: &str) -> bool {
    let is_valid =
        |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) || others.contains(c);
    (min..=max).contains(&text.len()) && text.chars().all(is_valid)
}

/// The default session name. It contains the host name if the environment has one; in a container,
/// that is the name of the pod or the container.
#[cfg(feature = "aws")]
fn default_session_name() -> String {
    match std::env::var("HOSTNAME") {
        Ok(host) if is_of(&host, 1, 58, "") => format!("audit-{host}"),
        _ => "audit".to_owned(),
    }
}
