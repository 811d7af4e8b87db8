//! `rlaif bench sft`: optimizer steps of supervised fine-tuning.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use rlaif_lm::{LmSpec, Policy};
use rlaif_models::LanguageModel;
use rlaif_run::RunError;
use rlaif_train::{Batching, LearnConfig, OptimizerConfig, SftRow, SftTrainer};
use serde::Deserialize;
use serde_json::json;

use super::common::{Measured, at_least_one, random_rows, rows_of_ids};
use crate::cli::{
    error::CliError,
    model::{self, Placement},
};

#[derive(Debug, Args)]
pub(crate) struct SftBench {
    /// Folder in Hugging Face's layout, or hub id.
    #[arg(long)]
    policy: String,
    #[command(flatten)]
    placement: Placement,
    /// Rows of an optimizer step.
    #[arg(long = "batch-size", alias = "batch", default_value_t = 8)]
    batch: usize,
    /// Rows of a forward pass at most; the whole batch if not given.
    #[arg(long, alias = "minibatch", default_value_t = 0)]
    microbatch_size: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 1)]
    prompt_len: usize,
    /// Tokens of each response, all of which are learned.
    #[arg(long, default_value_t = 127)]
    new_tokens: usize,
    /// Rows of given ids instead: JSON Lines of {"prompt_ids": [..], "response_ids": [..]}, a
    /// batch for each step.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Timed steps, after one that is not counted.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// How rows go together in a forward pass.
    #[arg(long, default_value = "length", value_parser = parse_batching)]
    batching: Batching,
    /// Learning rate.
    #[arg(long, default_value_t = 1e-5)]
    lr: f64,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

fn parse_batching(name: &str) -> Result<Batching, String> {
    serde_json::from_value(name.into()).map_err(|_| "expected padded, length or packed".to_owned())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt_ids: Vec<u32>,
    response_ids: Vec<u32>,
}

impl SftBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        at_least_one(&[
            ("batch-size", self.batch),
            ("prompt-len", self.prompt_len),
            ("new-tokens", self.new_tokens),
            ("steps", self.steps),
        ])?;
        let options = self.placement.options()?;
        let folder = model::folder(&self.policy, None)?;
        let policy = LanguageModel::load(&folder, options)?;
        tch::manual_seed(self.seed);
        let rows = self.rows(policy.spec())?;
        let config = LearnConfig {
            batching: self.batching,
            microbatch_size: self.microbatch_size,
            optimizer: OptimizerConfig { lr: self.lr, ..OptimizerConfig::default() },
            ..LearnConfig::default()
        };
        let mut trainer =
            SftTrainer::new(&policy, &config, self.steps as u64 + 1).map_err(RunError::from)?;
        let mut seconds = 0.;
        let mut tokens = 0;
        let mut losses = Vec::new();
        for (i, batch) in rows.chunks(self.batch).take(self.steps + 1).enumerate() {
            let start = Instant::now();
            let stats = trainer.step(&batch.iter().collect::<Vec<_>>()).map_err(RunError::from)?;
            losses.push(stats.loss);
            if i > 0 {
                seconds += start.elapsed().as_secs_f64();
                tokens += stats.tokens;
            }
        }
        let steps = self.steps as f64;
        let step = seconds / steps;
        let tokens_per_s = tokens as f64 / seconds;
        Measured::default()
            .value("sec_per_step", step)
            .value("phases", json!({ "update": step }))
            .value("samples_per_s", self.batch as f64 * steps / seconds)
            .value("tokens_per_s", tokens_per_s)
            .value("loss", losses.first().copied())
            .line("step", format!("{step:.4} s"))
            .line("tokens", format!("{tokens_per_s:.0} per s"))
            .print(self.json, options.device)
    }

    /// A batch for each step and one to warm up.
    fn rows(&self, spec: &LmSpec) -> Result<Vec<SftRow>, CliError> {
        let needed = self.batch * (self.steps + 1);
        let Some(path) = &self.input else {
            let prompts = random_rows(needed, self.prompt_len, spec.vocab_size);
            let responses = random_rows(needed, self.new_tokens, spec.vocab_size);
            return Ok(prompts
                .into_iter()
                .zip(responses)
                .map(|(p, r)| SftRow::new(p, r))
                .collect());
        };
        let rows: Vec<Row> = rows_of_ids(path, "`prompt_ids`, `response_ids`", needed)?;
        Ok(rows.into_iter().map(|row| SftRow::new(row.prompt_ids, row.response_ids)).collect())
    }
}
