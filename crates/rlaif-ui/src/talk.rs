//! Scores of responses on the page.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap};
use serde::Deserialize;

use crate::{
    error::Json,
    labelling::{App, Body, Reply, blocking, body},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scored {
    prompt: String,
    response: String,
}

/// `POST /api/score`: the scores of a response.
pub(crate) async fn score(State(app): State<Arc<App>>, headers: HeaderMap, given: Body) -> Reply {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let Scored { prompt, response } = body(given)?;
        Ok(Json(app.rewards.score(&prompt, &response)?.into()))
    })
    .await
}
