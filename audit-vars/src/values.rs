//! What variables stand for: types whose constructors guarantee their longest form as JSON.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use audit_core::{Clock, Random, UniqueId};
use serde::Serialize;

use crate::compile::{self, BodyError};
use crate::escape::string_into;
use crate::template::SHORT_CHUNK;
use crate::{Var, Vars};

/// A client's address. An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`, as a dual-stack
/// listener sees it) is the IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientIp {
    addr: IpAddr,
    /// Zeros behind its end, as in all that is copied into logs.
    json: [u8; SHORT_CHUNK],
    len: u8,
}

const _: () = assert!(ClientIp::MAX_JSON_BYTES as usize <= SHORT_CHUNK);

impl ClientIp {
    /// Eight groups of four hexadecimal digits, seven colons, two quotes.
    pub const MAX_JSON_BYTES: u32 = 8 * 4 + 7 + 2;

    /// The address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }
}

impl From<IpAddr> for ClientIp {
    fn from(addr: IpAddr) -> ClientIp {
        use std::io::Write;
        let addr = addr.to_canonical();
        let mut json = [0; SHORT_CHUNK];
        let mut rest = &mut json[..];
        // Canonical IPv6 text without the IPv4 forms is at most 39 bytes (RFC 5952).
        write!(rest, "\"{addr}\"").expect("an address fits");
        let unused = rest.len();
        let len = u8::try_from(json.len() - unused).expect("at most 41");
        ClientIp { addr, json, len }
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.addr, f)
    }
}

/// A `User-Agent` header, fit to stand in a log: no control characters, at most 512 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct UserAgent {
    /// Padded with spaces.
    json: Arc<str>,
    json_bytes: u16,
    /// Only where it differs from what stands between the quotes of `json`.
    unescaped: Option<Arc<str>>,
}

impl UserAgent {
    /// The longest text, in bytes of UTF-8. What is longer is cut at a character boundary.
    pub const MAX_BYTES: usize = 512;

    /// Every byte escaped by one backslash, and two quotes. Without control characters no byte
    /// takes more: U+2028 and U+2029 have three, and six as `\u2028`.
    pub const MAX_JSON_BYTES: u32 = 2 * Self::MAX_BYTES as u32 + 2;

    /// Takes header bytes as they came. What is not UTF-8, and each control character, becomes
    /// U+FFFD, so that it shows that something stood there; then the text is cut to
    /// [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn from_bytes(bytes: &[u8]) -> UserAgent {
        // Four times the limit holds every character that can be kept: none is shorter than a
        // quarter of what replaces it.
        let bytes = &bytes[..bytes.len().min(4 * Self::MAX_BYTES)];
        let mut text = String::with_capacity(bytes.len().min(Self::MAX_BYTES));
        for char in String::from_utf8_lossy(bytes).chars() {
            let char = if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
            if text.len() + char.len_utf8() > Self::MAX_BYTES {
                break;
            }
            text.push(char);
        }
        let mut json = Vec::with_capacity(text.len() + 2);
        string_into(&mut json, &text);
        let unescaped = (json.len() != text.len() + 2).then(|| text.into());
        let json_bytes = u16::try_from(json.len()).expect("at most MAX_JSON_BYTES");
        UserAgent { json: padded(json), json_bytes, unescaped }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.unescaped {
            Some(text) => text,
            None => &self.json[1..usize::from(self.json_bytes) - 1],
        }
    }
}

impl From<&str> for UserAgent {
    fn from(text: &str) -> UserAgent {
        UserAgent::from_bytes(text.as_bytes())
    }
}

impl fmt::Debug for UserAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The identifier of one request: 1 to 128 ASCII letters, digits or `-_.:/+=@~`, so that it needs
/// no escapes anywhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// In quotes, and padded with spaces.
    json: Arc<str>,
    json_bytes: u8,
}

impl RequestId {
    /// The longest one, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The text and two quotes.
    pub const MAX_JSON_BYTES: u32 = Self::MAX_BYTES as u32 + 2;

