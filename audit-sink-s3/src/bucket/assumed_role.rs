//! Assuming a role in the customer's account: STS exchanges the host's credentials for the role's.
//!
//! `object_store` assumes roles only with web identities. This calls STS with whatever credentials
//! the bucket would otherwise be opened with, and signs with `object_store`'s own signer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use audit_core::{Clock, SystemClock, async_trait};
use chrono::DateTime;
use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpRequestBody};
use object_store::{CredentialProvider, Error};
use tokio::time::{Instant, timeout};
use url::form_urlencoded::Serializer;

use super::response::element;
use super::response_body::{MAX_ERROR_BYTES, start_of};
use super::session::{RoleSession, session_name};

/// How long before its end a session is renewed, but at most a third of its lifetime.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

/// The delay before a failed renewal is retried while the session is still valid.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The time limit of a request to STS. It is shorter than that of a request to the bucket, so that
/// the reported reason is STS rather than a timed-out request.
const PATIENCE: Duration = Duration::from_secs(5);

/// The requested duration of a session: the maximum for role chaining.
const SESSION: Duration = Duration::from_secs(3_600);

/// After a denial, a session at least this old is replaced: a role's permissions change, and its
/// sessions can be revoked.
const DENIED_AFTER: Duration = Duration::from_secs(60);

/// A role, and the endpoint of STS that gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
    /// The name of sessions that a setting gives.
    pub(crate) session_name: Option<String>,
    /// The name of sessions if no setting gives one and they are for no route.
    pub(crate) default_session_name: String,
    /// The URL of STS.
    pub(crate) endpoint: String,
    pub(crate) region: String,
}

/// The credentials of a role, cached until shortly before they expire.
pub(crate) struct AssumedRole {
    role: Role,
    client: HttpClient,
    /// The credentials for requests to STS.
    base: AwsCredentialProvider,
    /// The name of sessions for a route.
    route_session_name: OnceLock<String>,
    session: Mutex<Option<Session>>,
    /// Held by the task that calls STS. Other tasks wait for it only if they have no valid
    /// credentials.
    calling: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Session {
    credential: Arc<AwsCredential>,
    begun: Instant,
    renewed_at: Instant,
    ends_at: Instant,
}

impl AssumedRole {
    pub(crate) fn new(role: Role, client: HttpClient, base: AwsCredentialProvider) -> AssumedRole {
        AssumedRole {
            role,
            client,
            base,
            route_session_name: OnceLock::new(),
            session: Mutex::default(),
            calling: Default::default(),
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session if it is still valid, and whether it is due for renewal.
    fn valid(&self) -> Option<(Arc<AwsCredential>, bool)> {
        let now = Instant::now();
        let session = self.session();
        let session = session.as_ref().filter(|session| now < session.ends_at)?;
        Some((Arc::clone(&session.credential), now >= session.renewed_at))
    }

    fn request(&self, base: &AwsCredential) -> object_store::Result<HttpRequest> {
        let Role { arn, external_id, session_name, default_session_name, endpoint, region } =
            &self.role;
        let session_name = session_name.as_ref().or(self.route_session_name.get());
        let mut form = Serializer::new(String::new());
        form.append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("DurationSeconds", &SESSION.as_secs().to_string())
            .append_pair("RoleArn", arn)
            .append_pair("RoleSessionName", session_name.unwrap_or(default_session_name));
        if let Some(external_id) = external_id {
            form.append_pair("ExternalId", external_id);
        }
        let mut request = HttpRequest::new(HttpRequestBody::from(form.finish()));
        *request.method_mut() = "POST".parse().map_err(failed)?;
        *request.uri_mut() = endpoint.parse().map_err(failed)?;
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        request.headers_mut().insert("content-type", form.parse().map_err(failed)?);
        AwsAuthorizer::new(base, "sts", region).try_authorize(&mut request, None)?;
        Ok(request)
    }

    async fn assume(&self) -> object_store::Result<Session> {
        let base = self.base.get_credential().await?;
        let request = self.request(&base)?;
        let endpoint = &self.role.endpoint;
        let broken = |what| {
            let endpoint = endpoint.clone();
            move |source| failed(Broken { endpoint, what, source })
        };
        let answered = timeout(PATIENCE, async {
            let response = self.client.execute(request).await.map_err(broken("no response"))?;
            let (parts, body) = response.into_parts();
            let (body, end) = start_of(body, MAX_ERROR_BYTES).await;
            // An error counts by its status, even if its body is cut off.
            if parts.status.is_success() {
                end.map_err(broken("the response is cut off"))?;
            }
            Ok::<_, Error>((parts, body))
        });
        let Ok(answered) = answered.await else {
            return Err(failed(format!("no answer within {} ms", PATIENCE.as_millis())));
        };
        let (parts, body) = answered?;
        let body = String::from_utf8_lossy(&body);
        if !parts.status.is_success() {
            return Err(failed(format!("status code: {}: {body}", parts.status)));
        }
        let member = |name: &str| {
            element(&body, name).ok_or_else(|| failed(format!("the response has no {name}")))
        };
        let credential = AwsCredential {
            key_id: member("AccessKeyId")?,
            secret_key: member("SecretAccessKey")?,
            token: Some(member("SessionToken")?),
        };
        let ends = DateTime::parse_from_rfc3339(&member("Expiration")?)
            .map_err(|error| failed(format!("the response has an invalid Expiration: {error}")))?;
        // The remaining time is measured by the clock of STS, since this host's may be wrong.
        let date = parts.headers.get("date").and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let now_ms = date.map_or_else(|| SystemClock.now_ms(), |date| date.timestamp_millis());
        let left_ms = u64::try_from(ends.timestamp_millis() - now_ms).unwrap_or(0);
        let lasts = Duration::from_millis(left_ms).min(SESSION);
        let begun = Instant::now();
        Ok(Session {
            credential: Arc::new(credential),
            begun,
            renewed_at: begun + (lasts - RENEWED_BEFORE.min(lasts / 3)),
            ends_at: begun + lasts,
        })
    }
}

#[async_trait]
impl CredentialProvider for AssumedRole {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let _calling = match self.valid() {
            Some((credential, false)) => return Ok(credential),
            Some((credential, true)) => match self.calling.try_lock() {
                Ok(calling) => calling,
                Err(_) => return Ok(credential),
            },
            None => self.calling.lock().await,
        };
        // Another task may have renewed the session meanwhile.
        if let Some((credential, false)) = self.valid() {
            return Ok(credential);
        }
        match self.assume().await {
            Ok(session) => {
                let credential = Arc::clone(&session.credential);
                *self.session() = Some(session);
                Ok(credential)
            }
            Err(error) => {
                let mut session = self.session();
                let now = Instant::now();
                let Some(session) = session.as_mut().filter(|session| now < session.ends_at) else {
                    return Err(error);
                };
                session.renewed_at = now + RETRY_AFTER;
                Ok(Arc::clone(&session.credential))
            }
        }
    }
}

impl RoleSession for AssumedRole {
    /// The next request gets a new session from STS, unless a young session was only denied
    /// something.
    fn refused(&self, is_credential: bool) {
        let mut session = self.session();
        let is_old = |session: &Session| session.begun.elapsed() >= DENIED_AFTER;
        if is_credential || session.as_ref().is_some_and(is_old) {
            *session = None;
        }
    }

