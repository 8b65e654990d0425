//! Bodies: compiled from a value and from text, and replayed.

use std::hint::black_box;
use std::net::IpAddr;
use std::rc::Rc;

use audit_core::Limits;
use audit_vars::{ClientIp, Now, RequestId, Template, UserAgent, Values, Vars};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bodies::{NOW_MS, Nasty, REQUEST_ID, USER_AGENT, View};
use crate::contest::{Contest, Row, Side, Target, Unit};
use crate::rivals::tree_walk;

/// The values of one request for the variables.
#[derive(Debug)]
pub struct Request {
    ip: ClientIp,
    user_agent: UserAgent,
    request_id: RequestId,
    now: Now,
}

impl Request {
    /// A request of a common browser over IPv6.
    pub fn common() -> Request {
        Request {
            ip: ClientIp::from(IpAddr::from([
                0x2001u16, 0xdb8, 0x85a3, 0, 0, 0x8a2e, 0x370, 0x7334,
            ])),
            user_agent: UserAgent::from(USER_AGENT),
            request_id: RequestId::new(REQUEST_ID).expect("a request id"),
            now: Now::at_ms(NOW_MS),
        }
    }

    /// The values for rendering.
    pub fn values(&self) -> Values<'_> {
        let Request { ip, user_agent, request_id, now } = self;
        Values::none()
            .with_ip(ip)
            .with_user_agent(user_agent)
            .with_request_id(request_id)
            .with_now(now)
    }

    /// The value of a variable for the tree walk.
    pub fn lookup(&self, name: &str) -> Value {
        match name {
            "ip" => json!(self.ip.addr()),
            "userAgent" => json!(self.user_agent.as_str()),
            "requestId" => json!(self.request_id.as_str()),
            _ => json!(self.now.ms()),
        }
    }
}

/// Compiles a body.
pub fn compiled<T: Serialize>(body: &T) -> Template {
    Template::compile(&Vars::new(), &Limits::default(), body).expect("a body compiles")
}

/// How much faster than the tree walk, and how close to memcpy, a replay must be.
///
/// Within one page in the L1 cache, memcpy is at its best, and the overhead of a replay is visible:
/// for a body of 1.2 KB with four variables it copies nine pieces in some 525 instructions,
/// compared with memcpy's 164, and takes 20 to 45 ns more than memcpy's 20 to 30. For 10 KB, the
/// same 20 to 45 ns are a tenth to a fifth. Into a batch, where the replays of a release go, both
/// wait for memory.
#[derive(Default)]
struct Targets {
    tree: Option<f64>,
    page: Option<f64>,
    batch: Option<f64>,
}

/// All stages of all bodies.
pub fn contests() -> Vec<Contest> {
    let targets = |tree, page, batch| Targets { tree: Some(tree), page, batch };
    [
        of("0.5 KB", View::of_half_a_kilobyte(), targets(80.0, None, None)),
        of("1.2 KB", View::of_one_kilobyte(), targets(120.0, Some(3.5), Some(2.0))),
        of("10 KB", View::of_ten_kilobytes(), targets(350.0, Some(1.35), Some(1.25))),
        of("nasty, 35 KB", Nasty::new(), Targets::default()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of<T: Serialize + 'static>(name: &str, body: T, targets: Targets) -> Vec<Contest> {
    let body = Rc::new(body);
    let text: Rc<str> = serde_json::to_string(&*body).expect("a body serializes").into();
    let tree = serde_json::to_value(&*body).expect("a body serializes");
    let mut line = Vec::new();
    compiled(&*body).render(&Request::common().values(), &mut line);
    let request = Request::common();
    let (size, walked) = tree_walk(&tree, &|name| request.lookup(name));
    assert_eq!(
        serde_json::from_slice::<Value>(&line).expect("a rendering is JSON"),
        serde_json::from_slice::<Value>(&walked).expect("a tree is JSON"),
        "both ways give the same log"
    );
    assert_eq!(size, walked.len());

    let walk = Side::call("tree walk", move || {
        black_box(tree_walk(black_box(&tree), &|name| request.lookup(name)));
    });
    let memcpy = |batch_bytes: usize| {
        let line = line.clone();
        let mut places = Places::new(batch_bytes, line.len());
        Side::call("memcpy", move || {
            let copied = places.next();
            copied.extend_from_slice(black_box(&line));
            black_box(copied);
        })
    };
    let against = |stage: Contest, target: Option<Target>| match target {
        Some(target) => stage.target(target),
        None => stage,
    };
    let replay = format!("replay a cached log, {name}");
    let compile = format!("compile from a Rust value, {name}");
    let from_json = format!("compile from JSON text, {name}");
    vec![
        against(
            Contest::new(&replay, render(&*body, 0)).against(walk),
            targets.tree.map(Target::TimesAsFast),
        ),
        against(
            Contest::new(&replay, render(&*body, 0)).against(memcpy(0)),
            targets.page.map(Target::AtMostTimes),
        ),
        against(
            Contest::new(format!("{replay}, into a batch"), render(&*body, BATCH_BYTES))
                .against(memcpy(BATCH_BYTES)),
            targets.batch.map(Target::AtMostTimes),
        ),
        Contest::new(&compile, compile_value(Rc::clone(&body)))
            .against(call("serde_json::to_vec", Rc::clone(&body), |body| {
                black_box(serde_json::to_vec(black_box(&**body)).expect("a body serializes"));
            }))
            .target(Target::TimesAsFast(1.0)),
        Contest::new(&compile, compile_value(Rc::clone(&body))).against(call(
            "sonic_rs::to_vec",
            Rc::clone(&body),
            |body| {
                black_box(sonic_rs::to_vec(black_box(&**body)).expect("a body serializes"));
            },
        )),
        Contest::new(&from_json, compile_text(Rc::clone(&text)))
            .against(call("serde_json, into a tree", Rc::clone(&text), |text| {
                black_box(serde_json::from_str::<Value>(black_box(text)).expect("JSON"));
            }))
            .target(Target::TimesAsFast(5.5)),
        Contest::new(&from_json, compile_text(Rc::clone(&text))).against(call(
            "sonic_rs, into a tree",
            text,
            |text| {
                black_box(sonic_rs::from_str::<sonic_rs::Value>(black_box(text)).expect("JSON"));
            },
        )),
    ]
}

fn call<T: 'static>(name: &str, on: T, call: impl Fn(&T) + 'static) -> Side {
    Side::call(name, move || call(&on))
}

/// The size of a batch, to which a release to many appends its replays.
const BATCH_BYTES: usize = 1 << 20;

/// Appends replays to a batch of this many bytes, or replays to nearly the same place if one does
/// not fit.
fn render<T: Serialize>(body: &T, batch_bytes: usize) -> Side {
    let template = compiled(body);
    let request = Request::common();
    let mut places =
        Places::new(batch_bytes, template.bound_bytes() as usize + Template::SPARE_BYTES);
    Side::call("template", move || {
        let values = request.values();
        let out = places.next();
        template.render(black_box(&values), out);
        black_box(out);
    })
}

/// The place of the next line: after the previous one, in a batch that starts over when it is full,
/// or a little further within one page, so that the memory stays in the L1 cache. It is never
/// always the same place, since the relative alignment of source and target accounts for a fifth of
/// the time, by chance.
struct Places {
    out: Vec<u8>,
    batch_bytes: usize,
    line_bytes: usize,
    start: usize,
}

impl Places {
    /// Smaller than any line, and not a divisor of any size.
    const STEP_BYTES: usize = 208;
    const PAGE_BYTES: usize = 4_096;

    fn new(batch_bytes: usize, line_bytes: usize) -> Places {
        let out = Vec::with_capacity(batch_bytes.max(Places::PAGE_BYTES + line_bytes));
        Places { out, batch_bytes, line_bytes, start: 0 }
    }

    /// The buffer to append to.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.line_bytes < self.batch_bytes {
            if self.out.len() + self.line_bytes > self.batch_bytes {
                self.out.clear();
            }
        } else {
            self.start = (self.start + Places::STEP_BYTES) % Places::PAGE_BYTES;
            // At the first call the buffer is empty and stays so.
            self.out.truncate(self.start);
        }
        &mut self.out
    }
}

