//! Templates compared with a null implementation, a physical baseline, and a tree walk.
//!
//! - `compile`: a Rust value into a template. Null: the same value serialized into nothing.
//! - `from_json`: JSON text into a template. Null: the same text read and forgotten.
//! - `render`: a template and one request's values into a reused buffer. Null: nothing into the
//!   buffer.
//!
//! `memcpy` copies the bytes that the stage writes or, for `from_json`, reads. No implementation
//! can be faster.
#![allow(missing_docs, reason = "made by the macros of criterion")]

use std::hint::black_box;
use std::io;
use std::net::IpAddr;

use audit_benches::bodies::{NOW_MS, Nasty, REQUEST_ID, USER_AGENT, View};
use audit_core::Limits;
use audit_vars::{ClientIp, Now, RequestId, Template, UserAgent, Values, Vars, tree_walk};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fn templates(criterion: &mut Criterion) {
    stages(criterion, "0.5KB", &View::of_half_a_kilobyte());
    stages(criterion, "1.2KB", &View::of_one_kilobyte());
    stages(criterion, "10KB", &View::of_ten_kilobytes());
    stages(criterion, "nasty", &Nasty::new());
}

fn stages<T: Serialize>(criterion: &mut Criterion, name: &str, body: &T) {
    let vars = Vars::new();
    let limits = Limits::default();
    let text = serde_json::to_string(body).expect("a body serializes");

    let mut group = criterion.benchmark_group(format!("compile/{name}"));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("template", |b| {
        b.iter(|| Template::compile(&vars, &limits, black_box(body)))
    });
    group.bench_function("null", |b| b.iter(|| serde_json::to_writer(io::sink(), black_box(body))));
    group.bench_function("memcpy", |b| b.iter(|| black_box(text.as_bytes()).to_vec()));
    group.bench_function("to_vec", |b| b.iter(|| serde_json::to_vec(black_box(body))));
    group.bench_function("to_tree", |b| b.iter(|| serde_json::to_value(black_box(body))));
    group.finish();

    let mut group = criterion.benchmark_group(format!("from_json/{name}"));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("template", |b| {
        b.iter(|| Template::from_json(&vars, &limits, black_box(&text)))
    });
    group.bench_function("null", |b| {
        b.iter(|| serde_json::from_str::<IgnoredAny>(black_box(&text)))
    });
    group.bench_function("memcpy", |b| b.iter(|| black_box(text.as_bytes()).to_vec()));
    group.bench_function("to_tree", |b| b.iter(|| serde_json::from_str::<Value>(black_box(&text))));
    group.finish();

    let template = Template::compile(&vars, &limits, body).expect("a body compiles");
    let tree = serde_json::to_value(body).expect("a body serializes");
    let ip = ClientIp::from(IpAddr::from([0x2001u16, 0xdb8, 0x85a3, 0, 0, 0x8a2e, 0x370, 0x7334]));
    let user_agent = UserAgent::from(USER_AGENT);
    let request_id = RequestId::new(REQUEST_ID).expect("a request id");
    let now = Now::at_ms(NOW_MS);
    let values = Values::none()
        .with_ip(&ip)
        .with_user_agent(&user_agent)
        .with_request_id(&request_id)
        .with_now(&now);
    let lookup = |name: &str| match name {
        "ip" => json!(ip.addr()),
        "userAgent" => json!(USER_AGENT),
        "requestId" => json!(REQUEST_ID),
        _ => json!(NOW_MS),
    };

    let mut line = Vec::new();
    template.render(&values, &mut line);
    assert_eq!(
        serde_json::from_slice::<Value>(&line).expect("a rendering is JSON"),
        serde_json::from_slice::<Value>(&tree_walk::tree_walk(&tree, &lookup))
            .expect("a tree is JSON"),
    );
    println!("{name}: {} bytes of text, {} bytes rendered", text.len(), line.len());

    let mut group = criterion.benchmark_group(format!("render/{name}"));
    group.throughput(Throughput::Bytes(line.len() as u64));
    // The size that `render` reserves, so that no stage pays for the first growth.
    let mut out = Vec::with_capacity(template.bound_bytes() as usize);
    group.bench_function("template", |b| {
        b.iter(|| {
            out.clear();
            template.render(black_box(&values), &mut out);
            black_box(&out);
        });
    });
    group.bench_function("null", |b| {
        b.iter(|| {
            out.clear();
            black_box(&out);
        });
    });
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&line));
            black_box(&out);
        });
    });
    group.bench_function("to_vec", |b| b.iter(|| serde_json::to_vec(black_box(&tree))));
    group.bench_function("tree_walk", |b| {
        b.iter(|| tree_walk::tree_walk(black_box(&tree), &lookup))
    });
    group.finish();
}

criterion_group!(suite, templates);
criterion_main!(suite);
