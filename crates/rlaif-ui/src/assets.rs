//! The page's files, which are inside the program.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

const PAGE: &str = include_str!("assets/index.html");
const SCRIPT: &str = include_str!("assets/app.js");
const TALK: &str = include_str!("assets/talk.js");
const STYLE: &str = include_str!("assets/app.css");
const ICON: &str = include_str!("assets/icon.svg");

fn file(kind: &'static str, text: String) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

pub(crate) async fn page() -> Response {
    file("text/html; charset=utf-8", PAGE.to_owned())
}

pub(crate) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT.to_owned())
}

pub(crate) async fn talk() -> Response {
    file("text/javascript; charset=utf-8", TALK.to_owned())
}

/// The style of reports, and the page's own.
pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", format!("{}\n{STYLE}", rlaif_eval::PAGE_STYLE))
}

pub(crate) async fn icon() -> Response {
    file("image/svg+xml", ICON.to_owned())
}
