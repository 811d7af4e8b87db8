//! The summarisers: a small T5 and a small Llama.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use rlaif::core::{Seed, Specials, TextCodec};
use rlaif::data::{PromptBuilder, PromptForm, PromptTemplate};
use rlaif::lm::{Dropout, Forward, Padding, Policy, TokenBatch, policy_log_probs};
use rlaif::models::{Config, LanguageModel};
use rlaif::tch::{Device, Kind};
use rlaif::text::HfTokenizer;
use serde_json::json;

use crate::corpora::Corpora;
use crate::feed::{CHUNK, Feed, batched};
use crate::fit::{Budget, Plan, fit};
use crate::summary::pair;
use crate::vocabulary::Sort;

/// Maximum lengths of a training prompt and of a training summary, in tokens.
const LONGEST: (usize, usize) = (300, 80);

/// Architecture of a summariser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Encoder and decoder, plain prompts.
    T5,
    /// Decoder only, a chat template.
    Llama,
}

impl Architecture {
    /// The tokenizer.
    pub(crate) fn sort(self) -> Sort {
        match self {
            Self::T5 => Sort::T5,
            Self::Llama => Sort::Llama,
        }
    }

    fn config(self, vocabulary: usize) -> Config {
        Config::from_value(match self {
            Self::T5 => json!({
                "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
                "vocab_size": vocabulary, "d_model": 192, "d_kv": 32, "num_heads": 6, "d_ff": 512,
                "num_layers": 4, "num_decoder_layers": 4, "feed_forward_proj": "gated-gelu",
                "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
                "dropout_rate": 0.0, "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0,
                "is_encoder_decoder": true, "tie_word_embeddings": true, "use_cache": true,
                "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
            }),
            Self::Llama => json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama",
                "vocab_size": vocabulary, "hidden_size": 256, "intermediate_size": 640,
                "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
                "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0, "initializer_range": 0.02, "attention_bias": false,
                "mlp_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": true,
                "use_cache": true, "bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 5,
            }),
        })
    }

    /// generation_config.json.
    pub(crate) fn generation(self) -> String {
        let config = match self {
            Self::T5 => json!({ "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
                                "max_new_tokens": 64 }),
            Self::Llama => json!({ "bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 5,
                                   "max_new_tokens": 64 }),
        };
        format!("{config:#}\n")
    }

    /// The form of its prompts.
    pub(crate) fn form(self) -> PromptForm {
        match self {
            Self::T5 => PromptForm::Plain,
            Self::Llama => PromptForm::Chat { system: None },
        }
    }
}

/// A prompt and its summary, as token ids.
type Row = (Vec<u32>, Vec<u32>);

/// Turns pairs into rows.
#[derive(Clone)]
struct Encoder {
    tokenizer: Arc<HfTokenizer>,
    prompts: PromptBuilder,
    architecture: Architecture,
}

impl Encoder {
    fn row(&self, dialogue: &str, summary: &str) -> Result<Row, Box<dyn Error>> {
        let codec: &dyn TextCodec = &*self.tokenizer;
        let prompt = self.prompts.build(codec, "", dialogue)?.text;
        let prompt = codec.encode(&prompt, self.prompts.specials())?;
        let response = match self.architecture {
            Architecture::T5 => codec.encode(summary, Specials::Include)?,
            Architecture::Llama => {
                let mut ids = codec.encode(summary, Specials::Exclude)?;
                ids.push(4);
                ids
            }
        };
        Ok((prompt, response))
    }
}

/// Trains a summariser and returns it, with the number of steps.
pub(crate) fn train(
    architecture: Architecture,
    corpora: Arc<Corpora>,
    tokenizer: &Path,
    seed: Seed,
    device: Device,
    budget: Budget,
    size: usize,
) -> Result<(LanguageModel, u64), Box<dyn Error>> {
    let tokenizer = Arc::new(HfTokenizer::from_folder(tokenizer)?);
    let vocabulary = tokenizer.vocab_size().next_multiple_of(64);
    let encoder = Encoder {
        tokenizer,
        prompts: PromptBuilder::new(PromptTemplate::summarise()).form(architecture.form()),
        architecture,
    };
    let model = LanguageModel::random(architecture.config(vocabulary), Kind::Float, device)?;
    model.parameters().train_where(|_| true);
    println!("{architecture:?}: {} parameters, {vocabulary} tokens", model.parameters().count());

    let mut feed = Feed::start(move |chunk| {
        let mut rng = Rng::with_seed(seed.derive("order", chunk).get());
        let count = (CHUNK * size) as u64;
        let rows = (chunk * count..(chunk + 1) * count)
            .filter_map(|n| {
                let pair = pair(&corpora, seed, n);
                encoder.row(&pair.dialogue, &pair.summary).ok()
            })
            .filter(|(prompt, response)| prompt.len() <= LONGEST.0 && response.len() <= LONGEST.1)
            .collect();
        let mut batches = batched(rows, size, |(p, r): &Row| p.len() + r.len() / 2, &mut rng);
        batches.retain(|rows| rows.len() == size);
        batches
    });
    let plan = Plan { name: "summaries", budget, lr: 1.5e-3, warm_up: 400, weight_decay: 0.05 };
    let forward = Forward { dropout: Dropout::On, ..Forward::default() };
    let steps = fit(model.parameters(), plan, |step| {
        let rows = feed.next();
        // A decoder-only model learns English from the dialogues first.
        let whole = architecture == Architecture::Llama && step % 4 == 0;
        let (prompts, responses): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .map(|(prompt, response)| {
                if whole {
                    (prompt[..1].to_vec(), [&prompt[1..], &response].concat())
                } else {
                    (prompt, response)
                }
            })
            .unzip();
        let side = match architecture {
            Architecture::T5 => Padding::Right,
            Architecture::Llama => Padding::Left,
        };
        let prompts = TokenBatch::collate(prompts, model.spec(), side)?;
        let responses = TokenBatch::responses(responses, model.spec())?;
        let got = policy_log_probs(&model, &prompts, &responses, forward, 1.)?;
        let tokens: usize = responses.rows().iter().map(Vec::len).sum();
        Ok(-got.log_probs.sum(Kind::Float) / tokens as f64)
    })?;
    Ok((model, steps))
}
