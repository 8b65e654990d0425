//! The request for which a result is released.

use std::net::IpAddr;
use std::sync::Arc;

use audit_vars::{ClientIp, HostValue, Now, RequestId, UserAgent, Values, Var, Vars};

/// The request for which a result is released. It provides the values of the variables.
///
/// A host creates one for each request, or lets the layer of the feature `http` do so. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    request_id: RequestId,
    ip: Option<ClientIp>,
    user_agent: Option<UserAgent>,
    host: Arc<[HostValue]>,
}

impl RequestContext {
    /// A request without a client: no address and no User-Agent, as for crons and scheduled
    /// functions.
    pub fn new(request_id: RequestId) -> RequestContext {
        RequestContext { request_id, ip: None, user_agent: None, host: Arc::default() }
    }

    /// Sets the request's identifier, in place of an earlier one.
    pub fn with_request_id(self, request_id: RequestId) -> RequestContext {
        RequestContext { request_id, ..self }
    }

    /// Sets the client's own address, not that of a proxy.
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

    /// The value of a variable that the host registered, if it was set.
    pub fn host_value(&self, var: Var) -> Option<&HostValue> {
        self.host.iter().find(|value| value.var() == var)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_set_is_returned() {
        let mut vars = Vars::new();
        let (user, tenant) = (vars.register("user", 64), vars.register("tenant", 64));
        let (user, tenant) = (user.unwrap(), tenant.unwrap());
        let id = |text| RequestId::new(text).unwrap();
        let request = RequestContext::new(id("first"))
            .with_request_id(id("second"))
            .with_ip([192, 0, 2, 7].into())
            .with_host_value(HostValue::new(user, "ada").unwrap())
            .with_host_value(HostValue::new(user, "grace").unwrap());
        assert_eq!(request.request_id(), &id("second"));
        assert_eq!(request.ip(), Some([192, 0, 2, 7].into()));
        assert_eq!(request.user_agent(), None);
        assert_eq!(request.host_value(user).map(HostValue::as_json), Some(&b"\"grace\""[..]));
        assert_eq!(request.host_value(tenant), None);
    }
}
