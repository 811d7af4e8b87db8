//! Anthropic's red-team attempts (Ganguli et al. 2022, arXiv 2209.07858): transcripts of people
//! trying to make a model misbehave. <https://huggingface.co/datasets/Anthropic/hh-rlhf>

use rlaif_core::Record;
use serde_json::Value;

use super::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Row, content_id};
use crate::turns::{self, Turns};

/// The red-team attempts.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedTeam;

/// One attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct RedTeamAttempt {
    /// The record's identity.
    pub id: String,
    /// The dialogue, in HH's notation.
    pub transcript: String,
    /// The preference model's harmlessness score of the assistant's worst turn.
    pub min_harmlessness_score: f64,
    /// Size of the model that answered, as the file writes it (`"52B"`).
    pub num_params: Option<String>,
    /// The training method of the model (`"rhlf"`, `"plain lm"`, ...).
    pub model_type: Option<String>,
    /// The person's rating of the attempt's success, from 0 (not) to 4 (very).
    pub rating: f64,
    /// The person's goal.
    pub task_description: Option<String>,
    /// The preference model's harmlessness score of the goal.
    pub task_description_harmlessness_score: Option<f64>,
    /// The subjects of the attempt, if it was reviewed.
    pub tags: Vec<String>,
    /// `true` if the person was hired through Upwork.
    pub is_upworker: Option<bool>,
}

impl RedTeamAttempt {
    /// The turns of the transcript.
    ///
    /// # Errors
    /// [`turns::DialogueProblem`] when it does not begin with one.
    pub fn turns(&self) -> Result<Turns<'_>, turns::DialogueProblem> {
        turns::parse(&self.transcript)
    }
}

impl Record for RedTeamAttempt {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Corpus for RedTeam {
    type Record = RedTeamAttempt;

    fn name(&self) -> String {
        "red-team attempts".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<RedTeamAttempt>, DataError> {
        let transcript = row.text("transcript")?;
        let num_params = match row.get("num_params") {
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => row.optional_text("num_params")?,
        };
        // The published files misspell the name.
        let described =
            ["task_description_harmlessness_score", "task_descripion_harmlessness_score"]
                .into_iter()
                .find(|column| row.has(column));
        Ok(Outcome::Kept(RedTeamAttempt {
            id: content_id(&[&transcript]),
            transcript,
            min_harmlessness_score: row.number("min_harmlessness_score_transcript")?,
            num_params,
            model_type: row.optional_text("model_type")?,
            rating: row.number("rating")?,
            task_description: row.optional_text("task_description")?,
            task_description_harmlessness_score: described
                .map(|column| row.number(column))
                .transpose()?,
            tags: tags(&mut row)?,
            is_upworker: row.has("is_upworker").then(|| row.truth("is_upworker")).transpose()?,
        }))
    }
}

fn tags(row: &mut Row<'_>) -> Result<Vec<String>, DataError> {
    if !row.has("tags") {
        return Ok(Vec::new());
    }
    let value = row.take("tags")?;
    let texts = |list: &Vec<Value>| {
        list.iter().map(|tag| tag.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    value
        .as_array()
        .and_then(texts)
        .ok_or_else(|| row.wrong_type("tags", "a list of strings", &value))
}
