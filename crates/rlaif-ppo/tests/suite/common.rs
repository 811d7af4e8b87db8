//! Code shared by the tests of this folder.

use std::path::Path;

use rlaif_core::{PromptRecord, Specials, TextCodec};
use rlaif_lm::{Policy, ValueHead, ValueInit};
use rlaif_models::{Config, LanguageModel};
use rlaif_ppo::Prompt;
pub(crate) use rlaif_testing::{Letters, drawn};
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// The elements of a tensor.
pub(crate) fn host(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// A value head from a file.
pub(crate) fn value_head(path: &Path) -> ValueHead {
    let tensors = Tensor::read_safetensors(path).unwrap();
    let of = |end: &str| &tensors.iter().find(|(name, _)| name.ends_with(end)).unwrap().1;
    ValueHead::from_tensors(of("weight"), of("bias"))
}

/// The two architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    T5,
    Llama,
}

pub(crate) const VOCAB: u32 = 32;
/// The end-of-sequence id.
pub(crate) const EOS: u32 = 1;

/// A policy with random weights, the same for the same seed, all of which are trained.
pub(crate) fn policy(family: Family, seed: i64) -> LanguageModel {
    // A second thread slows these models down.
    rlaif_torch::set_intra_op_threads(1).unwrap();
    policy_in(family, seed, Kind::Float)
}

/// [`policy`] with another dtype.
pub(crate) fn policy_in(family: Family, seed: i64, kind: Kind) -> LanguageModel {
    let config = match family {
        Family::T5 => json!({
            "model_type": "t5", "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 64,
            "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
            "decoder_start_token_id": 0, "eos_token_id": EOS, "pad_token_id": 0,
            "dropout_rate": 0.1,
        }),
        Family::Llama => json!({
            "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "max_position_embeddings": 64, "eos_token_id": EOS, "bos_token_id": 2,
            "pad_token_id": 0, "tie_word_embeddings": false,
        }),
    };
    let draw = || LanguageModel::random(Config::from_value(config), kind, Device::Cpu).unwrap();
    let policy = drawn(seed, draw);
    policy.parameters().train_where(|_| true);
    policy
}

/// A value head with zero weights.
pub(crate) fn zero_head(policy: &LanguageModel) -> ValueHead {
    ValueHead::new(policy.spec().hidden_size, ValueInit::Zero, Device::Cpu)
}

/// `n` prompts of 2 to 5 letters each, with ids from `first` on.
pub(crate) fn prompts(first: usize, n: usize) -> Vec<Prompt> {
    (first..first + n)
        .map(|i| {
            let ids: Vec<u32> =
                (0..2 + i % 4).map(|j| 3 + ((i * 7 + j * 5) as u32 % (VOCAB - 3))).collect();
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("p-{i}"), text), ids)
        })
        .collect()
}
