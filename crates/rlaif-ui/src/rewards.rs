//! Rewards that score responses on the page.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use axum::http::StatusCode;
use rlaif_core::{Exchange, RewardModel};
use serde_json::{Value, json};

use crate::error::Refusal;

/// Rewards that score responses on the page.
#[derive(Default)]
pub struct Rewards(Vec<Mutex<Box<dyn RewardModel>>>);

impl fmt::Debug for Rewards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rewards").field(&self.names()).finish()
    }
}

impl Rewards {
    /// Rewards that score in this order.
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

    pub(crate) fn score(&self, prompt: &str, response: &str) -> Result<Vec<Value>, Refusal> {
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
