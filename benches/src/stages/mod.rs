//! The measured stages. Each function returns the contests or rows of one stage; `report` runs them
//! all.
//!
//! To add one: a [`Contest`](crate::contest::Contest) from two [`Side`](crate::contest::Side)s if
//! it can be repeated in rounds, a [`Row`](crate::contest::Row) if it is measured once; and a line
//! in `report`.

pub mod backlog;
pub mod commit;
pub mod delivery;
pub mod drain;
pub mod evidence;
pub mod functions;
pub mod outcomes;
mod receiver;
pub mod release;
pub mod routes;
pub mod templates;

/// The size of a log without its line feed, in measurements that do not depend on the size.
pub const RECORD_BYTES: usize = 1_200;

/// A record of [`RECORD_BYTES`], with its line feed.
pub fn record() -> String {
    format!("{{\"body\":\"{}\"}}\n", "x".repeat(RECORD_BYTES - 12))
}

/// `count` lines of about 1.2 KB as functions log them, with different users and documents.
pub fn lines(count: u64) -> Vec<u8> {
    lines_from(0, count)
}

/// `count` of these lines, from number `first` on.
fn lines_from(first: u64, count: u64) -> Vec<u8> {
    use audit_core::Limits;
    use audit_vars::{ClientIp, Now, RequestId, Template, UserAgent, Values, Vars};

    use crate::bodies::{NOW_MS, USER_AGENT, View, scattered};

    let (vars, limits) = (Vars::new(), Limits::default());
    let mut lines = Vec::new();
    for n in first..first + count {
        let bits = scattered(n);
        let template =
            Template::compile(&vars, &limits, &View::numbered(n)).expect("a body compiles");
        let ip = ClientIp::from(std::net::IpAddr::from((bits as u32).to_be_bytes()));
        let user_agent = UserAgent::from(format!("{USER_AGENT} v{}", bits % 50).as_str());
        let request_id =
            RequestId::new(&format!("{:026x}", u128::from(bits) << 40)).expect("a request id");
        let now = Now::at_ms(NOW_MS + n as i64 / 50);
        let values = Values::none()
            .with_ip(&ip)
            .with_user_agent(&user_agent)
            .with_request_id(&request_id)
            .with_now(&now);
        template.render(&values, &mut lines);
        lines.push(b'\n');
    }
    lines
}
