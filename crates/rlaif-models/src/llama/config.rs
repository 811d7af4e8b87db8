//! config.json of the Llama family, and its meaning for each member.

use rlaif_lm::LmSpec;
use serde::Deserialize;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::variant::{
    ExpertRule, GateRule, LlamaNames, LlamaVariant, NormPlaces, NormRule, Positions, Projections,
    QueryKeyNorm, ScalingRule, WindowRule,
};
use crate::{
    config::{Config, FieldNames, Range, check_layers, check_numbers, check_sizes, token_id},
    dimensions::Dimensions,
    error::ModelError,
    layers::{Bias, LayerNorm, Norm, RmsNorm},
    rope::{RawRope, RopeContext, RopeSpec},
    weights::{MatrixOrder, TensorTree},
};

/// The used fields of config.json. [`Config::parse`] adds those that the file lacks; an optional
/// field is null, or does not exist in a family.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: String,
    pub(super) vocab_size: i64,
    pub(super) hidden_size: i64,
    intermediate_size: Option<i64>,
    num_local_experts: Option<i64>,
    num_experts_per_tok: Option<i64>,
    moe_intermediate_size: Option<i64>,
    shared_expert_intermediate_size: Option<i64>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<i64>,
    mlp_only_layers: Option<Vec<i64>>,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    pub(super) hidden_act: String,
    max_position_embeddings: usize,
    pub(super) norm_eps: f64,
    /// Older spelling: beside `rope_scaling`.
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_local_base_freq: Option<f64>,
    /// The fields of GPT-NeoX.
    rotary_emb_base: Option<f64>,
    rotary_pct: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Newer spelling: both in one section.
    rope_parameters: Option<RawRope>,
    original_max_position_embeddings: Option<f64>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    attention_dropout: Option<f64>,
    residual_dropout: Option<f64>,
    embedding_dropout: Option<f64>,
    sliding_window: Option<i64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    use_parallel_residual: Option<bool>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    embedding_multiplier: Option<f64>,
    attention_multiplier: Option<f64>,
    residual_multiplier: Option<f64>,
    logits_scaling: Option<f64>,
    pub(super) tie_word_embeddings: bool,
    pub(super) initializer_range: f64,
    #[serde(default, deserialize_with = "token_id")]
    pub(super) pad_token_id: Option<u32>,
    #[serde(default, deserialize_with = "token_id")]
    pub(super) bos_token_id: Option<u32>,
    /// Names of fields in the file, for errors.
    #[serde(skip)]
    names: FieldNames,
}

