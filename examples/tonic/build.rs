//! Generates the service's server and client. Its messages are in `main.rs`.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::{input}"))
            .output_type(format!("crate::{output}"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Notes")
        .package("notes")
        .method(method("read", "Read", "Name", "Note").build())
        .method(method("write", "Write", "Note", "Written").build())
        .method(method("export", "Export", "Name", "Note").server_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
