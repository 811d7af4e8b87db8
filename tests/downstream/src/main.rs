//! A custom language model, trained by PPO: `rlaif-ppo` is the only dependency.
//!
//! The model is a table of which letter follows which. It learns to write vowels.

use rlaif_ppo::core::{
    CodecError, Exchange, GenerationPrompt, Message, PromptRecord, Specials, TextCodec,
};
use rlaif_ppo::lm::{
    CacheShape, CausalLm, CausalPolicy, DecodeState, DecoderLm, ForcedIds, Forward, KvCache,
    LmError, LmSpec, Parameters, Room, TokenBatch, ValueHead, ValueInit, VocabHead,
};
use rlaif_ppo::tch::{Device, Kind, Tensor, manual_seed};
use rlaif_ppo::train::OptimizerConfig;
use rlaif_ppo::{PpoConfig, PpoTrainer, Prompt, Reference};

/// Token 0 ends a response, the others are letters.
const VOCAB: i64 = 27;

/// A model whose prediction depends on the last letter only: logits are `W e(letter)`.
struct Bigrams {
    spec: LmSpec,
    embedding: Tensor,
    head: Tensor,
    parameters: Parameters,
}

impl Bigrams {
    fn new() -> Self {
        manual_seed(1);
        let table =
            || (Tensor::randn([VOCAB, 16], (Kind::Float, Device::Cpu)) / 4).set_requires_grad(true);
        let (embedding, head) = (table(), table());
        let mut parameters = Parameters::new();
        parameters.insert("embedding.weight", embedding.shallow_clone());
        parameters.insert("head.weight", head.shallow_clone());
        let spec = LmSpec {
            model_type: "bigrams".to_owned(),
            hidden_size: 16,
            vocab_size: VOCAB,
            context: None,
            pad_id: 0,
            eos_ids: vec![0],
            bos_id: None,
            decoder_start_id: None,
            forced: ForcedIds::default(),
            kind: Kind::Float,
            device: Device::Cpu,
        };
        Self { spec, embedding, head, parameters }
    }
}

impl CausalLm for Bigrams {
    fn hidden(&self, input: &TokenBatch, _: Forward<'_>) -> Result<Tensor, LmError> {
        Ok(Tensor::embedding(&self.embedding, input.ids(), -1, false, false))
    }
}

impl DecoderLm for Bigrams {
    fn spec(&self) -> &LmSpec {
        &self.spec
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        // Nothing is remembered but how many rows there are.
        let shape =
            CacheShape { layers: 0, heads: 1, head_dim: 1, kind: Kind::Float, device: Device::Cpu };
        Ok(DecodeState { cache: KvCache::new(shape, room.rows, room.total)?, memory: None })
    }

    fn prefill(
        &self,
        state: &mut DecodeState,
        tokens: &TokenBatch,
        _: Forward<'_>,
    ) -> Result<(), LmError> {
        state.cache.enter(&tokens.rows().iter().map(Vec::len).collect::<Vec<_>>())
    }

    fn decode_step(
        &self,
        _: &mut DecodeState,
        tokens: &Tensor,
        _: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        Ok(Tensor::embedding(&self.embedding, tokens, -1, false, false))
    }

    fn head(&self, _: Forward<'_>) -> Result<VocabHead, LmError> {
        let weight = self.head.shallow_clone();
        Ok(VocabHead { weight, bias: None, scale: 1., cap: None, adapter: None })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// `a` is 1, `z` is 26.
struct Letters;

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rlaif_ppo::torch::init()?;
    let mut config = PpoConfig {
        steps: 20,
        batch_size: 32,
        minibatch_size: 16,
        optimizer: OptimizerConfig { lr: 0.03, ..OptimizerConfig::default() },
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 8;
    let vowels = |batch: &[Exchange<'_>]| -> Vec<f32> {
        let of = |text: &str| text.chars().filter(|c| "aeiou".contains(*c)).count() as f32;
        batch.iter().map(|x| of(x.response)).collect()
    };
    let prompts: Vec<Prompt> = ('a'..='z')
        .chain('a'..='f')
        .enumerate()
        .map(|(i, letter)| {
            let text = letter.to_string();
            let ids = vec![u32::from(letter) - u32::from('a') + 1];
            Prompt::new(PromptRecord::new(i.to_string(), text), ids)
        })
        .collect();

    let policy = CausalPolicy(Bigrams::new());
    let reference = Reference::Frozen(Box::new(CausalPolicy(Bigrams::new())));
    let head = ValueHead::new(16, ValueInit::Zero, Device::Cpu);
    let mut trainer = PpoTrainer::new(policy, head, reference, config)?;
    let mut means = Vec::new();
    for _ in 0..20 {
        let rollout = trainer.rollout(&prompts, &Letters, &vowels)?;
        let advantages = trainer.advantages(&rollout)?;
        let stats = trainer.update(&rollout, &advantages)?;
        means.push(stats.get("env/reward_mean"));
    }
    println!("vowels in 8 letters: {:.1} at first, {:.1} in the end", means[0], means[19]);
    if means[19] > 4. { Ok(()) } else { Err("it did not learn to write vowels".into()) }
}
