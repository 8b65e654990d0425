//! The files of the page, which are in this program.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const INDEX: &str = include_str!("page/index.html");

const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [(&str, &str, &str); 8] = [
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("desk.css", "text/css; charset=utf-8", include_str!("page/desk.css")),
    ("desk.js", SCRIPT, include_str!("page/desk.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("state.js", SCRIPT, include_str!("page/state.js")),
    ("table.js", SCRIPT, include_str!("page/table.js")),
    ("timeline.js", SCRIPT, include_str!("page/timeline.js")),
    ("record.js", SCRIPT, include_str!("page/record.js")),
];

pub(super) async fn index() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], INDEX).into_response()
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, kind, text)) => ([(header::CONTENT_TYPE, *kind)], *text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
