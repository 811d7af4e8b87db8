//! Checks of training: steps of PPO, repeated and resumed.

use rlaif_core::Seed;
use rlaif_lm::{Draw, Policy, ValueHead, ValueInit};
use rlaif_models::{LanguageModel, LoadOptions, Lora, ModelFiles, PolicySetup};
use rlaif_ppo::{PpoConfig, PpoTrainer};
use rlaif_torch::seeded;
use rlaif_train::{Checkpoints, Keep, OptimizerConfig};
use tch::{Device, Tensor};

use super::{
    check::Check,
    policy::{Tell, generation},
    settings::{Trained, Verification},
};
use crate::{
    command::{error::CommandError, ids::responses_to},
    error::RunError,
};

/// Steps of the whole run; a resumed run stops after the first.
const STEPS: u64 = 2;

/// Runs the checks.
pub(super) fn checks(
    verification: &Verification,
    files: &ModelFiles,
    options: LoadOptions,
    tell: Tell<'_>,
) -> Result<(), CommandError> {
    let run = Run { verification, files, options };
    let check =
        |name, about, largest, unit| Check { name, about, largest, bound: 0., unit, note: None };
    let ratio = "policy before the first update, and after the rollout";
    let repeated = "weights after the same two steps of PPO, twice";
    let resumed = "weights after two steps of PPO, and after one, a checkpoint and another";
    let away = "distance of a ratio from 1";
    let tensors = "tensors that differ";
    if verification.trained == Trained::Nothing {
        for (name, about, unit) in [
            ("first_ratio", ratio, away),
            ("repeated_training", repeated, tensors),
            ("resumed_training", resumed, tensors),
        ] {
            let note = Some("training is left out".to_owned());
            tell(Check { note, ..check(name, about, None, unit) });
        }
        return Ok(());
    }
    let mut trainer = run.trainer()?;
    let first = run.step(&mut trainer)?;
    tell(check("first_ratio", ratio, Some(first), away));
    run.step(&mut trainer)?;
    let want = weights(&trainer);
    // One trainer is in memory at a time.
    drop(trainer);

    let mut trainer = run.trainer()?;
    for _ in 0..STEPS {
        run.step(&mut trainer)?;
    }
    tell(check("repeated_training", repeated, Some(differing(&weights(&trainer), &want)), tensors));
    drop(trainer);

    let mut trainer = run.trainer()?;
    run.step(&mut trainer)?;
    let scratch = tempfile::tempdir()
        .map_err(|source| RunError::Write { path: std::env::temp_dir(), source })?;
    let mut checkpoints = Checkpoints::open(scratch.path(), Keep { newest: 1, best: None })
        .map_err(RunError::from)?;
    checkpoints.write(1, None, |files| trainer.save(files)).map_err(RunError::from)?;
    drop(trainer);
    let mut trainer = run.trainer()?;
    let found = checkpoints.newest_valid().map_err(RunError::from)?;
    let largest = match found.saved {
        Some(saved) => {
            trainer.restore(&saved).map_err(RunError::from)?;
            run.step(&mut trainer)?;
            differing(&weights(&trainer), &want)
        }
        // No checkpoint can be read back.
        None => f64::INFINITY,
    };
    tell(check("resumed_training", resumed, Some(largest), tensors));
    Ok(())
}

struct Run<'a> {
    verification: &'a Verification,
    files: &'a ModelFiles,
    options: LoadOptions,
}

impl Run<'_> {
    fn seed(&self) -> Seed {
        Seed::new(self.verification.seed)
    }

    /// A trainer before its first step. Each step has one optimizer step over all rows, so that the
    /// policy of the pass with gradients is that of the rollout.
    fn trainer(&self) -> Result<PpoTrainer<LanguageModel>, CommandError> {
        let lora = match (self.verification.trained, &self.files.adapter) {
            (Trained::Lora(rank), None) => Some(Lora::new("verify", rank)),
            (Trained::Lora(_), Some(_)) | (Trained::Nothing | Trained::All, _) => None,
        };
        let rows = self.verification.rows;
        let config = PpoConfig {
            steps: STEPS,
            batch_size: rows,
            minibatch_size: rows,
            microbatch_size: rows.div_ceil(2),
            epochs: 1,
            generation: generation(self.verification.new_tokens, rows),
            // Large enough for every dtype: a step that rounds away would resume to the bit in vain.
            optimizer: OptimizerConfig { lr: 1e-2, ..PpoConfig::default().optimizer },
            seed: self.seed(),
            ..PpoConfig::default()
        };
        let load = || -> Result<_, CommandError> {
            let setup = PolicySetup { lora, ..PolicySetup::new(self.files.clone(), self.options) };
            let (policy, reference) = setup.load().map_err(RunError::from)?;
            let spec = policy.spec();
            let head = ValueHead::new(spec.hidden_size, ValueInit::PyTorch, spec.device);
            Ok(PpoTrainer::new(policy, head, reference, config).map_err(RunError::from)?)
        };
        seeded(self.seed().for_libtorch("init"), load)?
    }

    /// Makes a step on random scores; returns the largest distance from 1 of the ratios between the
    /// updated and the sampling policy, the first of which is taken before any update.
    fn step(&self, trainer: &mut PpoTrainer<LanguageModel>) -> Result<f64, CommandError> {
        let prompts =
            self.verification.ids(trainer.policy().spec(), self.verification.new_tokens)?;
        let draw = Draw { seed: self.seed(), step: trainer.steps_done() };
        let how = &trainer.config().generation;
        let sampled = responses_to(trainer.policy(), &prompts, 0, how, draw)?;
        let responses = sampled.into_iter().map(|row| row.ids).collect();
        let step = self.seed().derive("score", trainer.steps_done());
        let score = |row| step.derive("row", row).get() as f64 / u64::MAX as f64;
        let scores: Vec<f64> = (0..prompts.len() as u64).map(score).collect();
        let stats = trainer
            .rollout_of(prompts, responses, &scores)
            .and_then(|rollout| {
                let advantages = trainer.advantages(&rollout)?;
                trainer.update(&rollout, &advantages)
            })
            .map_err(RunError::from)?;
        let ratios = stats.distributions.iter().find(|(name, _)| *name == "ppo/policy/ratio");
        let ratios = ratios.map_or(&[][..], |(_, ratios)| ratios);
        let far = |most: f64, ratio: &f64| {
            let one = (ratio - 1.).abs();
            if one.is_nan() || one > most { one } else { most }
        };
        Ok(ratios.iter().fold(if ratios.is_empty() { f64::NAN } else { 0. }, far))
    }
}

/// The trained tensors of policy and value function, on the CPU.
fn weights(trainer: &PpoTrainer<LanguageModel>) -> Vec<Tensor> {
    let value = trainer.value().parameters().trainable();
    let policy = trainer.policy().parameters().trainable();
    let copy = |(_, tensor): &(String, Tensor)| tensor.detach().to_device(Device::Cpu).copy();
    policy.iter().chain(&value).map(copy).collect()
}

/// Tensors that differ.
fn differing(got: &[Tensor], want: &[Tensor]) -> f64 {
    let other = got.iter().zip(want).filter(|(a, b)| !a.equal(b)).count();
    (other + got.len().abs_diff(want.len())) as f64
}
