//! The test case of the algorithm: a small policy that learns to write vowels.

use rlaif_models::{Config, LanguageModel};
use rlaif_rl::Prompt;
use rlaif_rl::core::{
    CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Specials, TextCodec,
};
use rlaif_rl::lm::Policy;
use rlaif_rl::tch::{Device, Kind, manual_seed};

/// `a` is 1, `z` is 26; 0 ends a response.
pub struct Letters;

impl TextCodec for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> {
        Ok(text.bytes().map(|letter| u32::from(letter - b'a' + 1)).collect())
    }

    fn decode(&self, ids: &[u32], _: Specials) -> Result<String, CodecError> {
        let letters = ids.iter().filter(|id| **id > 0);
        Ok(letters.map(|id| char::from(b'a' - 1 + *id as u8)).collect())
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "letters".to_owned() })
    }
}

/// The policy before training, always the same.
pub fn policy() -> Result<LanguageModel, Box<dyn std::error::Error>> {
    manual_seed(1);
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 27, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
        "eos_token_id": 0,
    });
    let model = LanguageModel::random(Config::from_value(config), Kind::Float, Device::Cpu)?;
    model.parameters().train_where(|_| true);
    Ok(model)
}

/// 32 prompts of a letter each.
pub fn prompts() -> Vec<Prompt> {
    let letters = ('a'..='z').chain('a'..='f').enumerate();
    let prompt = |(i, letter): (usize, char)| {
        let ids = vec![u32::from(letter) - u32::from('a') + 1];
        Prompt::new(PromptRecord::new(i.to_string(), letter.to_string()), ids)
    };
    letters.map(prompt).collect()
}

/// The share of vowels in a response.
pub fn vowels(batch: &[Exchange<'_>]) -> Vec<f32> {
    let of = |text: &str| text.chars().filter(|c| "aeiou".contains(*c)).count() as f32;
    batch.iter().map(|x| of(x.response) / x.response.len().max(1) as f32).collect()
}
