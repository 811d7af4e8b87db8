//! config.json of T5Gemma, and its meaning.

use rlaif_lm::{ForcedIds, LmSpec, Parameters};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use tch::Tensor;

use crate::{
    config::{Config, Range, check_numbers},
    dimensions::Dimensions,
    error::ModelError,
    layers::Activation,
    llama::{
        config::{RawConfig, Shape},
        variant::{LlamaNames, LlamaVariant},
    },
    rope::RopeSpec,
    seq2seq::check_encoder_decoder,
};

/// Tables of the embeddings.
pub(super) const WORDS: [&str; 2] = ["model.encoder.embed_tokens", "model.decoder.embed_tokens"];

/// The layers of both stacks.
pub(super) const VARIANT: LlamaVariant = LlamaVariant {
    defaults: "t5_gemma_module",
    names: LlamaNames {
        attention_norm: "pre_self_attn_layernorm",
        attention_post_norm: "post_self_attn_layernorm",
        ..LlamaNames::AROUND
    },
    ..LlamaVariant::GEMMA2
};

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Deserialize)]
#[expect(
    dead_code,
    reason = "some are read on their own, and some have no effect in a language model"
)]
struct Whole {
    /// Each section is a configuration of its own.
    encoder: Option<IgnoredAny>,
    decoder: Option<IgnoredAny>,
    is_encoder_decoder: Option<bool>,
    dropout_rate: f64,
    attention_dropout: f64,
    tie_word_embeddings: Option<bool>,
    /// The sections have their own, which count.
    vocab_size: IgnoredAny,
    /// For heads of other tasks.
    classifier_dropout_rate: IgnoredAny,
}

/// Fields of a section that transformers sets by the rest of the file.
const SET_BY_THE_WHOLE: [&str; 3] = ["is_decoder", "dropout_rate", "attention_dropout"];

/// One section of config.json.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) raw: RawConfig,
    pub(super) shape: Shape,
}

impl Side {
    fn read(config: &Config, section: &'static str, whole: &Whole) -> Result<Self, ModelError> {
        let mut config = config.section(section)?;
        for field in SET_BY_THE_WHOLE {
            config.unset(field);
        }
        // A section that the file lacks has the defaults of its class.
        config.set("model_type", VARIANT.defaults.into());
        let in_section = |error: ModelError| error.in_file(config.path());
        let raw = RawConfig::read(&config, &VARIANT).map_err(in_section)?;
        let mut shape = Shape::resolve(&raw, &VARIANT).map_err(in_section)?;
        // The error needs the section, which layers do not have.
        Activation::parse("hidden_activation", &raw.hidden_act).map_err(in_section)?;
        if shape.ropes.iter().any(RopeSpec::by_length) {
            return Err(in_section(ModelError::UnsupportedField {
                file: None,
                field: "rope_type",
                found: "dynamic or longrope".to_owned(),
                supported: "default, linear, yarn, llama3: the length of a response is not known",
            }));
        }
        shape.attention_dropout = whole.attention_dropout;
        shape.residual_dropout = whole.dropout_rate;
        shape.embedding_dropout = whole.dropout_rate;
        shape.inner_dropout = whole.dropout_rate;
        Ok(Self { raw, shape })
    }
}

/// The resolved configuration.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) encoder: Side,
    pub(super) decoder: Side,
    pub(super) dropout: f64,
    pub(super) ties_head: bool,
}

impl Sides {
    pub(super) fn read(config: &Config) -> Result<Self, ModelError> {
        let whole: Whole = config.parse("t5gemma")?;
        check_encoder_decoder(whole.is_encoder_decoder)?;
        check_numbers([
            ("dropout_rate", Some(whole.dropout_rate), Range::Probability),
            ("attention_dropout", Some(whole.attention_dropout), Range::Probability),
        ])?;
        let [encoder, decoder] =
            ["encoder", "decoder"].map(|section| Side::read(config, section, &whole));
        let (encoder, decoder) = (encoder?, decoder?);
        let [prompt, response] = [&encoder, &decoder].map(|side| side.raw.vocab_size);
        if prompt != response {
            return Err(ModelError::BadField {
                file: None,
                field: "encoder.vocab_size",
                found: prompt.to_string(),
                expected: format!("that of `decoder`, {response}: both read the same tokens"),
            });
        }
        let ties_head = whole.tie_word_embeddings != Some(false);
        Ok(Self { encoder, decoder, dropout: whole.dropout_rate, ties_head })
    }

    /// The model with these embeddings of the decoder, as algorithms see it.
    pub(super) fn spec(&self, config: &Config, words: &Tensor) -> Result<LmSpec, ModelError> {
        let Side { raw, shape } = &self.decoder;
        let start = raw.bos_token_id.ok_or_else(|| ModelError::BadField {
            file: None,
            field: "decoder.bos_token_id",
            found: "null".to_owned(),
            expected: "the id that a response starts with".to_owned(),
        })?;
        // transformers fills absent fields of the file from the decoder's section.
        let of_whole =
            config.generation().is_some() || config.fields().contains_key("eos_token_id");
        let ends = if of_whole { config.ends()? } else { config.section("decoder")?.ends()? };
        Ok(LmSpec {
            model_type: config.model_type()?,
            hidden_size: shape.hidden,
            vocab_size: raw.vocab_size,
            context: Some(shape.context.min(self.encoder.shape.context)),
            pad_id: raw.pad_token_id.unwrap_or(0),
            eos_ids: ends,
            bos_id: None,
            decoder_start_id: Some(start),
            forced: ForcedIds::default(),
            kind: words.kind(),
            device: words.device(),
        })
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config) -> Result<Dimensions, ModelError> {
    let Sides { encoder, decoder, .. } = Sides::read(config)?;
    let (one, other) = (encoder.shape, decoder.shape);
    Ok(Dimensions {
        hidden: one.hidden.max(other.hidden),
        blocks: one.layers + other.layers,
        heads: one.heads.max(other.heads),
        kv_heads: one.kv_heads.max(other.kv_heads),
        head_dim: one.head_dim.max(other.head_dim),
    })
}

/// Writes the number of rows of the embeddings into the sections.
pub(crate) fn written(fields: &mut Map<String, Value>, parameters: &Parameters) {
    for (section, words) in ["encoder", "decoder"].into_iter().zip(WORDS) {
        let table = parameters.get(&format!("{words}.weight"));
        let section = fields.get_mut(section).and_then(Value::as_object_mut);
        if let (Some(table), Some(section)) = (table, section) {
            section.insert("vocab_size".to_owned(), table.size()[0].into());
        }
    }
}
