//! Steps of GRPO and its family.

use std::time::Instant;

use rlaif_core::{Exchange, PromptRecord, Seed};
use rlaif_lm::{
    LmError, Policy, Sampled, Sampler, SamplerCall,
    generate::{Ask, Hooks},
    respond,
};
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_reinforce::{DynamicSampling, NamedAlgorithm, ReinforceConfig, ReinforceTrainer};
use rlaif_rl::Prompt;
use rlaif_torch::WorkOfProducts;

use super::{
    measured::Measured,
    rl::{Phases, RlSteps, Times},
};
use crate::command::error::CommandError;

/// Seconds per step of GRPO and its family: generation of groups, scoring, and the update.
#[derive(Debug, Clone)]
pub struct ReinforceBench {
    /// The policy, and the steps.
    pub shared: RlSteps,
    /// The algorithm, without dynamic sampling.
    pub algorithm: NamedAlgorithm,
    /// Responses to each prompt.
    pub group_size: usize,
    /// Responses per optimizer step; 0 for all responses of the step.
    pub minibatch_size: usize,
    /// Passes of an update over the rollout.
    pub epochs: usize,
}

/// Samples ids, and decodes none.
struct Ids;

impl Sampler for Ids {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        respond(asks, call, Hooks::default())
    }
}

impl ReinforceBench {
    /// Measures the steps.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        self.shared.run(|options| self.timed(options))
    }

    fn timed(&self, options: LoadOptions) -> Result<Measured, CommandError> {
        let mut trainer = self.trainer(options)?;
        let spec = trainer.policy().spec().clone();
        let scores: Vec<f32> = self.shared.scores().into_iter().map(|score| score as f32).collect();
        let reward = move |batch: &[Exchange<'_>]| scores[..batch.len()].to_vec();
        let mut times = Times::default();
        for step in 0..=self.shared.steps {
            let count = trainer.config().prompts_per_step();
            let prompts = self.shared.prompts(step, count, &spec)?.into_iter().enumerate();
            let prompts: Vec<Prompt> = prompts
                .map(|(row, ids)| Prompt::new(PromptRecord::new(format!("{step}-{row}"), ""), ids))
                .collect();
            let (start, before) = (Instant::now(), WorkOfProducts::so_far());
            let (_, stats) = trainer.step(&prompts, &mut std::iter::empty(), &mut Ids, &reward)?;
            // The first step is a warm-up.
            if step == 0 {
                continue;
            }
            let whole = start.elapsed().as_secs_f64();
            let of = |phase| (phase, stats.get(&format!("time/ppo/{phase}")));
            let (generate, reward) = (of("generate"), of("reward"));
            let phases: Phases = vec![generate, reward, ("update", whole - generate.1 - reward.1)];
            times.add(before, &phases, &vec![of("forward_pass"), of("optimize_step")]);
        }
        self.shared.report(&times, &spec)
    }

    fn trainer(
        &self,
        options: LoadOptions,
    ) -> Result<ReinforceTrainer<LanguageModel>, CommandError> {
        let config = ReinforceConfig {
            algorithm: self.algorithm,
            steps: self.shared.steps + 1,
            batch_size: self.shared.batch_size,
            group_size: Some(self.group_size),
            minibatch_size: (self.minibatch_size > 0).then_some(self.minibatch_size),
            microbatch_size: self.shared.microbatch_size,
            epochs: self.epochs,
            generation: self.shared.generation(),
            dynamic_sampling: Some(DynamicSampling { rounds: 0 }),
            activations: self.shared.activations,
            seed: Seed::new(self.shared.seed),
            ..ReinforceConfig::default()
        };
        config.check()?;
        let penalised = config.settings().combination.objective.needs_reference();
        let (policy, reference) = self.shared.policy(options, penalised)?;
        Ok(ReinforceTrainer::new(policy, reference, config)?)
    }
}
