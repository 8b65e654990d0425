//! The values of all variables in one request.

use std::fmt;

use crate::client_ip::ClientIp;
use crate::host_value::HostValue;
use crate::now::Now;
use crate::padding::{NULL, Piece};
use crate::request_id::RequestId;
use crate::user_agent::UserAgent;
use crate::var::{Var, Vars};

/// The values of all variables for one request at one moment, ready to be copied into logs.
///
/// Each value is at most as long as its [`Var::max_bytes`]: its type guarantees it.
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
        self.with(Var::IP, ip.piece())
    }

    /// Sets `userAgent`.
    pub fn with_user_agent(self, user_agent: &'a UserAgent) -> Values<'a> {
        self.with(Var::USER_AGENT, user_agent.piece())
    }

    /// Sets `requestId`.
    pub fn with_request_id(self, request_id: &'a RequestId) -> Values<'a> {
        self.with(Var::REQUEST_ID, request_id.piece())
    }

    /// Sets `now`.
    pub fn with_now(self, now: &'a Now) -> Values<'a> {
        self.with(Var::NOW, now.piece())
    }

    /// Sets the values of the host's variables, which are in the table `vars`, in place of those
    /// set before. If a variable has two values, the first wins.
    ///
    /// # Panics
    ///
    /// If a variable belongs to another table, where its slot may mean another variable.
    pub fn with_host_values(self, vars: &Vars, host: &'a [HostValue]) -> Values<'a> {
        for value in host {
            let (var, bytes) = (value.var(), value.as_json().len());
            assert!(vars.knows(var), "{var:?} is not in the table of this runtime");
            debug_assert!(bytes <= var.max_bytes() as usize, "{var:?} has {bytes} bytes");
        }
        Values { host, ..self }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u8) -> Piece<'a> {
        match self.built_in.get(usize::from(slot)) {
            Some(piece) => *piece,
            None => {
                let value = self.host.iter().find(|value| value.var().slot() == slot);
                let json = value.map(HostValue::as_json);
                json.map_or(NULL, |padded| Piece { padded, len: padded.len() })
            }
        }
    }

    #[inline]
    fn with(mut self, var: Var, piece: Piece<'a>) -> Values<'a> {
        debug_assert!(piece.len <= var.max_bytes() as usize, "{var:?} has {} bytes", piece.len);
        self.built_in[usize::from(var.slot())] = piece;
        self
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |piece: &Piece<'_>| String::from_utf8_lossy(piece.as_json()).into_owned();
        let built_in = Var::BUILT_IN.iter().zip(&self.built_in);
        let host = self.host.iter().map(|value| {
            (value.var().name(), String::from_utf8_lossy(value.as_json()).into_owned())
        });
        f.debug_map()
            .entries(built_in.map(|(var, piece)| (var.name(), json(piece))))
            .entries(host)
            .finish()
    }
}