/// Names of fields in transformers' classes, and the names here.
const NAMES: [(&str, &str); 16] = [
    ("num_experts", "num_local_experts"),
    ("qkv_bias", "attention_bias"),
    ("n_embd", "hidden_size"),
    ("n_inner", "intermediate_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("activation_function", "hidden_act"),
    ("hidden_activation", "hidden_act"),
    ("layer_norm_epsilon", "norm_eps"),
    ("layer_norm_eps", "norm_eps"),
    ("rms_norm_eps", "norm_eps"),
    ("attn_pdrop", "attention_dropout"),
    ("resid_pdrop", "residual_dropout"),
    ("hidden_dropout", "residual_dropout"),
    ("embd_pdrop", "embedding_dropout"),
];

impl RawConfig {
    pub(super) fn read(config: &Config, variant: &LlamaVariant) -> Result<Self, ModelError> {
        let mut raw: Self = config.parse_renamed(variant.defaults, &NAMES)?;
        if variant.norms == NormPlaces::BeforeParallel {
            // GPT-NeoX has one field for both.
            raw.embedding_dropout = raw.residual_dropout;
        }
        raw.names = FieldNames::of(config, &NAMES);
        raw.check_numbers()?;
        Ok(raw)
    }

    /// Checks the numbers other than sizes.
    fn check_numbers(&self) -> Result<(), ModelError> {
        let name = |field| self.names.get(field);
        check_numbers([
            (name("norm_eps"), Some(self.norm_eps), Range::NotNegative),
            ("rope_theta", self.rope_theta, Range::Positive),
            ("rotary_emb_base", self.rotary_emb_base, Range::Positive),
            ("rope_local_base_freq", self.rope_local_base_freq, Range::Positive),
            ("partial_rotary_factor", self.partial_rotary_factor, Range::Positive),
            ("rotary_pct", self.rotary_pct, Range::Positive),
            (
                "original_max_position_embeddings",
                self.original_max_position_embeddings,
                Range::Positive,
            ),
            (name("attention_dropout"), self.attention_dropout, Range::Probability),
            (name("residual_dropout"), self.residual_dropout, Range::Probability),
            (name("embedding_dropout"), self.embedding_dropout, Range::Probability),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar, Range::Positive),
            ("attn_logit_softcapping", self.attn_logit_softcapping, Range::Positive),
            ("final_logit_softcapping", self.final_logit_softcapping, Range::Positive),
            ("embedding_multiplier", self.embedding_multiplier, Range::NotZero),
            ("attention_multiplier", self.attention_multiplier, Range::NotZero),
            ("residual_multiplier", self.residual_multiplier, Range::NotZero),
            ("logits_scaling", self.logits_scaling, Range::NotZero),
            ("initializer_range", Some(self.initializer_range), Range::NotNegative),
        ])
    }

    pub(super) fn intermediate_size(&self) -> i64 {
        self.intermediate_size.unwrap_or(self.hidden_size.saturating_mul(4))
    }

    /// The rotary embeddings of layers with full and with sliding attention.
    fn ropes(&self, variant: &LlamaVariant, head_dim: i64) -> Result<[RopeSpec; 2], ModelError> {
        // transformers takes the older name first, and an empty section for none.
        let given =
            |rope: &Option<RawRope>| rope.clone().filter(|rope| *rope != RawRope::default());
        let rope = given(&self.rope_scaling).or_else(|| given(&self.rope_parameters));
        let theta = self.rotary_emb_base.or(self.rope_theta).unwrap_or(10_000.);
        let partial = match variant.positions {
            Positions::Rotary { partial } => partial,
            Positions::RotaryInSome | Positions::Learned => 1.,
        };
        let context = RopeContext {
            head_dim,
            theta,
            partial: self.rotary_pct.or(self.partial_rotary_factor).unwrap_or(partial),
            positions: self.max_position_embeddings,
            trained: self.original_max_position_embeddings,
            names: variant.rope_names,
        };
        let local = self.rope_local_base_freq.unwrap_or(theta);
        let by_type = self.rope_local_base_freq.is_some()
            || rope.as_ref().is_some_and(|rope| {
                rope.full_attention.is_some() || rope.sliding_attention.is_some()
            });
        let nested = |section: fn(&RawRope) -> &Option<Box<RawRope>>| {
            rope.as_ref().and_then(|rope| section(rope).as_deref())
        };
        let full = nested(|rope| &rope.full_attention);
        let whole = rope.as_ref().filter(|_| full.is_none());
        let full = RopeSpec::resolve(full.or(whole), &context)?;
        let sliding = if by_type {
            let sliding = nested(|rope| &rope.sliding_attention);
            RopeSpec::resolve(sliding, &RopeContext { theta: local, ..context })?
        } else {
            full.clone()
        };
        Ok([full, sliding])
    }

    /// The first end of a response that has an embedding.
    fn end(&self, eos_ids: &[u32]) -> Option<u32> {
        eos_ids.iter().copied().find(|&id| i64::from(id) < self.vocab_size)
    }

    /// The model with these embeddings, as algorithms see it; `eos_ids` end a response.
    pub(super) fn spec(&self, shape: &Shape, embeddings: &Tensor, eos_ids: Vec<u32>) -> LmSpec {
        LmSpec {
            model_type: self.model_type.clone(),
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            context: Some(shape.context),
            pad_id: self.pad_token_id.or_else(|| self.end(&eos_ids)).unwrap_or(0),
            eos_ids,
            bos_id: self.bos_token_id,
            decoder_start_id: None,
            forced: rlaif_lm::ForcedIds::default(),
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

/// The resolved configuration of the trunk, without optional fields.
#[derive(Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) hidden: i64,
    pub(super) inner: i64,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
    pub(super) layers: usize,
    /// Maximum sequence length, in tokens.
    pub(super) context: usize,
    /// The sliding window of each layer that has one.
    pub(super) windows: Vec<Option<i64>>,
    /// The distinct rotary embeddings, and the index for each layer that has one.
    pub(super) ropes: Vec<RopeSpec>,
    pub(super) rope_of: Vec<Option<usize>>,
    /// Number of position embeddings, if there are any.
    pub(super) learned_positions: Option<i64>,
    /// Factor of the attention scores in each layer.
    pub(super) attention_scales: Vec<f64>,
    /// Cap of the scores: s becomes cap · tanh(s / cap).
    pub(super) attention_cap: Option<f64>,
    pub(super) attention_dropout: f64,
    pub(super) residual_dropout: f64,
    pub(super) embedding_dropout: f64,
    /// Dropout of the input of the feed-forward layer's second projection.
    pub(super) inner_dropout: f64,
    pub(super) qkv_bias: Bias,
    pub(super) output_bias: Bias,
    pub(super) mlp_bias: Bias,
    pub(super) norm: NormRule,
    pub(super) norms: NormPlaces,
    /// `true` if attention and feed-forward layer read the same input.
    pub(super) parallel: bool,
    pub(super) query_key_norm: QueryKeyNorm,
    pub(super) projections: Projections,
    pub(super) gate: GateRule,
    /// Experts, in the layers that have them.
    experts: Option<ExpertShape>,
    sparse: Vec<bool>,
    pub(super) matrices: MatrixOrder,
    pub(super) embedding_scale: f64,
    pub(super) residual_scale: f64,
    /// Factor of the hidden states before the head.
    pub(super) head_scale: f64,
    /// Cap of the logits: l becomes cap · tanh(l / cap).
    pub(super) head_cap: Option<f64>,
}

/// A model's description, which its layers are loaded by.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) raw: &'a RawConfig,
    pub(super) shape: &'a Shape,
    pub(super) names: &'a LlamaNames,
}

impl Plan<'_> {
    /// A norm at a path of the model.
    pub(super) fn norm(&self, weights: &TensorTree<'_>, size: i64) -> Norm {
        let epsilon = self.raw.norm_eps;
        match self.shape.norm {
            NormRule::Rms => Norm::Rms(RmsNorm::load(weights, size, epsilon)),
            NormRule::RmsPlusOne => Norm::Rms(RmsNorm::load_plus_one(weights, size, epsilon)),
            NormRule::Layer => Norm::Layer(LayerNorm::load(weights, size, epsilon)),
        }
    }
}

