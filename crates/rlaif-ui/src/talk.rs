//! Scores of responses on the page.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap};

use crate::{
    error::Json,
    labelling::{App, Body, Reply, blocking, fields},
};

/// `POST /api/score`: the scores of a response.
pub(crate) async fn score(State(app): State<Arc<App>>, headers: HeaderMap, given: Body) -> Reply {
    blocking(app, move |app| {
        app.owner(&headers)?;
        let mut given = fields(given)?;
        let prompt: String = given.needed("prompt", "a text")?;
        let response: String = given.needed("response", "a text")?;
        given.end()?;
        Ok(Json(app.rewards.score(&prompt, &response)?.into()))
    })
    .await
}
