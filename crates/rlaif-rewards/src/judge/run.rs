//! JSON Lines in, verdicts out.

use std::io::{BufRead, Write};

use rlaif_core::{Exchange, Metadata, RewardModel, Scores};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::{ApiConfig, JudgeConfig};
use super::llm::LlmJudge;
use super::remote::RemoteReward;
use super::secret::{Environment, process_environment};
use super::spending::Usage;
use crate::ProviderError;

/// Rows judged before any is written: a kill loses no more output than this, and no answer that
/// is in the cache.
const AT_ONCE: usize = 4_096;

/// What [`run`] did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Rows with a score.
    pub scored: usize,
    /// Rows without one.
    pub missing: usize,
    /// What it took.
    pub usage: Usage,
}

#[derive(Deserialize)]
struct Row {
    prompt: String,
    response: String,
    #[serde(default)]
    reference: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

impl Row {
    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            prompt: &self.prompt,
            response: &self.response,
            reference: self.reference.as_deref(),
            metadata: (!self.metadata.is_empty()).then_some(&self.metadata),
        }
    }
}

enum Judge {
    Llm(Box<LlmJudge>),
    Remote(Box<RemoteReward>),
}

/// Judges rows `{"prompt", "response"}`, with `"reference"` and `"metadata"` where there are any,
/// and writes a row `{"score", "parts"}` or `{"score": null, "reason"}` for each, in their order.
///
/// Blank lines are passed over; other keys are ignored. All rows are read before the first one is
/// judged, so that a broken one costs nothing.
///
/// # Errors
/// [`ProviderError::Row`] with the line of a row that is none; [`ProviderError::Reward`] when no
/// row can be judged; [`ProviderError::Stream`]; and as [`LlmJudge::new`].
pub fn run(
    config: &JudgeConfig,
    reader: impl BufRead,
    writer: impl Write,
) -> Result<Summary, ProviderError> {
    run_with_environment(config, reader, writer, &process_environment)
}

/// [`run`], with keys from elsewhere than the environment of the process.
///
/// # Errors
/// As [`run`].
pub fn run_with_environment(
    config: &JudgeConfig,
    reader: impl BufRead,
    mut writer: impl Write,
    environment: Environment<'_>,
) -> Result<Summary, ProviderError> {
    let judge = match config.api {
        ApiConfig::RewardServer { .. } => {
            Judge::Remote(Box::new(RemoteReward::with_environment(config, environment)?))
        }
        _ => Judge::Llm(Box::new(LlmJudge::with_environment(config, environment)?)),
    };
    let rows = read(reader)?;
    let (mut scored, mut missing) = (0, 0);
    for chunk in rows.chunks(AT_ONCE) {
        let batch: Vec<Exchange<'_>> = chunk.iter().map(Row::exchange).collect();
        let scores = match &judge {
            Judge::Llm(judge) => judge.score(&batch)?,
            Judge::Remote(judge) => judge.score(&batch)?,
        };
        let present = scores.total.iter().flatten().count();
        scored += present;
        missing += batch.len() - present;
        let lines: String = output(&scores).map(|row| format!("{row}\n")).collect();
        writer
            .write_all(lines.as_bytes())
            .and_then(|()| writer.flush())
            .map_err(|source| ProviderError::Stream { action: "write the verdicts", source })?;
    }
    let usage = match &judge {
        Judge::Llm(judge) => judge.usage(),
        Judge::Remote(judge) => judge.usage(),
    };
    Ok(Summary { scored, missing, usage })
}

fn read(reader: impl BufRead) -> Result<Vec<Row>, ProviderError> {
    let mut rows = Vec::new();
    for (at, line) in reader.lines().enumerate() {
        let line =
            line.map_err(|source| ProviderError::Stream { action: "read the rows", source })?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line)
            .map_err(|source| ProviderError::Row { line: at + 1, source })?;
        rows.push(row);
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