    /// Takes one that another system made.
    ///
    /// # Errors
    ///
    /// When it is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), or has other characters.
    pub fn new(text: &str) -> Result<RequestId, InvalidRequestId> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte);
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.bytes().all(plain) {
            return Err(InvalidRequestId);
        }
        Ok(RequestId::quoted(format!("\"{text}\"")))
    }

    /// A new one that no other request has.
    pub fn generate(clock: &dyn Clock, random: &dyn Random) -> RequestId {
        RequestId::quoted(format!("\"{}\"", UniqueId::generate(clock, random)))
    }

    fn quoted(json: String) -> RequestId {
        let json_bytes = u8::try_from(json.len()).expect("at most MAX_JSON_BYTES");
        RequestId { json: padded(json.into_bytes()), json_bytes }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.json[1..usize::from(self.json_bytes) - 1]
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a [`RequestId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRequestId;

impl fmt::Display for InvalidRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a request id is 1 to {} ASCII letters, digits or -_.:/+=@~",
            RequestId::MAX_BYTES
        )
    }
}

impl std::error::Error for InvalidRequestId {}

/// A moment, as the variable `now` shows it.
#[derive(Clone, Copy)]
pub struct Now {
    ms: i64,
    json: [u8; SHORT_CHUNK],
    len: u8,
}

impl Now {
    /// A sign and nineteen digits.
    pub const MAX_JSON_BYTES: u32 = 20;

    /// The moment `ms` milliseconds after the Unix epoch.
    pub fn at_ms(ms: i64) -> Now {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(ms).as_bytes();
        let mut json = [0; SHORT_CHUNK];
        json[..digits.len()].copy_from_slice(digits);
        Now { ms, json, len: u8::try_from(digits.len()).expect("at most 20") }
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(&self) -> i64 {
        self.ms
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.ms)
    }
}

/// What one request gives for a variable of the host.
#[derive(Clone, PartialEq, Eq)]
pub struct HostValue {
    var: Var,
    json: Arc<[u8]>,
}

impl HostValue {
    /// How deep its objects and arrays may nest.
    pub const MAX_DEPTH: u32 = 16;

    /// The value that `var` has: anything that serializes to JSON, under the same rules as a body
    /// (no key begins with `$`), but without variables.
    ///
    /// # Errors
    ///
    /// When its JSON is longer than [`Var::max_bytes`], nests deeper than
    /// [`MAX_DEPTH`](Self::MAX_DEPTH), or breaks a rule for bodies.
    pub fn new<T: Serialize + ?Sized>(var: Var, value: &T) -> Result<HostValue, BodyError> {
        Ok(HostValue { var, json: compile::host_value(var, value)?.into() })
    }

    /// The variable.
    pub fn var(&self) -> Var {
        self.var
    }
}

impl fmt::Debug for HostValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.var.name(), String::from_utf8_lossy(&self.json))
    }
}

/// What one variable stands for, as it is copied.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// Begins with it. What may follow means nothing.
    pub(crate) padded: &'a [u8],
    pub(crate) len: usize,
}

impl<'a> Piece<'a> {
    fn as_json(&self) -> &'a [u8] {
        &self.padded[..self.len]
    }
}

const NULL: Piece<'static> = Piece {
    padded: &{
        let mut padded = [0; SHORT_CHUNK];
        (padded[0], padded[1], padded[2], padded[3]) = (b'n', b'u', b'l', b'l');
        padded
    },
    len: 4,
};

/// JSON with spaces behind it, so that it can be copied as a chunk.
fn padded(mut json: Vec<u8>) -> Arc<str> {
    json.resize(json.len().max(SHORT_CHUNK), b' ');
    String::from_utf8(json).expect("made of text").into()
}

/// The values of all variables for one request at one moment, ready to be copied into logs.
///
/// Each is at most as long as its [`Var::max_bytes`], because each comes from a type that
/// guarantees it.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    built_in: [Piece<'a>; Var::BUILT_IN.len()],
    host: &'a [HostValue],
}

impl<'a> Values<'a> {
    /// Every variable is `null`.
    pub fn none() -> Values<'a> {
        Values { built_in: [NULL; Var::BUILT_IN.len()], host: &[] }
    }

    /// Sets `ip`.
    pub fn with_ip(self, ip: &'a ClientIp) -> Values<'a> {
        self.with(Var::IP, &ip.json, ip.len.into())
    }

    /// Sets `userAgent`.
    pub fn with_user_agent(self, user_agent: &'a UserAgent) -> Values<'a> {
        self.with(Var::USER_AGENT, user_agent.json.as_bytes(), user_agent.json_bytes.into())
    }

    /// Sets `requestId`.
    pub fn with_request_id(self, request_id: &'a RequestId) -> Values<'a> {
        self.with(Var::REQUEST_ID, request_id.json.as_bytes(), request_id.json_bytes.into())
    }

    /// Sets `now`.
    pub fn with_now(self, now: &'a Now) -> Values<'a> {
        self.with(Var::NOW, &now.json, now.len.into())
    }

    /// Sets all variables of the host, in the place of those that were set before. They stand in
    /// the table `vars`; of two values of one variable the first counts.
    ///
    /// # Panics
    ///
    /// If a variable is of another table: its place may belong to another variable here.
    pub fn with_host_values(self, vars: &Vars, host: &'a [HostValue]) -> Values<'a> {
        for HostValue { var, json } in host {
            assert!(vars.knows(*var), "{var:?} is not in the table of this runtime");
            debug_assert!(
                json.len() <= var.max_bytes() as usize,
                "{var:?} has {} bytes",
                json.len()
            );
        }
        Values { host, ..self }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u8) -> Piece<'a> {
        match self.built_in.get(usize::from(slot)) {
            Some(piece) => *piece,
            None => {
                let value = self.host.iter().find(|value| value.var.slot() == slot);
                value.map_or(NULL, |HostValue { var: _, json }| Piece {
                    padded: json,
                    len: json.len(),
                })
            }
        }
    }

    #[inline]
    fn with(mut self, var: Var, padded: &'a [u8], len: usize) -> Values<'a> {
        debug_assert!(len <= var.max_bytes() as usize, "{var:?} has {len} bytes");
        self.built_in[usize::from(var.slot())] = Piece { padded, len };
        self
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |piece: &Piece<'_>| String::from_utf8_lossy(piece.as_json()).into_owned();
        let built_in = Var::BUILT_IN.iter().zip(&self.built_in);
        let host = self
            .host
            .iter()
            .map(|value| (value.var.name(), String::from_utf8_lossy(&value.json).into_owned()));
        f.debug_map()
            .entries(built_in.map(|(var, piece)| (var.name(), json(piece))))
            .entries(host)
            .finish()
    }
}
