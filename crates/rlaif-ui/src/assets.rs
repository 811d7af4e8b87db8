//! The page's files, which are inside the program.

use std::sync::Arc;

use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::labelling::App;

const PAGE: &str = include_str!("assets/index.html");
const STYLE: &str = include_str!("assets/app.css");
const ICON: &str = include_str!("assets/icon.svg");

/// Modules of the page's script, by their addresses.
const SCRIPTS: [(&str, &str); 6] = [
    ("/app.js", include_str!("assets/app.js")),
    ("/label.js", include_str!("assets/label.js")),
    ("/page.js", include_str!("assets/page.js")),
    ("/runs.js", include_str!("assets/runs.js")),
    ("/study.js", include_str!("assets/study.js")),
    ("/talk.js", include_str!("assets/talk.js")),
];

/// The routes of the files.
pub(crate) fn routes() -> Router<Arc<App>> {
    let router = Router::new()
        .route("/", get(page))
        .route("/app.css", get(style))
        .route("/icon.svg", get(icon));
    SCRIPTS.into_iter().fold(router, |router, (path, script)| {
        let script =
            move || async move { file("text/javascript; charset=utf-8", script.to_owned()) };
        router.route(path, get(script))
    })
}

fn file(kind: &'static str, text: String) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn page() -> Response {
    file("text/html; charset=utf-8", PAGE.to_owned())
}

/// The style of reports, and the page's own.
async fn style() -> Response {
    file("text/css; charset=utf-8", format!("{}\n{STYLE}", rlaif_eval::PAGE_STYLE))
}

async fn icon() -> Response {
    file("image/svg+xml", ICON.to_owned())
}
