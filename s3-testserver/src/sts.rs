//! STS: gives sessions of a role in the bucket's account to clients with the server's keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{Body, S3Result, s3_error};
use sha2::{Digest, Sha256};

use crate::ErrorAnswer;
use crate::requests::decode;

/// The server's keys.
pub(crate) const ACCESS_KEY: &str = "AUDITTESTACCESSKEY";
pub(crate) const SECRET_KEY: &str = "audit-test-secret-key";

/// The stated lifetime of a session, in seconds.
const LIFETIME_S: u64 = 3_600;

/// A session that STS gave, with the parameters of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its access key.
    pub access_key: String,
    /// The role.
    pub role: String,
    /// The name that the client gave it.
    pub name: String,
    /// The external id that the client sent.
    pub external_id: Option<String>,
    secret_key: String,
    token: String,
    is_expired: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Sts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The role's ARN, and the external id that it requires.
    role: Option<(String, Option<String>)>,
    /// The bucket's secret key, if it is another one.
    secret_key: Option<String>,
    sessions: Vec<Session>,
}

/// Why STS gives no session: status, code, message.
type Refusal = (u16, &'static str, String);

impl Sts {
    pub(crate) fn set_role(&self, arn: &str, external_id: Option<&str>) {
        self.lock().role = Some((arn.to_owned(), external_id.map(ToOwned::to_owned)));
    }

    pub(crate) fn set_secret_key(&self, secret_key: &str) {
        self.lock().secret_key = Some(secret_key.to_owned());
    }

    pub(crate) fn expire(&self) {
        self.lock().sessions.iter_mut().for_each(|session| session.is_expired = true);
    }

    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.lock().sessions.clone()
    }

    /// Why the bucket refuses a request of this session, if it does.
    pub(crate) fn refusal(&self, parts: &Parts) -> Option<ErrorAnswer> {
        let credential = credential(&parts.headers)?;
        let (access_key, _) = credential.split_once('/')?;
        let state = self.lock();
        if access_key == ACCESS_KEY {
            // While there is a role, the server's keys belong to another account.
            return state.role.as_ref().map(|_| ErrorAnswer::ACCESS_DENIED);
        }
        let session = state.sessions.iter().find(|session| session.access_key == access_key)?;
        let token = parts.headers.get("x-amz-security-token");
        if token.is_none_or(|token| *token != session.token) {
            Some(ErrorAnswer::new(400, "InvalidToken"))
        } else {
            session.is_expired.then_some(ErrorAnswer::EXPIRED_TOKEN)
        }
    }

    /// Answers a request to STS. `in_seconds` returns the time that many seconds from now.
    pub(crate) fn answer(
        &self,
        parts: &Parts,
        body: &[u8],
        in_seconds: impl Fn(u64) -> Timestamp,
    ) -> Response<Body> {
        let (status, text) = match self.assume_role(parts, body) {
            Ok(session) => (StatusCode::OK, session.to_xml(&in_seconds(LIFETIME_S))),
            Err((status, code, message)) => {
                let text = format!(
                    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
                     <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                     <RequestId>1</RequestId></ErrorResponse>"
                );
                (StatusCode::from_u16(status).expect("a status"), text)
            }
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        response
    }

    fn assume_role(&self, parts: &Parts, body: &[u8]) -> Result<Session, Refusal> {
        check_signature(parts, body)?;
        let form = String::from_utf8_lossy(body);
        let form: BTreeMap<String, String> = form
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(&value.replace('+', " "))))
            .collect();
        let field = |name: &str| form.get(name).cloned();
        if field("Action").as_deref() != Some("AssumeRole")
            || field("Version").as_deref() != Some("2011-06-15")
        {
            return Err((400, "InvalidAction", "Could not find the operation".to_owned()));
        }
        let missing = |name: &str| (400, "ValidationError", format!("{name} is missing"));
        let role = field("RoleArn").ok_or_else(|| missing("RoleArn"))?;
        let name = field("RoleSessionName").ok_or_else(|| missing("RoleSessionName"))?;
        let external_id = field("ExternalId");

        let mut state = self.lock();
        let allowed = state.role.as_ref().is_some_and(|(arn, asked_for)| {
            *arn == role && asked_for.as_ref().is_none_or(|id| Some(id) == external_id.as_ref())
        });
        if !allowed {
            let message = format!(
                "User: arn:aws:iam::111111111111:user/audit is not authorized to perform: \
                 sts:AssumeRole on resource: {role}"
            );
            return Err((403, "AccessDenied", message));
        }
        let number = state.sessions.len();
        let session = Session {
            access_key: format!("ASIATEST{number}"),
            secret_key: format!("secret-of-session-{number}"),
            // Like AWS tokens, it has only characters that need no escapes in XML and headers.
            token: format!("token/of+session-{number}=="),
            role,
            name,
            external_id,
            is_expired: false,
        };
        state.sessions.push(session.clone());
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Session {
    fn to_xml(&self, expiration: &Timestamp) -> String {
        let mut until = Vec::new();
        expiration.format(TimestampFormat::DateTime, &mut until).expect("memory takes everything");
        let until = String::from_utf8_lossy(&until);
        let Session { access_key, secret_key, token, role, name, .. } = self;
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleResult><AssumedRoleUser><Arn>{role}/{name}</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{access_key}</AccessKeyId>\
             <SecretAccessKey>{secret_key}</SecretAccessKey><SessionToken>{token}</SessionToken>\
             <Expiration>{until}</Expiration></Credentials></AssumeRoleResult>\
             </AssumeRoleResponse>"
        )
    }
}

