//! Options of `audit doctor` and `audit policy`.

use clap::{Args, ValueEnum};

use super::Source;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Whose credentials to check
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) role: Role,

    /// Also check whether the bucket's configuration meets the requirements of a rule: how long
    /// records are kept, whether somebody can shorten that, and whether they can be read at once.
    /// It needs s3:GetBucketVersioning, s3:GetBucketObjectLockConfiguration and
    /// s3:GetLifecycleConfiguration
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,

    /// Exit with 1 for warnings too
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// PCI DSS 4.0.1, requirement 10.5.1
    Pci,
    /// HIPAA, 45 CFR 164.316(b)(2)(i)
    Hipaa,
    /// SEC, 17 CFR 240.17a-4
    #[value(name = "sec17a4")]
    Sec17a4,
    /// DORA, Delegated Regulation (EU) 2024/1774, article 12
    Dora,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A process that writes audit logs. Writes a small object below _audit/doctor
    Host,
    /// A reader of audit logs
    Reader,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Host => "host",
            Role::Reader => "reader",
        }
    }

    pub(crate) fn policy(self) -> Policy {
        match self {
            Role::Host => Policy::Host,
            Role::Reader => Policy::Reader,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// The permissions of a host: to put and to get
    Host,
    /// The permissions of a reader: to list and to get
    Reader,
    /// A bucket policy that denies overwriting, deleting, and requests without TLS
    Bucket,
    /// Cheaper storage after 90 days, and expiry after seven years
    Lifecycle,
    /// Retention that nobody can shorten
    ObjectLock,
}
