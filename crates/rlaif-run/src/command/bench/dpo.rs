//! Optimizer steps of DPO.

use std::{path::PathBuf, time::Instant};

use rlaif_dpo::{DpoConfig, DpoTrainer, PromptForward, Reference, TokenPair};
use rlaif_lm::{Activations, Policy};
use rlaif_models::LanguageModel;
use serde::Deserialize;
use serde_json::json;

use super::measured::{Measured, Meter, TimedSteps, rows_of_ids};
use crate::command::error::{CommandError, at_least_one};

/// Source of the reference's log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceFrom {
    /// Computed in every step by a second model.
    Live,
    /// Computed before the timed steps, without a second model in memory.
    Cached,
}

/// Seconds per optimizer step of DPO on pairs.
#[derive(Debug, Clone)]
pub struct DpoBench {
    /// The policy, and the steps.
    pub timed: TimedSteps,
    /// Tokens per prompt.
    pub prompt_len: usize,
    /// Tokens per response.
    pub new_tokens: usize,
    /// Pairs in the order of training, instead of random ones: JSON Lines of prompt_ids, chosen_ids
    /// and rejected_ids.
    pub input: Option<PathBuf>,
    /// Source of the reference's log-probabilities.
    pub reference: ReferenceFrom,
    /// Sharing of a pair's prompt computation.
    pub prompt_forward: PromptForward,
    /// Activations of the forward pass.
    pub activations: Activations,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdRow {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

impl DpoBench {
    /// Measures the steps.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        at_least_one(&[("prompt_len", self.prompt_len), ("new_tokens", self.new_tokens)])?;
        let setup = self.timed.check()?;
        let (policy, options) = (setup.policy()?, setup.options);
        let rows = self.rows(&policy)?;
        let kind = policy.spec().kind;
        let reference = match self.reference {
            ReferenceFrom::Live => Reference::frozen(setup.files.language_model(options)?),
            ReferenceFrom::Cached => Reference::Given,
        };
        let config = DpoConfig {
            microbatch_size: self.timed.microbatch_size,
            activations: self.activations,
            prompt_forward: self.prompt_forward,
            ..DpoConfig::default()
        };
        let mut trainer = DpoTrainer::new(policy, reference, config, self.timed.steps as u64 + 1)?;
        let given = (self.reference == ReferenceFrom::Cached)
            .then(|| trainer.reference_of_pairs(&rows, None))
            .transpose()?;

        let (mut of_reference, mut of_update, mut tokens) = (0., 0., 0);
        let mut meter = Meter::default();
        for (step, batch) in rows.chunks(self.timed.batch_size).enumerate() {
            let timed = meter.step(step, || {
                let start = Instant::now();
                let sums = match &given {
                    Some(all) => all.rows()[step * self.timed.batch_size..][..batch.len()].to_vec(),
                    None => trainer.reference_of_pairs(batch, None)?.rows().to_vec(),
                };
                let reference = start.elapsed().as_secs_f64();
                let batch: Vec<&TokenPair> = batch.iter().collect();
                Ok((reference, trainer.update_pairs(&batch, Some(&sums))?.tokens))
            })?;
            if let Some(((reference, read), seconds)) = timed {
                of_reference += reference;
                of_update += seconds - reference;
                tokens += read;
            }
        }
        let measured = self.report(of_reference, of_update, tokens);
        measured.shares(&meter, kind, options.device)?.finish(options.device)
    }

    /// The pairs of the warm-up step and of the timed steps.
    fn rows(&self, policy: &LanguageModel) -> Result<Vec<TokenPair>, CommandError> {
        let count = self.timed.rows();
        let row = |prompt, chosen, rejected| TokenPair {
            id: String::new(),
            prompt,
            chosen,
            rejected,
            margin: None,
        };
        let Some(path) = &self.input else {
            let lengths = [self.new_tokens, self.new_tokens, self.prompt_len];
            let [chosen, rejected, prompts] =
                self.timed.random(lengths, policy.spec().vocab_size)?;
            let responses = chosen.into_iter().zip(rejected);
            return Ok(prompts
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

    fn report(&self, of_reference: f64, of_update: f64, tokens: u64) -> Measured {
        let steps = self.timed.steps as f64;
        let sec_per_step = (of_reference + of_update) / steps;
        let (reference, update) = (of_reference / steps, of_update / steps);
        let pairs = self.timed.batch_size as f64 / sec_per_step;
        Measured::default()
            .value("sec_per_step", sec_per_step)
            .value("phases", json!({ "reference": reference, "update": update }))
            .value("samples_per_s", pairs)
            .value("tokens_per_s", tokens as f64 / (of_reference + of_update))
            .line("step", format!("{sec_per_step:.4} s"))
            .line("  reference", format!("{reference:.4} s"))
            .line("  update", format!("{update:.4} s"))
            .line("pairs", format!("{pairs:.2} /s"))
    }
}
