//! PPO in a page: a tiny language model of random weights learns to answer in eight letters. The
//! reward is a closure.
//!
//! ```sh
//! cargo run --release --example ppo_minimal
//! ```

use rlaif::core::{CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Seed};
use rlaif::core::{Specials, TextCodec};
use rlaif::lm::{Policy, ValueHead, ValueInit};
use rlaif::models::{Config, LanguageModel};
use rlaif::ppo::{PpoConfig, PpoTrainer, Prompt, Reference, Watch};
use rlaif::tch::{Device, Kind};
use rlaif::torch::seeded;
use rlaif::train::{KlControl, OptimizerConfig};
use rlaif_examples::draw_curve;
use serde_json::json;

const STEPS: u64 = 80;
const BATCH: usize = 128;
/// Letters that a response is to have.
const TARGET: f32 = 8.;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif::torch::init()?;
    // The model is so small that a second thread would cost more than it gives.
    rlaif::torch::set_intra_op_threads(1)?;

    let mut config = PpoConfig {
        steps: STEPS,
        batch_size: BATCH,
        minibatch_size: 32,
        value_coef: 0.5,
        optimizer: OptimizerConfig { lr: 1e-3, ..OptimizerConfig::default() },
        seed: Seed::new(1),
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 16;
    config.kl.control = KlControl::Adaptive { init: 0.01, target: 20., horizon: 1000. };

    let (policy, reference) = (model()?, Reference::Frozen(Box::new(model()?)));
    let head = ValueHead::new(policy.spec().hidden_size, ValueInit::Zero, Device::Cpu);
    let mut trainer = PpoTrainer::new(policy, head, reference, config)?;

    let reward = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| -(x.response.len() as f32 - TARGET).abs() / TARGET).collect()
    };
    let mut watch = Watch::default();
    let mut rewards = Vec::new();
    for step in 0..STEPS {
        let rollout = trainer.rollout(&prompts(step), &Letters, &reward)?;
        let advantages = trainer.advantages(&rollout)?;
        let stats = trainer.update(&rollout, &advantages)?;
        for finding in watch.observe(&stats, trainer.config()) {
            println!("{finding}");
        }
        rewards.push(stats.get("env/reward_mean"));
        if (step + 1) % 10 == 0 {
            println!(
                "step {:>2}  reward {:>6.3}  kl {:>6.3}  e.g. {} -> {}",
                step + 1,
                stats.get("env/reward_mean"),
                stats.get("objective/kl"),
                rollout.records[0].prompt,
                rollout.texts[0],
            );
        }
    }
    draw_curve("mean reward by step", &rewards);
    Ok(())
}

/// A Llama of one layer, with the same random weights every time.
fn model() -> Result<LanguageModel, Box<dyn std::error::Error>> {
    let config = Config::from_value(json!({
        "model_type": "llama", "vocab_size": 28, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64,
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": null, "tie_word_embeddings": false,
    }));
    let fresh = || LanguageModel::random(config, Kind::Float, Device::Cpu);
    let model = seeded(7, fresh)??;
    model.parameters().train_where(|_| true);
    Ok(model)
}

/// New prompts for every step, of three letters.
fn prompts(step: u64) -> Vec<Prompt> {
    (0..BATCH as u64)
        .map(|row| {
            let draw = Seed::new(2).derive("prompt", step * BATCH as u64 + row).get();
            let ids: Vec<u32> = (0..3).map(|i| 2 + (draw >> (8 * i)) as u32 % 26).collect();
            let text = letters(&ids);
            Prompt::new(PromptRecord::new(format!("{step}-{row}"), text), ids)
        })
        .collect()
}

/// Token 0 pads, and is shown as a dot where it is said; 1 ends a response, 2 to 27 are the letters.
struct Letters;

fn letters(ids: &[u32]) -> String {
    let letter = |id: &u32| if *id == 0 { '.' } else { char::from(b'a' - 2 + *id as u8) };
    ids.iter().filter(|id| **id != 1).map(letter).collect()
}

impl TextCodec for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
        Ok(text.bytes().map(|letter| u32::from(letter - b'a') + 2).collect())
    }

    fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
        Ok(letters(ids))
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "letters".to_owned() })
    }
}
