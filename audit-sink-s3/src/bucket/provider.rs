//! Providers of stores, and what an operator can do about their refusals.

use object_store::ObjectStore;

use super::blocker::{Blocker, Certificate};
use super::credentials::Issuer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// AWS, and all other stores with the S3 API.
    S3,
    Gcs,
    Azure,
    Directory,
    /// In memory, or a host's own store.
    Other,
}

impl Provider {
    #[cfg(test)]
    pub(crate) const ALL: [Provider; 5] =
        [Provider::S3, Provider::Gcs, Provider::Azure, Provider::Directory, Provider::Other];

    /// Recognizes a store by its `Display` text, since a host may have created it.
    pub(crate) fn of(store: &dyn ObjectStore) -> Provider {
        let name = store.to_string();
        [
            ("AmazonS3", Provider::S3),
            ("GoogleCloudStorage", Provider::Gcs),
            ("MicrosoftAzure", Provider::Azure),
            ("LocalFileSystem", Provider::Directory),
        ]
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map_or(Provider::Other, |(_, provider)| provider)
    }

    /// The noun for the store in messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Provider::S3 | Provider::Gcs | Provider::Other => "bucket",
            Provider::Azure => "container",
            Provider::Directory => "directory",
        }
    }

    /// The variable that holds the store's URL.
    fn endpoint(self) -> &'static str {
        match self {
            Provider::S3 => "AWS_ENDPOINT",
            Provider::Gcs => "GOOGLE_BASE_URL",
            Provider::Azure => "AZURE_STORAGE_ENDPOINT",
            Provider::Directory | Provider::Other => "the endpoint",
        }
    }

    /// What to do if a reader lacks permissions.
    pub(crate) fn advice_to_reader(self) -> &'static str {
        match self {
            Provider::S3 => {
                "allow the credentials s3:ListBucket, and s3:GetObject under the prefix"
            }
            Provider::Gcs => "grant the credentials roles/storage.objectViewer on the bucket",
            Provider::Azure => {
                "give the identity the role Storage Blob Data Reader on the container, or the SAS \
                 the permissions read and list"
            }
            Provider::Directory => "allow this process to read the directory",
            Provider::Other => "allow the credentials to list and to get objects under the prefix",
        }
    }

    /// What to do, as the end of a sentence. `issuer` is the issuer of credentials that refused, if
    /// it was not the store.
    pub(crate) fn advice(self, blocker: Blocker, issuer: Option<&Issuer>) -> String {
        let endpoint = issuer.map_or(self.endpoint(), |issuer| issuer.endpoint);
        let text = match blocker {
            Blocker::Permission => match self {
                Provider::S3 => {
                    "allow the credentials s3:PutObject and s3:GetObject under the prefix"
                }
                Provider::Gcs => {
                    "grant the credentials roles/storage.objectCreator and \
                     roles/storage.objectViewer on the bucket"
                }
                Provider::Azure => {
                    "give the identity the role Storage Blob Data Contributor on the container, \
                     or the SAS the permissions read, create and write"
                }
                Provider::Directory => "allow this process to write to the directory",
                Provider::Other => {
                    "allow the credentials to put and to get objects under the prefix"
                }
            },
            Blocker::Credentials => match (issuer, self) {
                (Some(issuer), _) => {
                    return format!("correct the settings of that request: {}", issuer.variables);
                }
                (None, Provider::S3) => {
                    "renew or correct the credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY \
                     and AWS_SESSION_TOKEN, or the role they come from"
                }
                (None, Provider::Gcs) => {
                    "renew or correct the credentials: GOOGLE_SERVICE_ACCOUNT or \
                     GOOGLE_APPLICATION_CREDENTIALS, or the service account of the instance"
                }
                (None, Provider::Azure) => {
                    "renew or correct the credentials: AZURE_STORAGE_ACCOUNT_KEY, \
                     AZURE_STORAGE_SAS_TOKEN, or the identity they come from"
                }
                (None, Provider::Directory | Provider::Other) => "renew or correct the credentials",
            },
            Blocker::NoCredentials => match self {
                Provider::S3 => {
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ROLE_ARN and \
                     AWS_WEB_IDENTITY_TOKEN_FILE, or give the instance a role"
                }
                Provider::Gcs => {
                    "set GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS, or give the \
                     instance a service account"
                }
                Provider::Azure => {
                    "set AZURE_STORAGE_ACCOUNT_KEY, or AZURE_CLIENT_ID, AZURE_TENANT_ID and \
                     AZURE_CLIENT_SECRET, or give the instance a managed identity"
                }
                Provider::Directory | Provider::Other => "set credentials",
            },
            Blocker::Role => {
                issuer.and_then(|issuer| issuer.role).unwrap_or("allow the role to be assumed")
            }
            Blocker::CredentialFile => {
                "write the issuer's credentials to that file, or correct the variable"
            }
            Blocker::NoBucket => match self {
                Provider::S3 | Provider::Gcs | Provider::Other => {
                    "create the bucket, or correct its name"
                }
                Provider::Azure => {
                    "create the container, or correct its name or AZURE_STORAGE_ACCOUNT_NAME"
                }
                Provider::Directory => "create the directory, or correct its path",
            },
            Blocker::Region => match self {
                Provider::S3 => "set AWS_REGION and AWS_ENDPOINT to those of the bucket",
                Provider::Gcs | Provider::Azure | Provider::Directory | Provider::Other => {
                    return format!("set {endpoint} to the location of the {}", self.noun());
                }
            },
            Blocker::HostClock => "set this host's clock",
            Blocker::EncryptionKey => match self {
                Provider::S3 => {
                    "enable the KMS key, and allow the credentials kms:GenerateDataKey and \
                     kms:Decrypt"
                }
                Provider::Gcs => {
                    "enable the key, and grant the storage service agent \
                     roles/cloudkms.cryptoKeyEncrypterDecrypter"
                }
                Provider::Azure | Provider::Directory | Provider::Other => {
                    "enable the encryption key, and allow the credentials to use it"
                }
            },
            Blocker::Unsupported => "use a store that can create objects conditionally",
            Blocker::Panic => {
                "correct the named cause; if there is none, restart this process and report \
                 the panic on standard error"
            }
            Blocker::Disk(fault) => fault.advice(),
            Blocker::Request => match issuer {
                Some(issuer) => {
                    return format!("correct the settings of that request: {}", issuer.variables);
                }
                None => "see the response",
            },
            Blocker::PlainHttp => match (issuer, self) {
                (Some(_), _) => return format!("set {endpoint} to an https URL"),
                (None, Provider::S3) => "set AWS_ENDPOINT to an https URL, or AWS_ALLOW_HTTP=true",
                (None, Provider::Gcs) => {
                    "set GOOGLE_BASE_URL to an https URL, or GOOGLE_ALLOW_HTTP=true"
                }
                (None, Provider::Azure) => {
                    "set AZURE_STORAGE_ENDPOINT to an https URL, or AZURE_ALLOW_HTTP=true"
                }
                (None, Provider::Directory | Provider::Other) => "use an https URL",
            },
            Blocker::Tls(Certificate::UnknownIssuer) => {
                return format!(
                    "make this host trust the authority that signed it (with a certificate file in \
                     SSL_CERT_FILE), or correct {endpoint}"
                );
            }
            Blocker::Tls(Certificate::Expired) => {
                "renew the server's certificate, or set this host's clock"
            }
            Blocker::Tls(Certificate::WrongName) => {
                return format!("set {endpoint} to a name on the certificate");
            }
            Blocker::Tls(Certificate::Other) => {
                return format!("correct the server's certificate, or {endpoint}");
            }
            Blocker::NotTls => {
                return format!("correct the scheme and the port of {endpoint}");
            }
        };
        text.to_owned()
    }
}
