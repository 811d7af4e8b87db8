//! Steps of PPO.

use std::time::Instant;

use rlaif_core::Seed;
use rlaif_lm::{
    Draw, Forward, Padding, Policy, SequenceClassifier, TokenBatch, ValueHead, ValueInit,
};
use rlaif_models::{Classifier, LanguageModel, LoadOptions};
use rlaif_ppo::{PpoConfig, PpoTrainer};
use rlaif_torch::WorkOfProducts;
use tch::{Device, Kind, no_grad};

use super::{
    measured::Measured,
    rl::{Phases, RlSteps, Times},
};
use crate::command::{error::CommandError, ids::responses_to, model::ModelChoice};

/// Seconds per step of PPO: generation, scoring, and the update.
#[derive(Debug, Clone)]
pub struct PpoBench {
    /// The policy, and the steps.
    pub shared: RlSteps,
    /// A classifier that scores the ids of responses. By default, scores are random.
    pub reward: Option<String>,
    /// Responses per optimizer step.
    pub minibatch_size: usize,
    /// Passes of an update over the rollout.
    pub epochs: usize,
}

impl PpoBench {
    /// Measures the steps.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        self.shared.run(|options| self.timed(options))
    }

    fn timed(&self, options: LoadOptions) -> Result<Measured, CommandError> {
        let reward = match &self.reward {
            Some(location) => Some(ModelChoice::new(location).files()?.classifier(options)?),
            None => None,
        };
        let mut trainer = self.trainer(options)?;
        let spec = trainer.policy().spec().clone();
        let mut times = Times::default();
        for step in 0..=self.shared.steps {
            let queries = self.shared.prompts(step, self.shared.batch_size, &spec)?;
            let before = WorkOfProducts::so_far();
            let (phases, details) = self.step(&mut trainer, reward.as_ref(), queries)?;
            // The first step is a warm-up.
            if step > 0 {
                times.add(before, &phases, &details);
            }
        }
        self.shared.report(&times, &spec)
    }

    fn trainer(&self, options: LoadOptions) -> Result<PpoTrainer<LanguageModel>, CommandError> {
        let (policy, reference) = self.shared.policy(options, true)?;
        let config = PpoConfig {
            steps: self.shared.steps + 1,
            batch_size: self.shared.batch_size,
            minibatch_size: self.minibatch_size,
            microbatch_size: self.shared.microbatch_size,
            epochs: self.epochs,
            generation: self.shared.generation(),
            activations: self.shared.activations,
            seed: Seed::new(self.shared.seed),
            ..PpoConfig::default()
        };
        let spec = policy.spec();
        let head = ValueHead::new(spec.hidden_size, ValueInit::Zero, spec.device);
        Ok(PpoTrainer::new(policy, head, reference, config)?)
    }

    /// Seconds of generation, of scoring, and of everything else; and of the parts of the latter.
    fn step(
        &self,
        trainer: &mut PpoTrainer<LanguageModel>,
        reward: Option<&Classifier>,
        queries: Vec<Vec<u32>>,
    ) -> Result<(Phases, Phases), CommandError> {
        let start = Instant::now();
        let draw = Draw { seed: trainer.config().seed, step: trainer.steps_done() };
        let how = &trainer.config().generation;
        let sampled = responses_to(trainer.policy(), &queries, 0, how, draw)?;
        let responses: Vec<Vec<u32>> = sampled.into_iter().map(|row| row.ids).collect();
        let generate_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let scores = match reward {
            Some(classifier) => score(classifier, &responses)?,
            None => self.shared.scores(),
        };
        let reward_s = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let rollout = trainer.rollout_of(queries, responses, &scores)?;
        let advantages = trainer.advantages(&rollout)?;
        let stats = trainer.update(&rollout, &advantages)?;
        let update_s = start.elapsed().as_secs_f64();
        let phases = [("generate", generate_s), ("reward", reward_s), ("update", update_s)];
        let details = [
            "forward_pass",
            "compute_rewards",
            "compute_advantages",
            "optimize_step",
            "calc_stats",
        ];
        let details = details.map(|phase| (phase, stats.get(&format!("time/ppo/{phase}"))));
        Ok((phases.to_vec(), details.to_vec()))
    }
}

/// The first logit of each response. The ids have no meaning for the classifier, because only time
/// counts here.
fn score(classifier: &Classifier, responses: &[Vec<u32>]) -> Result<Vec<f64>, CommandError> {
    let spec = classifier.spec();
    let vocab = u32::try_from(spec.vocab_size).unwrap_or(u32::MAX);
    let rows = responses.iter().map(|row| row.iter().map(|id| id % vocab).collect()).collect();
    let rows = TokenBatch::collate(rows, spec, Padding::Right)?;
    let logits = no_grad(|| classifier.logits(&rows, None, Forward::default()))?;
    let first = logits.select(1, 0).to_kind(Kind::Double).to_device(Device::Cpu);
    Ok(Vec::<f64>::try_from(first).expect("one logit per row"))
}