    /// The first route counts: a bucket has only one.
    fn name_for(&self, route: &str) {
        self.route_session_name.get_or_init(|| session_name(route));
    }
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssumedRole").field("arn", &self.role.arn).finish_non_exhaustive()
    }
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "STS", source: why.into() }
}

/// A request to STS that failed without a complete response.
#[derive(Debug, thiserror::Error)]
#[error("POST {endpoint}: {what}")]
struct Broken {
    endpoint: String,
    what: &'static str,
    source: HttpError,
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::{BodyExt, Full};
    use object_store::StaticCredentialProvider;
    use object_store::client::{HttpErrorKind, HttpResponse, HttpResponseBody, HttpService};

    use super::*;

    /// An STS that gives these responses and then stops responding.
    #[derive(Debug, Default, Clone)]
    struct Answers(Arc<Mutex<VecDeque<(u16, String)>>>);

    #[async_trait]
    impl HttpService for Answers {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let answer = self.0.lock().unwrap().pop_front();
            let Some((status, text)) = answer else { std::future::pending().await };
            let body = Full::new(text.into());
            let mut response =
                HttpResponse::new(HttpResponseBody::new(body.map_err(|n| match n {})));
            *response.status_mut() = status.try_into().unwrap();
            let date = "Tue, 14 Nov 2023 22:13:20 GMT".parse().unwrap();
            response.headers_mut().insert("date", date);
            Ok(response)
        }
    }

    impl Answers {
        /// Adds a session that ends this many minutes after it is given.
        fn session(&self, key: &str, minutes: u32) {
            let text = format!(
                "<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                 <SessionToken>t</SessionToken><Expiration>2023-11-14T23:{:02}:20Z</Expiration>",
                13 + minutes - 60
            );
            self.0.lock().unwrap().push_back((200, text));
        }

        fn left(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    fn role(answers: &Answers) -> AssumedRole {
        let base = AwsCredential { key_id: "k".into(), secret_key: "s".into(), token: None };
        let role = Role {
            arn: "arn:aws:iam::123456789012:role/audit".to_owned(),
            external_id: None,
            session_name: None,
            default_session_name: "audit".to_owned(),
            endpoint: "https://sts.example".to_owned(),
            region: "eu-central-1".to_owned(),
        };
        let base = Arc::new(StaticCredentialProvider::new(base));
        AssumedRole::new(role, HttpClient::new(answers.clone()), base)
    }

    async fn key(role: &AssumedRole) -> Result<String, String> {
        let credential = role.get_credential().await;
        credential.map(|found| found.key_id.clone()).map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_renewed_before_they_end() {
        let answers = Answers::default();
        let role = role(&answers);
        answers.session("first", 60);
        answers.session("second", 60);
        for _ in 0..3 {
            assert_eq!(key(&role).await.unwrap(), "first");
        }
        tokio::time::advance(Duration::from_secs(54 * 60)).await;
        assert_eq!(key(&role).await.unwrap(), "first");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(key(&role).await.unwrap(), "second", "five minutes before the end");
        assert_eq!(answers.left(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_outlives_an_outage_of_sts() {
        let answers = Answers::default();
        let role = role(&answers);
        answers.session("first", 60);
        assert_eq!(key(&role).await.unwrap(), "first");
        tokio::time::advance(Duration::from_secs(56 * 60)).await;
        let before = Instant::now();
        assert_eq!(key(&role).await.unwrap(), "first");
        assert_eq!(before.elapsed(), PATIENCE, "STS was asked");
        assert_eq!(key(&role).await.unwrap(), "first");
        assert_eq!(before.elapsed(), PATIENCE, "and is not asked again at once");
        tokio::time::advance(Duration::from_secs(4 * 60)).await;
        assert_eq!(
            key(&role).await.unwrap_err(),
            "Generic STS error: no answer within 5000 ms",
            "the session has ended"
        );
        answers.session("second", 60);
        assert_eq!(key(&role).await.unwrap(), "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_session_is_not_used_again() {
        let answers = Answers::default();
        let role = role(&answers);
        ["first", "second", "third"].iter().for_each(|key| answers.session(key, 60));
        assert_eq!(key(&role).await.unwrap(), "first");
        role.refused(false);
        assert_eq!(key(&role).await.unwrap(), "first", "another session would be denied the same");
        role.refused(true);
        assert_eq!(key(&role).await.unwrap(), "second");
        tokio::time::advance(DENIED_AFTER).await;
        role.refused(false);
        assert_eq!(key(&role).await.unwrap(), "third");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_without_a_session_are_errors_without_secrets() {
        let answers = Answers::default();
        let role = role(&answers);
        for (status, text, says) in [
            (200, "<SecretAccessKey>SECRET</SecretAccessKey>", "the response has no AccessKeyId"),
            (200, "", "the response has no AccessKeyId"),
            (503, "later", "status code: 503 Service Unavailable: later"),
        ] {
            answers.0.lock().unwrap().push_back((status, text.to_owned()));
            let error = key(&role).await.unwrap_err();
            assert!(error.ends_with(says) && !error.contains("SECRET"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_cut_off_is_no_missing_response() {
        use super::super::response_body::testing::Server;
        let end = Some(&b"<SessionToken>t"[..]);
        for (status, body, says) in [
            (200, vec![end, None], "POST https://sts.example: the response is cut off"),
            (200, vec![None], "POST https://sts.example: the response is cut off"),
            (403, vec![Some(&b"no"[..]), None], "status code: 403 Forbidden: no"),
        ] {
            let client = HttpClient::new(Server(status, body));
            let role = AssumedRole { client, ..role(&Answers::default()) };
            let error = key(&role).await.unwrap_err();
            assert_eq!(error, format!("Generic STS error: {says}"));
        }
        #[derive(Debug)]
        struct Away;
        #[async_trait]
        impl HttpService for Away {
            async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
                Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::other("refused")))
            }
        }
        let role = AssumedRole { client: HttpClient::new(Away), ..role(&Answers::default()) };
        let error = key(&role).await.unwrap_err();
        assert_eq!(error, "Generic STS error: POST https://sts.example: no response");
    }
}
