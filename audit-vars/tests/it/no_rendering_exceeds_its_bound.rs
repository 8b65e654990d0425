//! `bound_bytes` is the largest size a rendering can have: never exceeded, and reached.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv6Addr};

use audit_core::testing::{ManualClock, SeededRandom};
use audit_vars::{ClientIp, HostValue, Now, RequestId, Template, UserAgent, Values, Var, body};
use proptest::prelude::*;

use crate::trees::{self, Request, TABLE, limits};

proptest! {
    #[test]
    fn no_request_exceeds_it_and_one_reaches_it(body in trees::body(), request in trees::request()) {
        let template = Template::compile(&TABLE.vars, &limits(), &body).unwrap();
        let size = |values: &Values<'_>| {
            let mut line = Vec::new();
            template.render(values, &mut line);
            line.len() as u64
        };
        let bound = u64::from(template.bound_bytes());
        prop_assert!(size(&request.values()) <= bound);
        prop_assert!(size(&Values::none()) <= bound);
        prop_assert_eq!(size(&Request::worst().values()), bound);
    }

    #[test]
    fn no_value_of_a_variable_exceeds_it(
        addr: u128, v4: [u8; 4], bytes in trees::user_agent_bytes(), ms: i64, seed: u64,
    ) {
        let fits = |var: Var, values: Values<'_>| {
            let template = Template::compile(&TABLE.vars, &limits(), &body!({ "v": var })).unwrap();
            let mut line = Vec::new();
            template.render(&values, &mut line);
            let json = line.len() - br#"{"v":}"#.len();
            assert!(json <= var.max_bytes() as usize, "{var:?} of {json} bytes");
        };
        // All forms of addresses: compressed, IPv4-mapped, IPv4-compatible, NAT64.
        let [a, b, c, d] = v4.map(u16::from);
        let addresses: [IpAddr; 6] = [
            Ipv6Addr::from(addr).into(),
            Ipv6Addr::from(addr & u128::from(u64::MAX)).into(),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a << 8 | b, c << 8 | d).into(),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, a << 8 | b, c << 8 | d).into(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d).into(),
            v4.into(),
        ];
        for addr in addresses {
            fits(Var::IP, Values::none().with_ip(&ClientIp::from(addr)));
        }
        fits(Var::USER_AGENT, Values::none().with_user_agent(&UserAgent::from_bytes(&bytes)));
        fits(Var::NOW, Values::none().with_now(&Now::at_ms(ms)));
        let id = RequestId::generate(&ManualClock::at(ms), &SeededRandom::new(seed));
        fits(Var::REQUEST_ID, Values::none().with_request_id(&id));
    }
}

/// Each bound is exact: some value needs all of it, and none needs more.
#[test]
fn each_variable_reaches_its_maximum() {
    let worst = Request::worst();
    for var in TABLE.vars.iter() {
        let template = Template::compile(&TABLE.vars, &limits(), &body!({ "v": var })).unwrap();
        let mut line = Vec::new();
        template.render(&worst.values(), &mut line);
        assert_eq!(line.len(), br#"{"v":}"#.len() + var.max_bytes() as usize, "{var:?}");
    }
    assert_eq!(Var::USER_AGENT.max_bytes(), 2 * 512 + 2);
    assert_eq!(Var::IP.max_bytes() as usize, "\"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\"".len());
    assert_eq!(Var::NOW.max_bytes() as usize, "-9223372036854775808".len());
}

#[test]
fn host_values_may_reach_their_maximum_size() {
    let max = TABLE.trace.max_bytes() as usize;
    assert!(HostValue::new(TABLE.trace, &"a".repeat(max - 2)).is_ok());
    assert!(HostValue::new(TABLE.trace, &"a".repeat(max - 1)).is_err());
    // The last byte is the closing bracket, which only the final check counts.
    assert!(HostValue::new(TABLE.trace, &["a".repeat(max - 4)]).is_ok());
    assert!(HostValue::new(TABLE.trace, &["a".repeat(max - 3)]).is_err());
}
