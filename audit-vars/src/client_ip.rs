//! The value of the variable `ip`.

use std::fmt;
use std::net::IpAddr;

use crate::padding::{Piece, SHORT_CHUNK};

/// A client's address. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, from a dual-stack listener)
/// becomes the IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientIp {
    addr: IpAddr,
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

    #[inline]
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece { padded: &self.json, len: self.len.into() }
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
