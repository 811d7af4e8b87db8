//! Scores of responses on the page.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use rlaif_core::{Exchange, RewardModel};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Json, Refusal},
    labelling::{App, Body, Reply, blocking, body},
};

/// Rewards that score responses on the page.
#[derive(Default)]
pub struct Rewards(Vec<Mutex<Box<dyn RewardModel>>>);

impl fmt::Debug for Rewards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rewards").field(&self.names()).finish()
    }
}

impl Rewards {
    /// These rewards.
    pub fn new(rewards: Vec<Box<dyn RewardModel>>) -> Self {
        Self(rewards.into_iter().map(Mutex::new).collect())
    }

    /// The names of the rewards.
    pub fn names(&self) -> Vec<String> {
        let name = |reward: &Mutex<Box<dyn RewardModel>>| {
            reward.lock().unwrap_or_else(PoisonError::into_inner).name().to_owned()
        };
        self.0.iter().map(name).collect()
    }

    fn score(&self, prompt: &str, response: &str) -> Result<Vec<Value>, Refusal> {
        let score = |reward: &Mutex<Box<dyn RewardModel>>| {
            let reward = reward.lock().unwrap_or_else(PoisonError::into_inner);
            let scores = reward.score(&[Exchange::new(prompt, response)]).map_err(|error| {
                let message = format!("{}: {error}", reward.name());
                Refusal::new(StatusCode::BAD_GATEWAY, message)
            })?;
            let score = scores.total.first().copied().flatten().map(|score| score.get());
            Ok(json!({"name": reward.name(), "score": score}))
        };
        self.0.iter().map(score).collect()
    }
}

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
