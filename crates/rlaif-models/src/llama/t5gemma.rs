//! T5Gemma: an encoder and a decoder made of Gemma 2's layers, with cross-attention in the decoder.
//!
//! Paper: [Zhang et al. 2025](https://arxiv.org/abs/2504.06225). Checkpoints: `google/t5gemma-*`. Particularities: a
//! section of config.json for each stack, whose widths and depths may differ; own embeddings for each, and a head
//! that is tied to those of the decoder; rotary positions in self-attention only; caps on the scores of all
//! attentions and on logits; windows in every other layer, which reach to both sides in the encoder.

mod config;
mod decode;
mod stack;

use rlaif_lm::LmSpec;

use crate::{
    architecture::LanguageLayers,
    config::Config,
    error::ModelError,
    layers::{Bias, Embedding, Linear},
    seq2seq::{LmHead, Role, language_model},
    weights::ModelTensors,
};
use config::{Side, Sides, WORDS};
pub(crate) use config::{dimensions, written};
use stack::Stack;

/// The layer from hidden states to the vocabulary.
pub(crate) const HEAD: &str = "lm_head.out_proj";
/// Keys and values of a token in a layer of the decoder: heads, and their width.
type Trunk = crate::seq2seq::Trunk<[i64; 2], Stack>;

impl Trunk {
    fn load(source: &ModelTensors<'_>, sides: &Sides) -> Result<Self, ModelError> {
        let root = source.root().at("model");
        let words = |path: &str, side: &Side| {
            let (rows, std) = (side.raw.vocab_size, side.raw.initializer_range);
            Embedding::load(&source.root().at(path), rows, side.shape.hidden, std)
                .with_padding(side.raw.pad_token_id)
        };
        let Sides { encoder, decoder, dropout, .. } = sides;
        let words = [words(WORDS[0], encoder), words(WORDS[1], decoder)];
        let kinds = words.each_ref().map(|words| words.weight().kind());
        let stack = |key, side, role, kind| {
            Stack::load(&root.at(key), side, role, encoder.shape.hidden, kind, *dropout)
        };
        Ok(Self {
            shape: [decoder.shape.kv_heads, decoder.shape.head_dim],
            words,
            encoder: stack("encoder", encoder, Role::Encoder, kinds[0])?,
            decoder: stack("decoder", decoder, Role::Decoder, kinds[1])?,
        })
    }
}

/// Builds the model that `config` describes from the tensors of `source`.
pub(crate) fn build(
    mut config: Config,
    source: ModelTensors<'_>,
) -> Result<Box<dyn LanguageLayers>, ModelError> {
    let sides = Sides::read(&config)?;
    let trunk = Trunk::load(&source, &sides)?;
    let [own, shared] = [HEAD, WORDS[1]].map(|layer| format!("{layer}.weight"));
    let untied = vec![("tie_word_embeddings", false)];
    let ties = sides.ties_head && !source.differ(&own, &shared);
    let layer = if ties {
        source.tie(&own, &shared);
        Linear::tied(HEAD, &shared, trunk.words[1].weight())
    } else {
        if sides.ties_head {
            config.set("tie_word_embeddings", false.into());
        }
        let Side { raw, shape } = &sides.decoder;
        let head = source.root().at(HEAD);
        Linear::load(&head, shape.hidden, raw.vocab_size, Bias::Absent, raw.initializer_range)
    };
    let spec = LmSpec { forced: config.forced()?, ..sides.spec(&config, trunk.words[1].weight())? };
    let cap = sides.decoder.shape.head_cap;
    let head = LmHead { layer, scale: 1., bias: None, cap, untied };
    language_model(trunk, head, spec, config, source, |_| false)
}
