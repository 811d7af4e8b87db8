//! The policy learns a guessing game over several turns from fixed random weights, with three seeds. With a
//! learning rate of 0 it does not learn.

use std::sync::Arc;

use rlaif_core::{Exchange, PromptRecord, Seed};
use rlaif_lm::{LocalSampler, Policy, generate::Eos};
use rlaif_models::{Config, LanguageModel};
use rlaif_reinforce::{
    NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer,
    rl::{EpisodeConfig, EpisodeSampler, KlForm, Prompt, env::Guess},
    train::OptimizerConfig,
};
use rlaif_testing::{
    Characters, alone,
    curves::{Panel, Picture},
};
use rlaif_torch::seeded;
use serde_json::json;
use tch::{Device, Kind};

const CODEC: Characters = Characters("..1234567+-?");
const QUESTION: u32 = 11;
const TURNS: usize = 3;
const STEPS: u64 = 150;
const RATE: f64 = 3e-3;
const SEEDS: [u64; 3] = [1, 2, 3];
const FOUND: &str = "env/reward_mean";

pub(crate) fn model() -> LanguageModel {
    let config = Config::from_value(json!({
        "model_type": "llama", "vocab_size": 12, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 16,
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": null, "tie_word_embeddings": false,
    }));
    let model = seeded(7, || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap());
    let model = model.unwrap();
    model.parameters().train_where(|_| true);
    model
}

/// The metrics of each step. A number from 1 to 7 is found in three guesses by bisection alone.
fn run(algorithm: NamedAlgorithm, (seed, lr): (u64, f64), steps: u64) -> Vec<Vec<(String, f64)>> {
    let mut config = ReinforceConfig {
        algorithm,
        steps: STEPS,
        batch_size: 256,
        group_size: Some(8),
        kl: Some(KlForm::None),
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..ReinforceConfig::default()
    };
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let mut trainer = ReinforceTrainer::new(model(), Reference::Given, config).unwrap();
    let [higher, lower, unclear] = ["+", "-", "?"].map(str::to_owned);
    let game = Arc::new(Guess { low: 1, high: 7, higher, lower, unclear });
    let (before, after) = (String::new(), String::new());
    let episodes = EpisodeConfig { max_turns: TURNS, before, after, ..EpisodeConfig::default() };
    let local = LocalSampler::new(&CODEC);
    let mut sampler = EpisodeSampler::new(local, game, &CODEC, episodes, Seed::new(seed));
    let nothing = |batch: &[Exchange<'_>]| vec![0f32; batch.len()];
    let step = |step: u64| {
        let record = |row: usize| PromptRecord::new(format!("{step}-{row}"), "?");
        let prompts = (0..trainer.config().prompts_per_step())
            .map(|row| Prompt::new(record(row), [QUESTION]))
            .collect::<Vec<_>>();
        let none = &mut std::iter::empty();
        let (_, stats) = trainer.step(&prompts, none, &mut sampler, &nothing).unwrap();
        stats.metrics.iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    (0..steps).map(step).collect()
}

/// The means of the first and of the last five steps.
fn ends(steps: &[Vec<(String, f64)>]) -> (f64, f64) {
    let found = steps.iter().flatten().filter(|(name, _)| name == FOUND).map(|(_, value)| *value);
    let found: Vec<f64> = found.collect();
    assert_eq!(found.len(), steps.len());
    let mean = |found: &[f64]| found.iter().sum::<f64>() / found.len() as f64;
    (mean(&found[..5]), mean(&found[found.len() - 5..]))
}

#[test]
fn it_learns_to_guess_over_turns() {
    let _alone = alone();
    for seed in SEEDS {
        let (first, last) = ends(&run(NamedAlgorithm::Grpo, (seed, RATE), STEPS));
        eprintln!("{seed}: {first:.3} to {last:.3}");
        assert!(first < 0.4 && last > 0.8, "{seed}: {first:.2} to {last:.2}");
    }
    let (first, last) = ends(&run(NamedAlgorithm::Grpo, (1, 0.), STEPS / 3));
    assert!((first - last).abs() < 0.1, "without learning: {first:.2} to {last:.2}");
}

/// Draws docs/episodes-learning.svg from the metrics of these runs, which are kept in
/// `target/learning/episodes`. A debug build tests the code with two steps of one run each, and does not
/// change the picture.
#[test]
#[ignore = "writes a file of the documentation"]
fn draw_the_guesses() {
    let _alone = alone();
    let picture = Picture::new("episodes");
    let (count, steps) = if picture.is_trial() { (1, 2) } else { (4, STEPS) };
    let panel = |algorithm: NamedAlgorithm| {
        let runs = SEEDS.map(|seed| (seed, RATE)).into_iter().chain([(1, 0.)]);
        let runs = runs.take(count).map(|(seed, lr)| {
            let name = format!("{algorithm:?}-{seed}-{lr}").to_lowercase();
            picture.curve(&name, &run(algorithm, (seed, lr), steps), FOUND)
        });
        let title = format!("{algorithm:?}");
        Panel { title, range: (0., 1.), level: None, runs: runs.collect() }
    };
    picture.draw(&[vec![panel(NamedAlgorithm::Grpo), panel(NamedAlgorithm::Rloo)]]);
}
