//! Reads JSON Lines and writes verdicts.

use std::io::{BufRead, Write};

use rlaif_http::{EnvVars, process_environment};

use super::config::{ApiConfig, JudgeConfig};
#[cfg(feature = "neural")]
use super::config::{JudgeApi, LlmApi};
use super::llm::LlmJudge;
use super::remote::RemoteReward;
use super::spending::Usage;
use crate::{Counted, ProviderError, score_rows};

/// Result of [`run`].
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Rows with a score.
    pub scored: usize,
    /// Rows without a score.
    pub missing: usize,
    /// The usage of the judge.
    pub usage: Usage,
}

enum Judge {
    Llm(Box<LlmJudge>),
    Remote(Box<RemoteReward>),
}

/// Judges rows `{"prompt", "response"}`, optionally with `"reference"` and `"metadata"`, and writes
/// one row `{"score", "parts"}` or `{"score": null, "reason"}` for each, in order.
///
/// Blank lines are skipped, and other keys are ignored. All rows are read before the first one is
/// judged, so that a faulty row is reported before any request.
///
/// # Errors
/// [`ProviderError::Row`] with the line of a faulty row; [`ProviderError::Reward`] when no row can
/// be judged; [`ProviderError::Stream`]; and as [`LlmJudge::new`].
pub fn run(
    config: &JudgeConfig,
    reader: impl BufRead,
    writer: impl Write,
) -> Result<Summary, ProviderError> {
    run_with_environment(config, reader, writer, &process_environment)
}

/// [`run`], with API keys from a source other than the environment of the process.
///
/// # Errors
/// As [`run`].
pub fn run_with_environment(
    config: &JudgeConfig,
    reader: impl BufRead,
    writer: impl Write,
    environment: EnvVars<'_>,
) -> Result<Summary, ProviderError> {
    let judge = match &config.api {
        ApiConfig::RewardServer(api) => {
            Judge::Remote(Box::new(RemoteReward::of(config, api, environment)?))
        }
        ApiConfig::Llm(api) => Judge::Llm(Box::new(LlmJudge::of(config, api, environment)?)),
        #[cfg(feature = "neural")]
        other @ ApiConfig::Policy(_) => {
            let api = LlmApi::of(other.clone())?;
            Judge::Llm(Box::new(LlmJudge::of(config, &api, environment)?))
        }
    };
    let counted = match &judge {
        Judge::Llm(judge) => score_rows(&**judge, reader, writer)?,
        Judge::Remote(judge) => score_rows(&**judge, reader, writer)?,
    };
    let usage = match &judge {
        Judge::Llm(judge) => judge.usage(),
        Judge::Remote(judge) => judge.usage(),
    };
    let Counted { scored, missing, .. } = counted;
    Ok(Summary { scored, missing, usage })
}
