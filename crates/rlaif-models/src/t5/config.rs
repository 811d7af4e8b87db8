//! config.json of T5, and its meaning.

use rlaif_lm::{LmSpec, Parameters};
use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Tensor;

use crate::{
    config::{
        Config, Range, TokenIds, check_layers, check_numbers, check_sizes, off_if_null, token_id,
    },
    dimensions::Dimensions,
    error::ModelError,
    layers::Activation,
    seq2seq::{HeadSettings, Start, check_encoder_decoder},
};

/// A member of T5's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// T5 and Flan-T5.
    T5,
    /// The multilingual T5.
    Mt5,
}

impl Member {
    pub(super) fn read(self, config: &Config) -> Result<RawConfig, ModelError> {
        config.parse(match self {
            Self::T5 => "t5",
            Self::Mt5 => "mt5",
        })
    }
}

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: String,
    vocab_size: i64,
    d_model: i64,
    d_kv: i64,
    d_ff: i64,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    num_heads: i64,
    relative_attention_num_buckets: i64,
    relative_attention_max_distance: i64,
    dropout_rate: f64,
    classifier_dropout: Option<f64>,
    is_encoder_decoder: Option<bool>,
    layer_norm_epsilon: f64,
    feed_forward_proj: String,
    /// The expanded form of `feed_forward_proj`, which takes precedence.
    dense_act_fn: Option<String>,
    #[serde(default, deserialize_with = "off_if_null")]
    is_gated_act: Option<bool>,
    tie_word_embeddings: Option<bool>,
    /// Written by transformers 5 instead of `tie_word_embeddings: false`, which it no longer
    /// writes.
    #[serde(default, deserialize_with = "off_if_null")]
    scale_decoder_outputs: Option<bool>,
    #[serde(default, deserialize_with = "token_id")]
    pad_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: TokenIds,
    #[serde(default, deserialize_with = "token_id")]
    decoder_start_token_id: Option<u32>,
}

impl RawConfig {
    /// Refuses the config.json of an encoder alone.
    pub(super) fn check_encoder_decoder(&self) -> Result<(), ModelError> {
        check_encoder_decoder(self.is_encoder_decoder)
    }

    /// The settings of a classification head.
    pub(super) fn head(&self, spec: &LmSpec) -> HeadSettings {
        HeadSettings {
            start: Start::of(spec),
            eos_ids: self.eos_token_id.0.clone(),
            dropout: self.classifier_dropout.unwrap_or(0.),
            std: (self.d_model as f64).powf(-0.5),
        }
    }

    /// Facts about the model with these embeddings; `eos_ids` end a response.
    pub(super) fn spec(&self, embeddings: &Tensor, eos_ids: Vec<u32>) -> LmSpec {
        LmSpec {
            model_type: self.model_type.clone(),
            hidden_size: self.d_model,
            vocab_size: self.vocab_size,
            context: None,
            pad_id: self.pad_token_id.unwrap_or(0),
            eos_ids,
            bos_id: None,
            decoder_start_id: Some(self.decoder_start_token_id.or(self.pad_token_id).unwrap_or(0)),
            forced: rlaif_lm::ForcedIds::default(),
            kind: embeddings.kind(),
            device: embeddings.device(),
        }
    }
}

/// Relation of the head to the embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A separate tensor (v1.1, Flan).
    Own,
    /// The embeddings (v1.0).
    Tied,
}

/// Layout of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedForwardForm {
    /// `wo act(wi x)`.
    Plain,
    /// `wo (act(wi_0 x) · wi_1 x)`.
    Gated,
}

/// The bucket of each distance is computed when a model is loaded.
const MOST_DISTANCE: i64 = 1 << 20;

/// The resolved configuration, without optional fields.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) vocab_size: i64,
    pub(super) d_model: i64,
    pub(super) d_kv: i64,
    pub(super) d_ff: i64,
    pub(super) encoder_layers: usize,
    pub(super) decoder_layers: usize,
    pub(super) heads: i64,
    pub(super) buckets: i64,
    pub(super) max_distance: i64,
    pub(super) dropout: f64,
    pub(super) epsilon: f64,
    pub(super) activation: Activation,
    pub(super) feed_forward: FeedForwardForm,
    pub(super) head: Head,
    /// The factor of the decoder's hidden states before the head.
    pub(super) head_scale: f64,
}

