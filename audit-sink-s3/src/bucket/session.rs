//! Sessions of a role: requests to the bucket use their credentials, which other requests replace.
#![cfg_attr(not(feature = "aws"), allow(dead_code, reason = "only S3 has roles"))]

use audit_core::sources;
use sha2::{Digest, Sha256};

use super::Bucket;
use super::blocker::Blocker;
use super::credentials::CredentialFailure;
use super::response::Response;

/// The credentials of a role.
pub(crate) trait RoleSession: Send + Sync {
    /// Called when the bucket rejected the credentials (`true`) or denied them something (`false`).
    fn refused(&self, is_credential: bool);

    /// Names new sessions for this route, unless the settings have a name.
    fn name_for(&self, route: &str);
}

impl Bucket {
    /// The same bucket, for a route of this name. If a role is [assumed](Bucket::open) and no
    /// setting names its sessions, they are named for the route, so that the log of the bucket's
    /// owner shows it: `audit-NAME`, with the end of a name above 58 characters replaced by a hash.
    ///
    /// [`S3Sink::open_route`](crate::S3Sink::open_route) and [`rescue`](crate::rescue) do this
    /// themselves. It is for other requests to the bucket of a route.
    #[must_use]
    pub fn for_route(self, name: &str) -> Bucket {
        if let Some(session) = &self.session {
            session.name_for(name);
        }
        self
    }

    /// Tells the session of a refusal by the bucket. Returns whether the bucket may have refused
    /// because the session has expired or was revoked: S3 denies everything to revoked ones.
    pub(super) fn refuses_session(&self, response: Response, error: &object_store::Error) -> bool {
        let Some(session) = &self.session else { return false };
        let is_credential = response == Response::Blocked(Blocker::Credentials);
        if !is_credential && response != Response::Blocked(Blocker::Permission) {
            return false;
        }
        session.refused(is_credential);
        // Otherwise STS refused.
        !sources(error).any(|cause| cause.is::<CredentialFailure>())
    }
}

/// The longest name of a session that STS accepts.
const MAX_NAME: usize = 64;

/// The name of a route's sessions: 2 to 64 of the characters that STS accepts.
pub(super) fn session_name(route: &str) -> String {
    // STS accepts more, but `+` is in no route's name: no name is equal to a shortened one.
    let is_kept = |c: char| c.is_ascii_alphanumeric() || "_=,.@-".contains(c);
    let name = format!("audit-{route}");
    if name.len() <= MAX_NAME && route.chars().all(is_kept) {
        return name;
    }
    let digest = Sha256::digest(route);
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let begin: String = name.chars().filter(|c| is_kept(*c)).take(MAX_NAME - 17).collect();
    format!("{begin}+{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sessions_are_valid_and_distinct() {
        assert_eq!(session_name("acme.eu-1_x"), "audit-acme.eu-1_x");
        assert_eq!(session_name(&"a".repeat(58)), format!("audit-{}", "a".repeat(58)));
        let begin = "a".repeat(63);
        let long = ["b", "c"].map(|end| session_name(&(begin.clone() + end)));
        let others = ["a+b", "a b", "ab", "", "é"].map(session_name);
        let mut names: Vec<_> = long.into_iter().chain(others).collect();
        for name in &names {
            let is_valid = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
            assert!((2..=64).contains(&name.len()) && name.chars().all(is_valid), "{name}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names[0].starts_with("audit-"), "{names:?}");
    }
}