/// The keys that requests to the bucket can be signed with.
pub(crate) struct Keys(pub(crate) Arc<Sts>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let state = self.0.lock();
        if access_key == ACCESS_KEY {
            return Ok(state.secret_key.as_deref().unwrap_or(SECRET_KEY).into());
        }
        let session = state.sessions.iter().find(|session| session.access_key == access_key);
        match session {
            Some(session) => Ok(session.secret_key.clone().into()),
            None => Err(s3_error!(InvalidAccessKeyId, "nobody has this access key")),
        }
    }
}

/// `KEY/DAY/REGION/SERVICE/aws4_request` of a signed request.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.split_once("Credential=")?.1.split(',').next()
}

/// [SigV4](https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html) of a
/// request to STS without a query, checked with the server's keys.
fn check_signature(parts: &Parts, body: &[u8]) -> Result<(), Refusal> {
    let refused = |why: &str| (403, "SignatureDoesNotMatch", why.to_owned());
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text("authorization").ok_or_else(|| refused("not signed"))?;
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}="))?;
        rest.split(',').next()
    };
    let (Some(credential), Some(signed), Some(signature), Some(date)) =
        (part("Credential"), part("SignedHeaders"), part("Signature"), text("x-amz-date"))
    else {
        return Err(refused("the Authorization header is not complete"));
    };
    let (access_key, scope) = credential.split_once('/').ok_or_else(|| refused("no scope"))?;
    if access_key != ACCESS_KEY {
        let message = "The security token included in the request is invalid.".to_owned();
        return Err((403, "InvalidClientTokenId", message));
    }
    let [day, region, "sts", "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(refused("the scope is not one of STS"));
    };
    let headers: String = signed
        .split(';')
        .map(|name| format!("{name}:{}\n", text(name).unwrap_or_default()))
        .collect();
    let body_hash = HEXLOWER.encode(&Sha256::digest(body));
    let request = format!("POST\n/\n\n{headers}\n{signed}\n{body_hash}");
    let request_hash = HEXLOWER.encode(&Sha256::digest(request));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{request_hash}");
    let key = format!("AWS4{SECRET_KEY}").into_bytes();
    let key = [day, region, "sts", "aws4_request"]
        .iter()
        .fold(key, |key, part| hmac(&key, part.as_bytes()));
    if HEXLOWER.encode(&hmac(&key, to_sign.as_bytes())) == signature {
        Ok(())
    } else {
        Err(refused("The request signature we calculated does not match the one you provided."))
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}