/// Probability of dropout before a head on tokens, from the value that config.json has, as transformers finds it.
pub(super) fn head_dropout(given: Option<&Value>) -> Result<f64, ModelError> {
    let field = "classifier_dropout";
    let p = match given {
        Some(value) => value.as_f64().ok_or_else(|| ModelError::BadField {
            file: None,
            field,
            found: value.to_string(),
            expected: "a number between 0 and 1".to_owned(),
        })?,
        None => 0.1,
    };
    check_numbers([(field, Some(p), Range::Probability)])?;
    Ok(p)
}

/// Sizes of a layer of experts.
#[derive(Debug, PartialEq)]
pub(super) struct ExpertShape {
    pub(super) count: i64,
    /// Experts for each token.
    pub(super) chosen: i64,
    pub(super) inner: i64,
    /// Inner size of the expert for all tokens.
    pub(super) shared: Option<i64>,
    pub(super) weights: ExpertWeights,
    pub(super) products: ExpertProducts,
}

/// The weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertWeights {
    /// The probabilities of the router.
    Probabilities,
    /// The same, divided by their sum.
    Shares,
}

/// The dtype in which the outputs of experts are multiplied by their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertProducts {
    /// f32.
    F32,
    /// The dtype of the outputs.
    OfOutputs,
}

/// Sizes of the layers, for [`crate::Family::dimensions`].
///
/// # Errors
/// [`ModelError::Config`] and [`ModelError::BadField`] for an unsupported configuration.
pub fn dimensions(config: &Config, variant: &LlamaVariant) -> Result<Dimensions, ModelError> {
    let shape = Shape::resolve(&RawConfig::read(config, variant)?, variant)?;
    Ok(Dimensions {
        hidden: shape.hidden,
        blocks: shape.layers,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
    })
}

