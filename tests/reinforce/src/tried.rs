//! The policy learns, and a resumed run equals an uninterrupted one.

use std::{error::Error, fs, path::Path};

use rlaif_rl::core::{RewardModel, Seed};
use rlaif_rl::lm::{Policy, generate::GenerationConfig};
use rlaif_rl::train::{
    Batches, Ending, FitConfig, FitPlan, Interrupt, Keep, Optimizer, OptimizerConfig, RunFolder,
    TrainError, drive,
};
use rlaif_rl::{RlTask, StopConfig};
use serde_json::Value;

use crate::{Reinforce, letters};

/// The rows of metrics.jsonl without what two runs of one seed do not share.
fn rows(metrics: &str) -> Result<Vec<Value>, serde_json::Error> {
    let row = |line| {
        let mut row: serde_json::Map<String, Value> = serde_json::from_str(line)?;
        row.retain(|name, _| !name.starts_with("time"));
        Ok(Value::Object(row))
    };
    metrics.lines().map(row).collect()
}

pub fn check() -> Result<(), Box<dyn Error>> {
    let interrupt = Interrupt::install()?;
    let place = tempfile::tempdir()?;
    let [whole, halved] = ["whole", "halved"].map(|name| place.path().join(name));
    let whole = rows(&train(&whole, 30, &interrupt)?)?;
    train(&halved, 15, &interrupt)?;
    assert_eq!(rows(&train(&halved, 30, &interrupt)?)?, whole);

    let score = |row: &Value| row["env/reward_mean"].as_f64().unwrap_or(f64::NAN);
    let (first, last) = (score(&whole[0]), score(&whole[29]));
    println!("the share of vowels rose from {first:.2} to {last:.2}");
    assert!(last > first + 0.3);
    Ok(())
}

/// Every prompt in every step.
struct All(usize);

impl Batches for All {
    fn batch(&mut self, _: u64) -> Result<Vec<usize>, TrainError> {
        Ok((0..self.0).collect())
    }

    fn fingerprint(&self) -> u64 {
        self.0 as u64
    }
}

/// The metrics of a run of `steps` steps in a folder, from its beginning or from its newest checkpoint.
fn train(folder: &Path, steps: u64, interrupt: &Interrupt) -> Result<String, Box<dyn Error>> {
    let keep = Keep { newest: 1, best: None };
    let (mut run, saved) = match folder.join("run.toml").exists() {
        true => RunFolder::resume(folder, keep)?,
        false => (RunFolder::create(folder, "", keep)?, None),
    };
    let policy = letters::policy()?;
    let config = OptimizerConfig { lr: 0.02, ..OptimizerConfig::default() };
    let optimizer = Optimizer::new(policy.parameters().trainable(), &config, 30)?;
    let generation = GenerationConfig { max_new_tokens: 8, ..GenerationConfig::default() };
    let (prompts, seed) = (letters::prompts(), Seed::new(4));
    let (codec, reward): (_, &dyn RewardModel) = (&letters::Letters, &letters::vowels);
    let stop = StopConfig::default();
    let trainer = Reinforce { policy, optimizer, generation, stop, seed, step: 0 };
    let mut task = RlTask::new(trainer, &prompts, codec, reward).samples(1);
    let plan = FitPlan { config: &FitConfig::default(), total_steps: steps, seed, interrupt };
    let ending = drive(&mut task, &mut All(prompts.len()), &mut run, saved.as_ref(), &plan)?;
    assert_eq!(ending, Ending::Finished);
    assert_eq!(fs::read_to_string(folder.join("samples.jsonl"))?.lines().count() as u64, steps);
    Ok(fs::read_to_string(folder.join("metrics.jsonl"))?)
}
