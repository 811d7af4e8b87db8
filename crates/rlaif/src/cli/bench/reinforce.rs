//! `rlaif bench reinforce`.

use std::time::Instant;

use clap::Args;
use rlaif_core::{Exchange, PromptRecord, Seed};
use rlaif_lm::{
    Draw, LmError, Policy, Sampled, Sampler, Weights,
    generate::{Ask, GenerationConfig, Hooks},
    respond,
};
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_reinforce::{DynamicSampling, NamedAlgorithm, ReinforceConfig, ReinforceTrainer};
use rlaif_rl::Prompt;
use rlaif_run::RunError;
use rlaif_torch::Work;

use super::rl::{Phases, RlSteps, Times};
use crate::cli::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct ReinforceBench {
    #[command(flatten)]
    shared: RlSteps,
    /// The algorithm, by its name in run files; without dynamic sampling.
    #[arg(long, default_value = "grpo", value_parser = algorithm)]
    algorithm: NamedAlgorithm,
    /// Responses to each prompt.
    #[arg(long, default_value_t = 4)]
    group_size: usize,
    /// Responses per optimizer step; 0 for all responses of the step.
    #[arg(long, alias = "minibatch", default_value_t = 0)]
    minibatch_size: usize,
    /// Passes of an update over the rollout.
    #[arg(long, default_value_t = 1)]
    epochs: usize,
}

fn algorithm(name: &str) -> Result<NamedAlgorithm, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// Samples ids, and decodes none.
struct Ids;

impl Sampler for Ids {
    fn sample(
        &mut self,
        weights: Weights<'_>,
        asks: &[Ask],
        how: &GenerationConfig,
        draw: Draw,
    ) -> Result<Vec<Sampled>, LmError> {
        respond(weights, asks, how, draw, Hooks::default())
    }
}

impl ReinforceBench {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        self.shared.run(|options| self.timed(options))
    }

    fn timed(&self, options: LoadOptions) -> Result<(), CliError> {
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
            let (start, before) = (Instant::now(), Work::so_far());
            let (_, stats) = trainer
                .step(&prompts, &mut std::iter::empty(), &mut Ids, &reward)
                .map_err(RunError::from)?;
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

    fn trainer(&self, options: LoadOptions) -> Result<ReinforceTrainer<LanguageModel>, CliError> {
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
            activations: self.shared.activations(),
            seed: Seed::new(self.shared.seed),
            ..ReinforceConfig::default()
        };
        config.check().map_err(RunError::from)?;
        let penalised = config.settings().combination.objective.needs_reference();
        let (policy, reference) = self.shared.policy(options, penalised)?;
        Ok(ReinforceTrainer::new(policy, reference, config).map_err(RunError::from)?)
    }
}
