//! Reasons why retrying a request does not help.

use audit_core::DiskFault;

/// Why retrying does not help. It determines what an operator must do: see
/// [`Provider::advice`](super::provider::Provider::advice).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    Permission,
    Credentials,
    NoCredentials,
    /// STS refused the role to these credentials.
    Role,
    /// A file needed to obtain credentials cannot be used.
    CredentialFile,
    NoBucket,
    Region,
    HostClock,
    EncryptionKey,
    Unsupported,
    /// The disk of a directory, or the directory itself.
    Disk(DiskFault),
    Request,
    /// The URL is an http URL, but only https is allowed.
    PlainHttp,
    Tls(Certificate),
    /// The server at an https URL does not speak TLS.
    NotTls,
    /// The request panicked. Its outcome is unknown.
    Panic,
}

/// Why a server's certificate was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificate {
    UnknownIssuer,
    /// Expired, or not valid yet.
    Expired,
    WrongName,
    Other,
}

impl Blocker {
    #[cfg(test)]
    pub(crate) const ALL: [Blocker; 24] = [
        Blocker::Permission,
        Blocker::Credentials,
        Blocker::NoCredentials,
        Blocker::Role,
        Blocker::CredentialFile,
        Blocker::NoBucket,
        Blocker::Region,
        Blocker::HostClock,
        Blocker::EncryptionKey,
        Blocker::Unsupported,
        Blocker::Disk(DiskFault::Full),
        Blocker::Disk(DiskFault::Quota),
        Blocker::Disk(DiskFault::ReadOnly),
        Blocker::Disk(DiskFault::Permission),
        Blocker::Disk(DiskFault::Moved),
        Blocker::Disk(DiskFault::Removed),
        Blocker::Request,
        Blocker::PlainHttp,
        Blocker::Tls(Certificate::UnknownIssuer),
        Blocker::Tls(Certificate::Expired),
        Blocker::Tls(Certificate::WrongName),
        Blocker::Tls(Certificate::Other),
        Blocker::NotTls,
        Blocker::Panic,
    ];

    /// Whether the cause is in this process's own settings.
    pub(crate) fn is_configuration(self) -> bool {
        match self {
            Blocker::NoCredentials | Blocker::CredentialFile | Blocker::PlainHttp => true,
            Blocker::Permission
            | Blocker::Credentials
            | Blocker::Role
            | Blocker::NoBucket
            | Blocker::Region
            | Blocker::HostClock
            | Blocker::EncryptionKey
            | Blocker::Unsupported
            | Blocker::Disk(_)
            | Blocker::Request
            | Blocker::Tls(_)
            | Blocker::NotTls
            | Blocker::Panic => false,
        }
    }
}