fn compile_value<T: Serialize + 'static>(body: Rc<T>) -> Side {
    let (vars, limits) = (Vars::new(), Limits::default());
    call("template", body, move |body| {
        black_box(Template::compile(&vars, &limits, black_box(&**body)).expect("a body compiles"));
    })
}

fn compile_text(text: Rc<str>) -> Side {
    let (vars, limits) = (Vars::new(), Limits::default());
    call("template", text, move |text| {
        black_box(Template::from_json(&vars, &limits, black_box(text)).expect("a body compiles"));
    })
}

/// Allocations of one replayed log.
pub fn allocations() -> Vec<Row> {
    let body = View::of_one_kilobyte();
    let template = compiled(&body);
    let request = Request::common();
    let mut out = Vec::with_capacity(2 * template.bound_bytes() as usize);
    let ours = allocation_counter::measure(|| {
        template.render(&request.values(), &mut out);
    });
    let tree = serde_json::to_value(&body).expect("a body serializes");
    let walk = allocation_counter::measure(|| {
        black_box(tree_walk(&tree, &|name| request.lookup(name)));
    });
    let allocations = Row::counted(
        "allocations to replay a cached log, 1.2 KB",
        ours.count_total as f64,
        Unit::Count,
    )
    .beside("tree walk", walk.count_total as f64)
    .with_target(Target::AtMost(0.0));
    vec![Row { ratio: None, ..allocations }]
}

/// Runs one stage with the body of 1.2 KB this many times, for counting instructions.
///
/// # Panics
///
/// If there is no such stage.
pub fn repeat(stage: &str, times: u64) {
    let body = View::of_one_kilobyte();
    let (vars, limits) = (Vars::new(), Limits::default());
    let text = serde_json::to_string(&body).expect("a body serializes");
    let template = compiled(&body);
    let request = Request::common();
    let values = request.values();
    let mut out = Vec::with_capacity(2 * template.bound_bytes() as usize);
    template.render(&values, &mut out);
    let line = out.clone();
    for _ in 0..times {
        out.clear();
        match stage {
            "replay" => template.render(black_box(&values), &mut out),
            "copy" => out.extend_from_slice(black_box(&line)),
            "compile" => drop(black_box(Template::compile(&vars, &limits, black_box(&body)))),
            "to_vec" => drop(black_box(serde_json::to_vec(black_box(&body)))),
            "from_json" => drop(black_box(Template::from_json(&vars, &limits, black_box(&text)))),
            "to_tree" => drop(black_box(serde_json::from_str::<Value>(black_box(&text)))),
            _ => panic!("no stage {stage}"),
        }
        black_box(&out);
    }
}