/// The numbers of a configuration that a file of another format states.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) vocab_size: i64,
    pub(crate) hidden: i64,
    pub(crate) inner: i64,
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) head_dim: i64,
    pub(crate) layers: usize,
    /// Maximum sequence length, in tokens.
    pub(crate) context: usize,
    pub(crate) norm_eps: f64,
    /// The rotary embedding of layers with full attention; `None` for models with position embeddings.
    pub(crate) rope: Option<RopeSpec>,
    pub(crate) window: Option<i64>,
    pub(crate) attention_cap: Option<f64>,
    pub(crate) head_cap: Option<f64>,
}

impl Outline {
    /// # Errors
    /// As [`dimensions`].
    pub(crate) fn of(config: &Config, variant: &LlamaVariant) -> Result<Self, ModelError> {
        let raw = RawConfig::read(config, variant)?;
        let shape = Shape::resolve(&raw, variant)?;
        Ok(Self {
            vocab_size: raw.vocab_size,
            hidden: shape.hidden,
            inner: shape.inner,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            layers: shape.layers,
            context: raw.max_position_embeddings,
            norm_eps: raw.norm_eps,
            rope: shape.ropes.first().cloned(),
            window: shape.windows.iter().copied().flatten().next(),
            attention_cap: shape.attention_cap,
            head_cap: shape.head_cap,
        })
    }
}

/// `true` if two configurations describe the same computation, dropout aside.
///
/// # Errors
/// As [`dimensions`].
pub(crate) fn same_computation(
    one: &Config,
    other: &Config,
    variant: &LlamaVariant,
) -> Result<bool, ModelError> {
    let resolved = |config: &Config| {
        let raw = RawConfig::read(config, variant)?;
        let shape = Shape::resolve(&raw, variant)?;
        let dropout =
            Shape { attention_dropout: 0., residual_dropout: 0., embedding_dropout: 0., ..shape };
        Ok::<_, ModelError>((dropout, raw.hidden_act, raw.norm_eps as f32))
    };
    Ok(resolved(one)? == resolved(other)?)
}

