//! Generation.

use rlaif_core::Seed;
use rlaif_lm::{
    Draw, Policy, SamplerCall, Weights,
    generate::{Ask, Eos, GenerationConfig, Hooks, Sampling},
    respond,
};
use rlaif_torch::seeded;
use serde_json::json;

use super::{
    lengths::BenchLengths,
    measured::{Measured, Meter, median, random_rows},
};
use crate::command::{
    error::{CommandError, at_least_one},
    model::ModelChoice,
};

/// Responses of fixed length to random prompts.
#[derive(Debug, Clone)]
pub struct GenerateBench {
    /// The policy.
    pub model: ModelChoice,
    /// Rows decoded together.
    pub batch_size: usize,
    /// Prompts of one call; by default, as many as are decoded together.
    pub rows: Option<usize>,
    /// Lengths of the prompts in tokens.
    pub prompt_len: BenchLengths,
    /// Lengths of the responses in tokens; end of sequence is ignored.
    pub new_tokens: BenchLengths,
    /// The choice of tokens.
    pub sampling: Sampling,
    /// Penalty on the logits of tokens that occurred; 1 disables it.
    pub repetition_penalty: f64,
    /// Timed calls, after one untimed call.
    pub steps: usize,
    /// Seed of ids, lengths and draws.
    pub seed: u64,
}

impl GenerateBench {
    /// Measures the calls.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        let count = self.rows.unwrap_or(self.batch_size);
        at_least_one(&[("batch_size", self.batch_size), ("rows", count), ("steps", self.steps)])?;
        let options = self.model.loading.options()?;
        let policy = self.model.files()?.language_model(options)?;
        let seed = Seed::new(self.seed);
        let prompts = self.prompt_len.of("prompt-len", count, seed)?;
        let limits = self.new_tokens.of("new-tokens", count, seed)?;
        let ask = |(id, (&length, &limit)): (u64, (&usize, &usize))| {
            let prompt = random_rows(1, length, policy.spec().vocab_size).remove(0);
            Ask { id, prompt, max_new_tokens: Some(limit) }
        };
        let asks = || (0..).zip(prompts.iter().zip(&limits)).map(ask).collect();
        let rows: Vec<Ask> = seeded(self.seed.cast_signed(), asks)?;
        let config = GenerationConfig {
            sampling: self.sampling,
            repetition_penalty: self.repetition_penalty,
            eos: Eos::Ignored,
            batch_size: self.batch_size,
            ..GenerationConfig::default()
        };
        let tokens: usize = limits.iter().sum();
        let mut seconds = Vec::with_capacity(self.steps);
        let mut meter = Meter::default();
        for step in 0..=self.steps {
            let (weights, draw) = (Weights::of(&policy), Draw { seed, step: step as u64 });
            let call = SamplerCall { weights, how: &config, draw };
            let timed = meter.step(step, || Ok(respond(&rows, call, Hooks::default())?))?;
            seconds.extend(timed.map(|(_, seconds)| seconds));
        }
        let second = median(seconds);
        let (rows, tokens) = (count as f64 / second, tokens as f64 / second);
        Measured::default()
            .value("sec_per_step", second)
            .value("phases", json!({ "generate": second }))
            .value("samples_per_s", rows)
            .value("tokens_per_s", tokens)
            .line("per call", format!("{second:.4} s"))
            .line("responses/s", format!("{rows:.1}"))
            .line("tokens/s", format!("{tokens:.0}"))
            .shares(&meter, policy.spec().kind, options.device)?
            .finish(options.device)
    }
}
