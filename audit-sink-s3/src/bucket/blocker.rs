//! Why no repetition of a request helps.

/// Why no repetition helps, and so what an operator has to do: see
/// [`Provider::advice`](super::provider::Provider::advice).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    Permission,
    /// They are refused.
    Credentials,
    /// There are none.
    NoCredentials,
    /// A role is not given to who asks for it.
    Role,
    /// A file that credentials are obtained with cannot be used.
    CredentialFile,
    NoBucket,
    Region,
    HostClock,
    EncryptionKey,
    Unsupported,
    /// The disk of a directory.
    Disk,
    Request,
    /// The URL is of http, and only https is allowed.
    PlainHttp,
    Tls(Certificate),
    /// Whoever answers at an https URL does not speak TLS.
    NotTls,
    /// Code panicked. What became of the request is unknown.
    Panic,
}

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificate {
    UnknownIssuer,
    /// Or not valid yet.
    Expired,
    WrongName,
    Other,
}

impl Blocker {
    #[cfg(test)]
    pub(crate) const ALL: [Blocker; 19] = [
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
        Blocker::Disk,
        Blocker::Request,
        Blocker::PlainHttp,
        Blocker::Tls(Certificate::UnknownIssuer),
        Blocker::Tls(Certificate::Expired),
        Blocker::Tls(Certificate::WrongName),
        Blocker::Tls(Certificate::Other),
        Blocker::NotTls,
        Blocker::Panic,
    ];

    /// Whether it is the settings of this process that are wrong.
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
            | Blocker::Disk
            | Blocker::Request
            | Blocker::Tls(_)
            | Blocker::NotTls
            | Blocker::Panic => false,
        }
    }
}
