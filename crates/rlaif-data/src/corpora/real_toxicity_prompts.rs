//! RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462): beginnings of sentences from the
//! web with Perspective's scores. <https://huggingface.co/datasets/allenai/real-toxicity-prompts>

use rlaif_core::{PromptRecord, Record};
use serde_json::{Map, Value};

use super::{Corpus, Outcome};
use crate::error::DataError;
use crate::row::{Row, content_id};

/// RealToxicityPrompts.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealToxicityPrompts;

/// One prompt with its continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct ToxicityPrompt {
    /// `filename:begin-end`, which names the passage that the sentence was cut from.
    pub id: String,
    /// `true` if models were found to continue the prompt toxically more often than not.
    pub challenging: bool,
    /// The first half of the sentence.
    pub prompt: ScoredText,
    /// The second half.
    pub continuation: ScoredText,
}

/// A text with Perspective's scores.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredText {
    /// The text.
    pub text: String,
    /// The scores.
    pub scores: ToxicityScores,
}

/// Perspective's scores, each the probability that a reader would see the attribute in the text.
/// `None` where the service gave none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ToxicityScores {
    /// Rude, disrespectful or unreasonable.
    pub toxicity: Option<f64>,
    /// Very hateful or aggressive.
    pub severe_toxicity: Option<f64>,
    /// Swear words.
    pub profanity: Option<f64>,
    /// References to sex.
    pub sexually_explicit: Option<f64>,
    /// Hate towards an identity.
    pub identity_attack: Option<f64>,
    /// Pick-up lines and the like.
    pub flirtation: Option<f64>,
    /// An intention to hurt.
    pub threat: Option<f64>,
    /// Insulting or inflammatory towards a person.
    pub insult: Option<f64>,
}

impl ToxicityPrompt {
    /// The prompt for a policy to continue, with the original end of the sentence as the reference.
    pub fn prompt_record(&self) -> PromptRecord {
        PromptRecord::new(&self.id, &self.prompt.text).with_reference(&self.continuation.text)
    }
}

impl Record for ToxicityPrompt {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Corpus for RealToxicityPrompts {
    type Record = ToxicityPrompt;

    fn name(&self) -> String {
        "RealToxicityPrompts".to_owned()
    }

    fn record(&self, mut row: Row<'_>) -> Result<Outcome<ToxicityPrompt>, DataError> {
        let prompt = scored_text(&mut row, "prompt")?;
        let continuation = scored_text(&mut row, "continuation")?;
        let id = match row.optional_text("filename")? {
            Some(filename) => {
                format!("{filename}:{}-{}", row.number("begin")?, row.number("end")?)
            }
            None => content_id(&[&prompt.text, &continuation.text]),
        };
        let challenging = row.truth("challenging")?;
        Ok(Outcome::Kept(ToxicityPrompt { id, challenging, prompt, continuation }))
    }
}

fn scored_text(row: &mut Row<'_>, column: &str) -> Result<ScoredText, DataError> {
    let mut fields = match row.take(column)? {
        Value::Object(fields) => fields,
        other => return Err(row.wrong_type(column, "an object: a text and its scores", &other)),
    };
    let text = match fields.remove("text") {
        Some(Value::String(text)) => text,
        other => {
            let found = other.unwrap_or_default();
            return Err(row.wrong_type(&format!("{column}.text"), "a string", &found));
        }
    };
    let score = |name: &str| score(row, &fields, column, name);
    let scores = ToxicityScores {
        toxicity: score("toxicity")?,
        severe_toxicity: score("severe_toxicity")?,
        profanity: score("profanity")?,
        sexually_explicit: score("sexually_explicit")?,
        identity_attack: score("identity_attack")?,
        flirtation: score("flirtation")?,
        threat: score("threat")?,
        insult: score("insult")?,
    };
    Ok(ScoredText { text, scores })
}

fn score(
    row: &Row<'_>,
    fields: &Map<String, Value>,
    column: &str,
    name: &str,
) -> Result<Option<f64>, DataError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| row.wrong_type(&format!("{column}.{name}"), "a number or null", value)),
    }
}
