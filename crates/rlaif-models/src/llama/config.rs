//! config.json of the Llama family, and its meaning for each member.

use rlaif_lm::LmSpec;
use serde::Deserialize;
use tch::Tensor;

use super::variant::{LlamaVariant, WindowRule};
use crate::{
    config::{Config, check_layers, check_sizes, token_id},
    dimensions::Dimensions,
    error::ModelError,
    layers::Bias,
};

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks; an optional
/// field is null, or does not exist in a family.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: String,
    pub(super) vocab_size: i64,
    pub(super) hidden_size: i64,
    pub(super) intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    pub(super) hidden_act: String,
    max_position_embeddings: usize,
    pub(super) rms_norm_eps: f64,
    /// Older spelling: separate from `rope_scaling`.
    rope_theta: f64,
    rope_scaling: Option<RawRope>,
    /// Newer spelling: both in one section.
    rope_parameters: Option<RawRope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    attention_dropout: Option<f64>,
    sliding_window: Option<i64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    pub(super) tie_word_embeddings: bool,
    pub(super) initializer_range: f64,
    #[serde(default, deserialize_with = "token_id")]
    pub(super) pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_id")]
    bos_token_id: Option<u32>,
}

impl RawConfig {
    /// Base of the rotary frequencies, and their scaling.
    pub(super) fn rope(&self) -> Result<(f64, RopeScaling), ModelError> {
        // transformers prefers the older name, and treats an empty section as absent.
        let given =
            |rope: &Option<RawRope>| rope.clone().filter(|rope| *rope != RawRope::default());
        let rope = given(&self.rope_scaling).or_else(|| given(&self.rope_parameters));
        let theta = rope.as_ref().and_then(|rope| rope.rope_theta).unwrap_or(self.rope_theta);
        Ok((theta, RopeScaling::resolve(rope.as_ref(), self.max_position_embeddings)?))
    }

    /// Facts about the model with these embeddings; `eos_ids` end a response.
    pub(super) fn spec(&self, embeddings: &Tensor, eos_ids: Vec<u32>) -> LmSpec {
        LmSpec {
            model_type: self.model_type.clone(),
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            context: Some(self.max_position_embeddings),
            pad_id: self.pad_token_id.or(eos_ids.first().copied()).unwrap_or(0),
            eos_ids,
            bos_id: self.bos_token_id,
            decoder_start_id: None,
            kind: embeddings.kind(),
            device: embeddings.device(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    /// In checkpoints from before mid-2024; later ones may have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Scaling of rotary frequencies for contexts longer than that of the initial training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth transition between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
}

impl RopeScaling {
    /// `trained` is the context by default, if the section does not give one.
    fn resolve(rope: Option<&RawRope>, trained: usize) -> Result<Self, ModelError> {
        let Some(rope) = rope else { return Ok(Self::None) };
        let need = |field: &'static str, value: Option<f64>| {
            value.filter(|value| *value > 0.).ok_or_else(|| ModelError::BadField {
                field,
                found: value.map_or("missing".to_owned(), |v| v.to_string()),
                expected: "a positive number beside this rope_type".to_owned(),
            })
        };
        Ok(match rope.rope_type.as_deref().or(rope.old_type.as_deref()) {
            None | Some("default") => Self::None,
            Some("linear") => Self::Linear { factor: need("rope_scaling.factor", rope.factor)? },
            Some("llama3") => Self::Llama3 {
                factor: need("rope_scaling.factor", rope.factor)?,
                low: need("rope_scaling.low_freq_factor", rope.low_freq_factor)?,
                high: need("rope_scaling.high_freq_factor", rope.high_freq_factor)?,
                context: need(
                    "rope_scaling.original_max_position_embeddings",
                    rope.original_max_position_embeddings.or(Some(trained as f64)),
                )?,
            },
            Some(other) => {
                return Err(ModelError::UnsupportedField {
                    field: "rope_scaling.rope_type",
                    found: other.to_owned(),
                    supported: "default, linear, llama3",
                });
            }
        })
    }
}

/// Far above that of any model: rotary frequencies are computed before the weights are compared
/// with it.
const MAX_HEAD_DIM: i64 = 1 << 16;

/// The resolved configuration of the trunk, without optional fields.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) hidden: i64,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
    pub(super) layers: usize,
    /// The sliding window of each layer, if it has one.
    pub(super) windows: Vec<Option<i64>>,
    pub(super) attention_dropout: f64,
    pub(super) qkv_bias: Bias,
    pub(super) output_bias: Bias,
    pub(super) mlp_bias: Bias,
    pub(super) norm_queries_and_keys: bool,
    pub(super) embedding_scale: f64,
}

/// Sizes of the layers, for [`crate::Family::dimensions`].
///
/// # Errors
/// [`ModelError::Config`] and [`ModelError::BadField`] for an unsupported configuration.
pub fn dimensions(config: &Config, variant: &LlamaVariant) -> Result<Dimensions, ModelError> {
    let shape = Shape::resolve(&config.parse(variant.defaults)?, variant)?;
    Ok(Dimensions {
        hidden: shape.hidden,
        blocks: shape.layers,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    })
}

impl Shape {
    pub(super) fn resolve(raw: &RawConfig, variant: &LlamaVariant) -> Result<Self, ModelError> {
        let kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        check_sizes([
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", raw.head_dim.unwrap_or(1)),
        ])?;
        check_layers("num_hidden_layers", raw.num_hidden_layers)?;
        if raw.num_attention_heads % kv_heads != 0 {
            return Err(bad("num_key_value_heads", kv_heads, "a divisor of num_attention_heads"));
        }
        let head_dim = match raw.head_dim.or(variant.head_dim) {
            Some(head_dim) => head_dim,
            None if raw.hidden_size % raw.num_attention_heads == 0 => {
                raw.hidden_size / raw.num_attention_heads
            }
            None => return Err(bad("hidden_size", raw.hidden_size, "a multiple of the heads")),
        };
        if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
            let expected = format!("even, for rotary positions, and at most {MAX_HEAD_DIM}");
            return Err(bad("head_dim", head_dim, &expected));
        }
        let window = match variant.window {
            WindowRule::Never => None,
            WindowRule::Given => raw.sliding_window,
            WindowRule::Switched => {
                raw.sliding_window.filter(|_| raw.use_sliding_window == Some(true))
            }
        };
        let windows = (0..raw.num_hidden_layers)
            .map(|layer| {
                let slides = match (&raw.layer_types, raw.max_window_layers) {
                    (Some(types), _) => types.get(layer) == Some(&LayerType::SlidingAttention),
                    (None, Some(first)) if variant.window != WindowRule::Given => layer >= first,
                    _ => true,
                };
                window.filter(|_| slides)
            })
            .collect();
        Ok(Self {
            hidden: raw.hidden_size,
            heads: raw.num_attention_heads,
            kv_heads,
            head_dim,
            layers: raw.num_hidden_layers,
            windows,
            attention_dropout: raw.attention_dropout.unwrap_or(0.),
            qkv_bias: variant.qkv_bias.resolve(raw.attention_bias),
            output_bias: variant.output_bias.resolve(raw.attention_bias),
            mlp_bias: variant.mlp_bias.resolve(raw.mlp_bias),
            norm_queries_and_keys: variant.norm_queries_and_keys,
            embedding_scale: (variant.embedding_scale)(raw.hidden_size),
        })
    }
}

fn bad(field: &'static str, found: i64, expected: &str) -> ModelError {
    ModelError::BadField { field, found: found.to_string(), expected: expected.to_owned() }
}
