//! JSON Lines in, verdicts out, whatever the reward.

use std::io::{BufRead, Write};

use rlaif_core::{
    Exchange, Message, Metadata, PromptRecord, RewardModel, Sample, Scores, TextOrMessages,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ProviderError;

/// Rows scored before any is written: a kill loses no more output than this, and no answer that
/// is in a judge's cache.
const AT_ONCE: usize = 4_096;

/// What came of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Rows with a score.
    pub scored: usize,
    /// Rows without one.
    pub missing: usize,
}

#[derive(Deserialize)]
#[serde(try_from = "ReadRow")]
struct Row {
    prompt: String,
    response: String,
    reference: Option<String>,
    metadata: Metadata,
}

/// A row as files have it: texts, messages, or a conversation whose last turn is the response.
#[derive(Deserialize)]
struct ReadRow {
    prompt: Option<TextOrMessages>,
    #[serde(alias = "completion")]
    response: Option<TextOrMessages>,
    messages: Option<Vec<Message>>,
    reference: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

impl TryFrom<ReadRow> for Row {
    type Error = &'static str;

    fn try_from(row: ReadRow) -> Result<Self, &'static str> {
        let ReadRow { prompt, response, messages, reference, metadata } = row;
        let (prompt, response) = match (prompt, response, messages) {
            (Some(prompt), Some(response), _) => (prompt, response),
            (None, None, Some(mut messages)) => {
                let last = messages.pop().ok_or("`messages` has no message")?;
                (messages.into(), vec![last].into())
            }
            (None, _, _) => return Err("missing field `prompt`"),
            (Some(_), None, _) => return Err("missing field `response`"),
        };
        // A judge reads text, not the special tokens of a chat template.
        let (prompt, response) = (prompt.readable(), response.readable());
        Ok(Self { prompt, response, reference, metadata })
    }
}

impl From<Row> for Sample {
    fn from(row: Row) -> Self {
        let Row { prompt, response, reference, metadata } = row;
        // Nothing asks for the id: verdicts are in the order of the rows.
        let record = PromptRecord { reference, metadata, ..PromptRecord::new("", prompt) };
        Self { record, response }
    }
}

/// Scores rows `{"prompt", "response"}`, with `"reference"` and `"metadata"` where there are any,
/// or `{"messages"}`, whose last turn is the response; prompts and responses may be messages. It writes a row `{"score", "parts"}` or `{"score": null, "reason"}` for each, in their order.
///
/// Blank lines and a byte-order mark are passed over; other keys are ignored. All rows are read before the first one is
/// scored, so that a broken one costs nothing.
///
/// ```
/// use rlaif_rewards::{Length, score_rows};
/// let rows = r#"{"prompt": "Greet me.", "response": "Good morning to you!"}"#;
/// let mut verdicts = Vec::new();
/// let counted = score_rows(&Length::at_most(2, 1.)?, rows.as_bytes(), &mut verdicts)?;
/// assert_eq!((counted.scored, counted.missing), (1, 0));
/// assert_eq!(String::from_utf8(verdicts)?, "{\"score\":-2.0,\"parts\":{}}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ProviderError::Row`] and [`ProviderError::NotUtf8`] with the line of a row that is none;
/// [`ProviderError::Reward`] when no
/// row can be scored; [`ProviderError::Stream`].
pub fn score_rows(
    reward: &dyn RewardModel,
    reader: impl BufRead,
    mut writer: impl Write,
) -> Result<Counted, ProviderError> {
    let rows = read(reader)?;
    let mut counted = Counted { scored: 0, missing: 0 };
    for chunk in rows.chunks(AT_ONCE) {
        let batch: Vec<Exchange<'_>> = chunk.iter().map(Sample::exchange).collect();
        let scores = reward.score(&batch)?.check(reward.name(), batch.len())?;
        let present = scores.total.iter().flatten().count();
        counted.scored += present;
        counted.missing += batch.len() - present;
        let lines: String = output(&scores).map(|row| format!("{row}\n")).collect();
        writer
            .write_all(lines.as_bytes())
            .and_then(|()| writer.flush())
            .map_err(|source| ProviderError::Stream { action: "write the verdicts", source })?;
    }
    Ok(counted)
}

fn read(reader: impl BufRead) -> Result<Vec<Sample>, ProviderError> {
    let mut rows = Vec::new();
    for (at, bytes) in reader.split(b'\n').enumerate() {
        let bytes =
            bytes.map_err(|source| ProviderError::Stream { action: "read the rows", source })?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|source| ProviderError::NotUtf8 { line: at + 1, source })?;
        // A byte-order mark says that the file is UTF-8, and is no part of its first row.
        let text = if at == 0 { text.trim_start_matches('\u{feff}') } else { text };
        if text.trim().is_empty() {
            continue;
        }
        let row: Row = serde_json::from_str(text)
            .map_err(|source| ProviderError::Row { line: at + 1, source })?;
        rows.push(row.into());
    }
    Ok(rows)
}

fn output(scores: &Scores) -> impl Iterator<Item = Value> {
    let mut reasons: Vec<Option<&str>> = vec![None; scores.total.len()];
    for (row, reason) in &scores.reasons {
        if let Some(slot) = reasons.get_mut(*row) {
            *slot = Some(reason);
        }
    }
    // Through the shortest decimal of the f32, so that 4.2 is not written 4.199999809265137.
    let number = |score: rlaif_core::Score| {
        let shortest = score.get().to_string().parse().unwrap_or_else(|_| f64::from(score.get()));
        Value::from(shortest)
    };
    scores.total.iter().zip(reasons).enumerate().map(move |(row, (score, reason))| match score {
        None => json!({"score": null, "reason": reason.unwrap_or("no verdict")}),
        Some(score) => {
            let part = |(name, column): &(String, Vec<Option<rlaif_core::Score>>)| {
                (name.clone(), column[row].map_or(Value::Null, number))
            };
            let parts: Map<String, Value> = scores.parts.iter().map(part).collect();
            json!({"score": number(*score), "parts": parts})
        }
    })
}
