//! `rlaif judge`: the scores of a reward for responses in a file.

use std::{
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use rlaif_core::{BadSetting, RewardModel, say};
use rlaif_rewards::{ReadRows, RewardConfig, RewardInput, read_rows, score_in_order};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::{
    command::{CommandError, open},
    error::RunError,
    file::{LONGEST, RunFile, parse, read_table, set},
    model::Placement,
    prompt::PromptSection,
    rewards::{rewards_for_file, rewards_from_config},
    verdicts::{any_scored, score_into},
    work::Work,
};

/// The file of `rlaif judge`. A file with the keys of a reward, or of a judge, is read as the `reward` of
/// such a file, on the CPU. `docs/rewards.md` describes every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeFile {
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The rows to score.
    #[serde(default)]
    pub data: JudgeData,
    /// The rendering of prompts.
    #[serde(default)]
    pub prompt: PromptSection,
    /// The reward.
    pub reward: RewardConfig,
}

/// The rows to score.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeData {
    /// JSON Lines with `prompt` and `response`; `-` reads standard input. `--input` overrides it.
    pub file: Option<String>,
}

/// Counts of rows by outcome, and numbers of the reward.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JudgeSummary {
    /// Rows with a score.
    pub scored: usize,
    /// Rows without a score.
    pub missing: usize,
    /// Metrics of the reward, such as requests, tokens and cost.
    pub metrics: Vec<(String, f64)>,
}

impl JudgeFile {
    /// Builds the reward. Paths of caches are relative to `base`.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn build(&self, base: &Path) -> Result<Box<dyn RewardModel>, RunError> {
        let device = self.placement.device()?;
        self.placement.check_models(device, [], self.reward.local_models())?;
        Ok(rewards_from_config(&self.reward, base, device)?)
    }
}

impl RunFile for JudgeFile {
    const COMMAND: &'static str = "judge";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all: Vec<&mut String> = self.data.file.iter_mut().collect();
        all.extend(self.reward.locations());
        all
    }
}

impl Work for JudgeFile {
    const OUT: &'static str = "the file of verdicts";
    const KEEPS: &'static str = "verdicts";
    type Out = Option<PathBuf>;
    type Summary = JudgeSummary;
    type Error = CommandError;

    fn read(path: &Path, overrides: &[String]) -> Result<Self, RunError> {
        let mut table = read_table(path, Self::COMMAND)?;
        for assignment in overrides {
            set(&mut table, assignment)?;
        }
        if !is_reward(&table) {
            return parse(path, &table);
        }
        let text = match overrides {
            // Errors have the line in the user's file.
            [] => rlaif_files::read_text(path, LONGEST)
                .map_err(|source| RunError::Read { path: path.to_owned(), source })?,
            _ => toml::to_string(&table)
                .map_err(|source| RunError::Unwritable { source: source.into() })?,
        };
        let reward = RewardConfig::from_toml(&text, &path.display().to_string())?;
        let placement = Placement { device: "cpu".to_owned(), ..Placement::default() };
        Ok(Self { placement, data: JudgeData::default(), prompt: PromptSection::default(), reward })
    }

    /// Scores the rows into the file `out`, or in order to standard output. Paths of caches are relative to
    /// `base`.
    ///
    /// Until the last verdict has come, verdicts are in `OUT.unordered`, each as soon as it is there. The
    /// same call after an interruption scores only the rows without a score.
    fn work(&self, base: &Path, out: &Option<PathBuf>) -> Result<JudgeSummary, CommandError> {
        let Self { placement, data, prompt, reward: config } = self;
        let Some(file) = data.file.as_deref() else {
            let expected = "a file of rows, here or by --input";
            return Err(BadSetting::new("data.file", "missing", expected).into());
        };
        prompt.check()?;
        if prompt.chat_template.is_some() || !prompt.chat_template_kwargs.is_empty() {
            let expected = "no value: `chat_template` of a classifier in `reward` is the template";
            return Err(BadSetting::new("prompt.chat_template", "given", expected).into());
        }
        let device = placement.device()?;
        placement.check_models(device, [], config.local_models())?;
        let reward = match out {
            Some(out) => rewards_for_file(config, base, device, out)?,
            None => rewards_from_config(config, base, device)?,
        };
        let (how, columns) = (prompt.rendering(), config.columns());
        let ReadRows { rows, unread } = match file {
            "-" => read_rows(io::stdin().lock(), &how, &columns)?,
            file => read_rows(BufReader::new(open(Path::new(file))?.0), &how, &columns)?,
        };
        if config.input() != RewardInput::Messages {
            unread.sentences("rewards").iter().for_each(say);
        }
        let counted = match out {
            Some(out) => score_into(config, &*reward, &rows, out)?,
            None => score_in_order(&*reward, &rows, BufWriter::new(io::stdout().lock()))?,
        };
        any_scored(&counted)?;
        let metrics = reward.metrics();
        Ok(JudgeSummary { scored: counted.scored, missing: counted.missing, metrics })
    }
}

/// True for a file with the keys of a reward, or of a judge without `kind`, at its top.
fn is_reward(table: &Table) -> bool {
    let is_sectioned = ["reward", "data", "placement", "prompt"]
        .iter()
        .any(|section| table.contains_key(*section));
    !is_sectioned || table.contains_key("kind") || table.contains_key("api")
}
