//! REINFORCE with the mean of the batch as its baseline, an algorithm of one's own: `rlaif-rl` has
//! the rollout, the rewards and the loss, `rlaif-train` the loop with its checkpoints, metrics and
//! samples.

mod letters;
mod tried;

use rlaif_rl::core::{Metrics, RewardModel, Seed, TextCodec};
use rlaif_rl::lm::{
    Draw, Forward, LocalSampler, Policy, Reference, Weights, generate::GenerationConfig,
    policy_log_probs,
};
use rlaif_rl::tch::{Tensor, no_grad};
use rlaif_rl::train::{
    Advantages, CheckpointFiles, Fit, KlEstimator, Optimizer, Saved, Stepped, TrainError,
    restore_parameters,
};
use rlaif_rl::{
    Advantage, Asking, Average, Plan, Prompt, RlError, Rollout, RunningMoments, ScoreConfig,
    Surrogate, passes, permutation, rollout_statistics, sample, score, score_tensor, token_rewards,
};

/// The return of a response less the mean of the batch, at each of its tokens.
struct BatchBaseline;

impl Advantage for BatchBaseline {
    fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError> {
        let sums = rollout.mask.row_sums(rewards).unsqueeze(1);
        let spread = |x: &Tensor| rollout.mask.apply(&x.expand_as(rewards));
        let advantages = spread(&(&sums - sums.mean(None)));
        Ok(Advantages { advantages, returns: spread(&sums) })
    }
}

/// REINFORCE of a policy, without a reference: one gradient step on each batch of responses.
struct Reinforce<'a, P> {
    policy: P,
    optimizer: Optimizer,
    prompts: &'a [Prompt],
    codec: &'a dyn TextCodec,
    reward: &'a dyn RewardModel,
    generation: GenerationConfig,
    seed: Seed,
    step: u64,
}

impl<P: Policy> Reinforce<'_, P> {
    /// Responses to some prompts, with their scores and log-probabilities.
    fn rollout(&self, rows: &[usize]) -> Result<Rollout, RlError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| self.prompts[row].clone()).collect();
        let weights = Weights { version: self.step, ..Weights::of(&self.policy) };
        let draw = Draw { seed: self.seed, step: self.step };
        let mut sampler = LocalSampler::new(self.codec);
        let sampled = sample(&mut sampler, weights, &prompts, &self.generation, draw)?;
        let scores = score(&prompts, &sampled, self.reward)?;
        let order = permutation(rows.len(), self.seed.derive("order", self.step));
        let plan = Plan {
            step: self.step,
            scores: &ScoreConfig::default(),
            moments: &mut RunningMoments::default(),
            chunks: passes(&order, |row| sampled[row].ids.len(), 16),
            orders: vec![order],
            skipped: 0,
            seconds: Vec::new(),
        };
        let asking = Asking {
            policy: &self.policy,
            forward: Forward::default(),
            critic: None,
            reference: &Reference::Given,
            estimator: KlEstimator::K1,
            temperature: self.generation.sampling.temperature(),
        };
        Rollout::ask(&asking, &prompts, sampled, (self.reward.name(), &scores), plan)
    }

    /// One gradient step, in passes of 16 responses.
    fn learn(&mut self, rows: &[usize]) -> Result<Stepped, RlError> {
        let rollout = self.rollout(rows)?;
        let scores = score_tensor(&rollout.shaped_scores, rollout.kl.device());
        let rewards = token_rewards(&scores, &rollout.kl, 0., &rollout.mask);
        let advantages = BatchBaseline.of(&rollout, &rewards)?;
        let all = &rollout.orders[0];
        for rows in passes(all, |row| rollout.responses.rows()[row].len(), 16) {
            let part = rollout.part(&advantages, &rows)?;
            let (x, y) = (&part.prompts, &part.responses);
            let found = policy_log_probs(&self.policy, x, y, Forward::default(), 1.)?;
            let loss =
                Surrogate::Reinforce.loss(&found.log_probs, &part.log_probs, &part.advantages);
            let average = Average::Responses;
            let share = average.weight(&rollout, &rows) / average.weight(&rollout, all);
            (average.of(&loss.loss, &part.mask) * share).backward();
        }
        let report = self.optimizer.step()?;
        self.step += 1;
        let mut metrics: Metrics = no_grad(|| rollout_statistics(&rollout, 0., 0)).metrics;
        metrics.set("grad_norm", report.grad_norm);
        let samples = vec![serde_json::json!({
            "step": self.step, "prompt": rollout.records[0].prompt, "response": rollout.texts[0],
        })];
        Ok(Stepped { metrics, samples, ..Stepped::default() })
    }
}

impl<P: Policy> Fit for Reinforce<'_, P> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        Ok(self.learn(rows)?)
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        files.tensors("policy", &self.policy.parameters().trainable())?;
        files.tensors("optimizer", &self.optimizer.state())?;
        files.json("reinforce", &(self.step, self.optimizer.progress()))
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        let policy = self.policy.parameters().trainable();
        restore_parameters(&policy, &saved.tensors("policy")?, "the policy")?;
        let (step, progress) = saved.json("reinforce")?;
        self.step = step;
        self.optimizer.restore(&saved.tensors("optimizer")?, progress)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif_rl::torch::init()?;
    tried::check()
}
