//! Deployment metadata for functions.

use clap::ValueEnum;
use serde::Deserialize;

/// Deployment metadata for functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) name: String,
    /// Its region, if it has one.
    pub(crate) region: Option<String>,
    pub(crate) class: DeploymentClass,
}

impl Default for Deployment {
    fn default() -> Deployment {
        Deployment { name: "local".to_owned(), region: None, class: DeploymentClass::S16 }
    }
}

/// The deployment classes of Convex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "their meaning is Convex's")]
pub(crate) enum DeploymentClass {
    S16,
    S256,
    D1024,
    D2048,
}

impl DeploymentClass {
    /// The name that functions see.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DeploymentClass::S16 => "s16",
            DeploymentClass::S256 => "s256",
            DeploymentClass::D1024 => "d1024",
            DeploymentClass::D2048 => "d2048",
        }
    }
}
