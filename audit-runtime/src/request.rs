//! Whose request it is.

use std::net::IpAddr;
use std::sync::Arc;

use audit_vars::{ClientIp, HostValue, Now, RequestId, UserAgent, Values, Vars};

/// What is known of the request that a result is handed to: what the variables of its logs stand
/// for.
///
/// A host makes one for each request, or has the layer behind the feature `http` make it. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    request_id: RequestId,
    ip: Option<ClientIp>,
    user_agent: Option<UserAgent>,
    host: Arc<[HostValue]>,
}

impl RequestContext {
    /// A request with nobody behind it: no address, no User-Agent. This is the context of crons and
    /// of scheduled functions.
    pub fn new(request_id: RequestId) -> RequestContext {
        RequestContext { request_id, ip: None, user_agent: None, host: Arc::default() }
    }

    /// Sets the client's address: of the client itself, not of a proxy.
    pub fn with_ip(self, ip: IpAddr) -> RequestContext {
        RequestContext { ip: Some(ip.into()), ..self }
    }

    /// Sets the client's User-Agent.
    pub fn with_user_agent(self, user_agent: UserAgent) -> RequestContext {
        RequestContext { user_agent: Some(user_agent), ..self }
    }

    /// Sets the value of a variable that the host registered, in place of an earlier value.
    pub fn with_host_value(self, value: HostValue) -> RequestContext {
        let others = self.host.iter().filter(|other| other.var() != value.var()).cloned();
        let host = others.chain([value.clone()]).collect();
        RequestContext { host, ..self }
    }

    /// The request's identifier.
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// The client's address, if there is a client.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip.as_ref().map(ClientIp::addr)
    }

    /// The client's User-Agent, if it sent one.
    pub fn user_agent(&self) -> Option<&UserAgent> {
        self.user_agent.as_ref()
    }

    pub(crate) fn values<'a>(&'a self, vars: &Vars, now: &'a Now) -> Values<'a> {
        let RequestContext { request_id, ip, user_agent, host } = self;
        let mut values = Values::none().with_request_id(request_id).with_now(now);
        if let Some(ip) = ip {
            values = values.with_ip(ip);
        }
        if let Some(user_agent) = user_agent {
            values = values.with_user_agent(user_agent);
        }
        values.with_host_values(vars, host)
    }
}
