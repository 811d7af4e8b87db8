//! The policy learns from fixed random weights, with three seeds each. With a learning rate of
//! 0 it does not learn.

use rlaif_core::{Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif_lm::{LocalSampler, generate::Eos};
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{KlForm, Prompt},
    train::OptimizerConfig,
};

use crate::common::{Family, Letters, alone, policy};

/// The first digit in the alphabet of [`Letters`]: `D` is 0.
const ZERO: u32 = 4;
const GROUP: usize = 8;
const STEPS: u64 = 60;

/// Two digits, to be answered by their sum modulo 10.
fn prompts(step: usize, n: usize) -> Vec<Prompt> {
    (0..n)
        .map(|i| {
            let draw = Seed::new(3).derive("prompt", (step * n + i) as u64).get();
            let ids = vec![ZERO + (draw % 3) as u32, ZERO + (draw >> 32) as u32 % 3];
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("{step}-{i}"), text), ids)
        })
        .collect()
}

/// 1 for the right sum.
fn right(batch: &[Exchange<'_>]) -> Vec<f32> {
    let digit = |c: u8| u32::from(c).wrapping_sub(u32::from('@') + ZERO);
    let score = |x: &Exchange<'_>| {
        let sum: u32 = x.prompt.bytes().map(digit).sum();
        f32::from(u8::from(x.response.bytes().next().map(digit) == Some(sum)))
    };
    batch.iter().map(score).collect()
}

/// The mean scores of the first and of the last five steps.
fn run(algorithm: NamedAlgorithm, family: Family, seed: u64, lr: f64) -> (f64, f64) {
    let mut config = ReinforceConfig {
        algorithm,
        steps: STEPS,
        batch_size: 128,
        group_size: Some(if algorithm == NamedAlgorithm::ReinforcePlusPlus { 1 } else { GROUP }),
        kl: Some(KlForm::None),
        overlong: Some(rlaif_reinforce::rl::Overlong { limit: 1, buffer: 0 }),
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let mut trainer = ReinforceTrainer::new(policy(family, 21), Reference::Given, config).unwrap();
    let mut scores = Vec::new();
    for step in 0..STEPS as usize {
        let n = trainer.config().prompts_per_step();
        let mut spare = prompts(1000 + step, 64).into_iter();
        let mut sampler = LocalSampler::new(&Letters);
        let (experience, _) =
            trainer.step(&prompts(step, n), &mut spare, &mut sampler, &right).unwrap();
        // The mean is over all prompts, not over those that dynamic sampling kept.
        let scored = experience.map(|experience| {
            let kept = experience.rollout.scores.iter().flatten().sum::<f64>();
            kept / experience.rollout.len() as f64
        });
        scores.extend(scored);
    }
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    (mean(&scores[..5]), mean(&scores[scores.len() - 5..]))
}

#[test]
fn it_learns_sums_of_digits() {
    let _alone = alone();
    for (algorithm, gain) in [
        (NamedAlgorithm::Grpo, 0.3),
        (NamedAlgorithm::Rloo, 0.3),
        (NamedAlgorithm::ReinforcePlusPlus, 0.3),
        // Dynamic sampling leaves out prompts that are always answered right, so scores stay
        // near 0.5.
        (NamedAlgorithm::Dapo, 0.2),
    ] {
        for family in [Family::T5, Family::Llama] {
            for seed in [1, 2, 3] {
                let (first, last) = run(algorithm, family, seed, 1e-2);
                assert!(
                    last > first + gain,
                    "{algorithm:?} {family:?} {seed}: {first:.2} to {last:.2}"
                );
            }
            let (first, last) = run(algorithm, family, 1, 0.);
            let moved = (first - last).abs();
            assert!(moved < 0.15, "{algorithm:?} {family:?} without learning: {moved}");
        }
    }
}
