//! `rlaif bench dpo`: seconds of one optimizer step of DPO.

use std::{path::PathBuf, time::Instant};

use clap::{Args, ValueEnum};
use rlaif_dpo::{DpoConfig, DpoTrainer, PairRow, Prompts, Reference};
use rlaif_lm::{Activations, Policy};
use rlaif_models::{LanguageModel, LoadOptions};
use serde::Deserialize;
use serde_json::json;

use super::common::{Measured, at_least_one, random_rows, rows_of_ids};
use crate::cli::{
    error::CliError,
    model::{self, Placement},
};

/// Where the reference's log-probabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReferenceFrom {
    /// Computed in every step by a second model.
    Live,
    /// Computed before, not counted, and no second model held.
    Cached,
}

/// How often a pair's prompt is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PromptsComputed {
    Shared,
    Twice,
}

#[derive(Debug, Args)]
pub(crate) struct DpoBench {
    /// Folder in Hugging Face's layout, or hub id, of the policy.
    #[arg(long)]
    policy: String,
    #[command(flatten)]
    placement: Placement,
    /// Pairs of one optimizer step.
    #[arg(long = "batch-size", alias = "batch", default_value_t = 8)]
    batch: usize,
    /// Pairs of one backward pass; 0 for all.
    #[arg(long, alias = "minibatch", default_value_t = 0)]
    microbatch_size: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 64)]
    prompt_len: usize,
    /// Tokens of each response.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Pairs in the order of training instead of random ones: JSON Lines of prompt_ids,
    /// chosen_ids and rejected_ids.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Timed steps, after one that is not counted.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Where the reference's log-probabilities come from.
    #[arg(long, value_enum, default_value_t = ReferenceFrom::Live)]
    reference: ReferenceFrom,
    /// How often a pair's prompt is computed.
    #[arg(long, value_enum, default_value_t = PromptsComputed::Shared)]
    prompts: PromptsComputed,
    /// Activations are computed again in the backward pass.
    #[arg(long)]
    recompute: bool,
    /// Seed of the token ids.
    #[arg(long, default_value_t = 1)]
    seed: i64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdRow {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

impl DpoBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        at_least_one(&[
            ("batch-size", self.batch),
            ("prompt-len", self.prompt_len),
            ("new-tokens", self.new_tokens),
            ("steps", self.steps),
        ])?;
        let options = self.placement.options()?;
        let folder = model::folder(&self.policy, None)?;
        let load = || LanguageModel::load(&folder, options);
        let policy = load()?;
        let rows = self.rows(&policy)?;
        let reference = match self.reference {
            ReferenceFrom::Live => Reference::frozen(load()?),
            ReferenceFrom::Cached => Reference::Given,
        };
        let config = DpoConfig {
            microbatch_size: self.microbatch_size,
            activations: if self.recompute { Activations::Recompute } else { Activations::Keep },
            prompts: match self.prompts {
                PromptsComputed::Shared => Prompts::Shared,
                PromptsComputed::Twice => Prompts::Twice,
            },
            ..DpoConfig::default()
        };
        let mut trainer = DpoTrainer::new(policy, reference, config, self.steps as u64 + 1)?;
        let given = (self.reference == ReferenceFrom::Cached)
            .then(|| trainer.reference_of_pairs(&rows, None))
            .transpose()?;

        let (mut of_reference, mut of_update, mut tokens) = (0., 0., 0);
        for (step, batch) in rows.chunks(self.batch).enumerate() {
            let start = Instant::now();
            let sums = match &given {
                Some(all) => all.rows()[step * self.batch..][..batch.len()].to_vec(),
                None => trainer.reference_of_pairs(batch, None)?.rows().to_vec(),
            };
            let middle = Instant::now();
            let batch: Vec<&PairRow> = batch.iter().collect();
            let stats = trainer.update_pairs(&batch, Some(&sums))?;
            if step > 0 {
                of_reference += (middle - start).as_secs_f64();
                of_update += middle.elapsed().as_secs_f64();
                tokens += stats.tokens;
            }
        }
        self.report(of_reference, of_update, tokens, options)
    }

    /// The pairs of the warm-up step and of the timed ones.
    fn rows(&self, policy: &LanguageModel) -> Result<Vec<PairRow>, CliError> {
        let count = self.batch * (self.steps + 1);
        let row = |prompt, chosen, rejected| PairRow {
            id: String::new(),
            prompt,
            chosen,
            rejected,
            margin: None,
        };
        let Some(path) = &self.input else {
            tch::manual_seed(self.seed);
            let of = |length| random_rows(count, length, policy.spec().vocab_size);
            let responses = of(self.new_tokens).into_iter().zip(of(self.new_tokens));
            return Ok(of(self.prompt_len)
                .into_iter()
                .zip(responses)
                .map(|(prompt, (chosen, rejected))| row(prompt, chosen, rejected))
                .collect());
        };
        let expected = "`prompt_ids`, `chosen_ids`, `rejected_ids`";
        let rows: Vec<IdRow> = rows_of_ids(path, expected, count)?;
        let pair = |of: IdRow| row(of.prompt_ids, of.chosen_ids, of.rejected_ids);
        Ok(rows.into_iter().map(pair).collect())
    }

    fn report(
        &self,
        of_reference: f64,
        of_update: f64,
        tokens: u64,
        options: LoadOptions,
    ) -> Result<(), CliError> {
        let steps = self.steps as f64;
        let sec_per_step = (of_reference + of_update) / steps;
        let (reference, update) = (of_reference / steps, of_update / steps);
        let pairs = self.batch as f64 / sec_per_step;
        Measured::default()
            .value("sec_per_step", sec_per_step)
            .value("phases", json!({ "reference": reference, "update": update }))
            .value("samples_per_s", pairs)
            .value("tokens_per_s", tokens as f64 / (of_reference + of_update))
            .line("step", format!("{sec_per_step:.4} s"))
            .line("  reference", format!("{reference:.4} s"))
            .line("  update", format!("{update:.4} s"))
            .line("pairs", format!("{pairs:.2} /s"))
            .print(self.json, options.device)
    }
}