impl Shape {
    pub(super) fn resolve(raw: &RawConfig, variant: &LlamaVariant) -> Result<Self, ModelError> {
        let (hidden, layers) = (raw.hidden_size, raw.num_hidden_layers);
        let heads = raw.num_attention_heads;
        let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
        let name = |field| raw.names.get(field);
        check_sizes([
            ("vocab_size", raw.vocab_size),
            (name("hidden_size"), hidden),
            (name("intermediate_size"), raw.intermediate_size.unwrap_or(1)),
            (name("num_attention_heads"), heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", raw.head_dim.unwrap_or(1)),
            (
                name("max_position_embeddings"),
                i64::try_from(raw.max_position_embeddings).unwrap_or(i64::MAX),
            ),
        ])?;
        check_layers(name("num_hidden_layers"), layers)?;
        if heads % kv_heads != 0 {
            return Err(bad("num_key_value_heads", kv_heads, "a divisor of num_attention_heads"));
        }
        let head_dim = match raw.head_dim.or(variant.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let expected = format!("a multiple of {}, {heads}", name("num_attention_heads"));
                return Err(bad(name("hidden_size"), hidden, &expected));
            }
        };
        // transformers refuses other lengths, too.
        if let Some(types) = raw.layer_types.as_ref().filter(|types| types.len() != layers) {
            let expected = format!("one for each of num_hidden_layers, {layers}");
            return Err(bad("layer_types", types.len() as i64, &expected));
        }
        if raw.sliding_window_pattern == Some(0) {
            return Err(bad("sliding_window_pattern", 0, "at least 1"));
        }
        let turned = raw.turned(variant)?;
        let windows = raw.windows(variant, &turned);
        // With 0, transformers hides each token from itself.
        if let Some(window) = windows.iter().flatten().find(|window| **window < 1) {
            return Err(bad("sliding_window", *window, "at least 1, or null for none"));
        }
        let rotary = turned.iter().any(|turned| *turned);
        let (mut ropes, mut context) = (Vec::new(), raw.max_position_embeddings);
        if rotary {
            let [full, sliding] = raw.ropes(variant, head_dim)?;
            context = full.context(context);
            if sliding == full {
                ropes = vec![full];
            } else {
                ropes = vec![full, sliding];
            }
        }
        let slides = raw.slides(variant, &turned);
        let rope_of = turned
            .iter()
            .zip(&slides)
            .map(|(turned, slides)| turned.then_some(usize::from(*slides && ropes.len() > 1)))
            .collect();
        let root = |size: f64| size.powf(-0.5);
        let mut attention_scales = vec![root(head_dim as f64); layers];
        let (mut embedding_scale, mut residual_scale, mut head_scale) =
            ((variant.embedding_scale)(hidden), 1., 1.);
        let (mut attention_cap, mut head_cap) = (None, None);
        match variant.scaling {
            ScalingRule::Plain => {}
            ScalingRule::Gpt2 => {
                for (i, scale) in attention_scales.iter_mut().enumerate() {
                    if raw.scale_attn_weights == Some(false) {
                        *scale = 1.;
                    }
                    if raw.scale_attn_by_inverse_layer_idx == Some(true) {
                        *scale /= (i + 1) as f64;
                    }
                }
            }
            ScalingRule::Gemma { attention_cap: capped } => {
                if let Some(size) = raw.query_pre_attn_scalar {
                    attention_scales.fill(root(size));
                }
                attention_cap = raw.attn_logit_softcapping.filter(|_| capped);
                head_cap = raw.final_logit_softcapping;
            }
            ScalingRule::Granite => {
                attention_scales.fill(raw.attention_multiplier.unwrap_or(1.));
                embedding_scale = raw.embedding_multiplier.unwrap_or(1.);
                residual_scale = raw.residual_multiplier.unwrap_or(1.);
                head_scale = raw.logits_scaling.unwrap_or(1.).recip();
            }
        }
        Ok(Self {
            hidden,
            inner: raw.intermediate_size(),
            heads,
            kv_heads,
            head_dim,
            layers,
            context,
            windows,
            ropes,
            rope_of,
            learned_positions: (variant.positions == Positions::Learned)
                .then_some(raw.max_position_embeddings as i64),
            attention_scales,
            attention_cap,
            attention_dropout: raw.attention_dropout.unwrap_or(0.),
            residual_dropout: raw.residual_dropout.unwrap_or(0.),
            embedding_dropout: raw.embedding_dropout.unwrap_or(0.),
            inner_dropout: 0.,
            qkv_bias: variant.qkv_bias.resolve(raw.attention_bias),
            output_bias: variant.output_bias.resolve(raw.attention_bias),
            mlp_bias: variant.mlp_bias.resolve(raw.mlp_bias),
            norm: variant.norm,
            norms: variant.norms,
            parallel: variant.norms == NormPlaces::BeforeParallel
                && raw.use_parallel_residual != Some(false),
            query_key_norm: variant.query_key_norm,
            projections: variant.projections,
            gate: variant.gate,
            experts: raw.experts(variant)?,
            sparse: raw.sparse(variant)?,
            matrices: variant.matrices,
            embedding_scale,
            residual_scale,
            head_scale,
            head_cap,
        })
    }

    /// The experts of a layer, if it has any.
    pub(super) fn experts_of(&self, layer: usize) -> Option<&ExpertShape> {
        self.experts.as_ref().filter(|_| self.sparse.get(layer) == Some(&true))
    }

    /// The factor of embeddings of this dtype: transformers rounds Gemma's to the dtype.
    pub(super) fn embedding_scale_in(&self, kind: Kind) -> f64 {
        Tensor::from(self.embedding_scale).to_kind(kind).double_value(&[])
    }
}

impl RawConfig {
    /// The sizes of layers of experts.
    fn experts(&self, variant: &LlamaVariant) -> Result<Option<ExpertShape>, ModelError> {
        let count = self.num_local_experts.unwrap_or(0);
        let (inner, weights, products) = match variant.experts {
            ExpertRule::Never => return Ok(None),
            // All layers are dense then.
            ExpertRule::Config if count == 0 => return Ok(None),
            ExpertRule::Config => {
                let weights = match self.norm_topk_prob {
                    Some(true) => ExpertWeights::Shares,
                    Some(false) | None => ExpertWeights::Probabilities,
                };
                (self.moe_intermediate_size.unwrap_or(1), weights, ExpertProducts::OfOutputs)
            }
            ExpertRule::Always => {
                (self.intermediate_size(), ExpertWeights::Shares, ExpertProducts::F32)
            }
        };
        let chosen = self.num_experts_per_tok.unwrap_or(1);
        let name = self.names.get("num_local_experts");
        check_sizes([
            (name, count),
            ("num_experts_per_tok", chosen),
            ("moe_intermediate_size", inner),
            ("shared_expert_intermediate_size", self.shared_expert_intermediate_size.unwrap_or(1)),
        ])?;
        check_layers(name, usize::try_from(count).unwrap_or(usize::MAX))?;
        if chosen > count {
            return Err(bad("num_experts_per_tok", chosen, &format!("at most {name}, {count}")));
        }
        Ok(Some(ExpertShape {
            count,
            chosen,
            inner,
            shared: self.shared_expert_intermediate_size,
            weights,
            products,
        }))
    }