impl Shape {
    /// `has` returns `true` for a tensor in the checkpoint.
    pub(super) fn resolve(
        raw: &RawConfig,
        member: Member,
        has: impl Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let (gated, name) = match raw.feed_forward_proj.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, raw.feed_forward_proj.as_str()),
        };
        // transformers reads "gated-gelu" as the tanh approximation, but "gelu" alone as exact.
        let activation = match (&raw.dense_act_fn, gated, name) {
            (Some(name), ..) => Activation::parse("dense_act_fn", name)?,
            (None, true, "gelu") => Activation::GeluTanh,
            (None, ..) => Activation::parse("feed_forward_proj", name)?,
        };
        let feed_forward = match raw.is_gated_act.unwrap_or(gated) {
            true => FeedForwardForm::Gated,
            false => FeedForwardForm::Plain,
        };
        check_sizes([
            ("vocab_size", raw.vocab_size),
            ("d_model", raw.d_model),
            ("d_kv", raw.d_kv),
            ("d_ff", raw.d_ff),
            ("num_heads", raw.num_heads),
        ])?;
        check_numbers([
            ("dropout_rate", Some(raw.dropout_rate), Range::Probability),
            ("classifier_dropout", raw.classifier_dropout, Range::Probability),
            ("layer_norm_epsilon", Some(raw.layer_norm_epsilon), Range::NotNegative),
        ])?;
        check_layers("num_layers", raw.num_layers)?;
        check_layers("num_decoder_layers", raw.num_decoder_layers.unwrap_or(0))?;
        let (buckets, distance) =
            (raw.relative_attention_num_buckets, raw.relative_attention_max_distance);
        let bad = |field, found: i64, expected: String| {
            Err(ModelError::BadField { file: None, field, found: found.to_string(), expected })
        };
        if !(4..=MOST_DISTANCE).contains(&buckets) {
            let expected = format!("at least 4 and at most {MOST_DISTANCE}");
            return bad("relative_attention_num_buckets", buckets, expected);
        }
        if distance <= buckets / 2 || distance > MOST_DISTANCE {
            let expected = format!(
                "more than half of relative_attention_num_buckets, {buckets}, and at most {MOST_DISTANCE}"
            );
            return bad("relative_attention_max_distance", distance, expected);
        }
        let tied = raw.tie_word_embeddings != Some(false);
        let scaled = raw.scale_decoder_outputs.unwrap_or(tied);
        let (own_head, scaled) = match member {
            // transformers ties the head in any case, except if there are two matrices.
            Member::Mt5 => (has("lm_head.weight"), false),
            Member::T5 => {
                let given = raw.scale_decoder_outputs == Some(false) && has("lm_head.weight");
                (!tied || given, scaled)
            }
        };
        Ok(Self {
            vocab_size: raw.vocab_size,
            d_model: raw.d_model,
            d_kv: raw.d_kv,
            d_ff: raw.d_ff,
            encoder_layers: raw.num_layers,
            decoder_layers: raw.num_decoder_layers.unwrap_or(raw.num_layers),
            heads: raw.num_heads,
            buckets: raw.relative_attention_num_buckets,
            max_distance: raw.relative_attention_max_distance,
            dropout: raw.dropout_rate,
            epsilon: raw.layer_norm_epsilon,
            activation,
            feed_forward,
            head: if own_head { Head::Own } else { Head::Tied },
            head_scale: if scaled { (raw.d_model as f64).powf(-0.5) } else { 1. },
        })
    }
}

/// Sizes of the layers, for memory estimates.
pub(crate) fn dimensions(config: &Config, member: Member) -> Result<Dimensions, ModelError> {
    let shape = Shape::resolve(&member.read(config)?, member, |_| true)?;
    Ok(Dimensions {
        hidden: shape.d_model,
        blocks: shape.encoder_layers + shape.decoder_layers,
        heads: shape.heads,
        kv_heads: shape.heads,
        head_dim: shape.d_kv,
    })
}

/// Writes the tying of head and embeddings so that every version of transformers can read it.
/// Version 5 uses a field that version 4 does not know.
pub(crate) fn written(fields: &mut Map<String, Value>, parameters: &Parameters) {
    let tied = parameters.tied().any(|(alias, _)| alias == "lm_head.weight");
    let scaled = fields.get("scale_decoder_outputs").and_then(Value::as_bool);
    // Tied but unscaled, or the reverse: only the new spelling can express it.
    if scaled.is_some_and(|scaled| scaled != tied) {
        return;
    }
    fields.remove("scale_decoder_outputs");
    fields.insert("tie_word_embeddings".to_owned(), tied.into());
}
