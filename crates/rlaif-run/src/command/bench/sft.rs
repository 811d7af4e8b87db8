//! Optimizer steps of supervised fine-tuning.

use std::path::PathBuf;

use rlaif_lm::{LmSpec, Policy};
use rlaif_train::{Batching, LearnConfig, OptimizerConfig, SftRow, SftTrainer};
use serde::Deserialize;
use serde_json::json;

use super::measured::{Measured, Meter, TimedSteps, rows_of_ids};
use crate::command::error::{CommandError, at_least_one};

/// Seconds per optimizer step of supervised fine-tuning.
#[derive(Debug, Clone)]
pub struct SftBench {
    /// The policy, and the steps.
    pub timed: TimedSteps,
    /// Tokens per prompt.
    pub prompt_len: usize,
    /// Tokens per response, all of which are learned.
    pub new_tokens: usize,
    /// Rows to use instead of random ones: JSON Lines of {"prompt_ids": [..], "response_ids":
    /// [..]}, one batch per step.
    pub input: Option<PathBuf>,
    /// Grouping of rows into forward passes.
    pub batching: Batching,
    /// Learning rate.
    pub lr: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt_ids: Vec<u32>,
    response_ids: Vec<u32>,
}

impl SftBench {
    /// Measures the steps.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        at_least_one(&[("prompt_len", self.prompt_len), ("new_tokens", self.new_tokens)])?;
        let setup = self.timed.check()?;
        let (policy, options) = (setup.policy()?, setup.options);
        let kind = policy.spec().kind;
        let rows = self.rows(policy.spec())?;
        let config = LearnConfig {
            batching: self.batching,
            microbatch_size: self.timed.microbatch_size,
            optimizer: OptimizerConfig { lr: self.lr, ..OptimizerConfig::default() },
            ..LearnConfig::default()
        };
        let mut trainer = SftTrainer::new(&policy, &config, self.timed.steps as u64 + 1)?;
        let mut seconds = 0.;
        let mut tokens = 0;
        let mut losses = Vec::new();
        let mut meter = Meter::default();
        for (i, batch) in rows.chunks(self.timed.batch_size).take(self.timed.steps + 1).enumerate()
        {
            let timed = meter.step(i, || {
                let stats = trainer.step(&batch.iter().collect::<Vec<_>>())?;
                losses.push(stats.loss);
                Ok(stats.tokens)
            })?;
            if let Some((read, took)) = timed {
                seconds += took;
                tokens += read;
            }
        }
        let steps = self.timed.steps as f64;
        let step = seconds / steps;
        let tokens_per_s = tokens as f64 / seconds;
        Measured::default()
            .value("sec_per_step", step)
            .value("phases", json!({ "update": step }))
            .value("samples_per_s", self.timed.batch_size as f64 * steps / seconds)
            .value("tokens_per_s", tokens_per_s)
            .value("loss", losses.first().copied())
            .line("step", format!("{step:.4} s"))
            .line("tokens", format!("{tokens_per_s:.0} per s"))
            .shares(&meter, kind, options.device)?
            .finish(options.device)
    }

    /// One batch for each step, and one for the warm-up.
    fn rows(&self, spec: &LmSpec) -> Result<Vec<SftRow>, CommandError> {
        let Some(path) = &self.input else {
            let lengths = [self.prompt_len, self.new_tokens];
            let [prompts, responses] = self.timed.random(lengths, spec.vocab_size)?;
            return Ok(prompts
                .into_iter()
                .zip(responses)
                .map(|(p, r)| SftRow::new(p, r))
                .collect());
        };
        let rows: Vec<Row> = rows_of_ids(path, "`prompt_ids`, `response_ids`", self.timed.rows())?;
        Ok(rows.into_iter().map(|row| SftRow::new(row.prompt_ids, row.response_ids)).collect())
    }
}
