//! The policy learns from fixed random weights, with three seeds each. With a learning rate of
//! 0 it does not learn.

use rlaif_core::{Exchange, PromptRecord, Seed, Specials, TextCodec};
use rlaif_lm::{LocalSampler, generate::Eos};
use rlaif_reinforce::{
    Curriculum, NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{KlForm, Prompt},
    train::OptimizerConfig,
};

use rlaif_testing::curves::{Panel, Picture};

use crate::common::{FAMILIES, Family, Letters, alone, policy};

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

/// The share of right sums by step, over all that were sampled: dynamic sampling leaves out groups
/// without a mistake.
fn run(
    algorithm: NamedAlgorithm,
    family: Family,
    (seed, lr): (u64, f64),
    steps: u64,
) -> Vec<Vec<(String, f64)>> {
    let mut config = ReinforceConfig {
        algorithm,
        steps: STEPS,
        batch_size: 128,
        group_size: Some(if algorithm == NamedAlgorithm::ReinforcePlusPlus { 1 } else { GROUP }),
        kl: Some(KlForm::None),
        overlong: Some(rlaif_reinforce::rl::Overlong { limit: 1, buffer: 0 }),
        curriculum: Some(Curriculum::default()),
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let mut trainer = ReinforceTrainer::new(policy(family, 21), Reference::Given, config).unwrap();
    let step = |step: u64| {
        let n = trainer.config().prompts_per_step();
        let mut spare = prompts(1000 + step as usize, 64).into_iter();
        let mut sampler = LocalSampler::new(&Letters);
        let own = prompts(step as usize, n);
        let (_, stats) = trainer.step(&own, &mut spare, &mut sampler, &right).unwrap();
        stats.metrics.iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    (0..steps).map(step).collect()
}

const METRIC: &str = "curriculum/pass_rate";
const SEEDS: [u64; 3] = [1, 2, 3];
const RATE: f64 = 1e-2;
const ALGORITHMS: [NamedAlgorithm; 4] = [
    NamedAlgorithm::Grpo,
    NamedAlgorithm::Rloo,
    NamedAlgorithm::ReinforcePlusPlus,
    NamedAlgorithm::Dapo,
];

/// The means of the first and of the last five steps.
fn ends(steps: &[Vec<(String, f64)>]) -> (f64, f64) {
    let rates = steps.iter().flatten().filter(|(name, _)| name == METRIC);
    let rates: Vec<f64> = rates.map(|(_, value)| *value).collect();
    assert_eq!(rates.len(), steps.len());
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
    (mean(&rates[..5]), mean(&rates[rates.len() - 5..]))
}

#[test]
fn it_learns_sums_of_digits() {
    let _alone = alone();
    for algorithm in ALGORITHMS {
        for family in FAMILIES {
            for seed in SEEDS {
                let (first, last) = ends(&run(algorithm, family, (seed, RATE), STEPS));
                assert!(
                    last > first + 0.3,
                    "{algorithm:?} {family:?} {seed}: {first:.2} to {last:.2}"
                );
            }
            let (first, last) = ends(&run(algorithm, family, (1, 0.), STEPS));
            let moved = (first - last).abs();
            assert!(moved < 0.15, "{algorithm:?} {family:?} without learning: {moved}");
        }
    }
}

/// Draws docs/reinforce-learning.svg from the metrics of these runs, which are kept in
/// `target/learning/reinforce`. A debug build tests the code with two steps of one run each, and does
/// not change the picture.
#[test]
#[ignore = "writes a file of the documentation"]
fn draw_the_curves() {
    let _alone = alone();
    let picture = Picture::new("reinforce");
    let (count, steps) = if picture.is_trial() { (1, 2) } else { (4, STEPS) };
    let panel = |algorithm: NamedAlgorithm, family: Family| {
        let runs = SEEDS.map(|seed| (seed, RATE)).into_iter().chain([(1, 0.)]);
        let runs = runs.take(count).map(|(seed, lr)| {
            let name = format!("{algorithm:?}-{family:?}-{seed}-{lr}").to_lowercase();
            picture.curve(&name, &run(algorithm, family, (seed, lr), steps), METRIC)
        });
        let title = format!("{algorithm:?}, {family:?}");
        Panel { title, range: (0., 1.), level: None, runs: runs.collect() }
    };
    let rows = FAMILIES.map(|family| ALGORITHMS.map(|algorithm| panel(algorithm, family)).to_vec());
    picture.draw(&rows);
}
