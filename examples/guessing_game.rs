//! A guessing game over several turns: a tiny language model of random weights learns to find a number
//! from 1 to 7 in three guesses, which takes bisection. The environment answers `+` for higher and `-` for
//! lower; the only reward is 1 for finding the number.
//!
//! ```sh
//! cargo run --release --example guessing_game
//! ```

use std::sync::Arc;

use rlaif::core::{Exchange, PromptRecord, Seed};
use rlaif::lm::{LocalSampler, generate::Eos};
use rlaif::reinforce::{NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer};
use rlaif::rl::{EpisodeConfig, EpisodeSampler, KlForm, Prompt, env::Guess};
use rlaif::train::OptimizerConfig;
use rlaif_examples::{Characters, draw_curve, tiny_llama};

const STEPS: u64 = 150;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif::torch::init()?;
    // The model is so small that a second thread would cost more than it gives.
    rlaif::torch::set_intra_op_threads(1)?;

    let mut config = ReinforceConfig {
        algorithm: NamedAlgorithm::Grpo,
        steps: STEPS,
        batch_size: 256,
        group_size: Some(8),
        // From random weights, there is nothing to stay close to.
        kl: Some(KlForm::None),
        optimizer: OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() },
        seed: Seed::new(1),
        ..ReinforceConfig::default()
    };
    // A turn is one token.
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let mut trainer = ReinforceTrainer::new(tiny_llama()?, Reference::Given, config)?;

    let game = Guess {
        low: 1,
        high: 7,
        higher: "+".to_owned(),
        lower: "-".to_owned(),
        unclear: "?".to_owned(),
    };
    let (before, after) = (String::new(), String::new());
    let episodes = EpisodeConfig { max_turns: 3, before, after, ..EpisodeConfig::default() };
    let local = LocalSampler::new(&CHARACTERS);
    let mut sampler =
        EpisodeSampler::new(local, Arc::new(game), &CHARACTERS, episodes, Seed::new(2));

    // The environment rewards.
    let nothing = |batch: &[Exchange<'_>]| vec![0f32; batch.len()];
    let mut found = Vec::new();
    for step in 0..STEPS {
        let prompts = prompts(step, trainer.config().prompts_per_step());
        let (experience, stats) =
            trainer.step(&prompts, &mut std::iter::empty(), &mut sampler, &nothing)?;
        found.push(stats.get("env/reward_mean"));
        if let Some(experience) = experience.filter(|_| (step + 1) % 10 == 0) {
            println!(
                "step {:>3}  found {:>5.3}  turns {:>4.2}  unclear {:>3}  e.g. {}",
                step + 1,
                stats.get("env/reward_mean"),
                stats.get("episodes/turns"),
                stats.metrics.get("episodes/guess/unclear").unwrap_or(0.),
                experience.rollout.texts[0],
            );
        }
    }
    draw_curve("share of numbers found by step", &found);
    Ok(())
}

/// The same question for every game. The number depends on the id of the record, so that all games of a
/// group have the same one.
fn prompts(step: u64, n: usize) -> Vec<Prompt> {
    let record = |row: usize| PromptRecord::new(format!("{step}-{row}"), "?");
    (0..n).map(|row| Prompt::new(record(row), [11])).collect()
}

/// Tokens 2 to 8 are the numbers from 1 to 7, and then come `+`, `-` and `?`.
const CHARACTERS: Characters = Characters("..1234567+-?");