    /// The layers with experts.
    fn sparse(&self, variant: &LlamaVariant) -> Result<Vec<bool>, ModelError> {
        let layers = self.num_hidden_layers;
        let step = self.decoder_sparse_step.unwrap_or(1);
        if step < 1 {
            return Err(bad("decoder_sparse_step", step, "at least 1"));
        }
        let dense = |layer: i64| {
            let listed = self.mlp_only_layers.as_ref().is_some_and(|list| list.contains(&layer));
            listed || (layer + 1) % step != 0
        };
        Ok((0i64..)
            .take(layers)
            .map(|layer| variant.experts == ExpertRule::Always || !dense(layer))
            .collect())
    }

    /// The layers with rotary embeddings.
    fn turned(&self, variant: &LlamaVariant) -> Result<Vec<bool>, ModelError> {
        let layers = self.num_hidden_layers;
        Ok(match (variant.positions, &self.no_rope_layers) {
            (Positions::Learned, _) => vec![false; layers],
            (Positions::Rotary { .. }, _) => vec![true; layers],
            (Positions::RotaryInSome, Some(list)) if list.len() >= layers => {
                list[..layers].iter().map(|turned| *turned != 0).collect()
            }
            (Positions::RotaryInSome, Some(list)) => {
                let expected = format!("at least as many as num_hidden_layers, {layers}");
                return Err(bad("no_rope_layers", list.len() as i64, &expected));
            }
            (Positions::RotaryInSome, None) => {
                let interval = self.no_rope_layer_interval.unwrap_or(4);
                if interval == 0 {
                    return Err(bad("no_rope_layer_interval", 0, "at least 1"));
                }
                (1..=layers).map(|layer| layer % interval != 0).collect()
            }
        })
    }

    /// The layers whose attention is named sliding, with a window or without.
    fn slides(&self, variant: &LlamaVariant, turned: &[bool]) -> Vec<bool> {
        (0..self.num_hidden_layers)
            .map(|layer| match (&self.layer_types, variant.window) {
                (_, WindowRule::Never) => false,
                (_, WindowRule::SwitchedAll) => true,
                (Some(types), _) => types.get(layer) == Some(&LayerType::SlidingAttention),
                (None, WindowRule::Switched) => {
                    self.max_window_layers.is_none_or(|first| layer >= first)
                }
                (None, WindowRule::SwitchedEven) => {
                    layer % 2 == 0 && self.max_window_layers.is_none_or(|end| layer < end)
                }
                (None, WindowRule::Pattern(pattern)) => {
                    let pattern = self.sliding_window_pattern.unwrap_or(pattern);
                    (layer + 1) % pattern != 0
                }
                (None, WindowRule::WithoutRotary) => turned.get(layer) == Some(&false),
                (None, WindowRule::Given) => true,
            })
            .collect()
    }

    fn windows(&self, variant: &LlamaVariant, turned: &[bool]) -> Vec<Option<i64>> {
        let window = match variant.window {
            WindowRule::Never => None,
            WindowRule::Given | WindowRule::Pattern(_) => self.sliding_window,
            WindowRule::Switched
            | WindowRule::SwitchedAll
            | WindowRule::SwitchedEven
            | WindowRule::WithoutRotary => {
                self.sliding_window.filter(|_| self.use_sliding_window == Some(true))
            }
        };
        let slides = self.slides(variant, turned);
        slides.into_iter().map(|slides| window.filter(|_| slides)).collect()
    }
}

fn bad(field: &'static str, found: i64, expected: &str) -> ModelError {
    ModelError::BadField {
        file: None,
        field,
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}
