//! GRPO in a page: a tiny language model of random weights learns to add two digits modulo 10. The
//! reward is a closure that knows the sum; there is no value function and no reward model.
//!
//! ```sh
//! cargo run --release --example grpo_digits
//! ```

use rlaif::core::{CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Seed};
use rlaif::core::{Specials, TextCodec};
use rlaif::lm::{LocalSampler, generate::Eos};
use rlaif::reinforce::{NamedAlgorithm, Reference, ReinforceConfig, ReinforceTrainer};
use rlaif::rl::{KlForm, Prompt};
use rlaif::train::OptimizerConfig;
use rlaif_examples::{draw_curve, tiny_llama};

const STEPS: u64 = 120;

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
    config.generation.max_new_tokens = 1;
    config.generation.eos = Eos::Ignored;
    let mut trainer = ReinforceTrainer::new(tiny_llama()?, Reference::Given, config)?;

    let right = |batch: &[Exchange<'_>]| -> Vec<f32> {
        let digit = |c: u8| u32::from(c.wrapping_sub(b'0'));
        let score = |x: &Exchange<'_>| {
            let sum: u32 = x.prompt.bytes().map(digit).sum();
            f32::from(u8::from(x.response.bytes().next().map(digit) == Some(sum % 10)))
        };
        batch.iter().map(score).collect()
    };
    let mut rewards = Vec::new();
    for step in 0..STEPS {
        let prompts = prompts(step, trainer.config().prompts_per_step() as u64);
        let mut sampler = LocalSampler::new(&Digits);
        let (experience, stats) =
            trainer.step(&prompts, &mut std::iter::empty(), &mut sampler, &right)?;
        rewards.push(stats.get("env/reward_mean"));
        if let Some(experience) = experience.filter(|_| (step + 1) % 10 == 0) {
            println!(
                "step {:>3}  right {:>5.3}  groups that teach nothing {:>4.2}  e.g. {} -> {}",
                step + 1,
                stats.get("env/reward_mean"),
                stats.get("groups/equal"),
                experience.rollout.records[0].prompt,
                experience.rollout.texts[0],
            );
        }
    }
    draw_curve("share of right sums by step", &rewards);
    Ok(())
}

/// New prompts for every step, of two digits from 0 to 4.
fn prompts(step: u64, n: u64) -> Vec<Prompt> {
    (0..n)
        .map(|row| {
            let draw = Seed::new(2).derive("prompt", step * n + row).get();
            let ids = [2 + draw as u32 % 5, 2 + (draw >> 32) as u32 % 5];
            let text: String = ids.iter().map(digit).collect();
            Prompt::new(PromptRecord::new(format!("{step}-{row}"), text), ids)
        })
        .collect()
}

/// Token 0 pads, 1 ends a response, 2 to 11 are the digits.
struct Digits;

fn digit(id: &u32) -> char {
    char::from_digit(id.wrapping_sub(2), 10).unwrap_or('.')
}

impl TextCodec for Digits {
    fn name(&self) -> &str {
        "digits"
    }

    fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
        Ok(text.bytes().map(|digit| u32::from(digit - b'0') + 2).collect())
    }

    fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
        Ok(ids.iter().map(digit).collect())
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "digits".to_owned() })
    }
}
