//! REINFORCE with the mean of the batch as its baseline, a custom algorithm: `rlaif-rl` has
//! the rollout, the rewards, the loss and the task, `rlaif-train` the loop with its checkpoints,
//! metrics and samples.

mod letters;
mod tried;

use rlaif_rl::core::{RewardModel, Seed};
use rlaif_rl::lm::{
    Draw, Forward, Policy, Reference, Sampler, SamplerCall, Weights, generate::GenerationConfig,
    policy_log_probs,
};
use rlaif_rl::tch::{Tensor, no_grad};
use rlaif_rl::train::{
    Advantages, CheckpointFiles, KlControl, KlEstimator, Optimizer, Saved, TrainError,
};
use rlaif_rl::{
    Advantage, AdviceKeys, Asking, Average, Plan, Prompt, RlError, RlStep, RlTrainer, Rollout,
    RunningMoments, ScoreConfig, StopConfig, Surrogate, Watched, passes, permutation,
    restore_policy, rollout_statistics, sample, save_policy, score, score_tensor, token_rewards,
};

/// The return of a response less the mean of the batch, at each of its tokens.
struct BatchBaseline;

impl Advantage for BatchBaseline {
    fn of(&self, rollout: &Rollout, rewards: &Tensor) -> Result<Advantages, RlError> {
        let sums = rollout.mask.row_sums(rewards).unsqueeze(1);
        let spread = |x: &Tensor| rollout.mask.apply(&x.expand_as(rewards));
        let advantages = spread(&(&sums - sums.mean(None)));
        Ok(Advantages::new(advantages, spread(&sums)))
    }
}

/// REINFORCE of a policy, without a reference: one gradient step on each batch of responses.
struct Reinforce<P> {
    policy: P,
    optimizer: Optimizer,
    generation: GenerationConfig,
    stop: StopConfig,
    seed: Seed,
    step: u64,
}

impl<P: Policy> Reinforce<P> {
    /// Responses to some prompts, with their scores and log-probabilities.
    fn rollout(
        &self,
        prompts: &[Prompt],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<Rollout, RlError> {
        let weights = Weights { version: self.step, ..Weights::of(&self.policy) };
        let draw = Draw { seed: self.seed, step: self.step };
        let call = SamplerCall { weights, how: &self.generation, draw };
        let sampled = sample(sampler, prompts, call)?;
        let scores = score(prompts, &sampled, reward)?;
        let order = permutation(prompts.len(), self.seed.derive("order", self.step));
        let plan = Plan {
            step: self.step,
            scores: &ScoreConfig::default(),
            moments: &mut RunningMoments::default(),
            chunks: passes(&order, |row| sampled[row].ids.len(), 16),
            orders: vec![order],
            seconds: Vec::new(),
        };
        let asking = Asking {
            policy: &self.policy,
            forward: Forward::default(),
            critic: None,
            reference: &Reference::Given,
            estimator: KlEstimator::K1,
            temperature: self.generation.sampling.temperature(),
            keep: None,
            world: self.optimizer.world(),
        };
        Rollout::ask(&asking, prompts, sampled, (reward.name(), &scores), plan)
    }

    /// One gradient step, in passes of 16 responses; the norm of the gradient.
    fn learn(&mut self, rollout: &Rollout) -> Result<f64, RlError> {
        let scores = score_tensor(&rollout.shaped_scores, rollout.kl.device());
        let rewards = token_rewards(&scores, &rollout.kl, 0., &rollout.mask);
        let advantages = BatchBaseline.of(rollout, &rewards)?;
        let all = &rollout.orders[0];
        for rows in passes(all, |row| rollout.responses.rows()[row].len(), 16) {
            let part = rollout.part(&advantages, &rows)?;
            let (x, y) = (&part.prompts, &part.responses);
            let found = policy_log_probs(&self.policy, x, y, Forward::default(), 1.)?;
            let loss =
                Surrogate::Reinforce.loss(&found.log_probs, &part.log_probs, &part.advantages);
            let average = Average::Responses;
            let share = average.weight(rollout, &rows) / average.weight(rollout, all);
            (average.of(&loss.loss, &part.mask) * share).backward();
        }
        self.step += 1;
        Ok(self.optimizer.step()?.grad_norm)
    }
}

impl<P: Policy> RlTrainer for Reinforce<P> {
    const SECTION: &'static str = "reinforce";

    fn step_on(
        &mut self,
        prompts: &[Prompt],
        rows: &[usize],
        sampler: &mut dyn Sampler,
        reward: &dyn RewardModel,
    ) -> Result<RlStep, RlError> {
        let prompts: Vec<Prompt> = rows.iter().map(|&row| prompts[row].clone()).collect();
        let rollout = self.rollout(&prompts, sampler, reward)?;
        let grad_norm = self.learn(&rollout)?;
        let mut stats = no_grad(|| rollout_statistics(&rollout, 0.));
        stats.step = self.step;
        stats.push("grad_norm", grad_norm);
        Ok(RlStep { rollout: Some(rollout), stats, notes: Vec::new() })
    }

    fn watched(&self) -> Watched<'_> {
        let (kl, generation) = (KlControl::Fixed { coef: 0. }, &self.generation);
        Watched { kl, batch_size: 32, generation, keys: AdviceKeys::default() }
    }

    fn stop_rules(&self) -> &StopConfig {
        &self.stop
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        save_policy(files, &self.policy, &self.optimizer)?;
        files.json("reinforce", &(self.step, self.optimizer.progress()))
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), RlError> {
        let (step, progress) = saved.json("reinforce")?;
        self.step = step;
        restore_policy(saved, &self.policy, &mut self.optimizer, progress)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif_rl::torch::init()?;
    tried::check()
}
